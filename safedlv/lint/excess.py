"""Rules: what is more than a debugger needs, and the least privilege in its place. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from safedlv.lint.values import (
    INFERRED,
    KUBERNETES,
    WARNING,
    Add,
    Container,
    Edit,
    Finding,
    Look,
    Patch,
    Put,
    capability,
)

PTRACE: Final = "SYS_PTRACE"
KERNEL: Final = f"{INFERRED}; the runtime's own profile allows ptrace where the host's kernel is 4.8 or later"
OTHER_NEEDS: Final = f"{INFERRED}; whether something else in it needs more, the file does not say"


def _adds_ptrace(container: Container) -> tuple[Edit, ...]:
    """Nothing for a user who would not hold it (capabilities(7): only root keeps what a container is given)."""
    added = {capability(setting.value) for setting in container.cap_add}
    if PTRACE in added or container.is_other_user:
        return ()
    return (Add(container.capabilities, PTRACE),)


def privileged(container: Container, look: Look) -> Iterator[Finding]:
    setting = container.privileged
    if setting is None:
        return
    edits = _adds_ptrace(container)
    least = "needs none of it" if container.is_other_user else f"needs {PTRACE} of it at most"
    yield Finding(
        "privileged",
        WARNING,
        setting.line,
        container.name,
        f"privileged gives every capability and device and takes every filter away: a debugger {least}",
        how=OTHER_NEEDS,
        advice="take it out" + (f", and add the capability {PTRACE}" if edits else ""),
        patch=Patch((*edits, setting.away)),
    )


def all_capabilities(container: Container, look: Look) -> Iterator[Finding]:
    for setting in container.cap_add:
        if capability(setting.value) == "ALL":
            edits = _adds_ptrace(container)
            yield Finding(
                "all-capabilities",
                WARNING,
                setting.line,
                container.name,
                f"ALL gives every capability, power over the host's kernel too: a debugger needs {PTRACE} at most",
                how=OTHER_NEEDS,
                advice=f"add {PTRACE} in its place" if edits else "take it out",
                patch=Patch((*edits, setting.away)),
            )
            return


def seccomp_unconfined(container: Container, look: Look) -> Iterator[Finding]:
    setting = container.seccomp
    if setting is None or setting.value.lower() != "unconfined":
        return
    kubernetes = container.form == KUBERNETES
    edit = Put(setting.path, "RuntimeDefault") if kubernetes else setting.away
    yield Finding(
        "seccomp-unconfined",
        WARNING,
        setting.line,
        container.name,
        "it runs without a seccomp filter: a debugger does not need that, the runtime's own profile lets it trace",
        how=KERNEL,
        advice="RuntimeDefault in its place" if kubernetes else "take it out: the engine's own profile then holds",
        patch=Patch((edit,)),
    )


def apparmor_unconfined(container: Container, look: Look) -> Iterator[Finding]:
    setting = container.apparmor
    if setting is None or setting.value.lower() != "unconfined":
        return
    typed = container.form == KUBERNETES and setting.path[-1] == "type"
    edit = Put(setting.path, "RuntimeDefault") if typed else setting.away
    yield Finding(
        "apparmor-unconfined",
        WARNING,
        setting.line,
        container.name,
        "it runs without an AppArmor profile: a debugger does not need that, under the runtime's own profile processes "
        "may trace each other",
        how=f"{INFERRED}; it matters on hosts with AppArmor",
        advice="RuntimeDefault in its place" if typed else "take it out: the engine's own profile then holds",
        patch=Patch((edit,)),
    )

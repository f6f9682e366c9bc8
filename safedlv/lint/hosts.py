"""Rules: what the host decides, or another file; notes, which say so. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from safedlv.errors import printable
from safedlv.lint.values import INFERRED, NOTE, Container, Finding, Look, capability

HOST: Final = "depends on the host"
PTRACE: Final = "SYS_PTRACE"
SANDBOXES: Final = ("runsc", "gvisor", "kata")


def sandbox(container: Container, look: Look) -> Iterator[Finding]:
    setting = container.runtime
    if setting is not None and any(name in setting.value.lower() for name in SANDBOXES):
        yield Finding(
            "sandbox-runtime",
            NOTE,
            setting.line,
            container.name,
            f"its kernel is the sandbox {printable(setting.value)}, which decides by itself how it traces",
            how=HOST,
            decides=True,
        )


def emulated(container: Container, look: Look) -> Iterator[Finding]:
    setting = container.platform
    if setting is not None and setting.value.startswith("linux/"):
        yield Finding(
            "emulated-platform",
            NOTE,
            setting.line,
            container.name,
            f"on a machine that is not {printable(setting.value)} it runs under emulation, where there is no ptrace",
            how=HOST,
        )


def custom_apparmor(container: Container, look: Look) -> Iterator[Finding]:
    setting = container.apparmor
    if setting is None or setting.value.lower() in ("unconfined", "builtin", "docker-default"):
        return
    yield Finding(
        "apparmor-unknown",
        NOTE,
        setting.line,
        container.name,
        f"its AppArmor profile {printable(setting.value)} is the host's: it has to allow ptrace and signals within",
        how=HOST,
        decides=True,
    )


def idle_capability(container: Container, look: Look) -> Iterator[Finding]:
    if not container.is_other_user or container.privileged:
        return
    for setting in container.cap_add:
        if capability(setting.value) == PTRACE:
            yield Finding(
                "idle-capability",
                NOTE,
                setting.line,
                container.name,
                f"{PTRACE} gives user {printable(container.user or '')} nothing: only root keeps what a container is "
                "given. At ptrace_scope 1 and 2 a debugger there has to be root",
                how=f"{INFERRED}; the attach to a process of the same user does not need it where ptrace_scope is 0",
            )


def elsewhere(container: Container, look: Look) -> Iterator[Finding]:
    setting = container.elsewhere
    if setting is not None:
        yield Finding(
            "elsewhere",
            NOTE,
            setting.line,
            container.name,
            f"the rest of it is in {printable(setting.value)}, which was not looked at",
            advice="docker compose config | safedlv seccomp lint - looks at all of it",
            decides=True,
        )

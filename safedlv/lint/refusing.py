"""Rules: what refuses a debugger, or ends it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from safedlv.diagnosis.causes import DLV_THREADS
from safedlv.diagnosis.remedy_commands import MEMORY_FOR_DLV, ROOM_FOR_DLV
from safedlv.errors import printable
from safedlv.lint import profiles
from safedlv.lint.readers import count, size, split
from safedlv.lint.tree import Data, TornError
from safedlv.lint.values import (
    DEVCONTAINER,
    DOCKER_RUN,
    ERROR,
    INFERRED,
    KUBERNETES,
    NOTE,
    WARNING,
    Add,
    Container,
    Edit,
    Finding,
    Look,
    NewFile,
    Patch,
    Put,
    Setting,
    is_other_user,
)

GO_THREADS: Final = 4
"""What the smallest Go program has."""
LEAST_MEMORY, ENOUGH_MEMORY = 32 << 20, 96 << 20
"""Bytes, for dlv and a server of 9 MB with debug information: a static one is killed at 24 MiB and works at 32, one
with cgo is killed at 80 and works at 96."""
MIB: Final = 1 << 20
PTRACE: Final = "SYS_PTRACE"


def seccomp(container: Container, look: Look) -> Iterator[Finding]:
    setting = container.seccomp
    if setting is None or setting.value.lower() in ("unconfined", "builtin"):
        return
    name = setting.value
    if container.form == KUBERNETES:
        if container.privileged is None:  # a privileged one has no filter (kubelet)
            yield _unread(container, setting, f"its profile {printable(name)} is a file of the node")
        return
    try:
        text = look(name)
        profile = profiles.read_profile(text) if text is not None else None
    except TornError as error:
        yield _unread(container, setting, f"its profile {printable(name)} cannot be judged: {error.sentence}")
        return
    if profile is None:
        yield _unread(container, setting, f"its profile {printable(name)} cannot be read from here")
        return
    refused = profiles.refusals(profile, container.holds)
    if refused and container.privileged is not None:  # moby daemon/seccomp_linux.go, v26.1 and v27.0
        yield _unread(
            container, setting, f"its profile {printable(name)} refuses dlv; before Docker 27 privileged lifts it"
        )
    elif refused:
        yield _refusing(container, setting, refused, profiles.mended(profile))


def _unread(container: Container, setting: Setting, what: str) -> Finding:
    advice = "safedlv seccomp lint judges a profile by itself: give its file too"
    return Finding(
        "seccomp-unknown",
        NOTE,
        setting.line,
        container.name,
        what,
        how="depends on the host",
        advice=advice,
        decides=True,
    )


def _refusing(container: Container, setting: Setting, refused: tuple[profiles.Refusal, ...], text: str) -> Finding:
    name, first = setting.value, refused[0]
    calls = ", ".join(one.words for one in refused)
    undecided = all(profiles.is_undecided(one) for one in refused)
    made = f"{name.removesuffix('.json')}-dlv.json"
    return Finding(
        "seccomp",
        NOTE if undecided else ERROR,
        setting.line,
        container.name,
        f"the seccomp profile {printable(name)} makes {printable(calls)} {profiles.consequence(first.action)}, "
        "and dlv cannot do without",
        decides=undecided,
        how=f"{INFERRED} and from {printable(name)}",
        advice=f"{printable(made)}: the same profile, with exactly what dlv needs allowed",
        patch=Patch((*_chosen(container, setting, made),), (NewFile(made, name, text),)),
    )


def _chosen(container: Container, setting: Setting, made: str) -> tuple[Edit, ...]:
    """Another file in the place of the one that is named."""
    if container.form == DOCKER_RUN:
        return (setting.away, Add(setting.path, f"seccomp={made}"))
    words = tuple(_renamed(item, setting.value, made) for item in setting.items)
    if container.form == DEVCONTAINER and setting.path == (0, "runArgs"):
        return (setting.away, *(Add(setting.path, word) for word in words))
    return (Add(setting.path, words[0]), setting.away)


def _renamed(item: str, old: str, new: str) -> str:
    return f"{item.removesuffix(old)}{new}" if item.endswith(old) else item


def _replaced(container: Container, setting: Setting, option: str, value: Data) -> tuple[Edit, ...]:
    """Another value; among a dev container's options they are one list."""
    if container.form == DEVCONTAINER:
        return (Add(setting.path, f"--{option}={value}"), setting.away)
    return tuple(Put(path, value) for path in (setting.path, setting.twin) if path)


def thread_limit(container: Container, look: Look) -> Iterator[Finding]:
    setting = container.pids
    limit = count(setting.value) if setting else None
    if setting is None or limit is None or not 0 < limit < GO_THREADS + DLV_THREADS:
        return
    yield Finding(
        "thread-limit",
        ERROR,
        setting.line,
        container.name,
        f"at most {limit} threads: dlv starts up to {DLV_THREADS} beside the program's own, of which a Go program has "
        f"{GO_THREADS} or more; where one cannot start, dlv dies in the middle of its attach",
        advice=f"{limit + ROOM_FOR_DLV} leaves room for a debugger",
        patch=Patch(_replaced(container, setting, "pids-limit", limit + ROOM_FOR_DLV)),
    )


def memory_limit(container: Container, look: Look) -> Iterator[Finding]:
    setting = container.memory
    decimal = container.form == KUBERNETES
    limit = size(setting.value, decimal=decimal) if setting else None
    swap = size(container.swap.value) if container.swap else None
    if setting is None or limit is None or not 0 < limit < ENOUGH_MEMORY or (swap or 0) >= ENOUGH_MEMORY:
        return
    if container.swap and container.swap.value == "-1":
        return
    wanted = -(-(limit + MEMORY_FOR_DLV) // MIB)
    text = f"{wanted}Mi" if decimal else f"{wanted}m"
    more = _replaced(container, container.swap, "memory-swap", text) if container.swap and swap else ()
    by_swap = "; on a host with swap Docker gives it as much again, and dlv may get through, slowly"
    yield Finding(
        "memory-limit",
        ERROR if limit < LEAST_MEMORY else WARNING,
        setting.line,
        container.name,
        f"at most {limit // MIB} MiB of memory: dlv and a small server take {LEAST_MEMORY // MIB} to "
        f"{ENOUGH_MEMORY // MIB} MiB together, and whoever takes more is killed, the program or dlv",
        decides=limit >= LEAST_MEMORY,
        how=INFERRED + ("" if decimal or container.swap else by_swap),
        advice=f"{text} leaves room for a debugger",
        patch=Patch((*_replaced(container, setting, "memory", text), *more)),
    )


def forbidden_sysctl(container: Container, look: Look) -> Iterator[Finding]:
    for setting in container.sysctls:
        if setting.value.startswith("kernel.yama."):
            yield Finding(
                "forbidden-sysctl",
                ERROR,
                setting.line,
                container.name,
                "kernel.yama.ptrace_scope is one value for the whole machine: a container that sets it does not start",
                advice="take it out; at ptrace_scope 1 and 2 a root debugger with SYS_PTRACE may attach",
                patch=Patch((setting.away,)),
            )


_WRAPPERS: Final = ("tini", "tini-static", "dumb-init", "catatonit", "docker-init", "exec", "env", "/usr/bin/env")
_SHELLS: Final = ("sh", "bash", "ash", "dash")
_STEPS_DOWN: Final = {
    "gosu": r"(\S+)",
    "su-exec": r"(\S+)",
    "setuidgid": r"(\S+)",
    "s6-setuidgid": r"(\S+)",
    "chpst": r"(?:-\S+ )*-u (\S+)",
    "setpriv": r"(?:\S+ )*?--reuid[= ](\S+)",
    "runuser": r"(?:\S+ )*?-u (\S+)",
    "sudo": r"(?:-\S+ )*?-u (\S+)",
}
"""Programs that become another user, and what follows them up to that user's name."""


def other_user(container: Container, look: Look) -> Iterator[Finding]:
    words = [setting.value for setting in container.command]
    user = _stepped_down(words)
    if user is None or container.is_other_user or _is_mighty(container):
        return
    kubernetes = container.form == KUBERNETES
    lacking = [name for name in (PTRACE, "KILL", "DAC_OVERRIDE") if not container.holds(name)]
    lacking = ["DAC_READ_SEARCH" if name == "DAC_OVERRIDE" else name for name in lacking]
    yield Finding(
        "credentials",
        ERROR,
        container.command[0].line,
        container.name,
        f"its program becomes user {printable(user)}, a debugger that is started in it stays root: to trace another "
        f"user's process root needs {' and '.join(lacking)} here",
        advice=f"the debugger needs {' and '.join(lacking)}"
        if kubernetes
        else f"nothing in the file has to change: docker exec --user {printable(user)}",
        patch=Patch(tuple(Add(container.capabilities, name) for name in lacking)) if kubernetes else None,
    )


def _is_mighty(container: Container) -> bool:
    """Whether root in it may trace whom it wants (kernel-facts of CAP_SYS_PTRACE: it takes files and signals too)."""
    reads = container.holds("DAC_OVERRIDE") or container.holds("DAC_READ_SEARCH")
    return container.holds(PTRACE) and container.holds("KILL") and reads


def _stepped_down(words: list[str]) -> str | None:
    """The user that a command becomes; None where it says nothing of that, or root."""
    words = _command(words)
    if not words:
        return None
    pattern = _STEPS_DOWN.get(words[0].rpartition("/")[2])
    match = re.match(pattern, " ".join(words[1:])) if pattern else None
    if match is None or not is_other_user(match[1]):
        return None
    return str(match[1])


def _command(words: list[str]) -> list[str]:
    """What a command becomes in the end: after a little init, and of a shell's commands the last one.

    Of a shell that leaves something running besides, nothing is said.
    """
    while words and (words[0].rpartition("/")[2] in _WRAPPERS or words[0].startswith("-")):
        words = words[1:]
    if len(words) > 2 and words[0].rpartition("/")[2] in _SHELLS and words[1].endswith("c"):
        *_, last = re.split(r"&&|;|\n", words[2].strip().rstrip(";"))
        return [] if re.search("(?<!&)&(?!&)", words[2]) else _command(list(split(last)))
    return words


# ---------------------------------------------------------------- a debugger beside the program


def beside(container: Container, look: Look) -> Iterator[Finding]:
    """A container of a pod whose command is dlv attach, for the program in another."""
    words = _command([setting.value for setting in container.command])
    attaches = len(words) > 1 and words[0].rpartition("/")[2] == "dlv" and words[1] == "attach"
    if container.pod is None or not container.others or not attaches:
        return
    if not container.shares_pids:
        yield Finding(
            "pid-namespace",
            ERROR,
            container.command[0].line,
            container.name,
            "dlv attaches from here to a process of another container, and sees none: the pod's containers have PID "
            "namespaces of their own",
            advice="shareProcessNamespace: true",
            patch=Patch((Put((*container.pod, "shareProcessNamespace"), True),)),
        )
    users = {user for _, user in container.others}
    mighty = not container.is_other_user and _is_mighty(container)
    if container.user is None or None in users or container.user in users or mighty:
        return
    user = sorted(str(user) for user in users)[0]
    yield Finding(
        "credentials",
        ERROR,
        container.command[0].line,
        container.name,
        f"dlv runs here as user {container.user} and may trace its own processes only, the other containers' are "
        f"{', '.join(sorted(map(str, users)))}'s",
        advice=f"runAsUser: {user}",
        patch=Patch((Put((*container.at, "securityContext", "runAsUser"), int(user) if user.isdigit() else user),)),
    )

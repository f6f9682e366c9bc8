"""Refused attaches in containers, each asked from inside by ``docker exec`` and from the host: exactly what refuses.

The targets serve; containers are started once and shared by the scenes that need one like that.
"""

from __future__ import annotations

import errno
from typing import Any

import pytest

from tests import comparison
from tests.docker.stand import Box, Scene, Stand, assert_serves, compare, from_inside, from_the_host, happening
from tests.docker.test_context import profile, rule
from tests.scenes import Truth, asked, judge

ATTACH, SETOPTIONS, CONT, GETREGSET = 16, 0x4200, 7, 0x4204
REFUSED: dict[str, Any] = {"step": "attach", "errno": "EPERM"}
SPOILT = "proc-access signal-access"


def refusing(number: int, *requests: int) -> str:
    """A profile that answers ptrace requests (all of them, without any) with an errno."""
    rules = [rule("SCMP_ACT_ERRNO", request) for request in requests or [None]]
    return profile(*({**each, "errnoRet": number} for each in rules))


def user(uid: int, *options: str) -> tuple[str, ...]:
    """Options for a container of a user, in the group of the same number."""
    return ("--user", f"{uid}:{uid}", *options)


def only(*capabilities: str) -> tuple[str, ...]:
    """Options for a container with just these capabilities."""
    return ("--cap-drop", "ALL", *(word for name in capabilities for word in ("--cap-add", name)))


AS_ROOT, AS_1000, AS_2000 = ("-u", "0:0"), ("-u", "1000:1000"), ("-u", "2000:2000")
DEFAULT, USERS = Box(), Box(user(1000))
SCRATCH, USERS_SCRATCH = Box(scratch=True), Box(user(1000), scratch=True)
SOME_PTRACE = Box(user(1000, "--cap-add", "SYS_PTRACE"))
UNREADABLE = Box(user(1000), program="/unreadable")
NO_ATTACH = refusing(errno.EPERM, ATTACH)
KILLING = profile(rule("SCMP_ACT_KILL_PROCESS", ATTACH))

EXEC = {
    "as it is": Scene(DEFAULT),
    "strict in all that does not matter": Scene(
        Box((*only(), "--read-only", "--security-opt", "no-new-privileges", "--ipc", "private"))
    ),
    "a user's process, as root": Scene(USERS, Truth("credentials", fix=("user",), **REFUSED), AS_ROOT),
    "a user's process, as another user": Scene(USERS, Truth("credentials", fix=("user",), **REFUSED), AS_2000),
    "root's process, as a user": Scene(
        DEFAULT, Truth("credentials capability-excess", fix=("user",), **REFUSED), AS_1000
    ),
    "the same user, another group": Scene(
        Box(("--user", "1000")), Truth("credentials", fix=("user",), **REFUSED), AS_1000
    ),
    "SYS_PTRACE, which never became effective": Scene(
        SOME_PTRACE, Truth("credentials", fix=("user",), **REFUSED), AS_2000
    ),
    "SYS_PTRACE, as root": Scene(SOME_PTRACE, Truth(), AS_ROOT),
    "SYS_PTRACE and nothing else, as root": Scene(
        Box((*user(1000), *only("SYS_PTRACE"))), Truth(SPOILT, fix=("user",)), AS_ROOT
    ),
    "not dumpable": Scene(UNREADABLE, Truth("not-dumpable", fix=("root", "cap:sys_ptrace"), **REFUSED)),
    "not dumpable, as root": Scene(
        UNREADABLE, Truth("not-dumpable credentials", fix=("cap:sys_ptrace",), **REFUSED), AS_ROOT
    ),
    "behind a shell": Scene(Box(program="sh"), Truth("wrong-process")),
    "no dlv": Scene(DEFAULT, Truth("delve-missing", fix=("delve",)), dlv=False),
    # TracerPid is 0 in there, but /proc/1/mem opens for writing, which asks all that ATTACH asks before it asks that.
    "held by strace of the host": Scene(
        DEFAULT, Truth("already-traced", fix=("end-tracer",), **REFUSED), during="held"
    ),
    "held by strace of the host, and another user": Scene(
        USERS,
        Truth("already-traced credentials", fix=("user", "end-tracer"), inferred="credentials", **REFUSED),
        AS_ROOT,
        during="held",
        inside=Truth("credentials", may="already-traced", **REFUSED),
    ),
    "no room for the threads of dlv": Scene(Box(("--pids-limit", "10")), Truth("thread-limit", fix=("limit:pids",))),
    "no memory for dlv": Scene(Box(("--memory", "48m")), Truth("memory-limit", fix=("limit:memory",))),
}

PROFILES = {
    "a profile against ATTACH": Scene(Box((), NO_ATTACH), Truth("seccomp", fix=("seccomp",), **REFUSED)),
    "a profile that says EACCES": Scene(
        Box((), refusing(errno.EACCES)), Truth("seccomp", "attach", "EACCES", ("seccomp",))
    ),
    "a profile that says ENOSYS": Scene(
        Box((), refusing(errno.ENOSYS)), Truth("seccomp", "attach", "ENOSYS", ("seccomp",))
    ),
    "a profile that kills, and another user": Scene(
        Box(user(1000), KILLING), Truth("seccomp credentials", "attach", "SIGSYS", ("user", "seccomp")), AS_ROOT
    ),
    "a profile that kills the thread at SETOPTIONS": Scene(
        Box((), profile(rule("SCMP_ACT_KILL", SETOPTIONS))), Truth("seccomp", "setoptions", "SIGSYS", ("seccomp",))
    ),
    "a profile that traps ATTACH": Scene(
        Box((), profile(rule("SCMP_ACT_TRAP", ATTACH))), Truth("seccomp", "attach", "SIGSYS", ("seccomp",))
    ),
    "a profile against SETOPTIONS, as a user": Scene(
        Box(user(1000), refusing(errno.EPERM, SETOPTIONS)), Truth("seccomp", "setoptions", "EPERM", ("seccomp",))
    ),
    "a profile against CONT, without capabilities": Scene(
        Box(only(), refusing(errno.EPERM, CONT)), Truth("seccomp", "cont", "EPERM", ("seccomp",))
    ),
    "a profile against GETREGSET": Scene(Box((), refusing(errno.EPERM, GETREGSET)), Truth("seccomp", fix=("seccomp",))),
    "a profile against tgkill": Scene(
        Box((), profile({"names": ["tgkill"], "action": "SCMP_ACT_ERRNO", "args": []})),
        Truth("seccomp", fix=("seccomp",)),
    ),
    "not dumpable, a profile, as root": Scene(
        Box(user(1000), NO_ATTACH, "/unreadable"),
        Truth("not-dumpable credentials seccomp", fix=("seccomp", "cap:sys_ptrace"), **REFUSED),
        AS_ROOT,
    ),
}

SIDECARS = {
    "SYS_PTRACE alone": Scene(USERS_SCRATCH, Truth(SPOILT, fix=("user",)), sidecar=Box(only("SYS_PTRACE"))),
    "SYS_PTRACE and DAC_READ_SEARCH": Scene(
        USERS_SCRATCH,
        Truth("signal-access", fix=("user",)),
        sidecar=Box(only("SYS_PTRACE", "DAC_READ_SEARCH")),
    ),
    "all three that it needs": Scene(USERS_SCRATCH, sidecar=Box(only("SYS_PTRACE", "DAC_READ_SEARCH", "KILL"))),
    "as the target, without SYS_PTRACE": Scene(SCRATCH, sidecar=Box()),
    "without capabilities": Scene(
        SCRATCH, Truth("capability-excess", fix=("cap:sys_ptrace",), **REFUSED), sidecar=Box(only())
    ),
    "without capabilities, under a profile": Scene(
        SCRATCH,
        Truth("capability-excess seccomp", fix=("seccomp", "cap:sys_ptrace"), **REFUSED),
        sidecar=Box(only(), NO_ATTACH),
    ),
    "a profile on the target only": Scene(Box((), NO_ATTACH, scratch=True), sidecar=Box()),
    "not in the target's PID namespace": Scene(
        SCRATCH,
        Truth("pid-namespace", "attach", "ESRCH", ("namespace:pid",)),
        sidecar=Box(),
        joined=False,
        inside=Truth("no-such-process", probed=False),
    ),
    "a user, with SYS_PTRACE that never became effective": Scene(
        SCRATCH,
        Truth("credentials capability-excess", fix=("user",), **REFUSED),
        sidecar=Box(user(1000, "--cap-add", "SYS_PTRACE")),
    ),
    "paused": Scene(
        SCRATCH,
        Truth("frozen", "attach", "TIMEOUT", ("thaw",)),
        sidecar=Box(),
        during="paused",
        inside=Truth(may="frozen", step="attach", errno="TIMEOUT"),  # it sees no cgroup but its own
    ),
    "paused, and another user": Scene(
        USERS_SCRATCH,
        Truth("frozen credentials", fix=("user", "thaw"), inferred="credentials", **REFUSED),
        sidecar=Box(),
        during="paused",
        inside=Truth("credentials", may="frozen", **REFUSED),
    ),
}

SCENES = {**EXEC, **PROFILES, **{f"sidecar: {name}": scene for name, scene in SIDECARS.items()}}
COMPARED = comparison.chosen(SCENES, lambda scene: scene.truth.causes if scene.dlv else frozenset())


@pytest.mark.parametrize("name", SCENES)
def test_exactly_these_causes(name: str, stand: Stand) -> None:
    """As the process that docker exec starts sees it."""
    scene = SCENES[name]
    with stand.cast(scene) as (target, tracer):
        with happening(stand, scene, target):
            answer = asked(lambda: from_inside(stand, scene, target, tracer))
        assert_serves(target)
        if name in COMPARED:
            with happening(stand, scene, target):
                compare(name, stand, scene, target, tracer, answer)
            assert_serves(target)
    judge(answer, scene.inside or scene.truth, from_outside=False)


@pytest.mark.parametrize("name", SCENES)
def test_the_same_from_the_host(name: str, stand: Stand) -> None:
    """Root of the host stands in that process's place: proved, and with the smallest change."""
    scene = SCENES[name]
    with stand.cast(scene) as (target, tracer):
        with happening(stand, scene, target):
            answer = asked(lambda: from_the_host(stand, scene, target, tracer))
        assert_serves(target)
    judge(answer, scene.truth, from_outside=True)

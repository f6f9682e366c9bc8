"""Refused attaches by ids, capabilities and filters, alone and together: ``doctor`` names exactly what refuses.

What the state of a target, namespaces, Landlock and limits do is in test_refusals_states.py.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from safedlv.runtimes.sandbox import Sandbox, capability_sets
from safedlv.seccomp.program import Refuse, assemble
from tests import comparison
from tests.everyone import Everyones
from tests.live.sandboxes import ARCH
from tests.live.stages import AS_1000, NOTHING, POWERS, Scene, play_inside, play_outside, unreadable
from tests.scenes import Truth
from tests.support import require

ATTACH, SETOPTIONS, CONT, GETREGSET = 16, 0x4200, 7, 0x4204


def filtered(*requests: int, number: int = errno.EPERM, action: Any = "errno") -> bytes:
    return assemble([Refuse("ptrace", errno=number, arg=(0, request), action=action) for request in requests], ARCH)


def without(syscall: str) -> bytes:
    return assemble([Refuse(syscall, errno=errno.EPERM)], ARCH)


def root(*capabilities: str, **rest: Any) -> dict[str, Any]:
    """A tracer that is root with just these capabilities."""
    return {"capabilities": capability_sets(*capabilities), **rest}


def somebody(uid: int, *capabilities: str, ambient: bool = False, **rest: Any) -> dict[str, Any]:
    """A tracer that is not root. What is not ambient is in its bounding set and nowhere else."""
    return {"uid": uid, "gid": uid, "capabilities": capability_sets(*capabilities, ambient=ambient), **rest}


FILTER: dict[str, Any] = {"seccomp": filtered(ATTACH), "no_new_privs": True}
SPOILT = "proc-access signal-access"
REFUSED: dict[str, Any] = {"step": "attach", "errno": "EPERM"}

IDS_AND_CAPABILITIES = {
    "another uid, no capability": Scene(root(), Truth("credentials", fix=("user",), **REFUSED), AS_1000),
    "another gid only": Scene(
        root(), Truth("credentials", fix=("user",), **REFUSED), Sandbox(gid=1000, capabilities=NOTHING)
    ),
    "another uid, SYS_PTRACE alone": Scene(root("sys_ptrace"), Truth(SPOILT, fix=("user",)), AS_1000),
    "another uid, SYS_PTRACE and DAC_READ_SEARCH": Scene(
        root("sys_ptrace", "dac_read_search"), Truth("signal-access", fix=("user",)), AS_1000
    ),
    "another uid, all three that a sidecar needs": Scene(root(*POWERS), Truth(), AS_1000),
    "same uid, fewer capabilities": Scene(root(), Truth("capability-excess", fix=("cap:sys_ptrace",), **REFUSED)),
    "same uid, both without": Scene(root(), Truth(), Sandbox(capabilities=NOTHING)),
    "same uid, SYS_PTRACE makes up for the rest": Scene(
        root("sys_ptrace"), Truth(), Sandbox(capabilities=capability_sets("net_admin"))
    ),
    "no_new_privs does not matter": Scene(
        root(no_new_privs=True), Truth(), Sandbox(capabilities=NOTHING, no_new_privs=True)
    ),
    "another uid, and no_new_privs, which does not matter": Scene(
        root(no_new_privs=True), Truth("credentials", fix=("user",), **REFUSED), AS_1000
    ),
    "supplementary groups do not matter": Scene(
        somebody(1000, groups=(8, 9)), Truth(), Sandbox(uid=1000, gid=1000, groups=(5, 6))
    ),
    "more capabilities than the target, and not SYS_PTRACE": Scene(
        root("net_admin", "sys_admin"), Truth(), Sandbox(capabilities=capability_sets("net_admin"))
    ),
    "a capability that never became effective": Scene(
        somebody(2000, "sys_ptrace"), Truth("credentials", fix=("user",), **REFUSED), AS_1000
    ),
    "a user with ambient capabilities": Scene(somebody(2000, *POWERS, ambient=True), Truth(), AS_1000),
    "not dumpable": Scene(
        somebody(1000),
        Truth("not-dumpable", fix=("cap:sys_ptrace", "cap:dac_read_search"), **REFUSED),
        AS_1000,
        stage=unreadable,
    ),
    "not dumpable, and another uid": Scene(
        root(),
        Truth("not-dumpable credentials", fix=("cap:sys_ptrace", "cap:kill"), **REFUSED),
        AS_1000,
        stage=unreadable,
    ),
    "not dumpable, for one who has all three": Scene(root(*POWERS), Truth(), AS_1000, stage=unreadable),
    "another uid, and fewer capabilities": Scene(
        root(),
        Truth("credentials capability-excess", fix=("user", "cap:sys_ptrace"), **REFUSED),
        Sandbox(uid=1000, gid=1000, groups=(), capabilities=capability_sets("net_admin", ambient=True)),
    ),
}

FILTERS = {
    "a filter on the target does not matter": Scene({"seccomp": ()}, Truth(), Sandbox(seccomp=filtered(ATTACH))),
    "only SETOPTIONS is refused: dlv alone would look healthy": Scene(
        {"seccomp": filtered(SETOPTIONS)}, Truth("seccomp", "setoptions", "EPERM", ("seccomp",))
    ),
    "only CONT is refused": Scene({"seccomp": filtered(CONT)}, Truth("seccomp", "cont", "EPERM", ("seccomp",))),
    "only GETREGSET is refused": Scene({"seccomp": filtered(GETREGSET)}, Truth("seccomp", fix=("seccomp",))),
    "only tgkill is refused": Scene({"seccomp": without("tgkill")}, Truth("seccomp", fix=("seccomp",))),
    "process_vm_readv is refused, which dlv does without": Scene({"seccomp": without("process_vm_readv")}, Truth()),
    "a filter that says EACCES": Scene(
        {"seccomp": filtered(ATTACH, number=errno.EACCES)}, Truth("seccomp", "attach", "EACCES", ("seccomp",))
    ),
    "a filter that says ENOSYS": Scene(
        {"seccomp": filtered(ATTACH, number=errno.ENOSYS)}, Truth("seccomp", "attach", "ENOSYS", ("seccomp",))
    ),
    "a filter that says ESRCH": Scene(
        {"seccomp": filtered(ATTACH, number=errno.ESRCH)}, Truth("seccomp", "attach", "ESRCH", ("seccomp",))
    ),
    "a filter that kills the thread at SETOPTIONS": Scene(
        {"seccomp": filtered(SETOPTIONS, action="kill_thread")}, Truth("seccomp", "setoptions", "SIGSYS", ("seccomp",))
    ),
    "a filter that traps CONT": Scene(
        {"seccomp": filtered(CONT, action="trap")}, Truth("seccomp", "cont", "SIGSYS", ("seccomp",))
    ),
    "two programs": Scene(
        {"seccomp": (filtered(CONT), filtered(SETOPTIONS))}, Truth("seccomp", "setoptions", "EPERM", ("seccomp",))
    ),
    "only wait4 is refused, so no stop is ever seen": Scene(
        {"seccomp": without("wait4")}, Truth("seccomp", "attach", "EPERM", ("seccomp",))
    ),
    "every ptrace is refused": Scene({"seccomp": without("ptrace")}, Truth("seccomp", fix=("seccomp",), **REFUSED)),
}

TOGETHER = {
    "another uid, and a filter against SETOPTIONS": Scene(
        root(seccomp=filtered(SETOPTIONS), no_new_privs=True),
        Truth("credentials seccomp", fix=("user", "seccomp"), **REFUSED),
        AS_1000,
    ),
    "fewer capabilities, and a filter against ATTACH": Scene(
        root(**FILTER), Truth("capability-excess seccomp", fix=("seccomp", "cap:sys_ptrace"), **REFUSED)
    ),
    "another uid, and a filter that kills the process": Scene(
        root(seccomp=filtered(ATTACH, action="kill_process"), no_new_privs=True),
        Truth("credentials seccomp", "attach", "SIGSYS", ("user", "seccomp")),
        AS_1000,
    ),
    "not dumpable, another uid, and a filter": Scene(
        root(**FILTER),
        Truth("not-dumpable credentials seccomp", fix=("seccomp", "cap:sys_ptrace", "cap:kill"), **REFUSED),
        AS_1000,
        stage=unreadable,
    ),
    "another uid, fewer capabilities, and a filter": Scene(
        root(**FILTER),
        Truth("credentials capability-excess seccomp", fix=("user", "seccomp", "cap:sys_ptrace"), **REFUSED),
        Sandbox(uid=1000, gid=1000, groups=(), capabilities=capability_sets("net_admin", ambient=True)),
    ),
    "a filter against ATTACH hides what SYS_PTRACE alone lacks": Scene(
        root("sys_ptrace", **FILTER), Truth(f"seccomp {SPOILT}", fix=("user", "seccomp"), **REFUSED), AS_1000
    ),
    "a filter against CONT hides what SYS_PTRACE alone lacks": Scene(
        root("sys_ptrace", seccomp=filtered(CONT), no_new_privs=True),
        Truth(f"seccomp {SPOILT}", "cont", "EPERM", ("user", "seccomp")),
        AS_1000,
    ),
    "a filter against tgkill, which is not allowed either": Scene(
        root("sys_ptrace", seccomp=without("tgkill"), no_new_privs=True),
        Truth(f"seccomp {SPOILT}", fix=("user", "seccomp")),
        AS_1000,
    ),
}

SCENES = {**IDS_AND_CAPABILITIES, **FILTERS, **TOGETHER}
COMPARED = comparison.chosen(SCENES, lambda scene: scene.truth.causes)


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "needs root to make the contexts")


@pytest.mark.parametrize("name", SCENES)
def test_exactly_these_causes(name: str, everyones: Everyones, public_server: Path) -> None:
    """As the tracer itself sees it."""
    play_inside(name, SCENES[name], everyones, public_server, compared=name in COMPARED)


@pytest.mark.parametrize("name", SCENES)
def test_the_same_from_outside(name: str, everyones: Everyones, public_server: Path) -> None:
    """Root stands in the tracer's place: the same step, errno and causes, proved, and the smallest change, tried."""
    play_outside(SCENES[name], everyones, public_server)

"""Refused attaches by what a target is doing, namespaces, Landlock, limits and a missing dlv, alone and together."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from safedlv.linux import confine
from safedlv.runtimes.sandbox import IdMap, Sandbox
from tests import comparison
from tests.everyone import Everyones
from tests.live.contexts import vfork_parent
from tests.live.sandboxes import ARCH
from tests.live.stages import (
    AS_1000,
    Scene,
    Staged,
    frozen_by,
    held,
    play_inside,
    play_outside,
    stopped,
    workload,
)
from tests.live.test_refusals import ATTACH, REFUSED, filtered, root, somebody
from tests.scenes import Truth, judge
from tests.support import assert_unharmed, require, status

EVERYTHING: dict[str, object] = {}
FILTER = {"seccomp": filtered(ATTACH), "no_new_privs": True}
OUTSIDE_OF_IT = {"cgroup": False}  # who would look at a frozen process must not be frozen with it

# ---------------------------------------------------------------- stages


@contextlib.contextmanager
def a_zombie(scene: Scene, everyones: Everyones, server: Path) -> Iterator[Staged]:
    """A process that has ended, and whose parent does not collect it."""
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        yield Staged(ended.pid, lambda: None)
        assert status(ended.pid, "State").startswith("Z")


@contextlib.contextmanager
def in_vfork(scene: Scene, everyones: Everyones, server: Path) -> Iterator[Staged]:
    """A process that waits in vfork(2) for its child."""

    def check() -> None:
        assert status(running.pid, "TracerPid") == "0"
        assert not int(status(running.pid, "SigPnd"), 16) & 1 << signal.SIGSTOP - 1

    with workload(scene.target, vfork_parent, lambda pid: status(pid, "State").startswith("D")) as running:
        yield Staged(running.pid, check, running)


@contextlib.contextmanager
def the_kernels(scene: Scene, everyones: Everyones, server: Path) -> Iterator[Staged]:
    """A thread of the kernel."""
    require(status(2, "Name") == "kthreadd", "needs to see the kernel's threads")
    yield Staged(2, lambda: None)


@contextlib.contextmanager
def hidden(scene: Scene, everyones: Everyones, server: Path) -> Iterator[Staged]:
    """A process in a mount namespace whose /proc shows everybody only what is his."""

    def hide() -> bytes:
        confine.mount("proc", "/proc", "proc", 0)
        subprocess.run(["mount", "-o", "remount,hidepid=invisible", "/proc"], check=True)
        confine.set_keepcaps(False)
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        confine.set_dumpable(True)
        os.execv("/usr/bin/sleep", ["sleep", "600"])

    with workload(scene.target, hide, lambda pid: status(pid, "Name") == "sleep") as running:
        yield Staged(running.pid, lambda: assert_unharmed(running.pid), running)


# ---------------------------------------------------------------- scenes

ROOTLESS = (IdMap(0, 1000, 1),)
IN_A_USER_NAMESPACE = Sandbox(
    namespaces=frozenset({"user"}), uid_map=ROOTLESS, gid_map=ROOTLESS, uid=0, gid=0, groups=None
)
AS_ROOT_OF_ANOTHER = {
    "namespaces": frozenset({"user"}), "uid_map": ROOTLESS, "gid_map": ROOTLESS, "groups": None
}  # fmt: skip
PID = frozenset({"pid", "mnt"})
NOT_THERE = Truth("no-such-process", probed=False)
UNTOLD = Truth(may="landlock", undetermined=True)
"""The kernel shows nobody whether another process is in a Landlock domain."""

TRACED_AND_FROZEN = {
    "already traced": Scene(EVERYTHING, Truth("already-traced", fix=("end-tracer",), **REFUSED), during=held),
    "already traced, and another uid": Scene(
        root(),
        Truth("already-traced credentials", fix=("user", "end-tracer"), inferred="credentials", **REFUSED),
        AS_1000,
        during=held,
    ),
    "already traced, and a filter": Scene(
        FILTER, Truth("already-traced seccomp", fix=("seccomp", "end-tracer"), **REFUSED), during=held
    ),
    "frozen (v2)": Scene(
        OUTSIDE_OF_IT, Truth("frozen", "attach", "TIMEOUT", ("thaw",)), Sandbox(cgroup=True), during=frozen_by("v2")
    ),
    "frozen (v1)": Scene(
        OUTSIDE_OF_IT, Truth("frozen", "attach", "TIMEOUT", ("thaw",)), Sandbox(cgroup=True), during=frozen_by("v1")
    ),
    "frozen, and another uid that it may not signal": Scene(
        root(**OUTSIDE_OF_IT),
        Truth("frozen credentials", fix=("user", "thaw"), inferred="credentials", **REFUSED),
        Sandbox(uid=1000, gid=1000, groups=(), cgroup=True),
        inside=Truth("frozen credentials", probed=False),
        during=frozen_by("v2"),
    ),
    "frozen, and another uid": Scene(
        root("kill", **OUTSIDE_OF_IT),
        Truth("frozen credentials", fix=("user", "thaw"), inferred="credentials", **REFUSED),
        Sandbox(uid=1000, gid=1000, groups=(), cgroup=True),
        during=frozen_by("v2"),
    ),
    "frozen, and a filter": Scene(
        {**OUTSIDE_OF_IT, **FILTER},
        Truth("frozen seccomp", fix=("seccomp", "thaw"), **REFUSED),
        Sandbox(cgroup=True),
        during=frozen_by("v2"),
    ),
    "stopped, which does not matter": Scene(EVERYTHING, Truth(), during=stopped),
    "a zombie": Scene(EVERYTHING, Truth("zombie", **REFUSED), stage=a_zombie),
    "a thread of the kernel": Scene(EVERYTHING, Truth("kernel-thread", **REFUSED), stage=the_kernels),
    "a vfork parent": Scene(EVERYTHING, Truth("uninterruptible not-go", "attach", "TIMEOUT"), stage=in_vfork),
    "a vfork parent, and another uid": Scene(
        root(),
        Truth("uninterruptible credentials", may="not-go", inferred="credentials", **REFUSED),
        AS_1000,
        inside=Truth("credentials", may="not-go uninterruptible", **REFUSED),
        stage=in_vfork,
    ),
}

NAMESPACES = {
    "a rootless container from outside, as its user": Scene(
        somebody(1000),
        Truth("user-namespace", fix=("cap:sys_ptrace",), **REFUSED),
        IN_A_USER_NAMESPACE,
        beside=False,
    ),
    "from a sibling user namespace, as its root": Scene(
        AS_ROOT_OF_ANOTHER,
        Truth("user-namespace", fix=("namespace:user",), inferred="user-namespace", **REFUSED),
        IN_A_USER_NAMESPACE,
        beside=False,
    ),
    "out of a user namespace, with every capability in it": Scene(
        AS_ROOT_OF_ANOTHER,
        Truth("user-namespace", fix=("namespace:user",), inferred="user-namespace", **REFUSED),
        AS_1000,
        beside=False,
    ),
    "another uid, out of a user namespace": Scene(
        AS_ROOT_OF_ANOTHER,
        Truth(
            "user-namespace credentials",
            fix=("user", "namespace:user"),
            inferred="user-namespace credentials",
            **REFUSED,
        ),
        Sandbox(uid=2000, gid=2000, groups=()),
        beside=False,
    ),
    "the owner of a user namespace needs no capability": Scene(
        root(), Truth(), Sandbox(namespaces=frozenset({"user"})), beside=False
    ),
    "out of a PID namespace": Scene(
        {"namespaces": PID},
        Truth("pid-namespace", "attach", "ESRCH", ("namespace:pid",)),
        inside=NOT_THERE,
        beside=False,
    ),
    "another uid, out of a PID namespace": Scene(
        {"namespaces": PID, **root()},
        Truth("pid-namespace credentials", "attach", "ESRCH", ("namespace:pid", "user"), inferred="credentials"),
        AS_1000,
        inside=NOT_THERE,
        beside=False,
    ),
    "into a PID namespace, which does not matter": Scene(EVERYTHING, Truth(), Sandbox(namespaces=PID), beside=False),
    "a /proc that hides others": Scene(
        somebody(2000),
        Truth("hidepid credentials"),
        Sandbox(namespaces=frozenset({"mnt"})),
        inside=Truth("hidepid", may="credentials", probed=False),
        outside=Truth("credentials", may="hidepid not-go", fix=("user",), **REFUSED),
        stage=hidden,
    ),
}

MODULES_AND_MEANS = {
    # As uid 1000: of a process of root nobody can tell from outside whether it is dumpable, and Landlock shows nowhere.
    "a tracer in a Landlock domain": Scene(
        somebody(1000, landlock=1), Truth("landlock", **REFUSED), AS_1000, outside=UNTOLD
    ),
    "a tracer in a Landlock domain, and another uid": Scene(
        root(landlock=1),
        Truth("credentials", may="landlock", fix=("user",), **REFUSED),
        AS_1000,
    ),
    "a tracer in a Landlock domain, and a filter": Scene(
        {**somebody(1000, landlock=1), **FILTER},
        Truth("landlock seccomp", **REFUSED),
        AS_1000,
        outside=Truth("seccomp", fix=("seccomp",), **REFUSED),
    ),
    "a target in a Landlock domain does not matter": Scene({"landlock": 0}, Truth(), Sandbox(landlock=1)),
    "no dlv": Scene(EVERYTHING, Truth("delve-missing", fix=("delve",)), dlv=False),
    "no dlv, and another uid": Scene(
        root(), Truth("delve-missing credentials", fix=("user", "delve"), **REFUSED), AS_1000, dlv=False
    ),
    "no room for the threads of dlv": Scene(
        EVERYTHING, Truth("thread-limit", fix=("limit:pids",)), Sandbox(cgroup=True, pids_max=12)
    ),
    "no memory for dlv": Scene(
        EVERYTHING, Truth("memory-limit", fix=("limit:memory",)), Sandbox(cgroup=True, memory_max=64 << 20)
    ),
    "a limit that leaves enough": Scene(EVERYTHING, Truth(), Sandbox(cgroup=True, pids_max=200, memory_max=1 << 30)),
}

EMULATED = {
    "an emulated processor": Scene(
        EVERYTHING, Truth("ptrace-unsupported", "attach", "ENOSYS"), under=(f"/usr/bin/qemu-{ARCH}",)
    ),
    "an emulated processor, and another uid": Scene(
        root(),
        Truth("ptrace-unsupported", "attach", "ENOSYS", may="credentials"),
        AS_1000,
        under=(f"/usr/bin/qemu-{ARCH}",),
    ),
}

SCENES = {**TRACED_AND_FROZEN, **NAMESPACES, **MODULES_AND_MEANS}
# Another tool in a cgroup without memory brings the OOM killer, who may take the target.
COMPARED = comparison.chosen(SCENES, lambda scene: scene.truth.causes if scene.dlv else frozenset()) - {
    "no memory for dlv"
}


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "needs root to make the contexts")


@pytest.mark.parametrize("name", SCENES)
def test_exactly_these_causes(name: str, everyones: Everyones, public_server: Path) -> None:
    """As the tracer itself sees it."""
    play_inside(name, SCENES[name], everyones, public_server, compared=name in COMPARED)


@pytest.mark.parametrize("name", SCENES)
def test_the_same_from_outside(name: str, everyones: Everyones, public_server: Path) -> None:
    """Root stands in the tracer's place."""
    play_outside(SCENES[name], everyones, public_server)


@pytest.mark.parametrize("name", EMULATED)
def test_emulated(name: str, everyones: Everyones, public_server: Path) -> None:
    """User-mode emulation has no ptrace. It is the tracer's own, so there is no such place to ask for from outside."""
    require(shutil.which(EMULATED[name].under[0]), "needs qemu-user")
    play_inside(name, EMULATED[name], everyones, public_server, compared=True)


def test_oneself(everyones: Everyones) -> None:
    """A shell that becomes the safedlv that asks about it: the same PID."""
    words = " ".join(everyones.safedlv("doctor", "--json"))
    done = subprocess.run(["sh", "-c", f"exec {words} $$"], capture_output=True, text=True, check=False, timeout=30)
    answer = json.loads(done.stdout)
    judge(answer, Truth("self-attach not-go", probed=False), from_outside=False)

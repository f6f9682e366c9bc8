"""The sandbox's cgroups, and what is left of it: nothing, also when its caller is killed."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from safedlv.runtimes.cgroup_tree import CgroupTree
from safedlv.runtimes.sandbox import Running, Sandbox, start
from tests.live.sandboxes import (  # noqa: F401 - pytest finds fixtures by their names here
    PTRACE_ATTACH,
    SECONDS,
    SLEEP,
    cgroups_of,
    forever,
    needs_root,
    nothing_left,
    ptrace,
    status,
)
from tests.support import count, require, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left")

# ---------------------------------------------------------------- cgroups


@pytest.fixture
def tree(request: pytest.FixtureRequest) -> Iterator[Running]:
    request.getfixturevalue("needs_root")
    with start(Sandbox(namespaces=frozenset({"pid"}), cgroup=True), SLEEP) as running:
        yield running


def frozen_as_the_kernel_says(tree: CgroupTree) -> set[str]:
    found = set()
    if tree.v2 is not None and "frozen 1" in (tree.v2 / "cgroup.events").read_text():
        found.add("v2")
    freezer = dict(tree.v1).get("freezer")
    if freezer is not None and (freezer / "freezer.state").read_text() == "FROZEN\n":
        found.add("v1")
    return found


@pytest.mark.parametrize("version", ["v2", "v1", None])
def test_a_frozen_cgroup(tree: Running, version: str | None) -> None:
    assert tree.tree is not None
    has = {"v2": tree.tree.v2 is not None, "v1": "freezer" in dict(tree.tree.v1)}
    require(version is None or has[version], f"needs the {version} freezer")
    tree.freeze(version)
    assert frozen_as_the_kernel_says(tree.tree) == {version or next(name for name in has if has[name])}
    tree.thaw()
    assert frozen_as_the_kernel_says(tree.tree) == set()


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_a_frozen_sandbox_can_be_killed_and_closed(tree: Running, version: str) -> None:
    assert tree.tree is not None
    require(version == "v2" or "freezer" in dict(tree.tree.v1), "needs the v1 freezer")
    with tree.run(SLEEP):
        tree.freeze(version)
        tree.kill()
        assert tree.wait(SECONDS) == -signal.SIGKILL
        tree.freeze(version)
        tree.close()
    assert not any(path.exists() for path in tree.tree.directories)


def test_a_tracer_outside_the_cgroup_meets_a_frozen_target(tree: Running) -> None:
    inner = int(status(tree.pid)["NSpid"].split()[-1])

    def attach() -> bytes:
        refused = ptrace(PTRACE_ATTACH, inner)
        time.sleep(0.1)  # longer than a stop takes: none may come
        stopped, _ = os.waitpid(inner, 0x40000000 | os.WNOHANG)
        return f"{refused} {stopped}".encode()

    tree.freeze()
    with pytest.raises(TimeoutError, match="did not start in time"):
        tree.run(attach, timeout=0.2)
    with tree.run(attach, cgroup=False) as tracer:
        assert tracer.result(SECONDS) == b"0 0"
        tracer.kill()
    assert tree.tree is not None
    assert frozen_as_the_kernel_says(tree.tree)  # the tracer's end is no reason to thaw the target


@pytest.mark.usefixtures("needs_root")
def test_every_process_is_in_the_cgroup_and_the_limits_hold() -> None:
    spec = Sandbox(cgroup=True, pids_max=10, memory_max=64 << 20)

    def too_many() -> bytes:
        try:
            while True:
                if os.fork() == 0:
                    forever()
        except OSError as error:
            return str(error.errno).encode()

    with start(spec, SLEEP) as running:
        assert running.tree is not None
        for directory in running.tree.directories:
            assert str(running.pid) in (directory / "cgroup.procs").read_text().split()
        limits = [path / name for path in running.tree.directories for name in ("memory.limit_in_bytes", "memory.max")]
        assert [path.read_text() for path in limits if path.exists()] == [f"{64 << 20}\n"]
        with running.run(too_many) as bomb:
            assert bomb.result(SECONDS) == str(errno.EAGAIN).encode()


@pytest.mark.usefixtures("needs_root")
def test_cgroups_that_the_workload_made_are_removed_too() -> None:
    with start(Sandbox(cgroup=True), SLEEP) as running:
        assert running.tree is not None
        for directory in running.tree.directories:
            (directory / "inner" / "most").mkdir(parents=True)
            (directory / "inner" / "most" / "cgroup.procs").write_text(str(running.pid))


# ---------------------------------------------------------------- killed, and twenty times


CALLER = """
import sys, time
from safedlv.runtimes.sandbox import Sandbox, start
spec = Sandbox(namespaces={namespaces}, cgroup={cgroup})
print("about to start", flush=True)
with start(spec, ["sh", "-c", "setsid sleep {mark} & sleep {mark}"]) as target, target.run(["sleep", "{mark}"]):
    if "{frozen}":
        target.freeze("{frozen}")
    print("started", flush=True)
    time.sleep(60)
"""


@contextmanager
def caller_to_be_killed(namespaces: set[str], cgroup: bool, frozen: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A caller, and a mark that is in the command line of every process that it leads to; nothing may stay of it."""
    mark = f"60.{secrets.randbelow(10**9):09}"
    script = CALLER.format(namespaces=namespaces, cgroup=cgroup, frozen=frozen, mark=mark)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == "about to start\n"
        yield caller, mark
        caller.kill()
    wait_until(lambda: not marked_processes(mark), "every process has ended")
    wait_until(lambda: not cgroups_of(caller.pid), "every cgroup is gone")


def marked_processes(mark: str) -> list[int]:
    """By command line: a zombie, which only waits for the init of this machine to reap it, has none."""
    found = []
    for entry in os.listdir("/proc"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if entry.isdigit() and mark.encode() in Path("/proc", entry, "cmdline").read_bytes():
                found.append(int(entry))
    return found


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize(
    ("namespaces", "cgroup", "frozen"),
    [
        *((kinds, True, frozen) for kinds in ({"pid", "mount"}, {"user", "pid"}, set()) for frozen in ("", "v2", "v1")),
        *((kinds, False, "") for kinds in ({"pid"}, set())),
    ],
)
def test_a_killed_caller_leaves_no_process_and_no_cgroup(namespaces: set[str], cgroup: bool, frozen: str) -> None:
    require(frozen != "v1" or Path("/sys/fs/cgroup/freezer").exists(), "needs the v1 freezer")
    with caller_to_be_killed(namespaces, cgroup, frozen) as (caller, mark):
        assert caller.stdout is not None
        assert caller.stdout.readline() == "started\n"
        # With a PID namespace: the caller; twice supervisor and entry, and one init; the shell and three sleeps.
        wait_until(lambda: len(marked_processes(mark)) == (10 if "pid" in namespaces else 9), "all of them run")
        assert bool(cgroups_of(caller.pid)) == cgroup


@pytest.mark.long
@pytest.mark.usefixtures("needs_root")
def test_a_caller_that_is_killed_at_any_moment_leaves_nothing() -> None:
    trials = count(100)
    for trial in range(trials):
        with caller_to_be_killed({"user", "pid", "mount"}, True, "v2"):
            time.sleep(0.06 * trial / trials)  # this is what is tried: from before the first fork to after the freeze


@pytest.mark.usefixtures("needs_root")
def test_a_killed_supervisor_takes_the_sandbox_along_and_is_reported() -> None:
    running = start(Sandbox(namespaces=frozenset({"pid"}), cgroup=True), SLEEP)
    assert running.tree is not None
    os.kill(running._ends.supervisor, signal.SIGKILL)
    assert running.wait(SECONDS) == -signal.SIGKILL
    with pytest.raises(OSError, match=r"the sandbox has ended|No such file or directory: '/proc/"):
        running.run(SLEEP)
    with pytest.raises(ChildProcessError, match="these cgroups may stay"):
        running.close()
    wait_until(running.tree.remove, "the cgroups are empty")


def test_a_workload_that_ends_leaves_the_sandbox_open_for_another() -> None:
    with start(Sandbox(), ["true"]) as running:
        assert running.wait(SECONDS) == 0
        with running.run(["false"]) as beside:
            assert beside.wait(SECONDS) == 1


@pytest.mark.usefixtures("needs_root")
def test_twenty_starts_leave_nothing() -> None:
    kinds = frozenset({"user", "mount", "pid", "net", "ipc", "uts", "cgroup"})
    before = Path("/proc/self/mountinfo").read_text()
    for _ in range(20):
        with start(Sandbox(namespaces=kinds, cgroup=True), SLEEP) as running, running.run(SLEEP) as beside:
            pids = [running.pid, running.init_pid, beside.pid, beside.init_pid]
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert cgroups_of(os.getpid()) == []
    assert Path("/proc/self/mountinfo").read_text() == before

"""Contexts read from processes that do not notice, worked out for ``docker exec``, and changed one layer at a time."""

from __future__ import annotations

import ast
import os
import signal
import struct
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from safedlv.capabilities import CAPABILITY_BITS
from safedlv.probe.elsewhere import probe_from
from safedlv.probe.filters import read_filters
from safedlv.probe.sources import exec_context, read_context
from safedlv.runtimes.sandbox import IdMap, Sandbox, capability_sets, start
from tests.live.contexts import (
    ATTACH,
    NOBODYS,
    PID,
    READ,
    counting,
    counts,
    outcome,
    refuse,
    sending,
    vfork_parent,
    zero_counts,
)
from tests.live.sandboxes import (  # noqa: F401 - pytest finds fixtures by their names here
    ARCH,
    NOBODY,
    SECONDS,
    SLEEP,
    needs_root,
    nothing_left,
    status,
)
from tests.support import assert_unharmed, count, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left", "needs_root")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return zero_counts(tmp_path / "count")


def programs_of(pid: int, timeout: float = 2.0) -> tuple[bytes, ...]:
    with ExitStack() as undo:
        procdir = os.open(f"/proc/{pid}", os.O_PATH)
        undo.callback(os.close, procdir)
        return read_filters(pid, procdir, timeout)


def test_the_filters_read_back_are_those_that_were_loaded_and_no_signal_is_lost(shared: Path) -> None:
    programs = (READ, ATTACH, refuse("tgkill"))
    with counting(shared, seccomp=programs, no_new_privs=True) as running:
        with sending(running.pid, shared):
            for _ in range(count(1000)):
                assert programs_of(running.pid) == programs
        assert_unharmed(running.pid)


def test_a_stopped_process_stays_stopped_while_its_filters_are_read(shared: Path) -> None:
    with counting(shared, seccomp=READ) as running:
        running.stop()
        running.send_signal(signal.SIGUSR1)  # waits until it runs again
        for _ in range(20):
            assert programs_of(running.pid) == (READ,)
            assert_unharmed(running.pid, stopped=True)
        assert counts(shared) == (0, 0), "it ran while it was stopped"
        running.cont()
        wait_until(lambda: counts(shared) == (1, 1), "both signals are counted once it runs again")


def test_filters_of_a_frozen_process_and_of_one_that_cannot_stop(shared: Path) -> None:
    with counting(shared, seccomp=READ, cgroup=True) as running:
        running.freeze("v2")
        assert programs_of(running.pid) == (READ,)
        running.thaw()
        assert_unharmed(running.pid)
    with start(Sandbox(seccomp=READ), vfork_parent) as running:
        wait_until(lambda: running.state() == "D", "it waits for its child")
        with pytest.raises(TimeoutError):
            programs_of(running.pid, 0.2)
        assert status(running.pid)["TracerPid"] == "0"
        with read_context(running.pid) as context:
            assert context.filters == ()
            assert "seccomp: its filters cannot be read" in " ".join(context.unread)


def test_what_cannot_be_read_is_said() -> None:
    """Without privilege, and where the process is traced already."""
    words = ["strace", "-f", "-o", "/dev/null", "-p"]
    with start(Sandbox(seccomp=READ), SLEEP) as running:
        strace = subprocess.Popen([*words, str(running.pid)], stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: status(running.pid)["TracerPid"] != "0", "strace holds it")
            with read_context(running.pid) as context:
                assert "seccomp: its filters cannot be read" in " ".join(context.unread)
        finally:
            strace.terminate()
            strace.wait()
        assert_unharmed(running.pid)


def test_a_notifying_filter_is_said() -> None:
    program = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
    notify = struct.pack("<HBBI", 0x05, 0, 0, 1) + struct.pack("<HBBI", 0x06, 0, 0, 0x7FC00000) + program
    with start(Sandbox(seccomp=notify), SLEEP) as running, read_context(running.pid) as context:
        assert any(line.startswith("seccomp: a filter asks a supervisor") for line in context.unread)


def test_no_such_process() -> None:
    with pytest.raises(FileNotFoundError):
        read_context(2**22)
    with start(Sandbox(PID), SLEEP) as running:
        context = read_context(running.pid)
    with context:
        assert outcome(probe_from(context, 2**22).attempt) == (("attach", "ESRCH"),)
        with pytest.raises(ProcessLookupError):  # its PID namespace has ended with it
            probe_from(context, os.getpid())


# ---------------------------------------------------------------- contexts as values


def test_a_context_describes_itself_and_changes_one_layer() -> None:
    spec = Sandbox(PID, uid=1000, gid=1000, groups=(5,), no_new_privs=True, seccomp=ATTACH)
    with start(spec, SLEEP) as running, read_context(running.pid) as context:
        lines = context.describe()
        assert lines[0].startswith("fork into the pid namespace")
        assert lines[-1] == f"load a seccomp filter of {len(ATTACH) // 8} instructions"
        assert "set the uids to 1000" in lines
        assert "set no_new_privs" in lines
        changed = context.as_user(7, 8)
        assert [line for line in changed.describe() if line not in lines] == ["set the gids to 8", "set the uids to 7"]
        assert context.without_filters().describe() == lines[:-1]
        assert context.with_filters(ATTACH) == context.with_filters(*context.filters)
        more = context.with_capability("sys_ptrace").capabilities
        assert more.effective == more.permitted == 1 << CAPABILITY_BITS["sys_ptrace"]
        assert context.with_capability("sys_ptrace").without_capability("sys_ptrace").capabilities.effective == 0
        assert len(context.without_namespaces("mnt").describe()) == len(lines) - 1
        assert context.with_label("apparmor", "docker-default (enforce)").describe() != lines
        with pytest.raises(ValueError, match="no namespace of the kind zoo"):
            context.with_namespaces_of(context, "zoo")


def test_a_capability_that_is_not_ours_is_said() -> None:
    """A process that gave up a capability cannot take on a context that has it; the rest it does take on."""

    def poor(pid: int, tracer: int) -> bytes:
        with read_context(tracer) as context:
            there = probe_from(context, pid)
        return repr((there.missing[-1], outcome(there.attempt)[0])).encode()

    kept = [name for name in CAPABILITY_BITS if name not in ("net_raw", "sys_resource")]
    with start(Sandbox(), SLEEP) as first, first.run(SLEEP) as tracer:
        workload = lambda: poor(first.pid, tracer.pid)  # noqa: E731
        with start(Sandbox(capabilities=capability_sets(*kept)), workload) as caller:
            missing, step = ast.literal_eval(caller.result(SECONDS).decode())
    assert "not ours to give" in missing
    assert "net_raw" in missing
    assert step == ("attach", None)


def test_what_an_engine_would_start() -> None:
    """The sets that execve makes of the container's bounding set, for root and for somebody else."""
    sets = capability_sets("CHOWN", "KILL")
    with start(Sandbox(PID, **NOBODYS, capabilities=sets), SLEEP) as running:
        with exec_context(running.pid) as same, exec_context(running.pid, (0, 0)) as root:
            assert (same.capabilities.effective, same.capabilities.bounding) == (0, sets.bounding)
            assert root.capabilities.effective == root.capabilities.permitted == sets.bounding
            assert (same.uid.real, root.uid.real) == (NOBODY, 0)
            assert outcome(probe_from(same, running.pid).attempt)[0] == ("attach", None)
        with exec_context(running.pid, (0, 0), privileged=True) as privileged:
            assert privileged.capabilities.effective & sets.bounding == sets.bounding
            assert privileged.capabilities.effective.bit_count() > 30


def test_what_an_engine_would_start_where_ids_are_mapped() -> None:
    """userns-remap: the container's root is somebody else's uid outside, and has every capability inside."""
    ids = (IdMap(0, 100000, 65536),)
    with start(Sandbox(PID | {"user"}, uid=1000, gid=1000, groups=(), uid_map=ids, gid_map=ids), SLEEP) as running:
        with exec_context(running.pid, (0, 7)) as root, exec_context(running.pid) as same:
            assert (root.uid.real, root.gid.real, root.groups) == (100000, 100007, (100007,))
            assert root.capabilities.effective == root.capabilities.bounding != 0
            assert (same.uid.real, same.capabilities.effective) == (101000, 0)
            assert not [step for step in outcome(probe_from(root, running.pid).attempt) if step[1]]
            assert not [step for step in outcome(probe_from(same, running.pid).attempt) if step[1]]
        with pytest.raises(ValueError, match="has no id 70000"):
            exec_context(running.pid, (70000, 0))


def test_without_privilege_what_is_the_same_is_no_obstacle() -> None:
    """A user who asks from another process of its own: everything that counts is taken on."""

    def ask() -> bytes:
        with read_context(os.getpid()) as context:
            there = probe_from(context, target_pid)
        return repr((there.missing, outcome(there.attempt))).encode()

    with start(Sandbox(**NOBODYS), SLEEP) as first:
        target_pid = first.pid
        with first.run(ask) as caller:
            missing, answers = ast.literal_eval(caller.result(SECONDS).decode())
    assert [line for line in missing if not line.startswith("landlock:")] == []
    assert not [step for step in answers if step[1]]


def test_a_filter_that_forbids_the_next_one_is_said() -> None:
    """The process that was read loaded its second filter some other way, or before the first could forbid it."""
    number = {"x86_64": 317, "aarch64": 277}[ARCH]
    with start(Sandbox(), SLEEP) as first, read_context(first.pid) as context:
        refused = probe_from(context.with_filters(refuse(number), ATTACH), first.pid)
        assert outcome(refused.attempt)[0] == ("attach", None)
        assert "load a seccomp filter" in refused.missing[-1]
        killed = probe_from(context.with_filters(refuse(number, action="kill_process"), ATTACH), first.pid)
        assert outcome(killed.attempt) == ()
        assert "the probe was not made" in killed.missing[-1]
        assert_unharmed(first.pid)


def test_from_an_unprivileged_place_that_is_said() -> None:
    """Somebody who may not look into a process of root's, and is under a filter: nothing is assumed, all is said."""

    def ask() -> bytes:
        with read_context(pid) as context:
            there = probe_from(context, pid)
        return repr((there.missing, outcome(there.attempt))).encode()

    with start(Sandbox(PID, seccomp=ATTACH), SLEEP) as first:
        pid = first.pid
        with start(Sandbox(**NOBODYS, seccomp=READ), ask) as caller:
            missing, answers = ast.literal_eval(caller.result(SECONDS).decode())
    said = "\n".join(missing)
    for part in (
        "namespace: pid cannot be read", "seccomp: its filters cannot be read", "set the uids to 0", "not ours to give",
        "seccomp: this process is under a filter itself",
    ):  # fmt: skip
        assert part in said
    assert answers[0] == ("attach", "EPERM")

"""Contexts read from processes that do not notice, worked out for ``docker exec``, and changed one layer at a time."""

from __future__ import annotations

import ast
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from safedlv.capabilities import CAPABILITY_BITS
from safedlv.probe.elsewhere import probe_from
from safedlv.probe.filters import read_filters
from safedlv.probe.sources import exec_context, read_context
from safedlv.runtimes.sandbox import IdMap, Running, Sandbox, capability_sets, start
from tests.live.contexts import ATTACH, NOBODYS, PID, READ, outcome, refuse, vfork_parent
from tests.live.sandboxes import (  # noqa: F401 - pytest finds fixtures by their names here
    ARCH,
    NOBODY,
    PTRACE_ATTACH,
    PTRACE_CONT,
    PTRACE_GETREGSET,
    PTRACE_SETOPTIONS,
    SECONDS,
    SLEEP,
    forever,
    libc,
    needs_root,
    nothing_left,
    status,
)
from tests.support import assert_unharmed, count, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left", "needs_root")

PROGRAMS = Path(__file__).parent / "programs"


@contextmanager
def counting(shared: Path, **spec: Any) -> Iterator[Running]:
    """The program that counts its signals, ready, in a sandbox."""
    reader, writer = os.pipe()
    words = [sys.executable, str(PROGRAMS / "counter.py"), str(shared), "--sigcont"]
    try:
        with start(Sandbox(**spec), words, stdout=writer) as running:
            assert select.select([reader], [], [], SECONDS)[0]
            assert os.read(reader, 5) == b"ready"
            yield running
    finally:
        os.close(reader)
        os.close(writer)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    path = tmp_path / "count"
    path.write_bytes(bytes(16))
    return path


def counts(path: Path) -> tuple[int, int]:
    return struct.unpack("QQ", path.read_bytes())


def programs_of(pid: int, timeout: float = 2.0) -> tuple[bytes, ...]:
    with ExitStack() as undo:
        procdir = os.open(f"/proc/{pid}", os.O_PATH)
        undo.callback(os.close, procdir)
        return read_filters(pid, procdir, timeout)


def test_the_filters_read_back_are_those_that_were_loaded_and_no_signal_is_lost(shared: Path) -> None:
    programs = (READ, ATTACH, refuse("tgkill"))
    with counting(shared, seccomp=programs, no_new_privs=True) as running:
        words = [sys.executable, str(PROGRAMS / "sender.py"), str(running.pid), str(shared)]
        sender = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(count(1000)):
            assert programs_of(running.pid) == programs
        out, err = sender.communicate(timeout=30)
        assert sender.returncode == 0, err
        assert counts(shared) == (int(out), 0)
        assert int(out) > 10
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
        with exec_context(running.pid) as same, exec_context(running.pid, (0, 0, ())) as root:
            assert (same.capabilities.effective, same.capabilities.bounding) == (0, sets.bounding)
            assert root.capabilities.effective == root.capabilities.permitted == sets.bounding
            assert (same.uid.real, root.uid.real) == (NOBODY, 0)
            assert outcome(probe_from(same, running.pid).attempt)[0] == ("attach", None)
        with exec_context(running.pid, (0, 0, ()), privileged=True) as privileged:
            assert privileged.capabilities.effective & sets.bounding == sets.bounding
            assert privileged.capabilities.effective.bit_count() > 30


def test_what_an_engine_would_start_where_ids_are_mapped() -> None:
    """userns-remap: the container's root is somebody else's uid outside, and has every capability inside."""
    ids = (IdMap(0, 100000, 65536),)
    with start(Sandbox(PID | {"user"}, uid=1000, gid=1000, groups=(), uid_map=ids, gid_map=ids), SLEEP) as running:
        with exec_context(running.pid, (0, 7, (8,))) as root, exec_context(running.pid) as same:
            assert (root.uid.real, root.gid.real, root.groups) == (100000, 100007, (100008,))
            assert root.capabilities.effective == root.capabilities.bounding != 0
            assert (same.uid.real, same.capabilities.effective) == (101000, 0)
            assert not [step for step in outcome(probe_from(root, running.pid).attempt) if step[1]]
            assert not [step for step in outcome(probe_from(same, running.pid).attempt) if step[1]]
        with pytest.raises(ValueError, match="has no id 70000"):
            exec_context(running.pid, (70000, 0, ()))


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

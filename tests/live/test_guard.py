"""The guard's hold on a thread of dlv: its stops are passed on, and it is never sent on from its exit."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from safedlv.linux import tracing
from safedlv.linux.tracing import PTRACE_CONT, PTRACE_EVENT_EXIT, PTRACE_O_TRACEEXIT, PTRACE_SEIZE, ptrace
from safedlv.session import guard
from tests.support import status, wait_until

AT_EXIT = (signal.SIGTRAP, PTRACE_EVENT_EXIT)


@pytest.fixture
def seized() -> Iterator[int]:
    """A process whose only thread is seized as dlv's is; after the test it is killed and has ended."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        ptrace(PTRACE_SEIZE, process.pid, 0, PTRACE_O_TRACEEXIT)
        yield process.pid
        process.kill()


def at_exit(pid: int) -> bool:
    """Whether it stands there; its stops are not waited for."""
    try:
        return tracing.signal_info(pid) == (signal.SIGTRAP | PTRACE_EVENT_EXIT << 8, pid)
    except ProcessLookupError:  # not in any stop
        return False


def test_killed_in_a_stop_it_is_not_sent_on_from_its_exit(seized: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL comes after the stop that the guard is told of, before it acts: that moment, made to last."""

    def then_killed(tid: int, options: int = os.WNOHANG) -> tuple[int, int] | None:
        stop = tracing.wait_event(tid, options)
        if stop == (signal.SIGUSR1, 0):
            os.kill(seized, signal.SIGKILL)
            wait_until(lambda: at_exit(seized), "it stands at its exit")
        return stop

    monkeypatch.setattr(guard, "wait_event", then_killed)
    os.kill(seized, signal.SIGUSR1)
    assert guard._next_stop(seized) == AT_EXIT
    ptrace(PTRACE_CONT, seized)


@pytest.mark.parametrize("number", [signal.SIGCHLD, signal.SIGURG])
def test_what_comes_often_stops_it_once(seized: int, number: signal.Signals) -> None:
    os.kill(seized, number)
    assert guard._next_stop(seized) == (number, 0)
    blocked = int(status(seized, "SigBlk"), 16)
    assert blocked == 1 << signal.SIGCHLD - 1 | 1 << signal.SIGURG - 1
    ptrace(PTRACE_CONT, seized, 0, number)
    os.kill(seized, number)  # waits for it, and stops it no more
    os.kill(seized, signal.SIGUSR2)
    assert guard._next_stop(seized) == (signal.SIGUSR2, 0)
    os.kill(seized, signal.SIGKILL)
    assert guard._next_stop(seized) == AT_EXIT
    ptrace(PTRACE_CONT, seized)
    with pytest.raises(ProcessLookupError):
        guard._next_stop(seized)

"""What plain dlv does to a target over JSON-RPC and must not happen through safedlv attach (kernel-facts: Traps)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.clients import JsonRpc
from tests.live.test_session import LINE, SOURCE, Attached, assert_left_nothing
from tests.support import Server, assert_unharmed, count, status, wait_until


@pytest.mark.xfail(reason="issue 5, item 3: JSON-RPC passes through untouched yet")
def test_halt_while_stopped_and_then_detach(newest_dlv: str, server: Server) -> None:
    """dlv leaves the signal of its halt pending, and the target dies of it as soon as it runs."""
    for _ in range(count(20)):
        session = Attached(server.pid)
        client = JsonRpc(session.address)
        client.use_version_2()
        client.call("Command", name="halt")
        client.detach()
        assert session.end()[0] == 0
        assert "hello" in server.get()
    assert_left_nothing(server.pid)


@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGHUP", "the client vanishes"])
def test_the_end_of_a_session_that_waited_for_its_target(
    newest_dlv: str, server_binary: Path, tmp_path: Path, end: str
) -> None:
    """dlv kills what it waited for, as if it had started it."""
    program = tmp_path / "late-server"
    os.link(server_binary, program)
    session = Attached(None, f"--waitfor={program}")
    late = Server(program)
    try:
        client = JsonRpc(session.address)
        client.call("CreateBreakpoint", Breakpoint={"file": SOURCE, "line": LINE})
        if end.startswith("SIG"):
            session.process.send_signal(signal.Signals[end])
        client.close()
        assert session.end()[0] == 0
        assert_left_nothing(late.pid)
        assert "hello" in late.get()
    finally:
        late.stop()


@pytest.mark.xfail(reason="issue 5, item 3: JSON-RPC passes through untouched yet")
def test_a_job_stopped_target_is_stopped_after_detach(newest_dlv: str, server: Server) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    wait_until(lambda: status(server.pid, "State").startswith("T"), "it is stopped")
    session = Attached(server.pid)
    client = JsonRpc(session.address)
    client.use_version_2()
    client.detach()
    assert session.end()[0] == 0
    assert_unharmed(server.pid, stopped=True)
    os.kill(server.pid, signal.SIGCONT)
    assert "hello" in server.get()

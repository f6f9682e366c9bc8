"""What plain dlv does to a target over JSON-RPC and must not happen through safedlv attach (kernel-facts: Traps)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.clients import JsonRpc
from tests.live.test_dap_trouble import GRACEFUL
from tests.live.test_session import LINE, SOURCE, Attached, assert_left_nothing
from tests.support import (
    SAFEDLV,
    Server,
    assert_unharmed,
    build_go,
    count,
    old_dlv,
    require,
    status,
    wait_until,
)


class Plain(Attached):
    """``dlv attach --headless`` under way, without safedlv."""

    def __init__(self, dlv: str, pid: int) -> None:
        self.listen([dlv, "attach", "--headless", "--api-version=2", str(pid)])


BOTH = pytest.mark.parametrize("ours", [False, True], ids=["dlv", "safedlv"])


def attached(pid: int, dlv: str, *, ours: bool) -> Attached:
    return Attached(pid) if ours else Plain(dlv, pid)


def ends_well(session: Attached, pid: int, *, ours: bool) -> None:
    code = session.end()[0]
    if ours:
        assert code == 0
        assert_left_nothing(pid)


@BOTH
def test_halt_while_stopped_and_then_detach(newest_dlv: str, server: Server, ours: bool) -> None:
    """dlv leaves the signal of its halt pending, and the target dies of it as soon as it runs."""
    for _ in range(count(20) if ours else 1):
        session = attached(server.pid, newest_dlv, ours=ours)
        client = JsonRpc(session.address)
        client.use_version_2()
        client.call("Command", name="halt")
        client.detach()
        ends_well(session, server.pid, ours=ours)
        if ours:
            assert "hello" in server.get()
    if not ours:
        assert server.process.wait(10) in (-signal.SIGTRAP, 2)


@BOTH
def test_halt_and_detach_in_one_breath(newest_dlv: str, server: Server, ours: bool) -> None:
    """Nobody waits for an answer, and the bytes come as they like. What was asked is answered all the same."""
    session = attached(server.pid, newest_dlv, ours=ours)
    client = JsonRpc(session.address)
    client.use_version_2()
    both = (
        b'{"method":"RPCServer.Command","params":[{"name":"halt"}],"id":2}'
        b'{"method": "RPCServer.Detach", "params": [{"Kill": false}], "id": "two\\"}{"}'
    )
    for at in range(0, len(both), 7):
        client.socket.sendall(both[at : at + 7])
    answers = [json.loads(line) for line in client.file]
    assert {"id": 'two"}{', "result": {}, "error": None} in answers
    client.close()
    ends_well(session, server.pid, ours=ours)
    if ours:
        assert "hello" in server.get()
    else:
        assert server.process.wait(10) in (-signal.SIGTRAP, 2)


@BOTH
def test_ending_a_program_with_breakpoints_set(newest_dlv: str, tmp_path: Path, ours: bool) -> None:
    """It is to shut down as it does on SIGINT; plain dlv leaves the breakpoints in it, and it dies at the first."""
    (tmp_path / "go.mod").write_text("module example.com/graceful\n\ngo 1.19\n")
    (tmp_path / "main.go").write_text(GRACEFUL)
    with subprocess.Popen([build_go(tmp_path, tmp_path / "program")], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        session = attached(program.pid, newest_dlv, ours=ours)
        client = JsonRpc(session.address)
        client.call("CreateBreakpoint", Breakpoint={"functionName": "main.bye"})
        client.detach(kill=True)
        assert session.end()[0] == 0
        code = program.wait(20)
        assert code == 7 if ours else code in (-signal.SIGTRAP, 2)


@BOTH
def test_the_first_halt(newest_dlv: str, server: Server, ours: bool) -> None:
    """That of a program that uses cgo is not lost as DAP's first pause is."""
    session = attached(server.pid, newest_dlv, ours=ours)
    client = JsonRpc(session.address)
    client.send("Command", name="continue")
    wait_until(lambda: status(server.pid, "State")[:1] != "t", "the target runs")
    client.send("Command", name="halt")
    assert not client.answer()["State"]["Running"]
    client.answer()
    client.detach()
    ends_well(session, server.pid, ours=ours)
    assert "hello" in server.get()


@BOTH
def test_detach_while_it_runs(newest_dlv: str, server: Server, ours: bool) -> None:
    """Plain dlv does not answer before the program stops by itself."""
    session = attached(server.pid, newest_dlv, ours=ours)
    client = JsonRpc(session.address, timeout=20 if ours else 2)
    client.call("CreateBreakpoint", Breakpoint={"file": SOURCE, "line": LINE})
    client.send("Command", name="continue")
    wait_until(lambda: status(server.pid, "State")[:1] != "t", "the target runs")
    if ours:
        client.detach()
    else:
        with pytest.raises(TimeoutError):
            client.detach()
        session.process.send_signal(signal.SIGINT)
        client.close()
    ends_well(session, server.pid, ours=ours)
    assert "hello" in server.get()


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


@BOTH
def test_a_job_stopped_target_is_stopped_after_detach(newest_dlv: str, server: Server, ours: bool) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    wait_until(lambda: status(server.pid, "State").startswith("T"), "it is stopped")
    session = attached(server.pid, newest_dlv, ours=ours)
    client = JsonRpc(session.address)
    client.use_version_2()
    client.detach()
    assert session.end()[0] == 0
    assert_unharmed(server.pid, stopped=ours)
    os.kill(server.pid, signal.SIGCONT)
    assert "hello" in server.get()


@pytest.mark.parametrize("end", ["SIGINT", "the client vanishes"])
def test_a_job_stopped_target_is_stopped_however_it_ends(newest_dlv: str, server: Server, end: str) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    wait_until(lambda: status(server.pid, "State").startswith("T"), "it is stopped")
    session = Attached(server.pid)
    client = JsonRpc(session.address)
    client.use_version_2()
    if end == "SIGINT":
        session.process.send_signal(signal.SIGINT)
    client.close()
    assert session.end()[0] == 0
    assert_unharmed(server.pid, stopped=True)
    os.kill(server.pid, signal.SIGCONT)
    assert "hello" in server.get()


def test_a_dlv_that_is_too_old_for_the_target(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain dlv attaches whatever it is told; `dlv exec` and safedlv refuse when they are told to check."""
    dlv = old_dlv()
    require(dlv, "needs dlv 1.20 in $SAFEDLV_TEST_DLV_OLD")
    monkeypatch.setenv("SAFEDLV_DLV", str(dlv))
    flags = ["attach", "--headless", "--api-version=2", "--check-go-version=true", str(server.pid)]
    done = subprocess.run([*SAFEDLV, *flags], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "dlv 1.20.2 supports Go 1.18 to 1.20, and the target was built by go1." in done.stderr
    assert "--check-go-version=false" in done.stderr
    assert_unharmed(server.pid)
    plain = Plain(str(dlv), server.pid)
    client = JsonRpc(plain.address)
    assert client.call("ProcessPid")["Pid"] == server.pid
    client.detach()
    assert plain.end()[0] == 0

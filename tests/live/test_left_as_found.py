"""Every session ends with a line that says how the target was left; and that line sees what is not as it was."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from safedlv.session.parting import Parting
from tests.clients import JsonRpc
from tests.live.adapters import LINE, SOURCE, Adapter, adapters, attach, leave
from tests.live.survival import Worker, delve_of, guard_of
from tests.live.test_session import Attached
from tests.live.test_survival import address_of, read, write
from tests.support import ROOT, SAFEDLV, Server, build_go, left_as_found, require, status, wait_until

WELL = "left process %d as it was found: untraced, running, %s"

# ---------------------------------------------------------------- sessions


@pytest.mark.parametrize("guard", ["on", "off"])
def test_a_session_that_ends_in_order(newest_dlv: str, server: Server, guard: str) -> None:
    session = Attached(server.pid, f"--guard={guard}")
    client = JsonRpc(session.address)
    client.call("CreateBreakpoint", Breakpoint={"file": SOURCE, "line": LINE})
    client.detach()
    assert session.end() == (0, "", left_as_found(server.pid))


def test_a_target_that_was_stopped(newest_dlv: str, server: Server) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    wait_until(lambda: status(server.pid, "State")[:1] == "T", "it is stopped")
    session = Attached(server.pid)
    JsonRpc(session.address).detach()
    assert session.end() == (0, "", left_as_found(server.pid, "stopped as before"))
    os.kill(server.pid, signal.SIGCONT)


def test_a_dlv_that_is_killed(newest_dlv: str, worker: Worker) -> None:
    session = Attached(worker.pid)
    client = JsonRpc(session.address)
    client.call("CreateBreakpoint", Breakpoint={"functionName": "main.work"})
    dlv = delve_of(session.process)
    wait_until(lambda: guard_of(dlv), "it is guarded")
    os.kill(dlv, signal.SIGKILL)
    said = session.end()[2]
    client.close()
    assert "its target was brought home and runs on" in said
    assert said.endswith(left_as_found(worker.pid))


def test_a_dlv_that_is_killed_without_a_guard(newest_dlv: str, worker: Worker) -> None:
    """What no one has put right is told: the breakpoints are in its code, or it has died of one already."""
    session = Attached(worker.pid, "--guard=off")
    client = JsonRpc(session.address)
    client.call("CreateBreakpoint", Breakpoint={"functionName": "main.never"})
    os.kill(delve_of(session.process), signal.SIGKILL)
    client.close()
    said = session.end()[2]
    where = re.fullmatch(
        rf"safedlv: process {worker.pid} is not as it was found: its code has (\d+) bytes that are not as they were, "
        r"at (0x[0-9a-f]+)\n",
        said,
    )
    assert where, said
    assert read(worker.pid, int(where[2], 16), 1) == b"\xcc"


def test_a_target_that_is_killed(newest_dlv: str, worker: Worker) -> None:
    session = Attached(worker.pid)
    client = JsonRpc(session.address)
    client.call("GetVersion")
    os.kill(worker.pid, signal.SIGKILL)
    client.close()
    session.process.send_signal(signal.SIGINT)
    assert session.end()[2] == f"safedlv: process {worker.pid} has ended, by SIGKILL\n"


def test_a_target_that_is_to_be_killed(newest_dlv: str, worker: Worker) -> None:
    """As the client asks for it: nothing is to be said."""
    session = Attached(worker.pid)
    JsonRpc(session.address).detach(kill=True)
    assert session.end() == (0, "", "")
    assert worker.process.wait(10) == -signal.SIGINT


def test_in_the_terminal(newest_dlv: str, server: Server) -> None:
    terminal = pexpect.spawn(SAFEDLV[0], [*SAFEDLV[1:], "attach", str(server.pid)], timeout=30, encoding="utf-8")
    terminal.expect_exact("(dlv) ")
    terminal.sendline("quit")
    terminal.expect_exact(left_as_found(server.pid).rstrip())
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


@pytest.fixture
def adapter(newest_dlv: str) -> Iterator[Adapter]:
    with adapters() as start:
        yield start()


def test_in_an_editor(adapter: Adapter, server: Server) -> None:
    """In its console, once: what is well is not said on stderr as well, which editors show too."""
    client = adapter.client()
    attach(client, server.pid)
    leave(client, terminateDebuggee=False)
    output = [event["body"]["output"] for event in client.events if event["event"] == "output"]
    assert output[-1] == left_as_found(server.pid)
    assert adapter.end() == (0, "", "")


# ---------------------------------------------------------------- what is not as it was


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = ROOT / "tests" / "live" / "programs" / "worker"
    return build_go(source, tmp_path_factory.mktemp("worker") / "worker", environment={"CGO_ENABLED": "0"})


@pytest.fixture
def worker(program: Path) -> Iterator[Worker]:
    worker = Worker(program)
    yield worker
    worker.close()


def test_a_byte_of_its_code(worker: Worker) -> None:
    found = Parting(worker.pid, stopped=False)
    at = address_of(worker.program, "main.never")
    before = read(worker.pid, at, 1)
    write(worker.pid, at, b"\x90")
    said = f"process {worker.pid} is not as it was found: its code has 1 bytes that are not as they were, at {at:#x}"
    assert found.told() == (False, said)
    again = Parting(worker.pid, stopped=False)  # for who comes now it is as it was found
    write(worker.pid, at + 1, read(worker.pid, at + 1, 1))  # written to, and the same
    assert again.told() == (True, WELL % (worker.pid, "its code as before"))
    other = Parting(worker.pid, stopped=False)
    write(worker.pid, at, before)
    assert not other.told()[0]


def test_stopped_and_running(worker: Worker) -> None:
    found = Parting(worker.pid, stopped=False)
    os.kill(worker.pid, signal.SIGSTOP)
    well_, said = found.told()
    assert (well_, said) == (
        False,
        f"process {worker.pid} is not as it was found: it is stopped; its code as in its file",
    )
    found = Parting(worker.pid, stopped=True)
    os.kill(worker.pid, signal.SIGCONT)
    assert "it is not stopped any more" in found.told()[1]


def test_traced(worker: Worker) -> None:
    strace = shutil.which("strace")
    require(strace, "needs strace")
    found = Parting(worker.pid, stopped=False)
    with subprocess.Popen([str(strace), "-p", str(worker.pid), "-o", "/dev/null"], stderr=subprocess.DEVNULL) as tracer:
        wait_until(lambda: status(worker.pid, "TracerPid") != "0", "it is traced")
        assert f"is traced by strace (thread {tracer.pid})" in found.told()[1]
        late = Parting(worker.pid, stopped=False)
        tracer.terminate()
    assert late.told() == (True, WELL % (worker.pid, "its code not compared with its file"))


def test_a_trap_that_waits() -> None:
    """A SIGTRAP that a debugger has queued, for a program that is stopped: it will die of it."""
    target = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    try:
        os.kill(target.pid, signal.SIGSTOP)
        wait_until(lambda: status(target.pid, "State")[:1] == "T", "it is stopped")
        found = Parting(target.pid, stopped=True)
        os.kill(target.pid, signal.SIGTRAP)
        assert "a SIGTRAP waits for it" in found.told()[1]
    finally:
        target.kill()
        target.wait()


def test_ended(worker: Worker) -> None:
    found = Parting(worker.pid, stopped=False)
    os.kill(worker.pid, signal.SIGTRAP)
    wait_until(lambda: status(worker.pid, "State")[:1] == "Z", "it has ended")
    # A Go program has a handler for it, and dies by an exit of its own.
    assert found.told()[1].startswith(f"process {worker.pid} has ended")
    assert Parting(os.getpid(), stopped=False).told()[0]

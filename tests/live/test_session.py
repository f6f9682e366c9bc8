"""Whole sessions with real dlvs on a real Go server: JSON-RPC, DAP, dlv's own terminal, old and new dlv."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from tests.clients import Dap, JsonRpc
from tests.support import (
    ROOT,
    SAFEDLV,
    Server,
    assert_unharmed,
    left_as_found,
    our_directories,
    our_processes,
    status,
    wait_until,
)

SOURCE = str(ROOT / "examples" / "server" / "main.go")
LINE = next(i for i, text in enumerate(Path(SOURCE).read_text().splitlines(), 1) if "text := fmt.Sprintf" in text)
LOAD = {
    "FollowPointers": True,
    "MaxVariableRecurse": 1,
    "MaxStringLen": 64,
    "MaxArrayValues": 64,
    "MaxStructFields": -1,
}


class Attached:
    """``safedlv attach --headless`` under way."""

    def __init__(self, pid: int | None, *flags: str) -> None:
        self.listen([*SAFEDLV, "attach", "--headless", *flags, *([str(pid)] if pid else [])])

    def listen(self, command: list[str]) -> None:
        """Start it, and wait for the line that says where it listens."""
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("API server listening at: "), line + self.process.communicate()[1]
        self.address = line.partition(": ")[2].strip()

    def end(self, within: float = 20) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=within)
        return self.process.returncode, out, err


@pytest.fixture
def attach(dlv: str, server: Server) -> Iterator[Callable[..., Attached]]:
    running: list[Attached] = []

    def start(*flags: str) -> Attached:
        version = ["--check-go-version=false"] if "1.20" in subprocess.check_output([dlv, "version"], text=True) else []
        running.append(Attached(server.pid, *version, *flags))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()
    assert_left_nothing(server.pid)


def assert_left_nothing(pid: int) -> None:
    wait_until(lambda: not our_processes(), "no process of ours is left")
    wait_until(lambda: not our_directories(), "no directory of ours is left")
    assert_unharmed(pid)


def in_background(call: Callable[[], object]) -> threading.Thread:
    def quietly() -> None:
        try:
            call()
        except OSError:  # the server was stopped for longer than the request waits: no matter here
            return

    thread = threading.Thread(target=quietly)
    thread.start()
    return thread


def test_session_over_json_rpc(attach: Callable[..., Attached], server: Server) -> None:
    session = attach()
    client = JsonRpc(session.address)
    client.use_version_2()
    breakpoint_ = client.call("CreateBreakpoint", Breakpoint={"file": SOURCE, "line": LINE})["Breakpoint"]
    request = in_background(server.get)
    state = client.command("continue")
    assert state["currentThread"]["function"]["name"] == "main.greeting"
    here = {"GoroutineID": -1, "Frame": 0}
    client.command("next")
    variables = client.call("ListLocalVars", Scope=here, Cfg=LOAD)["Variables"]
    assert {v["name"]: v["value"] for v in variables}["text"].startswith("hello /you, you are visitor")
    arguments = client.call("ListFunctionArgs", Scope=here, Cfg=LOAD)["Args"]
    assert arguments[0]["name"] == "v"
    assert client.call("ListGoroutines", Start=0, Count=100)["Goroutines"]
    client.call("ClearBreakpoint", Id=breakpoint_["id"])
    client.detach()
    request.join()
    assert session.end()[0] == 0
    assert_unharmed(server.pid)
    assert "hello" in server.get()


def test_session_over_dap(attach: Callable[..., Attached], server: Server) -> None:
    session = attach()
    client = Dap(session.address)
    client.request("initialize", adapterID="go", linesStartAt1=True, pathFormat="path")
    client.request("attach", mode="remote", stopOnEntry=False)
    client.event("initialized")
    client.request("setBreakpoints", source={"path": SOURCE}, breakpoints=[{"line": LINE}])
    client.request("configurationDone")
    request = in_background(server.get)
    thread = client.event("stopped")["body"]["threadId"]
    frames = client.request("stackTrace", threadId=thread, levels=5)["stackFrames"]
    assert frames[0]["name"] == "main.greeting"
    scopes = client.request("scopes", frameId=frames[0]["id"])["scopes"]
    names = {
        v["name"] for v in client.request("variables", variablesReference=scopes[0]["variablesReference"])["variables"]
    }
    assert "v" in names
    client.request("next", threadId=thread)
    client.event("stopped")
    client.request("setBreakpoints", source={"path": SOURCE}, breakpoints=[])
    client.request("disconnect", terminateDebuggee=False)
    client.close()
    request.join()
    assert session.end()[0] == 0
    assert_unharmed(server.pid)
    assert "hello" in server.get()


def version_flags(dlv: str) -> list[str]:
    return ["--check-go-version=false"] if "1.20" in subprocess.check_output([dlv, "version"], text=True) else []


def test_session_in_the_plain_terminal(dlv: str, server: Server) -> None:
    terminal = pexpect.spawn(
        SAFEDLV[0],
        [*SAFEDLV[1:], "attach", "--plain", *version_flags(dlv), str(server.pid)],
        timeout=30,
        encoding="utf-8",
        dimensions=(40, 120),
    )
    terminal.expect_exact("Type 'help' for list of commands.")
    terminal.expect_exact("(dlv) ")
    terminal.sendline(f"break {SOURCE}:{LINE}")
    terminal.expect("Breakpoint 1 .*set at")
    request = in_background(server.get)
    terminal.sendline("continue")
    terminal.expect(r"main\.greeting")
    terminal.sendline("print v.Path")
    terminal.expect_exact('"/you"')
    terminal.sendline("clearall")
    terminal.expect("Breakpoint 1 .*cleared")
    terminal.sendline("quit")
    terminal.expect_exact("Would you like to kill the process?")
    terminal.sendline("n")
    terminal.expect(pexpect.EOF)
    terminal.close()
    request.join()
    assert terminal.exitstatus == 0
    assert_left_nothing(server.pid)
    assert "hello" in server.get()


def test_plain_terminal_keys(newest_dlv: str, server: Server) -> None:
    """Ctrl-C halts, the window's size is passed on, Ctrl-D at the question leaves without killing."""
    words = [*SAFEDLV[1:], "attach", "--plain", str(server.pid)]
    terminal = pexpect.spawn(SAFEDLV[0], words, timeout=30, encoding="utf-8", dimensions=(24, 80))
    terminal.expect_exact("(dlv) ")
    terminal.sendline("continue")
    wait_until(lambda: status(server.pid, "State")[:1] != "t", "the target runs")
    terminal.sendintr()
    terminal.expect("received SIGINT, stopping process")
    terminal.expect_exact("(dlv) ")
    terminal.setwinsize(50, 132)
    child = wait_until(lambda: [p for p in our_processes() if b"connect" in _cmdline(p)], "dlv connect runs")[0]
    wait_until(lambda: _window(child) == (50, 132), "dlv's terminal has the new size")
    terminal.sendeof()
    terminal.expect_exact("Would you like to kill the process?")
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert_left_nothing(server.pid)


def test_a_wrapper_is_answered_with_its_go_child(newest_dlv: str, server_binary: Path) -> None:
    """sh started the server: on a terminal the server itself is offered, and taken on Enter."""
    shell = subprocess.Popen(["sh", "-c", f"{server_binary} & wait"], stdout=subprocess.PIPE, process_group=0)
    try:
        assert shell.stdout is not None
        assert shell.stdout.readline()
        terminal = pexpect.spawn(SAFEDLV[0], [*SAFEDLV[1:], "attach", str(shell.pid)], timeout=30, encoding="utf-8")
        terminal.expect(r"Attach to (\d+) instead\? \[Y/n\] ")
        child = int(terminal.match.group(1))
        terminal.sendline("")
        terminal.expect_exact("(dlv) ")
        terminal.sendline("exit")
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert status(child, "Name") == "server"
        assert_left_nothing(child)
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _window(pid: int) -> tuple[int, int]:
    import fcntl
    import termios

    with open(f"/proc/{pid}/fd/0", "rb", buffering=0) as tty:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(tty, termios.TIOCGWINSZ, bytes(8)))
    return rows, columns


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["at once", "without a client", "while running", "while stopped"])
def test_leaving_by_a_signal(newest_dlv: str, server: Server, signum: signal.Signals, when: str) -> None:
    """Whenever it comes, dlv detaches in order, breakpoints are cleared, and the exit code is dlv's: 0."""
    session = Attached(server.pid)
    client: JsonRpc | None = None
    if when != "at once":
        wait_until(lambda: status(server.pid, "TracerPid") != "0", "dlv has attached")
    if when.startswith("while"):
        client = JsonRpc(session.address)
        client.call("CreateBreakpoint", Breakpoint={"file": SOURCE, "line": LINE})
        if when == "while running":
            client.send("Command", name="continue")
            wait_until(lambda: status(server.pid, "State")[:1] != "t", "the target runs")
    session.process.send_signal(signum)
    code, _, err = session.end()
    assert code == 0, err
    assert err == left_as_found(server.pid)
    if client:
        client.close()
    assert_left_nothing(server.pid)
    assert "hello" in server.get()
    assert "hello" in server.get()


def test_many_clients(newest_dlv: str, server: Server) -> None:
    session = Attached(server.pid, "--accept-multiclient", "--api-version=2")
    clients = [JsonRpc(session.address) for _ in range(10)]
    for client in clients:
        assert client.call("GetVersion")["APIVersion"] == 2
    dap = Dap(session.address)
    assert dap.request("initialize", adapterID="go")["supportsConfigurationDoneRequest"]
    dap.close()
    for client in clients[1:]:
        client.close()
    assert clients[0].call("State", NonBlocking=True)["State"]
    clients[0].detach()
    assert session.end()[0] == 0
    assert_left_nothing(server.pid)


def test_clients_that_break_off(newest_dlv: str, server: Server) -> None:
    """Connections that are reset in the middle of a request, many at a time, harm neither the session nor others."""
    session = Attached(server.pid, "--accept-multiclient")
    steady = JsonRpc(session.address)
    for _ in range(20):
        batch = [JsonRpc(session.address) for _ in range(10)]
        for client in batch:
            client.send("ListFunctions", Filter="", FollowCalls=0)
        for client in batch:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert steady.call("State", NonBlocking=True)
    steady.detach()
    assert session.end()[0] == 0
    assert_left_nothing(server.pid)


def test_continue_needs_no_client(newest_dlv: str, server: Server) -> None:
    session = Attached(server.pid, "--accept-multiclient", "--continue")
    wait_until(lambda: status(server.pid, "TracerPid") != "0", "dlv has attached")
    assert "hello" in server.get()
    session.process.send_signal(signal.SIGINT)
    assert session.end()[0] == 0
    assert_left_nothing(server.pid)


def test_one_client_only(newest_dlv: str, server: Server) -> None:
    """As with dlv: the first client is the only one, and a connection that says nothing is not the first."""
    session = Attached(server.pid)
    silent = JsonRpc(session.address)
    first = JsonRpc(session.address)
    assert first.call("GetVersion")
    with pytest.raises(OSError):
        JsonRpc(session.address, timeout=5).call("GetVersion")
    silent.close()
    assert first.call("State", NonBlocking=True)
    first.detach()
    assert session.end()[0] == 0
    assert_left_nothing(server.pid)


def test_a_client_that_vanishes_ends_the_session(newest_dlv: str, server: Server) -> None:
    session = Attached(server.pid)
    client = JsonRpc(session.address)
    client.call("CreateBreakpoint", Breakpoint={"file": SOURCE, "line": LINE})
    client.close()
    assert session.end()[0] == 0
    assert_left_nothing(server.pid)
    assert "hello" in server.get()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01", b"\x00" * 100])
def test_garbage_does_not_end_the_session(newest_dlv: str, server: Server, garbage: bytes) -> None:
    session = Attached(server.pid)
    intruder = JsonRpc(session.address)
    intruder.socket.sendall(garbage)
    with contextlib.suppress(ConnectionResetError):  # what was not read resets the connection as it closes
        assert intruder.socket.recv(10) == b""
    client = JsonRpc(session.address)
    assert client.call("GetVersion")
    client.detach()
    code, _, err = session.end()
    assert code == 0
    assert "neither JSON-RPC nor DAP" in err
    intruder.close()


def test_endless_message_is_refused(newest_dlv: str, server: Server) -> None:
    """A GiB without a newline: refused in a sentence before it fills anybody's memory."""
    session = Attached(server.pid)
    client = JsonRpc(session.address)
    client.socket.sendall(b'{"method":"')
    with pytest.raises(OSError):
        for _ in range(1024):
            client.socket.sendall(b"a" * (1 << 20))
    client.close()
    code, _, err = session.end()
    assert code == 0
    assert "64 MiB without the end of a message" in err
    assert_left_nothing(server.pid)


def test_half_a_message(newest_dlv: str, server: Server) -> None:
    session = Attached(server.pid)
    client = JsonRpc(session.address)
    client.socket.sendall(b'{"method":"RPCServer.Get')
    client.close()
    assert session.end()[0] == 0
    assert_left_nothing(server.pid)


def test_unix_listener(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    session = Attached(server.pid, f"--listen=unix:{path}")
    assert session.address == str(path)
    client = JsonRpc(session.address)
    assert client.call("GetVersion")
    client.detach()
    assert session.end()[0] == 0
    assert not path.exists()


def test_other_users_are_sent_away(newest_dlv: str, server: Server) -> None:
    session = Attached(server.pid)
    host, _, port = session.address.rpartition(":")
    script = (
        f"import os, socket; os.setuid(65534); s = socket.socket()\ns.connect(('{host}', {port})); print(s.recv(1))"
    )
    done = subprocess.run([SAFEDLV[0], "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout.strip() == "b''", done.stderr
    client = JsonRpc(session.address)
    assert client.call("GetVersion")
    client.detach()
    assert "only accepted from the same UNIX user" in session.end()[2]


def test_waitfor(newest_dlv: str, server_binary: Path, tmp_path: Path) -> None:
    program = tmp_path / "late-server"
    os.link(server_binary, program)
    session = Attached(None, f"--waitfor={program}")
    late = Server(program)
    try:
        client = JsonRpc(session.address)
        assert client.call("ProcessPid")["Pid"] == late.pid
        client.detach()
        assert session.end()[0] == 0
        assert_left_nothing(late.pid)
    finally:
        late.stop()


def test_log_goes_where_dlv_would_put_it(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = subprocess.Popen(
        [*SAFEDLV, "attach", "--headless", "--log", f"--log-dest={log}", str(server.pid)],
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: log.exists() and "\n" in log.read_text(), "the listening line in the log")
    client = JsonRpc(log.read_text().partition("\n")[0].partition(": ")[2])
    client.call("GetVersion")
    client.detach()
    assert process.communicate(timeout=20)[0] == ""
    text = log.read_text()
    assert text.count("API server listening at:") == 1
    assert "layer=debugger" in text


def test_no_proxy_becomes_dlv(newest_dlv: str, server: Server) -> None:
    session = Attached(server.pid, "--no-proxy")
    assert Path(f"/proc/{session.process.pid}/exe").resolve() == Path(newest_dlv).resolve()
    client = JsonRpc(session.address)
    client.detach()
    assert session.end()[0] == 0
    assert_unharmed(server.pid)

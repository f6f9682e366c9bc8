"""``safedlv dap`` when things go wrong: torn, huge and hostile messages, clients that vanish, dlvs that die; and what
plain ``dlv dap`` does to a target that must live.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Dap
from tests.live.adapters import LINE, SOURCE, Adapter, adapters, attach, leave
from tests.live.test_session import Attached, assert_left_nothing
from tests.support import Server, assert_unharmed, build_go, count, our_processes, status, wait_until

Start = Callable[..., Adapter]


@pytest.fixture
def start(server: Server) -> Iterator[Start]:
    """After the server, so that it ends before: the server's end takes everything of ours along."""
    with adapters() as starter:
        yield starter


def visiting(server: Server) -> threading.Thread:
    """Somebody who asks the server for a page, and does not mind when none comes."""

    def visit() -> None:
        with contextlib.suppress(OSError):
            server.get()

    thread = threading.Thread(target=visit)
    thread.start()
    return thread


def frame(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


# ---------------------------------------------------------------- messages


def test_torn_messages(newest_dlv: str, start: Start, server: Server) -> None:
    """Every byte on its own, and several messages at once."""
    adapter = start()
    client = Dap(adapter.address)
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bodies: list[dict[str, Any]] = [
        {"command": "initialize", "arguments": {"pathFormat": "path", "linesStartAt1": True, "columnsStartAt1": True}},
        {"command": "attach", "arguments": {"processId": str(server.pid)}},
        {"command": "configurationDone"},
    ]
    for seq, body in enumerate(bodies, 1):
        for byte in frame(json.dumps({"seq": seq, "type": "request", **body}).encode()):
            client.socket.sendall(bytes([byte]))
        assert client.response(seq)["success"]
    requests = [{"seq": seq, "type": "request", "command": "threads"} for seq in range(10, 60)]
    client.socket.sendall(b"".join(frame(json.dumps(request).encode()) for request in requests))
    for request in requests:
        assert client.response(int(str(request["seq"])))["success"]
    client.number = 100
    leave(client)
    assert adapter.end()[0] == 0
    assert_unharmed(server.pid)


def test_tolerable_headers(newest_dlv: str, start: Start) -> None:
    """dlv takes one way of writing them only; the protocol allows others."""
    client = Dap(start().address)
    body = b'{"seq":1,"type":"request","command":"threads"}'
    client.socket.sendall(b"content-length:%d\r\nContent-Type: text/json\r\n\r\n%s" % (len(body), body))
    assert client.response(1)["body"]["error"]["format"].startswith("No debug session started")
    client.number = 1
    leave(client)


def test_huge_request(newest_dlv: str, start: Start, server: Server) -> None:
    """dlv takes 4 MiB and ends its session over more; here it is refused, and the session goes on."""
    adapter = start()
    client = adapter.client()
    attach(client, server.pid)
    for length in (3 << 20, 16 << 20):
        message = client.response(client.send("evaluate", expression='"' + "a" * length + '"'))
        assert (length < 4 << 20) or "takes no more than 4194304" in message["body"]["error"]["format"]
    leave(client)
    assert adapter.end()[0] == 0
    assert_unharmed(server.pid)


@pytest.mark.parametrize(
    "body",
    [
        b'{"seq":7,"type":"request","command":"unknown"}',
        b'{"seq":7,"type":"event","event":"stopped"}',
        b'{"seq":7,"type":"response","request_seq":3,"success":true,"command":"threads"}',
        b'{"seq":7,"type":"request","command":"attach"}',
        b'{"seq":7,"type":"request","command":"attach","arguments":[1]}',
        b'{"seq":7,"type":"request","command":"disconnect","arguments":7}',
        b'{"seq":7,"type":"request","command":"pause"}',
    ],
)
def test_messages_that_nobody_expects(newest_dlv: str, start: Start, server: Server, body: bytes) -> None:
    """Whatever it is, it is answered or not, as by dlv, and the session can end in order."""
    adapter = start()
    client = adapter.client()
    client.send_body(body)
    client.number = 10
    with contextlib.suppress(OSError):
        leave(client)
    client.close()
    assert adapter.end()[0] == 0


@pytest.mark.parametrize(
    "data",
    [
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 99999999999999\r\n\r\n{}",
        b"Content-Length: 9" + b"9" * 5000,
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Length\r\n\r\n{}",
        b"Content-Type: x\r\n\r\n{}",
        b"Content-Length: 0x10\r\n\r\n{}",
        frame(b"{malformed}"),
        frame(b""),
        frame(b"\xff\xfe\x00"),
        frame(b"[" * 100000),
        frame(b'{"seq":' + b"9" * 10000 + b',"type":"request","command":"attach"}'),
    ],
    ids=lambda data: repr(data[:30]),
)
@pytest.mark.parametrize("attached", [False, True])
def test_hostile_bytes_end_the_session_in_order(
    newest_dlv: str, start: Start, server: Server, data: bytes, attached: bool
) -> None:
    """As dlv: the connection is closed, the exit code 0; and the target is as it was."""
    adapter = start()
    client = adapter.client()
    if attached:
        attach(client, server.pid)
    client.socket.sendall(data)
    with contextlib.suppress(ConnectionError):
        while True:
            client.read()
    client.close()
    assert adapter.end()[0] == 0
    assert_unharmed(server.pid)
    assert "hello" in server.get()


# ---------------------------------------------------------------- who is the client


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.0\r\n\r\n", b'{"method":"x"}\n'], ids=repr)
def test_who_says_nothing_is_not_the_client(newest_dlv: str, start: Start, server: Server, data: bytes) -> None:
    """A port scan does not use up the session, as it does with plain dlv."""
    plain, adapter = start(plain=newest_dlv), start()
    for one in (plain, adapter):
        Dap(one.address).close() if not data else send_and_close(one.address, data)
    with pytest.raises(OSError):
        say_something(plain.address)
    client = adapter.client()
    attach(client, server.pid)
    leave(client)
    assert adapter.end()[0] == 0


def say_something(address: str) -> None:
    with contextlib.closing(Dap(address, timeout=5)) as client:
        client.initialize()


def send_and_close(address: str, data: bytes) -> None:
    client = Dap(address)
    client.socket.sendall(data)
    client.close()


def test_one_client_only(newest_dlv: str, start: Start) -> None:
    adapter = start()
    waits = Dap(adapter.address)
    client = adapter.client()
    with pytest.raises(OSError):
        waits.initialize()
    with pytest.raises(OSError):
        say_something(adapter.address)
    waits.close()
    leave(client)


# ---------------------------------------------------------------- clients that vanish, dlvs that die


def reach(client: Dap, server: Server, point: str) -> None:
    """Bring a session to a point."""
    if point == "connected":
        return
    client.initialize()
    if point == "initialized":
        return
    if point == "attaching":
        client.send("attach", processId=server.pid)
        return
    attach(client, server.pid)
    if point == "configuring":
        client.request("setBreakpoints", source={"path": SOURCE}, breakpoints=[{"line": LINE}])
        return
    if point in ("stopped", "asking", "stepping"):
        client.request("setBreakpoints", source={"path": SOURCE}, breakpoints=[{"line": LINE}])
    client.request("configurationDone")
    if point == "running":
        return
    visiting(server)
    thread = client.event("stopped")["body"]["threadId"]
    if point == "asking":
        client.send("threads")
    elif point == "stepping":
        client.send("next", threadId=thread)


POINTS = ("connected", "initialized", "attaching", "configuring", "running", "stopped", "asking", "stepping")


def close(client: Dap) -> None:
    client.close()


def reset(client: Dap) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def half_a_message(client: Dap) -> None:
    client.socket.sendall(b'Content-Length: 100\r\n\r\n{"seq":77,"type":"request","command":"con')
    client.close()


@pytest.mark.parametrize("way", [close, reset, half_a_message])
@pytest.mark.parametrize("point", POINTS)
def test_a_client_that_vanishes(
    newest_dlv: str, start: Start, server: Server, point: str, way: Callable[[Dap], None]
) -> None:
    adapter = start()
    client = Dap(adapter.address)
    reach(client, server, point)
    if point == "connected":  # what says nothing is no client yet
        client.socket.sendall(b"Content-Length: ")
        way = close
    way(client)
    code, out, err = adapter.end()
    assert (code, out, err) == (0, "", "")
    assert_unharmed(server.pid)
    assert "hello" in server.get()
    assert "hello" in server.get()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("point", POINTS)
def test_safedlv_is_told_to_end_or_killed(
    newest_dlv: str, start: Start, server: Server, point: str, signum: signal.Signals
) -> None:
    adapter = start()
    client = Dap(adapter.address)
    reach(client, server, point)
    adapter.process.send_signal(signum)
    code = adapter.end()[0]
    assert code == (-9 if signum == signal.SIGKILL else 0)
    client.close()
    wait_until(lambda: not our_processes(), "the keeper has done its work")
    assert_unharmed(server.pid)
    assert "hello" in server.get()
    assert "hello" in server.get()


@pytest.mark.parametrize("point", ["initialized", "attaching", "running", "asking"])
def test_a_dlv_that_dies(newest_dlv: str, start: Start, server: Server, point: str) -> None:
    """What it has not answered fails, then ``terminated`` comes, then the end; nothing hangs."""
    adapter = start()
    client = Dap(adapter.address)
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the last request is to be there in time
    reach(client, server, point)
    [dlv] = wait_until(lambda: [p for p in our_processes() if is_dlv(p)], "dlv runs")
    os.kill(dlv, signal.SIGSTOP)
    wait_until(lambda: status(dlv, "State")[:1] in ("T", "t"), "dlv is stopped")
    last = client.send("evaluate", expression="1")
    os.kill(dlv, signal.SIGKILL)
    message = client.response(last)
    assert not message["success"]
    assert "dlv ended (exit code 137)" in message["body"]["error"]["format"]
    if point != "initialized":
        client.event("terminated")
    with pytest.raises(ConnectionError):
        client.read()
    client.close()
    assert adapter.end()[0] == 137
    if point == "attaching":  # nothing was set yet; what a dlv that was killed leaves behind is for a guard to mend
        assert_unharmed(server.pid)


def is_dlv(pid: int) -> bool:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return len(words) > 2 and words[1] == b"dap" and b"telemetry" not in words[2]
    return False


# ---------------------------------------------------------------- dlv's traps


def attached(adapter: Adapter, pid: int) -> Dap:
    client = adapter.client()
    attach(client, pid)
    return client


def test_the_first_pause(newest_dlv: str, start: Start, server: Server) -> None:
    """Plain dlv drops it on a program that uses cgo: there is not even an answer."""
    for options in ({"plain": newest_dlv}, {}):
        client = attached(start(**options), server.pid)
        client.request("configurationDone")
        client.socket.settimeout(3)
        number = client.send("pause", threadId=1)
        if options:
            with pytest.raises(TimeoutError):
                client.response(number)
            client.close()
            wait_until(lambda: status(server.pid, "TracerPid") == "0", "plain dlv has left")
            continue
        assert client.response(number)["success"]
        assert client.event("stopped")["body"]["reason"] == "pause"
        leave(client)
    assert_unharmed(server.pid)


def test_the_first_pause_after_a_stop_on_entry(newest_dlv: str, start: Start, server: Server) -> None:
    """To stand since the attach is no stop for dlv: it would drop that pause as well."""
    client = start().client()
    attach(client, server.pid, stopOnEntry=True)
    client.request("configurationDone")
    client.event("stopped")
    client.request("continue", threadId=1)
    client.request("pause", threadId=1)
    assert client.event("stopped")["body"]["reason"] == "pause"
    leave(client)
    assert_unharmed(server.pid)


@pytest.mark.parametrize("flags", [(), ("--accept-multiclient",)], ids=["one client", "several"])
def test_the_first_pause_of_a_headless_session(newest_dlv: str, server: Server, flags: tuple[str, ...]) -> None:
    """Of an editor whose configuration says mode: remote."""
    session = Attached(server.pid, *flags)
    client = Dap(session.address)
    client.initialize()
    client.request("attach", mode="remote")
    client.event("initialized")
    client.request("configurationDone")
    client.request("pause", threadId=1)
    assert client.event("stopped")["body"]["reason"] == "pause"
    client.request("disconnect", terminateDebuggee=False)
    client.close()
    if flags:
        session.process.send_signal(signal.SIGINT)
    assert session.end()[0] == 0
    assert_left_nothing(server.pid)


GRACEFUL = """
package main

import (
	"fmt"
	"os"
	"os/signal"
	"time"
)

//go:noinline
func bye(n int) int { return n + 1 }

func main() {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	fmt.Println("ready")
	<-interrupted
	for i := 0; i < 3; i++ {
		bye(i)
		time.Sleep(time.Millisecond)
	}
	os.Exit(7)
}
"""


@pytest.fixture(scope="module")
def graceful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("graceful")
    (directory / "go.mod").write_text("module example.com/graceful\n\ngo 1.19\n")
    (directory / "main.go").write_text(GRACEFUL)
    return build_go(directory, directory / "program")


@pytest.mark.parametrize("ours", [False, True], ids=["dlv", "safedlv"])
@pytest.mark.parametrize("point", ["configuring", "running"])
def test_ending_a_program_with_breakpoints_set(
    newest_dlv: str, start: Start, graceful: Path, ours: bool, point: str
) -> None:
    """It is to shut down as it does on SIGINT; plain dlv leaves the breakpoints in it, and it dies at the first."""
    with subprocess.Popen([graceful], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        adapter = start() if ours else start(plain=newest_dlv)
        client = attached(adapter, program.pid)
        client.request("setFunctionBreakpoints", breakpoints=[{"name": "main.bye"}])
        if point == "running":
            client.request("configurationDone")
        leave(client, terminateDebuggee=True)
        said = [event["body"]["output"] for event in client.events if event["event"] == "output"]
        assert "Detaching and terminating target process\n" in said
        code = program.wait(20)
        assert code == (7 if ours else -signal.SIGTRAP) or (not ours and code == 2)
        adapter.end()


@pytest.mark.parametrize("ours", [False, True], ids=["dlv", "safedlv"])
def test_a_job_stopped_target_stays_so(newest_dlv: str, start: Start, server: Server, ours: bool) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    wait_until(lambda: status(server.pid, "State")[:1] == "T", "it is stopped")
    adapter = start() if ours else start(plain=newest_dlv)
    client = attached(adapter, server.pid)
    leave(client)
    adapter.end()
    assert_unharmed(server.pid, stopped=ours)
    os.kill(server.pid, signal.SIGCONT)
    assert "hello" in server.get()


BUSY = """
package main

import "fmt"

//go:noinline
func busy(n int) int { return n + 1 }

func main() {
	fmt.Println("ready")
	for n := 0; ; n = busy(n) {
	}
}
"""


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("busy")
    (directory / "go.mod").write_text("module example.com/busy\n\ngo 1.19\n")
    (directory / "main.go").write_text(BUSY)
    return build_go(directory, directory / "program")


@pytest.mark.long
@pytest.mark.parametrize("how", ["disconnect", "vanish", "pause and disconnect"])
def test_leaving_while_breakpoints_are_hit(newest_dlv: str, start: Start, busy: Path, how: str) -> None:
    """Halted just as it runs into a breakpoint, a target is left with a SIGTRAP of dlv's, and dies of it."""
    for trial in range(count(30)):
        with subprocess.Popen([busy], stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == b"ready\n"
            adapter = start()
            client = attached(adapter, program.pid)
            points = [{"name": "main.busy", "condition": "n < 0"}]
            client.request("setFunctionBreakpoints", breakpoints=points)
            client.request("configurationDone")
            time.sleep(0.01 * (trial % 7))  # no condition to wait for: any moment will do
            if how == "pause and disconnect":
                client.send("pause", threadId=1)
            if how == "vanish":
                client.close()
            else:
                leave(client)
            assert adapter.end()[0] == 0
            assert_unharmed(program.pid)
            assert program.poll() is None
            program.kill()


# ---------------------------------------------------------------- the same as with plain dlv


def script(client: Dap, server: Server) -> list[dict[str, Any]]:
    """Everything that is said in a session in which nothing is left to chance."""
    said: list[dict[str, Any]] = []

    def ask(command: str, **arguments: Any) -> dict[str, Any]:
        message = client.response(client.send(command, **arguments))
        said.append(message)
        return message

    ask("initialize", adapterID="go", linesStartAt1=True, columnsStartAt1=True, pathFormat="path")
    ask("threads")
    ask("attach", mode="nonsense")
    ask("attach", mode="remote")
    ask("attach", mode="local", processId=server.pid, showGlobalVariables=True)
    ask("unknown")
    ask("setFunctionBreakpoints", breakpoints=[{"name": "main.greeting"}, {"name": "main.none"}])
    ask("setBreakpoints", source={"path": SOURCE}, breakpoints=[{"line": LINE}, {"line": 1}])
    ask("configurationDone")
    visitor = visiting(server)
    stop = client.event("stopped")
    said.append(stop)
    thread = stop["body"]["threadId"]
    for _ in range(2):
        frames = ask("stackTrace", threadId=thread, startFrame=0, levels=20)["body"]["stackFrames"]
        scopes = ask("scopes", frameId=frames[0]["id"])["body"]["scopes"]
        ask("variables", variablesReference=scopes[0]["variablesReference"])
        ask("evaluate", expression="v.Path", frameId=frames[0]["id"], context="repl")
        ask("evaluate", expression="nonsense", frameId=frames[0]["id"], context="repl")
        ask("next", threadId=thread)
        said.append(client.event("stopped"))
    ask("setFunctionBreakpoints", breakpoints=[])
    ask("setBreakpoints", source={"path": SOURCE}, breakpoints=[])
    ask("terminate")
    ask("pause", threadId=thread)
    ask("disconnect", terminateDebuggee=False)
    said.append(client.event("terminated"))
    said += client.events
    visitor.join()
    return said


def comparable(said: list[dict[str, Any]]) -> list[str]:
    """Without sequence numbers, and without what another run of the program changes: ids of goroutines, addresses."""
    drop = {"seq", "id", "threadId", "instructionPointerReference", "memoryReference", "declarationLocationReference"}

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(one) for key, one in value.items() if key not in drop}
        if isinstance(value, list):
            return [clean(one) for one in value]
        return value

    text = [json.dumps(clean(one), sort_keys=True) for one in said]
    return [re.sub(r"0x[0-9a-f]+|[Gg]oroutine \d+|port:? ?\d+|visitor \d+|Visits\W+\d+", "#", one) for one in text]


def test_traffic_is_that_of_plain_dlv(newest_dlv: str, start: Start, server_binary: Path) -> None:
    found = []
    for options in ({"plain": newest_dlv}, {}):
        server = Server(server_binary)
        try:
            client = Dap(start(**options).address)
            found.append(comparable(script(client, server)))
            client.close()
            wait_until(lambda: not our_processes(), "the session has ended")
        finally:
            server.stop()
    plain, ours = found
    left = [one for one in ours if "as it was found" in one]
    assert len(left) == 1
    ours.remove(left[0])
    assert sorted(ours) == sorted(plain)
    assert len(plain) > 25

"""Several clients of one session: an editor over DAP and ``dlv connect``, and observers, who may only look."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pexpect
import pytest

from safedlv.session.observers import RUNNING, WHY
from tests.clients import Dap, JsonRpc
from tests.live.test_session import LINE, LOAD, SOURCE, Attached, assert_left_nothing, in_background
from tests.support import SAFEDLV, Server, status, wait_until

HERE = {"GoroutineID": -1, "Frame": 0}


def runs(server: Server) -> bool:
    return status(server.pid, "State")[:1] != "t"


def editor(session: Attached, **arguments: object) -> Dap:
    """An editor that has attached to a session that is there."""
    client = Dap(session.address)
    client.initialize()
    client.request("attach", mode="remote", **arguments)
    client.event("initialized")
    return client


@contextmanager
def connected(dlv: str, session: Attached) -> Iterator[pexpect.spawn]:
    terminal = pexpect.spawn(dlv, ["connect", session.address], timeout=30, encoding="utf-8", dimensions=(40, 200))
    terminal.expect_exact("(dlv) ")
    yield terminal
    terminal.sendline("exit")
    terminal.expect_exact("Would you like to kill the headless instance?")
    terminal.sendline("n")
    terminal.expect(pexpect.EOF)
    terminal.close()


def ended(session: Attached, server: Server) -> str:
    """End the session; what safedlv has said in it."""
    session.process.send_signal(signal.SIGINT)
    code, _, err = session.end()
    assert code == 0, err
    assert_left_nothing(server.pid)
    assert "hello" in server.get()
    return err


def test_an_editor_and_dlv_connect(newest_dlv: str, server: Server) -> None:
    """Each sees what the other has set, and it is said when the other one moves the program."""
    session = Attached(server.pid, "--accept-multiclient")
    client = editor(session, stopOnEntry=True)
    client.request("setBreakpoints", source={"path": SOURCE}, breakpoints=[{"line": LINE}])
    client.request("configurationDone")
    assert client.event("stopped")["body"]["reason"] == "entry"
    with connected(newest_dlv, session) as terminal:
        terminal.sendline("breakpoints")
        terminal.expect(rf"main\.go:{LINE} ")
        terminal.expect_exact("(dlv) ")
        request = in_background(server.get)
        terminal.sendline("continue")
        terminal.expect(r"> .*main\.greeting\(")
        terminal.expect_exact("(dlv) ")
        threads = client.request("threads")["threads"]
        frames = [client.request("stackTrace", threadId=t["id"], levels=1)["stackFrames"] for t in threads]
        assert "main.greeting" in [found[0]["name"] for found in frames if found]
        client.send("continue", threadId=1)
        request.join()
        assert runs(server)
        client.request("pause", threadId=1)
        client.event("stopped")
    client.request("disconnect")
    assert "leaving multi-client DAP server" in str(client.events)
    client.close()
    said = ended(session, server).splitlines()
    assert len(said) == 3, said
    assert said[2].endswith("as it was found: untraced, running, its code as in its file")
    assert "moves the program now (continue), and not 127.0.0.1:" in said[0]


def test_observers_look_and_do_not_move(newest_dlv: str, server: Server) -> None:
    session = Attached(server.pid, "--accept-multiclient", "--observers")
    driver = JsonRpc(session.address)
    driver.use_version_2()
    breakpoint_ = driver.call("CreateBreakpoint", Breakpoint={"file": SOURCE, "line": LINE})["Breakpoint"]
    request = in_background(server.get)
    driver.command("continue")
    looker = JsonRpc(session.address)
    looker.use_version_2()
    frames = looker.call("Stacktrace", Id=-1, Depth=5)["Locations"]
    assert frames[0]["function"]["name"] == "main.greeting"
    assert looker.call("Eval", Scope=HERE, Expr="v.Path", Cfg=LOAD)["Variable"]["value"] == "/you"
    for method, arguments in (
        ("Command", {"name": "next"}),
        ("Command", {"name": "call", "expr": "main.greeting(v)", "ReturnInfoLoadConfig": LOAD}),
        ("ClearBreakpoint", {"Id": breakpoint_["id"]}),
        ("Set", {"Scope": HERE, "Symbol": "v.Count", "Value": "7"}),
        ("Detach", {"Kill": True}),
    ):
        with pytest.raises(RuntimeError, match="this connection observes"):
            looker.call(method, **arguments)
    with pytest.raises(RuntimeError, match="function calls not allowed"):
        looker.call("Eval", Scope=HERE, Expr="main.greeting(v)", Cfg=LOAD)
    assert looker.call("Stacktrace", Id=-1, Depth=5)["Locations"] == frames
    assert [b["id"] for b in looker.call("ListBreakpoints")["Breakpoints"] if b["id"] > 0] == [breakpoint_["id"]]
    driver.call("ClearBreakpoint", Id=breakpoint_["id"])
    driver.send("Command", name="continue")
    request.join()
    assert runs(server)
    looker.close()
    driver.close()
    said = ended(session, server)
    assert said.count(" observes\n") == 1
    assert "moves the program" not in said


def test_an_observer_over_dap(newest_dlv: str, server: Server) -> None:
    """It comes in while the program stands, sees it, and neither its way in nor its way out moves the program."""
    session = Attached(server.pid, "--accept-multiclient", "--observers")
    driver = JsonRpc(session.address)
    driver.call("CreateBreakpoint", Breakpoint={"file": SOURCE, "line": LINE})
    driver.send("Command", name="continue")
    wait_until(lambda: runs(server), "it runs")
    client = Dap(session.address)
    client.initialize()
    assert client.refused("attach", mode="remote") == RUNNING
    assert runs(server)
    request = in_background(server.get)
    driver.answer()
    client.request("attach", mode="remote")
    client.event("initialized")
    with pytest.raises(RuntimeError, match="setBreakpoints"):
        client.request("setBreakpoints", source={"path": SOURCE}, breakpoints=[])
    client.request("configurationDone")
    thread = client.event("stopped")["body"]["threadId"]
    ids = [one["id"] for one in client.request("threads")["threads"]]
    stacks = [client.request("stackTrace", threadId=one, levels=2)["stackFrames"] for one in ids]
    frame = next(stack[0] for stack in stacks if stack and stack[0]["name"] == "main.greeting")
    assert client.request("evaluate", expression="v.Path", frameId=frame["id"], context="watch")["result"] == '"/you"'
    for command, arguments in (
        ("next", {"threadId": thread}),
        ("continue", {"threadId": thread}),
        ("evaluate", {"expression": "call main.greeting(v)", "frameId": frame["id"], "context": "repl"}),
        ("disconnect", {"terminateDebuggee": True}),
    ):
        answer = client.response(client.send(command, **arguments))
        assert not answer["success"]
        assert WHY in answer["body"]["error"]["format"]
    client.request("disconnect")
    client.close()
    assert driver.call("State")["State"]["currentThread"]["line"] == LINE
    driver.send("Command", name="continue")
    request.join()
    assert runs(server)
    driver.close()
    ended(session, server)


def test_dlv_connect_observes(newest_dlv: str, server: Server) -> None:
    session = Attached(server.pid, "--accept-multiclient", "--observers")
    driver = JsonRpc(session.address)
    driver.use_version_2()
    with connected(newest_dlv, session) as terminal:
        terminal.sendline("goroutines")
        terminal.expect(r"\[\d+ goroutines\]")
        terminal.expect_exact("(dlv) ")
        terminal.sendline("continue")
        terminal.expect_exact("this connection observes")
        terminal.expect_exact("(dlv) ")
    assert not driver.call("State", NonBlocking=True)["State"]["Running"]
    driver.close()
    ended(session, server)


def test_the_next_one_drives_when_the_driver_has_gone(newest_dlv: str, server: Server) -> None:
    session = Attached(server.pid, "--accept-multiclient", "--observers")
    first, second = JsonRpc(session.address), JsonRpc(session.address)
    assert first.call("GetVersion")
    assert second.call("GetVersion")
    first.close()
    wait_until(lambda: drives(session), "one that comes now drives")
    with pytest.raises(RuntimeError, match="this connection observes"):
        second.call("Command", name="halt")
    second.close()
    ended(session, server)


def drives(session: Attached) -> bool:
    client = JsonRpc(session.address)
    try:
        client.call("CancelNext")
    except RuntimeError:
        return False
    finally:
        client.close()
    return True


def test_an_observer_that_makes_no_sense_is_sent_away(newest_dlv: str, server: Server) -> None:
    session = Attached(server.pid, "--accept-multiclient", "--observers")
    driver, other = JsonRpc(session.address), JsonRpc(session.address)
    assert driver.call("GetVersion")
    other.socket.sendall(b'{"method":"RPCServer.State","Method":"RPCServer.Detach","params":[{}],"id":1}')
    assert other.socket.recv(10) == b""
    other.close()
    assert driver.call("State")
    driver.close()
    assert "sent something that is no request" in ended(session, server)


@pytest.mark.parametrize("flags", [[], ["--headless"], ["--headless", "--accept-multiclient", "--no-proxy"]])
def test_observers_need_a_session_of_several(newest_dlv: str, server: Server, flags: list[str]) -> None:
    words = [*SAFEDLV, "attach", "--observers", *flags, "--allow-non-terminal-interactive", str(server.pid)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "--observers " in done.stderr
    assert done.stdout == ""

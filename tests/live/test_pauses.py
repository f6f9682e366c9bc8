"""``--max-pause`` and ``--on-disconnect``: a target stands no longer than it may, whoever is there."""

from __future__ import annotations

import subprocess

import pytest

from tests.clients import Dap, JsonRpc
from tests.live.adapters import adapters, attach, leave
from tests.live.test_session import LINE, SOURCE, Attached, assert_left_nothing, in_background
from tests.live.test_several_clients import ended, runs
from tests.support import SAFEDLV, Server, wait_until

SEVERAL = "--accept-multiclient"
SHORT = 1.0  # seconds
CONFIGURED = 2.0  # seconds: an editor's configuration is to be over before a pause is


def rpc(session: Attached) -> JsonRpc:
    client = JsonRpc(session.address)
    client.use_version_2()
    return client


def editor(session: Attached) -> Dap:
    """An editor that has attached to a session that is there, and wants it to stand."""
    client = Dap(session.address)
    client.initialize()
    client.request("attach", mode="remote", stopOnEntry=True)
    client.event("initialized")
    client.request("configurationDone")
    client.event("stopped")
    return client


def said_by(client: Dap, part: str) -> str:
    """What is said in the client's console until ``part`` comes."""
    said = ""
    while part not in said:
        said += client.event("output")["body"]["output"]
    return said


@pytest.mark.parametrize("flags", [(), (SEVERAL,)], ids=["one client", "several"])
def test_a_pause_that_is_too_long_over_json_rpc(newest_dlv: str, server: Server, flags: tuple[str, ...]) -> None:
    """It is continued, each time; the client hears nothing that it did not ask for, and can halt it again."""
    session = Attached(server.pid, f"--max-pause={SHORT}s", *flags)
    client = rpc(session)
    for _ in range(2):
        wait_until(lambda: runs(server), "the pause is ended")
        assert "hello" in server.get()
        halted = client.command("halt")
        assert not halted["Running"]
        assert client.call("State", NonBlocking=True)["State"]["Running"] in (True, False)
    client.close()
    said = ended(session, server)
    assert f"the program goes on in 0 s: --max-pause={SHORT}s\n" in said
    assert said.count(f" and goes on now: --max-pause={SHORT}s\n") >= 2


@pytest.mark.parametrize("flags", [(), (SEVERAL,)], ids=["one client", "several"])
def test_a_pause_that_is_too_long_for_an_editor(newest_dlv: str, server: Server, flags: tuple[str, ...]) -> None:
    """Its console says so before and after, and it hears that the program goes on: its buttons are right."""
    session = Attached(server.pid, f"--max-pause={CONFIGURED}s", *flags)
    client = editor(session)
    client.event("continued")
    said_by(client, " and goes on now: --max-pause")
    assert "hello" in server.get()
    client.request("setBreakpoints", source={"path": SOURCE}, breakpoints=[{"line": LINE}])
    asked = in_background(server.get)
    assert client.event("stopped")["body"]["reason"] == "breakpoint"
    client.event("continued")
    asked.join()
    client.request("pause", threadId=1)
    client.event("stopped")
    client.send("disconnect")
    client.close()
    ended(session, server)


def test_a_pause_in_a_session_of_an_editors_own(newest_dlv: str, server: Server) -> None:
    with adapters() as start:
        client = start().client()
        attach(client, server.pid, stopOnEntry=True, safedlv={"maxPause": CONFIGURED})
        client.request("configurationDone")
        client.event("stopped")
        said = said_by(client, "goes on now")
        assert f"the program goes on in 1 s: --max-pause={CONFIGURED}" in said
        assert client.event("continued")["body"] == {"threadId": 1, "allThreadsContinued": True}
        assert "hello" in server.get()
        client.request("pause", threadId=1)
        client.event("stopped")
        assert client.request("threads")["threads"]
        leave(client)
    assert_left_nothing(server.pid)


def test_nobody_comes(newest_dlv: str, server: Server) -> None:
    """A session of one client that does not come lets go of the target."""
    session = Attached(server.pid, f"--max-pause={SHORT}s")
    code, _, err = session.end()
    assert (code, "goes on now" in err) == (0, True), err
    assert_left_nothing(server.pid)


def test_the_last_client_leaves_a_target_that_stands(newest_dlv: str, server: Server) -> None:
    """It goes on, and so does the session: a client that comes back finds its breakpoint, and the program stopped."""
    session = Attached(server.pid, SEVERAL, f"--on-disconnect=continue:{SHORT}s")
    client = rpc(session)
    number = client.call("CreateBreakpoint", Breakpoint={"file": SOURCE, "line": LINE})["Breakpoint"]["id"]
    client.close()
    wait_until(lambda: runs(server), "it goes on")
    back = rpc(session)
    assert not back.command("halt")["Running"]
    assert number in [found["id"] for found in back.call("ListBreakpoints")["Breakpoints"]]
    back.call("ClearBreakpoint", Id=number)
    back.close()
    wait_until(lambda: runs(server), "it goes on again")
    said = ended(session, server)
    assert said.count(f"and goes on now: no client has been there for {SHORT:g} s\n") == 2


def test_the_last_client_leaves_and_the_session_ends(newest_dlv: str, server: Server) -> None:
    session = Attached(server.pid, SEVERAL, f"--on-disconnect=detach:{SHORT}s")
    first, second = rpc(session), rpc(session)
    first.close()
    assert not second.call("State", NonBlocking=True)["State"]["Running"]
    second.close()
    code, _, err = session.end()
    assert (code, f"let go of: no client has been there for {SHORT:g} s\n" in err) == (0, True), err
    assert_left_nothing(server.pid)
    assert "hello" in server.get()


def test_a_client_that_is_there_may_take_its_time(newest_dlv: str, server: Server) -> None:
    """``--on-disconnect`` says nothing to a client that thinks; and before the first has come nobody has gone."""
    session = Attached(server.pid, SEVERAL, "--on-disconnect=detach:200ms")
    idle = rpc(session)
    passed = [idle.call("State", NonBlocking=True)["State"]["Running"] for _ in range(2)]
    looker = rpc(session)  # another that comes and goes changes nothing
    looker.close()
    with pytest.raises(subprocess.TimeoutExpired):
        session.process.wait(1.5)
    assert passed == [False, False]
    assert not runs(server)
    idle.close()
    assert session.end()[0] == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--headless", "--max-pause=soon"], "'soon' is no time for a pause"),
        (["--headless", "--max-pause=0"], "'0' is no time for a pause"),
        (["--headless", "--max-pause=25h"], "'25h' is no time for a pause"),
        (["--headless", "--accept-multiclient", "--on-disconnect=kill"], "there is no 'kill' to do"),
        (["--headless", "--accept-multiclient", "--on-disconnect=wait:3s"], "there is no 'wait:3s' to do"),
        (["--headless", "--on-disconnect=continue"], "a session of one client ends when that is gone"),
        (["--headless", "--max-pause=3s", "--no-proxy"], "--max-pause cannot be had with --no-proxy"),
    ],
)
def test_words_that_cannot_be_had(newest_dlv: str, server: Server, words: list[str], sentence: str) -> None:
    done = subprocess.run([*SAFEDLV, "attach", *words, str(server.pid)], capture_output=True, text=True, check=False)
    assert (done.returncode, sentence in done.stderr) == (1, True), done.stderr
    assert_left_nothing(server.pid)

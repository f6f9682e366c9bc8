"""``"via": "clone"`` in an attach request: the session is in a copy of the container, and nothing is left of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from safedlv.runtimes.docker import Engine
from safedlv.sibling.clone import COPY
from safedlv.sibling.clone_record import restore
from tests.clients import Dap
from tests.docker.copies import assert_nothing_is_left, copies, document_of_copy, visit_copy
from tests.docker.sidecars import SERVER, Box, line_of
from tests.docker.test_relaunch_session import state
from tests.live.adapters import Adapter, adapters, attach, leave
from tests.support import our_processes, status, wait_until

__all__ = ["state"]
SOURCE = SERVER / "main.go"
LINE = line_of(SOURCE, "text := fmt.Sprintf")
MakeBox = Callable[..., Box]
CLONE = {"via": "clone"}


@pytest.fixture
def start(newest_dlv: str) -> Iterator[Callable[..., Adapter]]:
    with adapters() as starter:
        yield starter


def stop_in(client: Dap, box: Box, source: Path = SOURCE) -> int:
    """Hit a breakpoint in the copy; the thread."""
    points = [{"line": LINE}]
    [bound] = client.request("setBreakpoints", source={"path": str(source)}, breakpoints=points)["breakpoints"]
    assert bound["verified"], bound
    client.request("configurationDone")
    visit_copy(box)
    thread = int(client.event("stopped")["body"]["threadId"])
    frames = client.request("stackTrace", threadId=thread, levels=5)["stackFrames"]
    assert (frames[0]["name"], frames[0]["source"]["path"]) == ("main.greeting", str(source))
    assert client.request("evaluate", expression="v.Path", frameId=frames[0]["id"])["result"] == '"/you"'
    return thread


@pytest.mark.parametrize("who", ["name", "pid"])
def test_session(make_box: MakeBox, start: Callable[..., Adapter], who: str) -> None:
    box = make_box()
    adapter = start()
    client = adapter.client()
    attach(client, f"docker:{box.name}" if who == "name" else box.pid, safedlv=CLONE)
    thread = stop_in(client, box)
    assert status(box.pid, "TracerPid") == "0"
    assert document_of_copy(box)["State"]["Running"]
    client.request("setBreakpoints", source={"path": str(SOURCE)}, breakpoints=[])
    client.request("next", threadId=thread)
    assert client.event("stopped")["body"]["reason"] == "step"
    client.request("continue", threadId=thread)
    leave(client)
    code, _, err = adapter.end()
    assert code == 0, err
    console = [event["body"]["output"] for event in client.events if event["event"] == "output"]
    [line] = [text for text in console if text.startswith("safedlv: a copy")]
    assert "is removed when the session ends" in line
    assert "removed" in err
    assert_nothing_is_left(box)
    box.assert_left_alone()


def test_sources_are_found_in_the_workspace(make_box: MakeBox, start: Callable[..., Adapter], tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(SERVER, workspace)
    box = make_box()
    adapter = start(cwd=workspace)
    client = adapter.client()
    attach(client, f"docker:{box.name}", safedlv=CLONE)
    stop_in(client, box, workspace / "main.go")
    leave(client)
    assert adapter.end()[0] == 0
    assert_nothing_is_left(box)


@pytest.mark.parametrize("how", ["terminate", "vanish", "vanish while it is made"])
def test_other_ends(make_box: MakeBox, start: Callable[..., Adapter], how: str) -> None:
    box = make_box()
    adapter = start()
    client = adapter.client()
    if how == "vanish while it is made":
        client.send("attach", processId=f"docker:{box.name}", safedlv=CLONE)
        wait_until(lambda: copies(box), "a copy is there")
    else:
        attach(client, f"docker:{box.name}", safedlv=CLONE)
        stop_in(client, box)
    if how == "terminate":
        leave(client, terminateDebuggee=True)
    else:
        client.close()
    assert adapter.end(60)[0] == 0
    assert_nothing_is_left(box)
    box.assert_left_alone()


@pytest.mark.parametrize("all_of_it", [False, True], ids=["the one that was started", "the other too"])
def test_killed(make_box: MakeBox, start: Callable[..., Adapter], all_of_it: bool) -> None:
    """By itself it is undone by what it has started; where that was killed too, by ``safedlv clean``."""
    box = make_box()
    adapter = start()
    client = adapter.client()
    attach(client, f"docker:{box.name}", safedlv=CLONE)
    stop_in(client, box)
    if all_of_it:
        [dlv] = [pid for pid in our_processes() if b"\0attach\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(int(status(dlv, "PPid")), signal.SIGKILL)  # who makes the copy; keepers end dlv
    adapter.process.kill()
    adapter.end()
    client.close()
    if all_of_it:
        wait_until(lambda: not our_processes(), "they have ended")
        assert copies(box)
        with Engine() as engine:
            restore(engine)
        assert not copies(box)
    else:
        assert_nothing_is_left(box)
    box.assert_left_alone()


def test_a_copy_that_cannot_be(make_box: MakeBox, start: Callable[..., Adapter]) -> None:
    """What ``attach --via clone`` says to it is in the dialog."""
    box = make_box("scratch", None, "--label", f"{COPY}=x")
    client = start().client()
    text = client.refused("attach", processId=f"docker:{box.name}", safedlv=CLONE)
    assert "in a copy ended with exit code 1" in text
    assert f"{box.name} is a debuggable copy itself" in text
    leave(client)


def test_no_container(make_box: MakeBox, start: Callable[..., Adapter]) -> None:
    client = start().client()
    with subprocess.Popen(["sleep", "60"]) as process:
        text = client.refused("attach", processId=process.pid, safedlv=CLONE)
        process.kill()
    assert "is in no container that is known here" in text
    leave(client)

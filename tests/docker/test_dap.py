"""``safedlv dap`` on targets in containers: by name, through a sidecar, asked first."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Dap
from tests.docker.sidecars import SERVER, Box, line_of, sidecars
from tests.docker.test_context import profile, rule
from tests.docker.test_sidecar_member import member  # noqa: F401  a fixture
from tests.live import editors
from tests.live.adapters import Adapter, adapters, attach, leave
from tests.support import require, status, wait_until

SOURCE = SERVER / "main.go"
LINE = line_of(SOURCE, "text := fmt.Sprintf")
MakeBox = Callable[..., Box]


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "enters containers as root")


@pytest.fixture
def start(newest_dlv: str, tmp_path: Path) -> Iterator[Callable[..., Adapter]]:
    with adapters() as starter:
        yield lambda *words, **options: starter(
            *words, env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}, **options
        )


def session(client: Dap, box: Box, source: Path = SOURCE, **arguments: Any) -> None:
    """Attach, hit a breakpoint in a file of the workspace, look, step, pause, leave."""
    attach(client, f"docker:{box.name}", **arguments)
    points = [{"line": LINE}]
    [bound] = client.request("setBreakpoints", source={"path": str(source)}, breakpoints=points)["breakpoints"]
    assert bound["verified"], bound
    client.request("configurationDone")
    request = box.visit()
    thread = client.event("stopped")["body"]["threadId"]
    frames = client.request("stackTrace", threadId=thread, levels=5)["stackFrames"]
    assert (frames[0]["name"], frames[0]["source"]["path"]) == ("main.greeting", str(source))
    assert client.request("evaluate", expression="v.Path", frameId=frames[0]["id"])["result"] == '"/you"'
    client.request("next", threadId=thread)
    client.event("stopped")
    client.request("setBreakpoints", source={"path": str(source)}, breakpoints=[])
    client.request("continue", threadId=thread)
    request.join()
    client.request("pause", threadId=thread)
    assert client.event("stopped")["body"]["reason"] == "pause"
    leave(client)


@pytest.mark.parametrize("via", [None, "never", "ask", "sidecar"])
def test_by_name(make_box: MakeBox, start: Callable[..., Adapter], via: str | None) -> None:
    box = make_box()
    adapter = start()
    client = adapter.client()
    session(client, box, SOURCE, **({"safedlv": {"via": via}} if via else {}))
    assert adapter.end()[0] == 0
    console = [event["body"]["output"] for event in client.events if event["event"] == "output"]
    assert any("it is removed when the session ends" in line for line in console) == (via == "sidecar")
    box.assert_left_alone()


def test_an_editors_own_client(make_box: MakeBox, start: Callable[..., Adapter]) -> None:
    box = make_box()
    adapter = start()
    editors.session(adapter.address, f"docker:{box.name}", SOURCE, LINE, box.visit, via="sidecar")
    assert adapter.end()[0] == 0
    box.assert_left_alone()


def test_through_a_sidecar_by_pid(make_box: MakeBox, start: Callable[..., Adapter]) -> None:
    """The container is found; and the entry stop is where it is with a local attach."""
    box = make_box()
    adapter = start()
    client = adapter.client()
    attach(client, box.pid, safedlv={"via": "sidecar"}, stopOnEntry=True)
    client.request("configurationDone")
    assert client.event("stopped")["body"]["reason"] == "entry"
    assert status(box.pid, "State").startswith("t")
    leave(client)
    assert adapter.end()[0] == 0
    box.assert_left_alone()


def test_a_client_that_vanishes_takes_the_sidecar_along(make_box: MakeBox, start: Callable[..., Adapter]) -> None:
    box = make_box()
    adapter = start()
    client = adapter.client()
    attach(client, f"docker:{box.name}", safedlv={"via": "sidecar"})
    assert sidecars(box)
    client.close()
    assert adapter.end()[0] == 0
    box.assert_left_alone()


def test_a_sidecar_that_is_killed(make_box: MakeBox, start: Callable[..., Adapter]) -> None:
    """What it has not answered fails, the session ends, the container goes."""
    box = make_box()
    adapter = start()
    client = adapter.client()
    attach(client, f"docker:{box.name}", safedlv={"via": "sidecar"})
    box.engine.docker("kill", *sidecars(box))
    client.event("terminated")
    client.close()
    adapter.end()
    wait_until(lambda: not sidecars(box), "no sidecar is left")


def test_asked_first(
    make_box: MakeBox,
    start: Callable[..., Adapter],
    member: Callable[..., list[str]],  # noqa: F811
) -> None:
    """Refused for one who is not root; the second time, a moment later, is a yes. A third asks again."""
    box = make_box()
    target = f"docker:{box.name}"
    for _ in range(2):
        client = start(under=member("dap", "--only-same-user=false"), cwd="/").client()
        text = client.refused("attach", processId=target, safedlv={"via": "ask"})
        assert "PTRACE_ATTACH was refused with EPERM" in text
        assert text.splitlines()[-1].startswith("or start again within 60 s")
        report = client.event("output")["body"]["output"]
        assert report.startswith("blocked at PTRACE_ATTACH")
        assert '{"via": "sidecar"}' in client.refused("attach", processId=target)
        assert "sidecar" not in client.refused("attach", processId=target, safedlv={"via": "never"})
        client.request("attach", processId=target, safedlv={"via": "ask"})
        leave(client)
        box.assert_left_alone()


def test_a_way_that_is_none(make_box: MakeBox, start: Callable[..., Adapter]) -> None:
    client = start().client()
    with subprocess.Popen(["sleep", "60"]) as process:
        text = client.refused("attach", processId=process.pid, safedlv={"via": "sidecar"})
        process.kill()
    assert "is in no container that is known here" in text
    assert "there is no container" in client.refused("attach", processId="docker:none", safedlv={"via": "sidecar"})
    leave(client)


def test_a_profile_against_ptrace_is_nothing_to_the_host(
    make_box: MakeBox, start: Callable[..., Adapter], tmp_path: Path
) -> None:
    path = tmp_path / "profile.json"
    path.write_text(profile(rule("SCMP_ACT_ERRNO")))
    box = make_box("scratch", None, "--security-opt", f"seccomp={path}")
    adapter = start()
    session(adapter.client(), box)
    assert adapter.end()[0] == 0
    box.assert_left_alone()


def test_sources_are_found_in_the_workspace(make_box: MakeBox, start: Callable[..., Adapter], tmp_path: Path) -> None:
    """The program was built elsewhere: its module is in the workspace, and so breakpoints bind there."""
    workspace = tmp_path / "workspace"
    shutil.copytree(SERVER, workspace)
    box = make_box()
    for via in ("never", "sidecar"):
        adapter = start(cwd=workspace)
        client = adapter.client()
        session(client, box, workspace / "main.go", safedlv={"via": via})
        assert adapter.end()[0] == 0
        adapter = start(cwd=workspace)
        rules = [{"from": str(tmp_path / "elsewhere"), "to": str(SERVER)}]
        session(adapter.client(), box, tmp_path / "elsewhere" / "main.go", safedlv={"via": via}, substitutePath=rules)
        assert adapter.end()[0] == 0
    box.assert_left_alone()

"""The containers of examples/vscode/launch.json, from F5 to the end of the session; what safedlv pick says of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from safedlv.target import resolve
from tests.docker.copies import assert_nothing_is_left, copies
from tests.docker.sidecars import DEBIAN, PORT, SCRATCH, Box
from tests.live.vscode import VsCode, configurations, resolved
from tests.support import ROOT, SAFEDLV, require

MakeBox = Callable[..., Box]


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "enters containers as root")


@pytest.fixture
def shim(tmp_path: Path, newest_dlv: str) -> Path:
    """The dlv that go.alternateTools names: one made for the Python of these tests, in a checkout."""
    (tmp_path / "safedlv").symlink_to(ROOT / "safedlv")
    (tmp_path / "shims").mkdir()
    subprocess.run([sys.executable, "-m", "safedlv", "shim", str(tmp_path / "shims")], cwd=ROOT, check=True)
    return tmp_path / "shims" / "dlv"


@pytest.mark.parametrize(
    "name",
    [
        "a container, by its name",
        "a container, and ask when it is refused",
        "a container, from one beside it",
        "a copy of a container",
        "a Compose service",
    ],
)
def test_a_container(name: str, make_box: MakeBox, shim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    box = make_box(SCRATCH)
    text = json.dumps(configurations()[name])
    assert "docker:" in text
    given = json.loads(text.replace("docker:api", f"docker:{box.name}"))
    given["safedlv"]["target"] = f"docker:{box.name}"
    with VsCode(shim) as editor:
        editor.attach(resolved(given, {"workspaceFolder": str(ROOT)}))
        bound = editor.client.request("setFunctionBreakpoints", breakpoints=[{"name": "main.greeting"}])["breakpoints"]
        assert bound[0]["verified"]
        editor.client.request("configurationDone")
        assert len(copies(box)) == (name == "a copy of a container")
        assert editor.stop() == 0
    assert_nothing_is_left(box)
    box.assert_left_alone()


def picked(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [*SAFEDLV, "pick", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_pick_names_a_container(make_box: MakeBox) -> None:
    """By what safedlv takes as a target; by its PID where no engine can be asked."""
    box = make_box(SCRATCH)
    found = {one["pid"]: one for one in json.loads(picked("--json"))["targets"]}[box.pid]
    assert (found["target"], found["container"]) == (f"docker:{box.name}", box.name)
    assert f"docker:{box.name}" in picked()
    nowhere = "unix:///nowhere/docker.sock"
    found = {one["pid"]: one for one in json.loads(picked("--json", DOCKER_HOST=nowhere))["targets"]}[box.pid]
    assert (found["target"], found["container"]) == (str(box.pid), None)


def test_pick_tells_processes_of_one_container_apart(make_box: MakeBox) -> None:
    """The second Go process of a container goes by its PID in there, as `docker:NAME/PID` means it."""
    box = make_box(DEBIAN, ["/bin/sh", "-c", f"/server 127.0.0.1:0 & exec /server 127.0.0.1:{PORT}"])
    names = [f"docker:{box.name}", f"docker:{box.name}/"]
    found = [one for one in json.loads(picked("--json"))["targets"] if one["container"] == box.name]
    assert len(found) == 2
    assert {name for one in found for name in names if one["target"].startswith(name)} == set(names)
    for one in found:
        assert resolve(one["target"]).pid == one["pid"]

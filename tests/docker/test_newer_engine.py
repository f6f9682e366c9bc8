"""Sidecars and copies with a newer engine than this machine's: API 1.51 (Docker 28), where the machine's may be 1.41.

From API 1.44 on an endpoint has a MAC address that can be chosen, and from 1.48 on a priority as the gateway; a
container can be made in several networks at once.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from safedlv.sibling.clone_difference import differences
from tests.docker.conftest import PROBER, Engine
from tests.docker.copies import InACopy, assert_nothing_is_left
from tests.docker.sidecars import PORT, SERVER, Beside, Box, hit_a_breakpoint, line_of, packed, scratch_archive
from tests.docker.test_relaunch import Stage, told
from tests.support import build_go, left_as_found

IMAGE = "safedlv-test-newer:given"
LINE = line_of(SERVER / "main.go", "text := fmt.Sprintf")
NETWORKS = (
    "--network name=NET1,mac-address=02:42:ac:11:00:01,gw-priority=1,alias=one "
    "--network name=NET2,mac-address=02:42:ac:11:00:02,gw-priority=2,ip=10.213.8.77"
)


@pytest.fixture
def box(newer_engine: Engine, newest_dlv: str, tmp_path: Path) -> Box:
    newer_engine.docker("import", "-", IMAGE, given=scratch_archive(tmp_path))
    return Box(newer_engine, IMAGE, ["/server", f"127.0.0.1:{PORT}"], "--user", "1000:1000")


def test_it_is_newer(newer_engine: Engine) -> None:
    said = newer_engine.docker("version", "--format", "{{.Server.APIVersion}}").stdout.decode()
    assert tuple(int(part) for part in said.split(".")) >= (1, 48)


def test_a_sidecar(box: Box) -> None:
    session = Beside(f"docker:{box.name}")
    assert hit_a_breakpoint(session.client(), SERVER / "main.go", LINE, box.visit)["text"].startswith("hello /you")
    assert session.end() == (0, "", left_as_found(box.pid))
    box.assert_left_alone()


def test_exec(box: Box) -> None:
    session = InACopy(box, "relaunch", "--debuggable", "--exec", "--yes")
    client = session.client()
    client.call("CreateBreakpoint", Breakpoint={"functionName": "main.main"})
    assert client.command("continue")["currentThread"]["function"]["name"] == "main.main"
    client.close()
    assert session.end()[0] == 0
    assert_nothing_is_left(box)
    box.assert_left_alone()


@pytest.mark.parametrize(
    ("options", "more"),
    [("--network bridge --mac-address 02:42:ac:11:00:03", ("network connect --gw-priority 7 --alias two NET1 NAME",)),
     (NETWORKS, ())],
    ids=["bridge and another", "two networks"],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["--swap", "--beside"])
def test_networks(
    newer_engine: Engine, newest_dlv: str, tmp_path: Path, options: str, more: tuple[str, ...], mode: str
) -> None:
    program = build_go(PROBER, tmp_path / "prober", environment={"CGO_ENABLED": "0"})
    newer_engine.docker("import", "-", IMAGE, given=packed({"prober": program}))
    stage = Stage(newer_engine, (IMAGE, IMAGE), tmp_path)
    try:
        stage.start(f"{options} --label networks=NET1")
        for command in more:
            stage.docker(command.replace("NAME", stage.name))
        before = stage.inspect(stage.name)
        process = stage.relaunched(mode, "--change", "cap:sys_ptrace")
        copy = stage.inspect(stage.name if mode == "--swap" else f"{stage.name}-debug")
        found = {one.path[-1] for one in differences(before, copy)}
        declared = {"safedlv.copy", "safedlv.record", "CapAdd"}
        alone = {"MacAddress", "Aliases", "IPv4Address"} if mode == "--beside" else set()
        assert declared <= found <= declared | alone
        networks, of_copy = (document["NetworkSettings"]["Networks"] for document in (before, copy))
        for name, endpoint in networks.items():
            assert of_copy[name]["GwPriority"] == endpoint["GwPriority"]
            chosen = endpoint["MacAddress"].startswith("02:42:ac:11:00")
            assert not chosen or (of_copy[name]["MacAddress"] == endpoint["MacAddress"]) == (mode == "--swap")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert told(stage.inspect(stage.name)) == told(before)
        assert (stage.ours(), stage.records()) == ("", [])
    finally:
        stage.close()

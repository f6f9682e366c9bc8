"""safedlv control and compare on containers: what ``docker exec`` would meet there, copied, and two of them beside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docker.conftest import Engine
from tests.docker.stand import archive
from tests.docker.test_doctor import CASES, NONE, played
from tests.everyone import Everyones
from tests.live.test_control import INGREDIENTS
from tests.support import LONG, answer_of, assert_unharmed, require

OFTEN = {
    "default",
    "paused",
    "root, exec as somebody",
    "a profile against SETOPTIONS",
    "a profile, and another user",
}
PLAYED = [name for name in CASES if name in OFTEN or LONG]


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "needs root to stand in a container's place")


def ask(*words: str) -> dict[str, Any]:
    return answer_of(*words, "--debug", environment={"SAFEDLV_DLV": "/nonexistent"})[1]


@pytest.mark.parametrize("name", PLAYED)
def test_control_names_what_refuses(name: str, docker_engine: Engine, prober: Callable[..., int]) -> None:
    """The same cases as doctor's: the ingredient is that of the cause."""
    case = CASES[name]
    with played(case, docker_engine, prober) as pid:
        answer = ask("control", "--json", "--probe-timeout=0.4", f"docker:{docker_engine.last}", *case.tracer)
    assert set(answer["named"]) == {INGREDIENTS.get(cause, cause) for cause in case.causes}, answer
    assert_unharmed(pid)


def test_inside_a_default_container(docker_engine: Engine, everyones: Everyones, server_binary: Path) -> None:
    """Where no namespace and no cgroup may be made the group does without, and says so; and so it does for steps."""
    image = docker_engine.docker("import", "-", given=archive(server_binary, scratch=False)).stdout.decode().strip()
    try:
        docker_engine.run(*everyones.mounts(), image, "/server", "127.0.0.1:0")
        inside = ("exec", docker_engine.last)
        done = docker_engine.docker(*inside, *everyones.safedlv("control", "--json"), check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        answer = json.loads(done.stdout)
        assert (answer["control"]["probe"]["result"], answer["control"]["dlv"]["result"]) == ("works", "works")
        assert (answer["group"]["namespaces"], answer["group"]["cgroup"]) == ([], False)
        assert "unshare" in answer["group"]["left_out"][0]
        assert "safedlv itself is under one" in answer["group"]["left_out"][-1]
        done = docker_engine.docker(*inside, *everyones.safedlv("doctor", "--steps", "1"), check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"safedlv itself is under one" in done.stdout
        assert b"works: with all that could be copied" in done.stdout
    finally:
        docker_engine.remove_containers()
        docker_engine.docker("image", "rm", "--force", image)


def test_compare_two_containers(docker_engine: Engine, prober: Callable[..., int]) -> None:
    """One with a profile against ptrace, one without: that is the difference that matters, and not the others."""
    names = []
    for options in ((), NONE), (("--security-opt", "no-new-privileges"),):
        prober(*options)
        names.append(f"docker:{docker_engine.last}")
    answer = ask("compare", "--json", *names)
    rows = {row["id"]: row for row in answer["rows"]}
    assert (rows["seccomp programs"]["same"], rows["no_new_privs"]["same"], rows["permitted"]["same"]) == (
        False, False, True,
    )  # fmt: skip
    matters = {entry["cause"]: entry["rows"] for entry in answer["matters"]}
    assert matters["seccomp"] == ["seccomp programs"]
    assert (answer["a"]["tracer"], answer["b"]["tracer"]) == ("container", "container")

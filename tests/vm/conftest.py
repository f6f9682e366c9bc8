"""The one start of the virtual machine that all tests of this directory look at."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests import comparison
from tests.support import ROOT, build_go, new_dlv, require
from tests.vm import hard_cases, machine
from tests.vm.scenes import SCENES, Scene, for_the_guest

HERE = Path(__file__).parent
PROGRAM = """#!/bin/sh
export PYTHONPATH=/in/lib:/in SAFEDLV_DLV=/in/dlv
exec python3 -m tests.vm.guest
"""
SLOWNESS = 2  # of the emulated processor, in the time that is given to a tool
TOGETHER = 2  # more causes at once are compared by the long run only, which costs a machine that is emulated less
Found = dict[str, Any]


def compared() -> frozenset[str]:
    """The scenes in which other tools are asked as well: a few of each kind."""

    def causes_of(scene: Scene) -> frozenset[str]:
        few = len(scene.known.causes) <= TOGETHER or "SAFEDLV_LONG" in os.environ
        return scene.known.causes if scene.stage.compared and few else frozenset()

    return comparison.chosen(SCENES, causes_of)


COMPARED = compared()


def _asking(tool: str) -> list[str]:
    words = [word.replace("0", "{pid}") if word == "0" else word for word in comparison.command(tool, "/in/dlv", 0)]
    at = words.index(comparison.SECONDS[tool])
    return [*words[:at], str(float(words[at]) * SLOWNESS), *words[at + 1 :]]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """What was found in every scene."""
    require(not machine.lacking(), machine.lacking())
    dlv = new_dlv()
    require(dlv, "needs a dlv on the PATH")
    made = tmp_path_factory.mktemp("lab")
    tools = {tool: _asking(tool) for tool in comparison.TOOLS}
    sessions = hard_cases.for_the_guest(hard_cases.cases())
    (made / "stages.json").write_text(for_the_guest(COMPARED, tools, sessions))
    server = build_go(ROOT / "examples/server", made / "server", environment={"CGO_ENABLED": "0"})
    with machine.library() as library:
        brought = {"lib": library, "tests/vm": HERE, "server": server, "dlv": Path(str(dlv))}
        brought["tests/clients.py"] = ROOT / "tests/clients.py"
        outcome = machine.run({**brought, "stages.json": made / "stages.json"}, PROGRAM)
    machine.image().with_name("last.jsonl").write_text(outcome.stdout)
    machine.image().with_name("last.log").write_text(outcome.explained())
    found = [json.loads(line) for line in outcome.stdout.splitlines() if line.endswith("}")]
    assert found, outcome.explained()
    return {scene["scene"]: scene for scene in found} | {"": {"explained": outcome.explained()}}

"""Every scene of tests/vm/scenes.py, under a kernel with Yama and AppArmor: what doctor says inside and from outside.

The machine is booted once for all of them (tests/vm/machine.py); each test looks at one answer.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests import comparison
from tests.scenes import Document, ids, judge
from tests.support import ROOT, build_go, new_dlv, require
from tests.vm import machine
from tests.vm.scenes import SCENES, Scene, for_the_guest

HERE = Path(__file__).parent
PROGRAM = """#!/bin/sh
export PYTHONPATH=/in/lib:/in SAFEDLV_DLV=/in/dlv
exec python3 -m tests.vm.guest
"""
SLOWNESS = 2  # of the emulated processor, in the time that is given to a tool
TOGETHER = 2  # more causes at once are compared by the long run only, which costs a machine that is emulated less
WHERE = ("inside", "outside")
ASKED = [(name, where) for name, scene in SCENES.items() for where in WHERE if getattr(scene.known, where)]
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
    (made / "stages.json").write_text(for_the_guest(COMPARED, tools))
    server = build_go(ROOT / "examples/server", made / "server", environment={"CGO_ENABLED": "0"})
    with machine.library() as library:
        brought = {"lib": library, "tests/vm": HERE, "server": server, "dlv": Path(str(dlv))}
        outcome = machine.run({**brought, "stages.json": made / "stages.json"}, PROGRAM)
    machine.image().with_name("last.jsonl").write_text(outcome.stdout)
    machine.image().with_name("last.log").write_text(outcome.explained())
    found = [json.loads(line) for line in outcome.stdout.splitlines() if line.endswith("}")]
    assert found, outcome.explained()
    return {scene["scene"]: scene for scene in found} | {"": {"explained": outcome.explained()}}


def played(lab: dict[str, Found], name: str) -> Found:
    """What was found in one scene; fails with the end of the machine's console when it was not reached."""
    assert name in lab, f"not played: {lab['']['explained']}"
    assert "error" not in lab[name], lab[name]["error"]
    return lab[name]


@pytest.mark.timeout(machine.SECONDS + 60)
@pytest.mark.parametrize(("name", "where"), ASKED)
def test_exactly_these_causes(lab: dict[str, Found], name: str, where: str) -> None:
    found = played(lab, name)
    assert found[where]["stderr"] == ""
    truth = getattr(SCENES[name].known, where)
    judge(json.loads(found[where]["stdout"]), truth, from_outside=where == "outside")
    assert not found.get(f"harm_{where}"), "the target is not as it was"


@pytest.mark.timeout(machine.SECONDS + 60)
@pytest.mark.parametrize("name", [name for name, scene in SCENES.items() if scene.stage.plainly])
def test_docker_exec_is_answered_the_same(lab: dict[str, Found], name: str) -> None:
    """By the command itself, and not by the agent that answers for it in all other tests."""
    found = played(lab, name)
    assert gist(json.loads(found["plainly"])) == gist(json.loads(found["inside"]["stdout"]))


def gist(answer: Document) -> tuple[Any, ...]:
    """An answer without its times."""
    probe = answer["probe"]
    return answer["verdict"], answer["causes"], answer["fix"], probe["failed_step"], probe["errno"], answer["missing"]


@pytest.mark.timeout(machine.SECONDS + 60)
@pytest.mark.parametrize("name", sorted(COMPARED))
def test_what_the_others_say(lab: dict[str, Found], name: str) -> None:
    """Noted for the comparison at the end; whatever they do, they must not have broken the scenes that follow."""
    found = played(lab, name)
    said = {tool: comparison.told(one["stdout"], one["code"]) for tool, one in found["tools"].items()}
    answer = json.loads(found["inside" if "inside" in found else "outside"]["stdout"])
    comparison.record("vm", name, SCENES[name].known.causes, **said, safedlv=ids(answer))
    assert not found["harm_tools"], "the target is not as it was"

"""Every scene of tests/vm/scenes.py, under a kernel with Yama and AppArmor: what doctor says inside and from outside.

The machine is booted once for all of them (tests/vm/machine.py); each test looks at one answer.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import comparison
from tests.scenes import Document, ids, judge
from tests.vm import machine
from tests.vm.conftest import Found
from tests.vm.lab import compared
from tests.vm.scenes import CONTROL, SCENES

WHERE = ("inside", "outside")
ASKED = [(name, where) for name, scene in SCENES.items() for where in WHERE if getattr(scene.known, where)]


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
@pytest.mark.parametrize("name", sorted(compared()))
def test_what_the_others_say(lab: dict[str, Found], name: str) -> None:
    """Noted for the comparison at the end; whatever they do, they must not have broken the scenes that follow."""
    found = played(lab, name)
    said = {tool: comparison.told(one["stdout"], one["code"]) for tool, one in found["tools"].items()}
    answer = json.loads(found["inside" if "inside" in found else "outside"]["stdout"])
    comparison.record("vm", name, SCENES[name].known.causes, **said, safedlv=ids(answer))
    assert not found["harm_tools"], "the target is not as it was"


@pytest.mark.timeout(machine.SECONDS + 60)
@pytest.mark.parametrize("name", CONTROL)
def test_the_control_group(lab: dict[str, Found], name: str) -> None:
    """A debugger works in it, whatever Yama's scope: with the cgroups of version 2, AppArmor and a dlv that is real."""
    found = played(lab, name)
    assert (found["code"], found["stderr"]) == (0, ""), found
    answer = json.loads(found["stdout"])
    assert answer["verdict"] == "works"
    assert (answer["control"]["probe"]["result"], answer["control"]["dlv"]["result"]) == ("works", "works")
    assert answer["group"]["cgroup"]

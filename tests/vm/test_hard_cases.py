"""Sessions with the containers of tests/vm/hard_cases.py: beside them, and in their place and back."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.docker.test_relaunch import told
from tests.vm import machine
from tests.vm.conftest import Found
from tests.vm.hard_cases import BOXES, SCRATCH, SIDECAR, SWAP, Case, cases

LEFT = r"safedlv: left process \d+ as it was found: untraced, running, its code as in its file\n"
CASES = {case.name: case for case in cases()}


@pytest.mark.timeout(machine.SECONDS + 60)
@pytest.mark.parametrize("name", CASES)
def test_a_session_or_a_true_sentence(lab: dict[str, Found], name: str) -> None:
    case = CASES[name]
    assert name in lab, f"not played: {lab['']['explained']}"
    found = lab[name]
    assert "error" not in found, found["error"]
    assert "Traceback" not in found["said"]
    if case.said:
        assert (found["code"], case.said in found["said"]) == (1, True), found["said"]
    else:
        assert found["code"] == 0, found["said"]
        assert_debugged(case, found)
    assert found["harm"] == ""
    assert found["left"] == []
    before, after = (_in_order(document) for document in found["inspect"])
    if case.via == SIDECAR or case.said:
        assert after == before
    else:
        assert told(after) == told(before)


def assert_debugged(case: Case, found: dict[str, Any]) -> None:
    if case.via == SWAP:
        assert "and the probe passes in it" in found["said"]
    elif notes := BOXES[case.box].notes:
        assert notes in found["said"]
    else:
        assert re.fullmatch(LEFT, found["said"])
    if (case.via, BOXES[case.box].image) == (SWAP, SCRATCH):
        return  # there is no dlv in the copy
    assert found["function"] == "main.greeting"
    assert found["locals"]["text"].startswith("hello /you, you are visitor")


def _in_order(document: dict[str, Any]) -> dict[str, Any]:
    """The engine tells mounts in another order each time."""
    return {**document, "Mounts": sorted(document["Mounts"], key=lambda mount: str(mount["Destination"]))}

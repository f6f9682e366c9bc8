"""Play every scene in one start of the virtual machine: ``python -m tests.vm.lab SERVER DLV``.

A program of its own, so that the tests of other directories can run meanwhile; it writes what it found beside the
machine's image (``last.jsonl``, and what the machine said in ``last.log``).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests import comparison
from tests.support import LONG, ROOT
from tests.vm import hard_cases, machine, observe_cases
from tests.vm.scenes import SCENES, Scene, for_the_guest

HERE = Path(__file__).parent
PROGRAM = """#!/bin/sh
export PYTHONPATH=/in/lib:/in SAFEDLV_DLV=/in/dlv
exec python3 -m tests.vm.guest
"""
SLOWNESS = 2  # of the emulated processor, in the time that is given to a tool
SHARED = (
    "clients.py", "live/groups.py", "live/observed.py", "live/straced.py", "live/watches.py", "scenes.py", "support.py",
)  # fmt: skip
"""What runs in the machine of those who share it with other tests."""
TOGETHER = 2  # more causes at once are compared by the long run only, which costs a machine that is emulated less


def found() -> Path:
    """One JSON object per line and scene."""
    return machine.image().with_name("last.jsonl")


def explained() -> Path:
    """What the machine wrote, for whoever misses a scene."""
    return machine.image().with_name("last.log")


def compared() -> frozenset[str]:
    """The scenes in which other tools are asked as well: a few of each kind."""

    def causes_of(scene: Scene) -> frozenset[str]:
        few = len(scene.known.causes) <= TOGETHER or LONG
        return scene.known.causes if scene.stage.compared and few else frozenset()

    return comparison.chosen(SCENES, causes_of)


def _asking(tool: str) -> list[str]:
    words = [word.replace("0", "{pid}") if word == "0" else word for word in comparison.command(tool, "/in/dlv", 0)]
    at = words.index(comparison.SECONDS[tool])
    return [*words[:at], str(float(words[at]) * SLOWNESS), *words[at + 1 :]]


def play(server: Path, dlv: Path) -> None:
    """Build the image if need be, boot, play, and write down what was found."""
    machine.build()
    tools = {tool: _asking(tool) for tool in comparison.TOOLS}
    sessions = hard_cases.for_the_guest(hard_cases.cases())
    with machine.library() as library, tempfile.TemporaryDirectory(prefix="lab-") as made:
        stages = Path(made) / "stages.json"
        stages.write_text(
            for_the_guest(compared(), tools, sessions, observe_cases.for_the_guest() if LONG else [], LONG)
        )
        brought = {"lib": library, "tests/vm": HERE, "server": server, "dlv": dlv}
        brought |= {f"tests/{name}": ROOT / "tests" / name for name in SHARED}
        outcome = machine.run({**brought, "stages.json": stages}, PROGRAM)
    found().write_text(outcome.stdout)
    explained().write_text(outcome.explained())


if __name__ == "__main__":
    play(Path(sys.argv[1]), Path(sys.argv[2]))

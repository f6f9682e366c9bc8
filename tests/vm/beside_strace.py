"""In the virtual machine: what ``safedlv observe`` answers, and what came of the same dlv there under strace.

What is right is not decided here (tests/vm/test_observe.py).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.live import observed, straced
from tests.vm import agent

Spec = dict[str, Any]
DLV = "/in/dlv"
CONFIGURATION = Path("/root/.config/dlv/config.yml")
"""The first dlv of root makes it, and its calls fail until then."""


def configure() -> None:
    """What only the first dlv would do is done."""
    CONFIGURATION.parent.mkdir(parents=True, exist_ok=True)
    CONFIGURATION.touch()


def compared(who: str, named: str) -> Spec:
    """The gist of what observe answers (``--tracer WHO NAMED``), and what came of dlv there under strace."""
    said = agent.command(["observe", "--json", "--tracer", who, named])
    if said["code"] not in observed.EXIT_CODES.values():
        return {"code": said["code"], "stderr": said["stderr"]}
    with tempfile.TemporaryDirectory() as directory:
        by_strace = straced.play(DLV, who, named, Path(directory) / "log")
    answer = json.loads(said["stdout"])
    return {
        "verdict": answer["verdict"],
        "first": observed.first(answer),
        "lacks": answer["lacks"],
        "code": said["code"],
        "stderr": said["stderr"],
        "observe": plain(observed.failed(answer), *observed.outcome(answer)),
        "strace": plain(by_strace.failed, by_strace.code, by_strace.stderr),
    }


def plain(failed: straced.Failed, code: int, stderr: list[str]) -> Spec:
    """What came of dlv, as JSON has it."""
    return {"code": code, "stderr": stderr, "failed": {" ".join(call): count for call, count in failed.items()}}

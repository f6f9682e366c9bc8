"""``doctor --all``: the list of Go processes, for people and as JSON (schema ``safedlv.processes/1``)."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from typing import Any

from safedlv.errors import printable
from safedlv.model import ListedProcess, ProcessList, Unknown

SCHEMA = "safedlv.processes/1"
WIDTH = 80
HEADINGS = ("PID", "UID", "VERDICT", "CAUSE", "COMMAND")
VERDICTS = ("ok", "degraded", "blocked", "undetermined")
LEAST_COMMAND = 10


def document(found: ProcessList) -> str:
    """The list as JSON text. What is unknown is null."""
    return json.dumps(as_dict(found), indent=2)


def as_dict(found: ProcessList) -> dict[str, Any]:
    """The list as plain values."""
    return {
        "schema": SCHEMA,
        "processes": [
            {
                "pid": process.pid,
                "uid": _value(process.uid),
                "verdict": process.verdict,
                "causes": list(process.causes),
                "go_version": _value(process.go_version),
                "command": process.command,
            }
            for process in found.processes
        ],
        "probed": found.probed,
        "unreadable": found.unreadable,
    }


def report(found: ProcessList) -> str:
    """The list as lines of 80 columns, the first a summary; ends in a newline."""
    lines = textwrap.wrap(_summary(found), WIDTH)
    if found.unreadable:
        what = "process" if found.unreadable == 1 else "processes"
        lines.append(f"{found.unreadable} more {what} may be Go programs or not: the executable cannot be read")
    if found.processes:
        lines += ["", *_table([HEADINGS, *(_cells(process) for process in found.processes)])]
    return "\n".join(lines) + "\n"


def _summary(found: ProcessList) -> str:
    counts = Counter(process.verdict for process in found.processes)
    parts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    number = len(found.processes)
    what = f"{number} Go process{'' if number == 1 else 'es'}" + (f": {parts}" if parts else "")
    return what + ("; each was probed" if found.probed else "; nothing was probed")


def _cells(process: ListedProcess) -> tuple[str, ...]:
    uid = "?" if isinstance(process.uid, Unknown) else str(process.uid)
    cause = process.causes[0] if process.causes else "-"
    return str(process.pid), uid, process.verdict, cause, printable(process.command, WIDTH)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest cell, numbers to the right; the last one has what is left of the width."""
    pid, uid, verdict, cause = (max(len(row[column]) for row in rows) for column in range(4))
    left = max(WIDTH - (pid + uid + verdict + cause + 4 * 2), LEAST_COMMAND)
    return [
        f"{row[0]:>{pid}}  {row[1]:>{uid}}  {row[2]:<{verdict}}  {row[3]:<{cause}}  {_cut(row[4], left)}".rstrip()
        for row in rows
    ]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _value(fact: object) -> object:
    return None if isinstance(fact, Unknown) else fact

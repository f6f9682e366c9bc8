"""The list of Go processes written down."""

from __future__ import annotations

import pytest

from safedlv.model import ListedProcess, ProcessList, Unknown
from safedlv.report.survey import as_dict, document, report

NOT_KNOWN = Unknown("EACCES", "/proc/7/status")


def process(pid: int, verdict: str = "ok", *causes: str, uid: int | Unknown = 0, command: str = "srv") -> ListedProcess:
    return ListedProcess(pid, uid, verdict, causes, "go1.26.1", command)


def test_lines_are_aligned() -> None:
    found = (
        process(7),
        process(4194303, "blocked", "capability-excess", "yama", uid=1000, command="x" * 200),
        process(12, "undetermined", uid=NOT_KNOWN),
    )
    assert report(ProcessList(found, False, 1)).splitlines() == [
        "3 Go processes: 1 ok, 1 blocked, 1 undetermined; nothing was probed",
        "1 more process may be Go programs or not: the executable cannot be read",
        "",
        "    PID   UID  VERDICT       CAUSE              COMMAND",
        "      7     0  ok            -                  srv",
        "4194303  1000  blocked       capability-excess  " + "x" * 29 + "...",
        "     12     ?  undetermined  -                  srv",
    ]


def test_nothing_found() -> None:
    assert report(ProcessList((), True, 0)) == "0 Go processes; each was probed\n"


@pytest.mark.parametrize("command", ["\x1b[2J\n\r\x9b31m", "\u202e" * 90, "\udcff" * 90, "\t" * 500])
def test_hostile_commands_stay_in_their_line(command: str) -> None:
    text = report(ProcessList((process(1, command=command),), False, 0))
    assert len(text.splitlines()) == 4
    assert all(len(line) <= 80 and line.isprintable() for line in text.split("\n"))
    document(ProcessList((process(1, command=command),), False, 0)).encode()


def test_unknown_is_null() -> None:
    line = ListedProcess(7, NOT_KNOWN, "undetermined", (), NOT_KNOWN, "x")
    assert as_dict(ProcessList((line,), True, 2)) == {
        "schema": "safedlv.processes/1",
        "processes": [
            {"pid": 7, "uid": None, "verdict": "undetermined", "causes": [], "go_version": None, "command": "x"}
        ],
        "probed": True,
        "unreadable": 2,
    }

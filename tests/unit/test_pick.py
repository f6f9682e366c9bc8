"""The lines of safedlv pick: what other processes chose must not look like a field of ours, or a line."""

from __future__ import annotations

from safedlv.model import ListedProcess
from safedlv.pick import Choice, _fields, _table, as_dict

HOSTILE = ListedProcess(7, 0, "blocked", ("yama",), "go1.26", "evil|1|ok\n8|\x1b[2J" + "x" * 500)


def test_a_line_for_an_editor_has_three_fields() -> None:
    fields = _fields(Choice("docker:web/7", "web", HOSTILE), "|").split("|")
    assert fields[0] == "docker:web/7"
    assert fields[1].startswith(r"evil 1 ok\n8 \x1b[2Jxxx")
    assert fields[2:] == ["docker:web/7, blocked (yama)"]


def test_a_line_for_people_is_one_line() -> None:
    (line,) = _table((Choice("7", None, HOSTILE),))
    assert line.startswith(r"7  blocked (yama)  evil|1|ok\n8|\x1b[2J")
    assert line.isprintable()
    assert _table(()) == ()


def test_json_has_the_command_as_it_is() -> None:
    found = as_dict(Choice("7", None, HOSTILE))
    assert found["command"] == HOSTILE.command
    assert (found["target"], found["container"], found["causes"]) == ("7", None, ["yama"])

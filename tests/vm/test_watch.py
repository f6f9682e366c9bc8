"""``safedlv watch`` and a session beside what happens to cgroups of version 2 (tests/vm/watches.py plays it)."""

from __future__ import annotations

import re

import pytest

from tests.support import left_as_found
from tests.vm import machine
from tests.vm.conftest import Found
from tests.vm.test_lab import played

THROTTLED = r"CPU throttling: in [1-9]\d* of [1-9]\d* periods of the last \d s its cgroup had used up its quota, and .*"
FULL = r"memory: 2[234] of 24 MiB of its cgroup's limit are used.*"
KILLED = "the OOM killer has killed 1 process of its cgroup"
SHORT = r"memory is short: for [1-9]\d+% of the last \d+ s something in its cgroup waited for memory, .*"
THAWED = r"its cgroup was thawed: it runs again, after about \d+ s"
ENDED = r"process \d+ has ended"


def cold(path: str) -> str:
    return rf"its cgroup was frozen \(/sys/fs/cgroup/{path}\): nothing in it runs until it is thawed"


def to(before: str, now: str) -> str:
    return rf"it was moved to another cgroup: from /{before} to /{now} \(v2\)"


TOLD = {
    "its own cgroup": (cold("watch-own"), THAWED, THROTTLED, FULL, KILLED, KILLED, ENDED),
    "below what is limited": (cold("watch-above"), THAWED, THROTTLED, FULL, KILLED, ENDED),
    "moved": (to("", "watch-busy"), THROTTLED, to("watch-busy", "watch-cold"), cold("watch-cold"), ENDED),
    "short of memory": (SHORT, ENDED),
}
BEGINS = {
    "its own cgroup": r", \d+ MiB of memory used in its cgroup, not throttled so far, cgroup /watch-own",
    "below what is limited": r", \d+ MiB of memory used .*, not throttled so far, cgroup /watch-above/inner",
    "moved": ", not throttled so far, cgroup /",
    "short of memory": r", \d+ MiB of memory used in its cgroup, not throttled so far, cgroup /watch-short",
}


@pytest.mark.timeout(machine.SECONDS + 60)
@pytest.mark.parametrize("name", TOLD)
def test_what_is_told(lab: dict[str, Found], name: str) -> None:
    """Each event in its line, in order; nothing is unknown to root."""
    found = played(lab, f"watch: {name}")
    begin, *lines = found["lines"]
    assert re.fullmatch(rf"watching process \d+: 1 thread, untraced{BEGINS[name]}", begin["text"])
    # Who allocates up to a limit may wait for memory besides, and so long that it is worth a line.
    texts = [line["text"] for line in lines if line.get("about") != "pressure" or name == "short of memory"]
    assert len(texts) == len(TOLD[name]), texts
    for text, expected in zip(texts, TOLD[name], strict=True):
        assert re.fullmatch(expected, text)
    assert (found["code"], found["stderr"]) == (0, "")


@pytest.mark.timeout(machine.SECONDS + 60)
def test_what_a_session_says(lab: dict[str, Found]) -> None:
    found = played(lab, "watch: a session")
    left = left_as_found(found["pid"]).removeprefix("safedlv: ").removesuffix("\n")
    told = (cold("watch-session"), THAWED, to("watch-session", "watch-session-2"), re.escape(left))
    assert len(found["said"]) == len(told), found["said"]
    for line, expected in zip(found["said"], told, strict=True):
        assert re.fullmatch(f"safedlv: {expected}\n", line)
    assert (found["code"], found["served"], found["harm"]) == (0, True, "")

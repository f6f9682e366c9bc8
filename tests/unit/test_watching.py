"""What a change around a target is called, and when it is told again; and the files that samples are read from."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from safedlv.model import Unknown
from safedlv.session.sampling import DEBUGGERS, TRACE, names, parse_pressure
from safedlv.session.watched import (
    NOBODY,
    WATCHED,
    Line,
    Memory,
    OutOfMemory,
    Pressure,
    Process,
    Sample,
    Story,
    Throttling,
    summary,
)

MIB = 1 << 20
CALM = Sample(
    at=1000.0,
    cgroup=(("", "/a"), ("cpu", "/b"), ("memory", "/b")),
    frozen_by="",
    throttling=(Throttling("/b", 100, 0, 0),),
    pressure=Pressure(0, 0),
    memory=Memory(100 * MIB, 512 * MIB, 0),
    out_of_memory=OutOfMemory(0, 0),
    tracer=NOBODY,
    debuggers=(),
    threads=8,
    traces=(),
)


def told(*samples: Sample) -> list[Line]:
    """What the last of some samples is worth."""
    story = Story()
    lines: list[Line] = []
    for sample in samples:
        lines = story.hear(sample)
    return lines


def after(seconds: float, **changed: Any) -> Sample:
    return evolve(CALM, at=CALM.at + seconds, **changed)


def test_nothing_is_told_of_what_does_not_change() -> None:
    assert told(CALM) == []
    assert told(CALM, *(after(seconds) for seconds in range(1, 100))) == []
    assert {row.fact for row in WATCHED} == {field.name for field in Sample.__attrs_attrs__} - {"at"}


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "moved": ({"cgroup": (("", "/a"), ("cpu", "/c"), ("memory", "/c"))}, "from /b to /c (cpu, memory)"),
    "a hostile name": ({"cgroup": (("", "/\x1b[2J"), ("cpu", "/b"), ("memory", "/b"))}, r"from /a to /\x1b[2J (v2)"),
    "frozen": ({"frozen_by": "/sys/fs/cgroup/a"}, "its cgroup was frozen (/sys/fs/cgroup/a)"),
    "throttled": (
        {"throttling": (Throttling("/b", 200, 25, 2_500_000),)},
        "CPU throttling: in 25 of 100 periods of the last 10 s its cgroup had used up its quota, and stood for 2.5 s",
    ),
    "pressed": (
        {"pressure": Pressure(3_000_000, 1_000_000)},
        "memory is short: for 30% of the last 10 s something in its cgroup waited for memory, for 10% everything in it",
    ),
    "nearly full": (
        {"memory": Memory(500 * MIB, 512 * MIB, 7)},
        "memory: 500 of 512 MiB of its cgroup's limit are used, and it has come to the limit 7 times",
    ),
    "killed": ({"out_of_memory": OutOfMemory(1, 2)}, "the OOM killer has killed 2 processes of its cgroup"),
    "no memory left": ({"out_of_memory": OutOfMemory(1, 0)}, "its cgroup has no memory left"),
    "traced": ({"tracer": Process(7, "gdb\x07")}, r"it is traced by gdb\x07 (process 7) now"),
    "wanted": (
        {"debuggers": (Process(7, "gdb"), Process(8, "dlv"))},
        "gdb (process 7) and dlv (process 8) were started",
    ),
    "threads": ({"threads": 28}, "it has 28 threads, and had 8"),
    "go trace": ({"traces": ("/tmp/t",)}, "it writes a Go execution trace (/tmp/t)"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_told_once(name: str) -> None:
    changed, text = CHANGES[name]
    (line,) = told(CALM, after(10, **changed))
    assert text in line.text
    assert told(CALM, after(10, **changed), after(11, **changed)) == []


QUIET: dict[str, dict[str, Any]] = {
    "few more threads": {"threads": 20},
    "many more of many": {"threads": 27},
    "a little pressure": {"pressure": Pressure(900_000, 900_000)},
    "no limit": {"memory": Memory(1 << 40, None, 0)},
    "a limit that page cache comes to": {"memory": Memory(200 * MIB, 512 * MIB, 100_000)},
    "periods without throttling": {"throttling": (Throttling("/b", 200, 0, 0),)},
    "a new cgroup's own count": {"throttling": (Throttling("/other", 900, 900, 900),)},
}


@pytest.mark.parametrize("name", QUIET)
def test_what_is_not_worth_a_line(name: str) -> None:
    assert told(CALM, after(10, **QUIET[name])) == []


def test_a_moment_of_pressure_is_no_share() -> None:
    assert told(CALM, after(1, pressure=Pressure(900_000, 0))) == []


@pytest.mark.parametrize("fact", ["frozen_by", "debuggers", "traces", "memory"])
def test_what_is_wrong_from_the_beginning_is_told(fact: str) -> None:
    (name,) = [name for name, (changed, _) in CHANGES.items() if fact in changed]
    changed, text = CHANGES[name]
    (line,) = told(after(0, **changed))
    assert text in line.text


def test_throttling_is_told_twice_a_minute_and_since_the_last_line() -> None:
    """Throttled in every second period; samples of one second, a period of a tenth."""
    story, lines = Story(), []
    for seconds in range(121):
        sample = after(seconds, throttling=(Throttling("/b", 10 * seconds, 5 * seconds, 1000 * seconds),))
        lines += [(seconds, line.text) for line in story.hear(sample)]
    assert [at for at, _ in lines] == [1, 31, 61, 91]
    assert "in 5 of 10 periods of the last 1 s" in lines[0][1]
    assert all("in 150 of 300 periods of the last 30 s" in text for _, text in lines[1:])


def test_a_rate_does_not_look_back_further_than_half_a_minute() -> None:
    story = Story()
    for seconds in range(100):
        assert story.hear(after(seconds, throttling=(Throttling("/b", 10 * seconds, 0, 0),))) == []
    (line,) = story.hear(after(100, throttling=(Throttling("/b", 1000, 8, 800_000),)))
    assert "in 8 of 100 periods of the last 10 s" in line.text


def test_threads_that_come_slowly_are_told_when_they_are_many() -> None:
    story = Story()
    counts = [count for count in range(8, 100) if story.hear(after(count, threads=count))]
    assert counts == [28, 56]  # each time twice as many as were told


def test_thawed() -> None:
    frozen = after(10, frozen_by="/a")
    (line,) = told(CALM, frozen, after(13))
    assert line.text == "its cgroup was thawed: it runs again, after about 3 s"


def test_nobody_traces_it_any_more() -> None:
    (line,) = told(evolve(CALM, tracer=Process(7, "strace")), after(1))
    assert line == Line("tracer", "strace (process 7) does not trace it any more")


def test_unknown_is_said_once_and_is_no_change() -> None:
    unknown = Unknown("EACCES", "/proc/1/fd")
    (line,) = told(after(0, traces=unknown))
    assert line == Line("unknown", "not known from here: Go execution traces in files (EACCES, /proc/1/fd)")
    assert told(after(0, traces=unknown), after(1, traces=unknown)) == []
    (later,) = told(CALM, after(1, traces=unknown, threads=unknown))
    assert "its threads (EACCES" in later.text
    assert told(CALM, after(1, threads=unknown), after(2)) == []


def test_the_beginning_in_a_line() -> None:
    used = "100 of 512 MiB of memory used in its cgroup"
    assert summary(CALM) == f"8 threads, untraced, {used}, not throttled so far, cgroup /b"
    throttled = after(0, throttling=(Throttling("/b", 100, 5, 5), Throttling("/", 0, 0, 0)))
    assert "throttled in 5 of 100 CPU periods so far" in summary(throttled)
    root: dict[str, Any] = {"throttling": (Throttling("/", 0, 0, 0),), "memory": Memory(0, None, 0)}
    assert summary(evolve(CALM, **root)) == "8 threads, untraced, not throttled so far, cgroup /b"
    nothing: dict[str, Any] = {row.fact: Unknown("EACCES", "x") for row in WATCHED}
    assert summary(evolve(CALM, **nothing)) == ""


# ---------------------------------------------------------------- what is read


def test_pressure() -> None:
    data = (
        b"some avg10=1.00 avg60=0.00 avg300=0.00 total=1451460\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=986377\n"
    )
    assert parse_pressure(data) == Pressure(1451460, 986377)
    assert parse_pressure(b"some total=5\n") == Pressure(5, 0)
    for wrong in (b"", b"full total=1\n", b"some total=x\n"):
        with pytest.raises(ValueError):
            parse_pressure(wrong)


def test_how_a_trace_begins() -> None:
    assert TRACE.match(b"go 1.22 trace\0\0\0\x01")
    assert not TRACE.match(b"go 1.22 profile")
    assert not TRACE.match(b"")


@pytest.mark.parametrize(
    ("line", "yes"),
    [
        ("gdb -nx -p 123", True),
        ("gdb --pid=123", True),
        ("strace -f -p123", True),
        ("strace --attach=123", True),
        ("dlv attach --headless 123", True),
        ("dlv --headless attach 123 --listen=:0", True),
        ("lldb --attach-pid 123", True),
        ("strace -s 123 ls", False),
        ("dlv exec ./123", False),
        ("dlv exec prog -- 123", False),
        ("gdb -p 1234", False),
        ("gdb", False),
    ],
)
def test_a_command_line_that_names_a_process(line: str, yes: bool) -> None:
    assert names(line.encode().split(b" "), b"123") is yes


def test_another_cgroup_has_other_counts() -> None:
    """A target that was moved to where much has happened before."""
    other = after(10, pressure=Pressure(90_000_000, 0, "/other"), out_of_memory=OutOfMemory(9, 9, "/other"))
    assert told(CALM, other) == []
    (line,) = told(CALM, other, after(11, pressure=other.pressure, out_of_memory=OutOfMemory(9, 10, "/other")))
    assert line.text == "the OOM killer has killed 1 process of its cgroup"


def test_in_another_cgroup_rates_begin_again() -> None:
    """Throttling, pressure and a full memory are told there as soon as they can be, whatever was told before."""
    short: dict[str, Any] = {"memory": Memory(500 * MIB, 512 * MIB, 1)}
    before = [CALM, after(1, throttling=(Throttling("/b", 110, 5, 9),), **short)]
    there = {"cgroup": (("", "/c"),), "pressure": Pressure(0, 0, "/c"), **short}
    moved = after(2, throttling=(Throttling("/c", 7, 7, 7),), **there)
    assert [line.about for line in told(*before)] == ["throttling", "memory"]
    assert [line.about for line in told(*before, moved)] == ["cgroup", "memory"]
    later = after(8, **{**there, "throttling": (Throttling("/c", 17, 9, 9),), "pressure": Pressure(5_000_000, 0, "/c")})
    told_of = {line.about: line.text for line in told(*before, moved, later)}
    assert "in 2 of 10 periods of the last 6 s" in told_of["throttling"]
    assert "for 83% of the last 6 s" in told_of["pressure"]


def test_names_of_debuggers() -> None:
    assert all(DEBUGGERS.fullmatch(name) for name in ("dlv", "dlv-dap", "gdb", "strace", "lldb"))
    assert not any(DEBUGGERS.fullmatch(name) for name in ("dlvx", "sh", "", "grep gdb"))

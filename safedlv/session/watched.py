"""What is watched around a target, and in which words a change is told. Pure: samples in, lines out.

Each row of :data:`WATCHED` compares one fact of two samples: that at which the row last said something (or gave up
waiting for something to say), and that of now. So a rate is one since the last line, and no row speaks more often than
it may. A fact that cannot be read is said once to be unknown, and never taken for a no.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import evolve, field, frozen

from safedlv.errors import printable
from safedlv.model import Unknown
from safedlv.values import Value

MIB: Final = 1 << 20
SECOND: Final = 1_000_000  # microseconds
SHORT_OF_MEMORY: Final = 0.1
"""The share of time spent waiting for memory from which on it is told."""
LONG_ENOUGH: Final = 5.0
"""Seconds from which on that share is one of."""
NEARLY_FULL: Final = 0.9
"""The share of a limit of memory from which on it is told."""
MANY_THREADS: Final = 20
"""Threads by which their number must have changed to be told, twice as many or half as many they must be as well."""


@frozen(eq=False, repr=False)
class Process(Value):
    """Another process; ``pid`` 0: nobody."""

    pid: int
    name: str


NOBODY: Final = Process(0, "")


@frozen(eq=False, repr=False)
class Throttling(Value):
    """cpu.stat of one cgroup that has a quota: all numbers since it was made (cgroup-v2.rst; v1: sched-bwc.rst)."""

    cgroup: str
    periods: int
    throttled: int
    """Periods in which the quota was used up."""
    us: int
    """Microseconds for which it stood then, all CPUs together."""


NO_QUOTA: Final = Throttling("", 0, 0, 0)


@frozen(eq=False, repr=False)
class Pressure(Value):
    """memory.pressure (accounting/psi.rst): microseconds for which some, or all, tasks of the cgroup waited."""

    some: int
    full: int
    cgroup: str = ""
    """Whose it is: a target that moves comes to other numbers."""


@frozen(eq=False, repr=False)
class Memory(Value):
    """Bytes in use (without page cache that is given back), the limit, and how often the cgroup has come to it."""

    used: int
    limit: int | None
    hits: int


@frozen(eq=False, repr=False)
class OutOfMemory(Value):
    """v2: memory.events, oom and oom_kill; v1: memory.oom_control, under_oom and oom_kill."""

    out: int
    kills: int
    cgroup: str = ""


@frozen(eq=False, repr=False)
class Sample(Value):
    """The surroundings of a target at one moment."""

    at: float
    """Seconds of a monotonic clock."""
    cgroup: tuple[tuple[str, str], ...] | Unknown
    """Its path in each hierarchy: by controller, by the empty name in v2."""
    frozen_by: str | Unknown
    """The cgroup that is frozen, the target's own or one above; empty when none is."""
    throttling: tuple[Throttling, ...] | Unknown
    pressure: Pressure | Unknown
    memory: Memory | Unknown
    out_of_memory: OutOfMemory | Unknown
    tracer: Process | Unknown
    debuggers: tuple[Process, ...] | Unknown
    """Processes of debuggers that were started for it and do not trace it."""
    threads: int | Unknown
    traces: tuple[str, ...] | Unknown
    """Files that it writes a Go execution trace to."""


@frozen(eq=False, repr=False)
class Line(Value):
    """Something to tell: ``about`` is the id of a row, ``unknown``, or of the watch itself."""

    about: str
    text: str


# ---------------------------------------------------------------- what a change is called


def _moved(before: tuple[tuple[str, str], ...], now: tuple[tuple[str, str], ...], _seconds: float) -> str:
    old, moves = dict(before), dict[tuple[str, str], list[str]]()
    for controller, path in now:
        if old.get(controller, path) != path:
            moves.setdefault((old[controller], path), []).append(controller or "v2")
    told = [f"from {printable(a)} to {printable(b)} ({', '.join(names)})" for (a, b), names in moves.items()]
    return f"it was moved to another cgroup: {'; '.join(told)}" if told else ""


def _frozen(before: str, now: str, seconds: float) -> str:
    if before and not now:
        return f"its cgroup was thawed: it runs again, after about {seconds:.0f} s"
    return f"its cgroup was frozen ({printable(now)}): nothing in it runs until it is thawed" if now != before else ""


def _throttled(before: tuple[Throttling, ...], now: tuple[Throttling, ...], seconds: float) -> str:
    old = {one.cgroup: one for one in before}
    pairs = [(old[one.cgroup], one) for one in now if one.cgroup in old]
    was, worst = max(pairs, key=lambda pair: pair[1].us - pair[0].us, default=(NO_QUOTA, NO_QUOTA))
    if worst.throttled <= was.throttled:
        return ""
    return (
        f"CPU throttling: in {worst.throttled - was.throttled} of {worst.periods - was.periods} periods of the last "
        f"{seconds:.0f} s its cgroup had used up its quota, and stood for {(worst.us - was.us) / SECOND:.1f} s in all"
    )


def _pressed(before: Pressure, now: Pressure, seconds: float) -> str:
    some, full = ((new - old) / SECOND / max(seconds, 0.001) for old, new in _pairs(before, now))
    if before.cgroup != now.cgroup or some < SHORT_OF_MEMORY or seconds < LONG_ENOUGH:
        return ""
    return (
        f"memory is short: for {some:.0%} of the last {seconds:.0f} s something in its cgroup waited for memory, for "
        f"{full:.0%} everything in it"
    )


def _pairs(before: Pressure, now: Pressure) -> tuple[tuple[int, int], tuple[int, int]]:
    return (before.some, now.some), (before.full, now.full)


def _filled(before: Memory, now: Memory, _seconds: float) -> str:
    if now.limit is None or _share(now) < NEARLY_FULL or _share(before) >= NEARLY_FULL:
        return ""
    hits = f", and it has come to the limit {now.hits} time{'s' * (now.hits > 1)}" if now.hits else ""
    return f"memory: {_mib(now)} MiB of its cgroup's limit are used{hits}"


def _share(memory: Memory) -> float:
    return memory.used / memory.limit if memory.limit else 0.0


def _mib(memory: Memory) -> str:
    used = f"{memory.used / MIB:.0f}"
    return used if memory.limit is None else f"{used} of {memory.limit / MIB:.0f}"


def _ran_out(before: OutOfMemory, now: OutOfMemory, _seconds: float) -> str:
    if before.cgroup != now.cgroup:
        return ""
    kills = now.kills - before.kills
    if kills > 0:
        return f"the OOM killer has killed {kills} process{'es' * (kills > 1)} of its cgroup"
    return "its cgroup has no memory left" if now.out > before.out else ""


def _traced(before: Process, now: Process, _seconds: float) -> str:
    if now == before:
        return ""
    return f"it is traced by {_name(now)} now" if now.pid else f"{_name(before)} does not trace it any more"


def _waited_for(before: tuple[Process, ...], now: tuple[Process, ...], _seconds: float) -> str:
    new = [_name(one) for one in now if one not in before]
    if not new:
        return ""
    were, trace = ("was", "does") if len(new) == 1 else ("were", "do")
    return f"{' and '.join(new)} {were} started for it, and {trace} not trace it: a process has one tracer at a time"


def _threaded(before: int, now: int, _seconds: float) -> str:
    low, high = sorted((before, now))
    return f"it has {now} threads, and had {before}" if high - low >= MANY_THREADS and high >= 2 * low else ""


def _traces(before: tuple[str, ...], now: tuple[str, ...], _seconds: float) -> str:
    new = [printable(path) for path in now if path not in before]
    if not new:
        return ""
    return (
        f"it writes a Go execution trace ({', '.join(new)}): a trace of a program that a debugger stops is worthless, "
        "since every pause looks like the program's own doing"
    )


def _name(process: Process) -> str:
    return f"{printable(process.name, 40)} (process {process.pid})"


# ---------------------------------------------------------------- the table


def _same(value: Any) -> Any:
    return value


@frozen(eq=False, repr=False)
class Watched(Value):
    """One thing that is watched."""

    id: str
    fact: str
    """The field of a :class:`Sample`."""
    called: str
    """What it is, for people."""
    tell: Callable[[Any, Any, float], str]
    """(before, now, seconds between) -> a sentence without its full stop, or nothing."""
    every: float = 0.0
    """Seconds between two lines, at least; and those that are looked back at most, where ``forgets``."""
    forgets: bool = True
    """What is compared with is at most ``every`` seconds old; else it is what was told last, however long ago."""
    calm: Callable[[Any], Any] = field(default=_same)
    """What the first sample is compared with: itself, or what it would be if all were well."""


WATCHED: Final = (
    Watched("cgroup", "cgroup", "its cgroup", _moved),
    Watched("frozen", "frozen_by", "whether it is frozen", _frozen, forgets=False, calm=lambda _: ""),
    Watched("throttling", "throttling", "CPU throttling", _throttled, every=30.0),
    Watched("pressure", "pressure", "memory pressure", _pressed, every=30.0),
    Watched("memory", "memory", "memory", _filled, every=30.0, calm=lambda memory: evolve(memory, used=0)),
    Watched("oom", "out_of_memory", "the OOM killer", _ran_out),
    Watched("tracer", "tracer", "who traces it", _traced),
    Watched("debuggers", "debuggers", "other debuggers", _waited_for, calm=lambda _: ()),
    Watched("threads", "threads", "its threads", _threaded, forgets=False),
    Watched("go-trace", "traces", "Go execution traces in files", _traces, calm=lambda _: ()),
)


class Story:
    """What has been told of a target, and so what is new in the next sample."""

    def __init__(self) -> None:
        self.compared: dict[str, tuple[float, Any]] = {}
        self.told: dict[str, float] = {}
        self.unknown: set[str] = set()

    def hear(self, sample: Sample) -> list[Line]:
        """The lines that a sample is worth."""
        lines: list[Line] = []
        for row in WATCHED:
            told = self._look(row, sample)
            lines += told
            if told and row.id == "cgroup":
                self._begin_again()
        unseen = [row for row in WATCHED if row.id not in self.unknown and _is_unknown(sample, row)]
        self.unknown |= {row.id for row in unseen}
        if unseen:
            why = ", ".join(f"{row.called} ({_why(getattr(sample, row.fact))})" for row in unseen)
            lines.append(Line("unknown", f"not known from here: {why}"))
        return lines

    def _begin_again(self) -> None:
        """It is in another cgroup: what has a rate has another one there, and is told as in the beginning."""
        for row in WATCHED:
            if row.every:
                self.compared.pop(row.id, None)
                self.told.pop(row.id, None)

    def _look(self, row: Watched, sample: Sample) -> list[Line]:
        fact = getattr(sample, row.fact)
        if isinstance(fact, Unknown):
            return []
        at, before = self.compared.get(row.id, (sample.at, row.calm(fact)))
        self.compared.setdefault(row.id, (at, before))
        if sample.at - self.told.get(row.id, -row.every) < row.every:
            return []
        text = row.tell(before, fact, sample.at - at)
        if text:
            self.told[row.id] = sample.at
        if text or (row.forgets and sample.at - at >= row.every):
            self.compared[row.id] = (sample.at, fact)
        return [Line(row.id, text)] if text else []


def _is_unknown(sample: Sample, row: Watched) -> bool:
    return isinstance(getattr(sample, row.fact), Unknown)


def _why(unknown: Unknown) -> str:
    return f"{unknown.errno}, {printable(unknown.source, 80)}"


def summary(sample: Sample) -> str:
    """How it is at the beginning, in a line; what is unknown is said elsewhere (:meth:`Story.hear`)."""
    words = []
    if not isinstance(sample.threads, Unknown):
        words.append(f"{sample.threads} thread{'s' * (sample.threads != 1)}")
    if not isinstance(sample.tracer, Unknown):
        words.append(f"traced by {_name(sample.tracer)}" if sample.tracer.pid else "untraced")
    if not isinstance(sample.memory, Unknown) and sample.memory.used:  # the hierarchy's root counts none
        words.append(f"{_mib(sample.memory)} MiB of memory used in its cgroup")
    if not isinstance(sample.throttling, Unknown):
        words.append(_throttled_so_far(sample.throttling))
    if not isinstance(sample.cgroup, Unknown):
        words.append(f"cgroup {printable(_main_path(sample.cgroup))}")
    return ", ".join(words)


def _throttled_so_far(levels: tuple[Throttling, ...]) -> str:
    """Whether there is a quota does not show in these numbers: one that nobody comes near counts no periods."""
    worst = max(levels, key=lambda one: one.us, default=NO_QUOTA)
    if not worst.throttled:
        return "not throttled so far"
    return f"throttled in {worst.throttled} of {worst.periods} CPU periods so far"


def _main_path(cgroup: tuple[tuple[str, str], ...]) -> str:
    """Where its limits are: the path of memory in v1, else that in v2."""
    paths = dict(cgroup)
    return next((paths[key] for key in ("memory", "cpu", "pids", "") if key in paths), next(iter(paths.values()), "/"))

"""Samples of a target's surroundings (watched.py), read from /proc and the cgroup file systems; nothing is changed.

What is read of cgroups is found out again only when the target has moved. Two looks can be long on a busy machine: at
all processes, for debuggers, and at all open files of the target, for traces. Each of them is made so seldom that it
takes no more than a :data:`SHARE` of the time.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from attrs import frozen

from safedlv.facts import cgroup
from safedlv.facts.cgroup import FREEZERS, LIMITS, V2, Freezer, Levels, Membership
from safedlv.facts.procfs import ProcDir
from safedlv.facts.reading import MALFORMED, decimal, listdir, parsed, read, read_system, readlink
from safedlv.facts.status import field, parse_status
from safedlv.model import Unknown
from safedlv.session.watched import NOBODY, Memory, OutOfMemory, Pressure, Process, Sample, Throttling
from safedlv.values import Value

T = TypeVar("T")

SHARE: Final = 0.005
DEBUGGERS: Final = re.compile(r"(dlv|gdb|lldb|strace|ltrace)(-.*)?")
"""Their names, as /proc/PID/comm has them."""
ATTACH: Final = (b"-p", b"--pid", b"--attach", b"--attach-pid")
"""Their flags for the process to trace; dlv has a command for that."""
TRACE: Final = re.compile(rb"go 1\.\d+ trace\0")
"""How a Go execution trace begins (runtime/trace.go: ReadTrace)."""
MOST_FILES: Final = 2000
"""Of a target with more open files none is looked at: that would hold up the session."""
NANOSECONDS: Final = 1000  # in a microsecond
_WRITES: Final = (os.O_WRONLY, os.O_RDWR)


class EndedError(Exception):
    """The target is not there any more; ``last`` is what its cgroup said of memory then."""

    def __init__(self, last: OutOfMemory | Unknown) -> None:
        super().__init__()
        self.last = last


@frozen(eq=False, repr=False)
class Places(Value):
    """Where the cgroup files of a target are, its own cgroup first; per kind of file."""

    membership: Membership
    freezers: tuple[tuple[Freezer, Levels | Unknown], ...]
    cpu: Levels | Unknown
    memory: Levels | Unknown
    pressure: Levels | Unknown


class Seldom(Generic[T]):
    """A look that may take long: made again when it is due, else the last answer stands."""

    def __init__(self, look: Callable[[], T]) -> None:
        self.look = look
        self.due = 0.0
        self.answer: T | None = None

    def __call__(self) -> T:
        before = time.monotonic()
        if self.answer is None or before >= self.due:
            self.answer = self.look()
            now = time.monotonic()
            self.due = now + (now - before) / SHARE
        return self.answer


class Sampler:
    """Takes samples of one process. ``ours``: whether a process is of our own session, and not to be told of."""

    def __init__(self, pid: int, ours: Callable[[int], bool]) -> None:
        """Raises OSError when there is no such process."""
        self.pid, self.procdir, self.ours = pid, ProcDir(pid), ours
        self.mounts = cgroup.read_mounts()
        self.places: Places | Unknown = Unknown("ENOENT", f"{self.procdir.path}/cgroup")
        self.membership_text: bytes | Unknown = b""
        self.debuggers = Seldom(Debuggers(pid, self.procdir, ours).look)
        self.traces = Seldom(Traces(self.procdir).look)

    def close(self) -> None:
        self.procdir.close()

    def sample(self) -> Sample:
        """How it is now. Raises EndedError."""
        status = parsed(read(self.procdir, "status"), parse_status, f"{self.procdir.path}/status")
        self._follow()
        source = f"{self.procdir.path}/status"
        tracer, debuggers = field(status, "TracerPid", self._process, source), self.debuggers()
        if not isinstance(debuggers, Unknown):
            debuggers = tuple(one for one in debuggers if one != tracer)
        taken = Sample(
            at=time.monotonic(),
            cgroup=self._there(lambda where: tuple(sorted(where.membership.items()))),
            frozen_by=self._there(_frozen_by),
            throttling=self._there(_throttling),
            pressure=self._there(_pressure),
            memory=self._there(_memory),
            out_of_memory=self._there(_out_of_memory),
            tracer=tracer,
            debuggers=debuggers,
            threads=field(status, "Threads", decimal, source),
            traces=self.traces(),
        )
        if self._is_gone():
            raise EndedError(taken.out_of_memory)
        return taken

    def throttling(self) -> tuple[Throttling, ...] | Unknown:
        """Of each level that has a quota, or had one, its own cgroup first."""
        self._follow()
        return self._there(_throttling)

    def _there(self, look: Callable[[Places], T | Unknown]) -> T | Unknown:
        """What is found where its cgroup is; unknown where that is not known."""
        return self.places if isinstance(self.places, Unknown) else look(self.places)

    def _is_gone(self) -> bool:
        """Whether it has ended, or is about to and has no memory any more (proc_pid_exe(5))."""
        state = parsed(read(self.procdir, "status"), parse_status, "")
        return isinstance(state, Unknown) or state.get("State", "Z")[:1] in "ZX"

    def _process(self, text: str) -> Process:
        """The process of a thread that traces; a tracer that our PID namespace does not have is told as nobody."""
        thread = decimal(text)
        if not thread:
            return NOBODY
        fields = parsed(read_system(f"/proc/{thread}/status"), parse_status, "")
        found = field(fields, "Tgid", decimal)
        pid = thread if isinstance(found, Unknown) else found
        name = "" if isinstance(fields, Unknown) else fields.get("Name", "")
        return NOBODY if self.ours(pid) else Process(pid, name)

    # ------------------------------------------------------------ cgroups

    def _follow(self) -> None:
        """Find the files of its cgroups again, where it has moved. What was known stays when it has ended."""
        text = read(self.procdir, "cgroup")
        if text == self.membership_text:
            return
        self.membership_text = text
        source = f"{self.procdir.path}/cgroup"
        membership = parsed(text, cgroup.parse_membership, source)
        if not isinstance(membership, Unknown):
            self.mounts = cgroup.read_mounts()
            self.places = self._find(membership)
        elif membership.errno not in ("ENOENT", "ESRCH"):
            self.places = membership

    def _find(self, membership: Membership) -> Places:
        def levels(controller: str) -> Levels | Unknown:
            if isinstance(self.mounts, Unknown):
                return self.mounts
            return cgroup.levels(membership, self.mounts, controller)

        return Places(
            membership=membership,
            freezers=tuple((one, levels(one.controller)) for one in FREEZERS if one.controller in membership),
            cpu=levels("cpu" if "cpu" in membership else V2),
            memory=levels("memory" if "memory" in membership else V2),
            pressure=levels(V2),
        )


def _flat(path: str) -> Mapping[bytes, int] | Unknown:
    """A flat keyed file (cgroup-v2.rst): a name and a number on each line."""

    def parse(data: bytes) -> dict[bytes, int]:
        return {key: decimal(value) for key, _, value in (line.partition(b" ") for line in data.splitlines())}

    return parsed(read_system(path), parse, path)


def _is_root(missing: Unknown, where: Levels) -> bool:
    """Whether a file is missing because the cgroup is the hierarchy's root, which nothing limits."""
    return missing.errno == "ENOENT" and len(where) == 1


def _frozen_by(where: Places) -> str | Unknown:
    """The cgroup that is frozen; empty when none is; unknown when one cannot be asked and the others are not."""
    answer: str | Unknown = ""
    for freezer, levels in where.freezers:
        held = levels if isinstance(levels, Unknown) else cgroup.frozen_in(levels, freezer)
        if isinstance(held, Unknown):
            answer = held
        elif held[0]:
            return held[1] or "one above those seen here"
    return answer


def _throttling(where: Places) -> tuple[Throttling, ...] | Unknown:
    """Of each level that has a quota, or had one."""
    if isinstance(where.cpu, Unknown):
        return where.cpu
    found = []
    for level in where.cpu:
        numbers = _flat(f"{level}/cpu.stat")
        if isinstance(numbers, Unknown) and numbers.errno != "ENOENT":
            return numbers
        if not isinstance(numbers, Unknown) and b"nr_throttled" in numbers:
            us = numbers.get(b"throttled_usec", numbers.get(b"throttled_time", 0) // NANOSECONDS)
            found.append(Throttling(level, numbers.get(b"nr_periods", 0), numbers[b"nr_throttled"], us))
    return tuple(found)


def _out_of_memory(where: Places) -> OutOfMemory | Unknown:
    """Of the nearest level that counts memory: in v2 a cgroup need not, and what it uses is counted above."""
    if isinstance(where.memory, Unknown):
        return where.memory
    v1 = "memory" in where.membership
    name, out = ("memory.oom_control", b"under_oom") if v1 else ("memory.events", b"oom")
    level, found = _nearest(where.memory, name)
    if isinstance(found, Unknown):
        return OutOfMemory(0, 0, level) if _is_root(found, where.memory) else found
    return OutOfMemory(found.get(out, 0), found.get(b"oom_kill", 0), level)


def _nearest(levels: Levels, name: str) -> tuple[str, Mapping[bytes, int] | Unknown]:
    """A flat keyed file of the nearest level that has it, and that level; else what the first one answers."""
    for level in levels:
        found = _flat(f"{level}/{name}")
        if not isinstance(found, Unknown) or found.errno != "ENOENT":
            return level, found
    return levels[0], Unknown("ENOENT", f"{levels[0]}/{name}")


def _pressure(where: Places) -> Pressure | Unknown:
    if isinstance(where.pressure, Unknown):
        return where.pressure
    level = where.pressure[0]
    path = f"{level}/memory.pressure"
    return parsed(read_system(path), lambda data: parse_pressure(data, level), path)


def parse_pressure(data: bytes, level: str = "") -> Pressure:
    """``some avg10=0.00 avg60=0.00 avg300=0.00 total=12`` and the same for full. Raises ValueError."""
    totals = {}
    for line in data.splitlines():
        kind, *words = line.split()
        totals[kind] = next((decimal(word[6:]) for word in words if word.startswith(b"total=")), 0)
    if b"some" not in totals:
        raise ValueError("no pressure")
    return Pressure(totals[b"some"], totals.get(b"full", 0), level)


def _memory(where: Places) -> Memory | Unknown:
    if isinstance(where.memory, Unknown):
        return where.memory
    v1 = "memory" in where.membership
    level, used, limit = cgroup.tightest_at(where.memory, LIMITS["memory", "v1" if v1 else "v2"])
    if isinstance(limit, Unknown):
        return limit
    if isinstance(used, Unknown):
        return Memory(0, None, 0) if _is_root(used, where.memory) else used
    return Memory(used, limit, _hits(level, v1=v1))


def _hits(level: str, *, v1: bool) -> int:
    """How often a cgroup has come to its limit; 0 where that is not counted."""
    if v1:
        count = parsed(read_system(f"{level}/memory.failcnt"), decimal, "")
        return 0 if isinstance(count, Unknown) else count
    events = _flat(f"{level}/memory.events")
    return 0 if isinstance(events, Unknown) else events.get(b"max", 0)


# ---------------------------------------------------------------- debuggers and traces


class Debuggers:
    """Looks for processes of debuggers whose command line names the target.

    One that traces a process cannot be seen to wait for it: ptrace(2) refuses at once. What can be seen is a debugger
    that stays although it was refused (gdb, at its prompt), or tries again and again. A number on a command line
    means the target only where its reader numbers processes as the target's PID namespace, or as we do.
    """

    def __init__(self, pid: int, procdir: ProcDir, ours: Callable[[int], bool]) -> None:
        self.pid, self.procdir, self.ours = pid, procdir, ours
        self.innocent: frozenset[str] = frozenset()
        """Processes that were looked at when they were there for longer than one look."""
        self.last: frozenset[str] = frozenset()
        self.namespace = readlink(procdir, "ns/pid")
        self.inner = self._inner()

    def look(self) -> tuple[Process, ...] | Unknown:
        """Those that were there at the look before, too."""
        try:
            names = frozenset(name for name in os.listdir("/proc") if name.isdigit())
        except OSError as error:
            return Unknown(MALFORMED, str(error))
        suspects = {name: found for name in names - self.innocent if (found := self._debugger(name)) is not None}
        self.innocent = (names & self.last) - suspects.keys()
        seen = tuple(suspects[name] for name in sorted(suspects, key=int) if name in self.last)
        self.last = names
        return seen

    def _debugger(self, name: str) -> Process | None:
        comm = read_system(f"/proc/{name}/comm")
        text = "" if isinstance(comm, Unknown) else os.fsdecode(comm.strip())
        if not DEBUGGERS.fullmatch(text) or int(name) == self.pid or self.ours(int(name)):
            return None
        line = read_system(f"/proc/{name}/cmdline")
        words = [] if isinstance(line, Unknown) else line.split(b"\0")
        return Process(int(name), text) if names(words, self._number_for(name)) else None

    def _number_for(self, name: str) -> bytes:
        """What the process calls the target."""
        try:
            same = os.readlink(f"/proc/{name}/ns/pid") == self.namespace
        except OSError:
            same = False
        return b"%d" % (self.inner if same else self.pid)

    def _inner(self) -> int:
        fields = parsed(read(self.procdir, "status"), parse_status, "")
        numbers = field(fields, "NSpid", lambda text: [decimal(word) for word in text.split()])
        return self.pid if isinstance(numbers, Unknown) or not numbers else numbers[-1]


def names(words: list[bytes], wanted: bytes) -> bool:
    """Whether a debugger's command line names a process to attach to: by a flag, or after dlv's command."""
    if b"attach" in words:
        return wanted in words[words.index(b"attach") :]
    flags = {joined for flag in ATTACH for joined in (flag + wanted, flag + b"=" + wanted)}
    return not flags.isdisjoint(words) or any(a in ATTACH and b == wanted for a, b in itertools.pairwise(words))


class Traces:
    """Looks for files that a process has open for writing and that begin as a Go execution trace does.

    A trace that goes elsewhere (to a client of net/http/pprof, to a pipe) cannot be seen so.
    """

    def __init__(self, procdir: ProcDir) -> None:
        self.procdir = procdir

    def look(self) -> tuple[str, ...] | Unknown:
        """The names of these files, as the process has them."""
        names = listdir(self.procdir, "fd")
        if isinstance(names, Unknown):
            return names
        if len(names) > MOST_FILES:
            return Unknown("E2BIG", f"{len(names)} open files")
        return tuple(sorted({path for name in names if (path := self._trace(name))}))

    def _trace(self, name: str) -> str:
        path = readlink(self.procdir, f"fd/{name}")
        if isinstance(path, Unknown) or not path.startswith("/"):
            return ""
        try:
            if not stat.S_ISREG(self.procdir.stat(f"fd/{name}").st_mode) or not self._is_written(name):
                return ""
            fd = self.procdir.open(f"fd/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                return path if TRACE.match(os.pread(fd, 32, 0)) else ""
            finally:
                os.close(fd)
        except OSError:  # closed meanwhile, or not ours to read
            return ""

    def _is_written(self, name: str) -> bool:
        """By the flags that it was opened with (proc_pid_fdinfo(5)), in octal."""
        fields = parsed(self.procdir.read(f"fdinfo/{name}"), parse_status, "")
        flags = field(fields, "flags", lambda text: int(text, 8))
        return not isinstance(flags, Unknown) and flags & os.O_ACCMODE in _WRITES

"""What the kernel says of the target while somebody sits at the prompt: dlv need not be asked for it."""

from __future__ import annotations

import os
import time

from safedlv.session.prompt_status import EXITED, RUNNING, STOPPED, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.session.prompt_wire import Wire

SELDOM = 2.0
"""Seconds between two looks at what changes slowly."""


class Watch:
    """``target``: its PID, 0 where that is not known; ``dlv``: whose threads a guard would hold."""

    def __init__(self, target: int, dlv: int, wire: Wire) -> None:
        self.target, self.dlv, self.wire = target, dlv, wire
        self.limit: float | None = None
        """Seconds that the target may stand; None: as long as it likes."""
        self.moved = 0
        self.state, self.since = RUNNING, time.monotonic()
        self.throttling: Throttling | None = None
        self.guard: bool | None = None
        self.next = 0.0

    def stands(self) -> bool:
        """Whether the program stands still, held by dlv."""
        if self.wire.exited or self.wire.moving:
            return False
        return self._is_traced_and_stopped() if self.target else True

    def look(self) -> str:
        """The state as it is now; how long it has been so counts from the first look that found it."""
        state = EXITED if self.wire.exited else STOPPED if self.stands() else RUNNING
        if state != self.state or self.wire.moved != self.moved:
            if state == STOPPED and self.wire.moved == self.moved:  # it was not dlv's terminal that had it run
                self.wire.look()
            self.state, self.since, self.moved = state, time.monotonic(), self.wire.moved
        return state

    def status(self) -> Status:
        """All that the status line shows."""
        self.look()
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + SELDOM
            self._look_around()
        return Status(
            self.state,
            time.monotonic() - self.since,
            self.wire.place,
            limit=self.limit,
            throttled=self.throttling.percent if self.throttling else None,
            guard=self.guard,
        )

    def _is_traced_and_stopped(self) -> bool:
        try:
            with open(f"/proc/{self.target}/stat", "rb") as file:
                return file.read().rpartition(b") ")[2][:1] == b"t"  # tracing stop (proc_pid_stat(5))
        except OSError:
            return False

    def _look_around(self) -> None:
        self.guard = _is_guarded(self.dlv)
        if self.throttling is None:
            self.throttling = Throttling(self.target)
        else:
            self.throttling.look()


class Throttling:
    """How much of its time a process's cgroup is kept from the processor by its quota (cpu.stat)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.files: tuple[str, ...] = ()
        self.percent: float | None = None
        self.before: float | None = None
        self.at = 0.0
        self.look()

    def look(self) -> None:
        """Take note of what was added since the last look; it may have been moved to another cgroup."""
        before, files = self.before, self.files
        self.files = _cpu_stats(self.pid) if self.pid else ()
        self.before, at = self._read(), time.monotonic()
        self.percent = None
        if before is not None and self.before is not None and files == self.files and at > self.at:
            self.percent = min(100.0, 100.0 * (self.before - before) / (at - self.at))
        self.at = at

    def _read(self) -> float | None:
        """Seconds of throttling so far, of the level that has most; None where no level counts it."""
        return max((found for file in self.files if (found := _throttled(file)) is not None), default=None)


def _cpu_stats(pid: int) -> tuple[str, ...]:
    """The files of every level that may have a quota: those of containers are above the process's own cgroup."""
    from safedlv.facts import cgroup
    from safedlv.model import Unknown

    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            membership = cgroup.parse_membership(file.read())
    except OSError:
        return ()
    mounts = cgroup.read_mounts()
    if isinstance(mounts, Unknown):
        return ()
    where = [cgroup.levels(membership, mounts, controller) for controller in ("cpu", cgroup.V2)]
    return tuple(f"{level}/cpu.stat" for found in where if not isinstance(found, Unknown) for level in found)


def _throttled(path: str) -> float | None:
    """``throttled_usec`` (v2) or ``throttled_time``, in nanoseconds (v1), in seconds."""
    try:
        with open(path, "rb") as file:
            lines = dict(line.split()[:2] for line in file.read().splitlines() if len(line.split()) > 1)
    except OSError:
        return None
    for name, unit in ((b"throttled_usec", 1e6), (b"throttled_time", 1e9)):
        if lines.get(name, b"").isdigit():
            return int(lines[name]) / unit
    return None


def _is_guarded(dlv: int) -> bool | None:
    """Whether somebody holds a thread of dlv, which is what a guard does; None where that cannot be read."""
    try:
        tids = os.listdir(f"/proc/{dlv}/task")
    except OSError:
        return None
    for tid in tids:
        try:
            with open(f"/proc/{dlv}/task/{tid}/status", "rb") as file:
                tracer = file.read().partition(b"\nTracerPid:")[2].split(None, 1)[0]
        except (OSError, IndexError):
            continue
        if tracer != b"0":
            return True
    return False

"""What the kernel says of the target while somebody sits at the prompt: dlv need not be asked for it."""

from __future__ import annotations

import os
import time
from contextlib import suppress

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
        self.throttled: Throttled | None = None
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
            throttled=self.throttled.percent if self.throttled else None,
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
        if self.throttled is not None:
            self.throttled.look()
        elif self.target:
            with suppress(OSError):  # it has ended
                self.throttled = Throttled(self.target)


class Throttled:
    """How much of its time a process's cgroup is kept from the processor by its quota (cpu.stat)."""

    def __init__(self, pid: int) -> None:
        """Raises OSError when there is no such process."""
        from safedlv.session.sampling import Sampler

        self.sampler = Sampler(pid, ours=lambda _pid: True)
        self.percent: float | None = None
        self.at, self.before = time.monotonic(), self._read()

    def look(self) -> None:
        """Take note of what was added since the last look, at the level that has most; it may have been moved."""
        at, now = time.monotonic(), self._read()
        added = [us - self.before[level] for level, us in now.items() if level in self.before]
        share = max(added) / 1e6 / (at - self.at) if added and at > self.at else None
        self.percent = None if share is None else min(100.0, 100.0 * share)
        self.at, self.before = at, now

    def _read(self) -> dict[str, int]:
        """Microseconds of throttling so far, by level."""
        found = self.sampler.throttling()
        return {one.cgroup: one.us for one in found} if isinstance(found, tuple) else {}


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

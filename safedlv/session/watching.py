"""Watches what happens around a target, as a duty of a session's loop (duties.py) or of ``safedlv watch``.

Nothing here is on the path of an attach: what samples are made of is loaded when the first one is due.
"""

from __future__ import annotations

import os
import time

from safedlv.facts.procfs import parse_stat, read_path
from safedlv.session.duties import NEVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Protocol

    from safedlv.model import Unknown
    from safedlv.session.launch import Delve
    from safedlv.session.sampling import Sampler
    from safedlv.session.watched import Line, OutOfMemory, Sample, Story

    class Session(Protocol):
        """Where lines are said."""

        def say(self, line: str) -> None:
            """Tell whoever is there, in a line."""


EVERY: Final = 1.0
"""Seconds between two samples."""
UNKNOWN: Final = "unknown"
"""What a line is about that says what cannot be seen (watched.py: Story.hear)."""
STARTS_AFTER: Final = 0.1
"""Seconds after which what is needed is loaded, and after which again the first sample is taken."""


class Watching:
    """Takes a sample when one is due, and says what is new in it: ``say`` is given one line at a time.

    ``ours``: processes of this session, besides our own children, that may trace the target. ``begun`` is given the
    first sample, before anything is said of it.
    """

    def __init__(
        self,
        pid: int,
        say: Callable[[Line], None],
        *,
        ours: frozenset[int] = frozenset(),
        every: float = EVERY,
        after: float = STARTS_AFTER,
        begun: Callable[[Sample], None] | None = None,
    ) -> None:
        self.pid, self.say, self.every, self.after, self.begun = pid, say, every, after, begun
        self.ours = ours | {os.getpid()}
        self.next = time.monotonic() + after
        self.sampler: Sampler | None = None
        self.story: Story | None = None
        self.last: Sample | None = None
        self.ended = False
        """The target is not there any more, and no sample will come."""

    def due(self) -> float:
        """Seconds until the next sample is due."""
        return NEVER if self.ended else self.next - time.monotonic()

    def tick(self) -> None:
        """Take the sample that is due."""
        if self.ended:
            return
        if self.sampler is None or self.story is None:
            self._begin()
            self.next = time.monotonic() + self.after
            return
        self.next = time.monotonic() + self.every
        self._tell(self.sampler, self.story)

    def close(self) -> None:
        """Watch no more."""
        self.ended = True
        if self.sampler is not None:
            self.sampler.close()

    def _begin(self) -> None:
        from safedlv.session.sampling import Sampler
        from safedlv.session.watched import Story

        try:
            self.sampler, self.story = Sampler(self.pid, self._is_ours), Story()
        except OSError:
            self.ended = True

    def _tell(self, sampler: Sampler, story: Story) -> None:
        from safedlv.session.sampling import EndedError

        try:
            self.last = sampler.sample()
        except EndedError as ended:
            self.close()
            if self.last is None:
                return
            self.last = _at_its_end(self.last, ended.last)
        if self.begun is not None:
            self.begun(self.last)
            self.begun = None
        for line in story.hear(self.last):
            self.say(line)

    def _is_ours(self, pid: int) -> bool:
        """Whether a process is of this session: known to be, or started by it."""
        for _ in range(8):
            if pid in self.ours:
                return True
            pid = _parent(pid)
            if pid <= 1:
                return False
        return False


def _at_its_end(last: Sample, out_of_memory: OutOfMemory | Unknown) -> Sample:
    """The last sample, with what its cgroup says of memory now, if it is still there."""
    from attrs import evolve

    from safedlv.model import Unknown

    return (
        last if isinstance(out_of_memory, Unknown) else evolve(last, at=time.monotonic(), out_of_memory=out_of_memory)
    )


def watching_with(dlv: Delve, session: Session, target: int = 0) -> Watching:
    """What a session's loop needs to watch the process that ``dlv`` is attached to (or ``target``).

    What cannot be seen is for ``safedlv watch`` to list: in each session it would be the same line again.
    """

    def say(line: Line) -> None:
        if line.about != UNKNOWN:
            session.say(line.text)

    return Watching(target or dlv.attached_to, say, ours=frozenset((dlv.pid,)))


def _parent(pid: int) -> int:
    """The parent of a process; 0 when it has ended."""
    try:
        return int(parse_stat(read_path(f"/proc/{pid}/stat"))[1][1])  # field 4 of proc_pid_stat(5)
    except (OSError, ValueError, IndexError):
        return 0

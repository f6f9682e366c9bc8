"""Sees that a target does not stand for too long: looks at it, warns, and has it continued or let go (pauses.py).

Whether it stands is the kernel's word (bystander.py), the same for every protocol: two looks, and no thread has run
between them. It looks a few times a second at most; a program that runs costs one read per look.
"""

from __future__ import annotations

import time

from safedlv.session.bystander import Bystander
from safedlv.session.duties import NEVER
from safedlv.session.pauses import CONTINUE, DETACH, Clock, Limits, until_unhealthy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from safedlv.session.launch import Delve

    class Session(Protocol):
        """What can be done with a session."""

        def say(self, line: str) -> None:
            """Tell whoever is there, in a line."""

        def go_on(self) -> bool:
            """Have dlv continue the target; False when that could not be asked of it now."""

        def let_go(self) -> None:
            """End the session in order."""

        def is_attended(self) -> bool:
            """Whether a client is there, or none has come yet."""

        def is_over(self) -> bool:
            """Whether it is being ended: the keeper has dlv halt the target then, which is to stay so."""


LOOKS_EVERY = 0.5  # seconds; more often where a pause is shorter than that allows
PER_PAUSE = 10


class Patience:
    """A duty of a session's loop (duties.py). ``ask_health``: the health check of the target's container, or None."""

    def __init__(
        self, limits: Limits, bystander: Bystander, session: Session, ask_health: Callable[[], Any] | None = None
    ) -> None:
        self.clock = Clock(limits)
        self.bystander, self.session, self.ask_health = bystander, session, ask_health
        self.seen: list[bytes] | None = None
        self.next = 0.0

    def due(self) -> float:
        return self.next - time.monotonic()

    def tick(self) -> None:
        """Look at the target, and do what its time demands."""
        if self.session.is_over():
            self.next = NEVER
            return
        if self.ask_health is not None:
            self._take_from_health()
        seen = self.bystander.standing()
        stands = seen is not None and seen == self.seen
        self.seen = seen
        now = time.monotonic()
        self.next = now + min(LOOKS_EVERY, (self.clock.limits.max_pause or LOOKS_EVERY) / PER_PAUSE)
        stood, left = self.clock.stood_for(now), self.clock.left(now)
        what = self.clock.looked(now, stands=stands, clients=self.session.is_attended())
        if what == "warn" and left is not None:
            self.session.say(f"the program goes on in {left:.0f} s: {self.clock.limits.why}")
        elif what == CONTINUE:
            self.seen = None
            if self.session.go_on():
                self.session.say(f"the program stood for {stood or 0.0:.0f} s and goes on now: {self._reason(now)}")
        elif what == DETACH:
            self.session.say(f"the program is let go of: {self._reason(now)}")
            self.session.let_go()

    def _reason(self, now: float) -> str:
        limits = self.clock.limits
        return f"no client has been there for {limits.grace:g} s" if self.clock.has_been_alone(now) else limits.why

    def _take_from_health(self) -> None:
        """Limits that nobody gave are the health check's."""
        assert self.ask_health is not None
        ask, self.ask_health = self.ask_health, None
        found = until_unhealthy(ask())
        if found is not None:
            limits = self.clock.limits
            limits.max_pause, limits.why = found
            self.session.say(f"a pause ends after {limits.max_pause:.0f} s, for {limits.why}; --max-pause=off: never")


def patience_with(limits: Limits, dlv: Delve, session: Session, *, ask_health: bool, target: int = 0) -> Patience:
    """What a session's loop needs for the target that ``dlv`` is attached to (or ``target``)."""
    pid = target or dlv.attached_to

    def health() -> Any:
        from safedlv.runtimes.health import health_check_of

        return health_check_of(pid)

    return Patience(limits, Bystander(dlv.pid, dlv.pidfd, pid, None), session, health if ask_health else None)

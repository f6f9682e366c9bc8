"""What a session does from time to time, between what its clients and dlv say: no threads, no timers of the kernel."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Duty(Protocol):
        """Something to be done again and again."""

        def due(self) -> float:
            """Seconds until it is to be done; not above 0: now."""

        def tick(self) -> None:
            """Do it. Must not wait."""


NEVER = float("inf")


class Later:
    """Something to be done once, ``seconds`` from now."""

    def __init__(self, seconds: float, call: Callable[[], object]) -> None:
        self.at = time.monotonic() + seconds
        self.call = call

    def due(self) -> float:
        return self.at - time.monotonic()

    def tick(self) -> None:
        self.at = NEVER
        self.call()


class Duties:
    """All that is to be done in a session's loop."""

    def __init__(self) -> None:
        self.all: list[Duty] = []

    def wait(self) -> float | None:
        """Seconds that the loop may sleep; None: as long as it likes."""
        first = min((duty.due() for duty in self.all), default=NEVER)
        return None if first == NEVER else max(0.0, first)

    def run(self) -> None:
        """Do what is due."""
        for duty in list(self.all):
            if duty.due() <= 0:
                duty.tick()

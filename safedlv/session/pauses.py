"""How long a target may stand, and what is done when its time is up: ``--max-pause`` and ``--on-disconnect``. Pure.

Two clocks run while the target stands: one since it stopped, one since the last client left. A target that runs has
neither. What the user said, or the health check of its container, gives the limits (:class:`Limits`).
"""

from __future__ import annotations

import re

from safedlv.errors import SafedlvError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

GRACE: Final = 30.0
"""Seconds after which a target without a client goes on, or is let go of."""
LONGEST: Final = 86400.0
WARNED_AT: Final = (10.0, 5.0)
"""Seconds before the end of a pause at which its client is warned; the half of a pause that is too short for that."""
CONTINUE, DETACH, WAIT = "continue", "detach", "wait"
UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|)", re.ASCII)
_DOCKERS_INTERVAL: Final = 30.0  # seconds (moby daemon/health.go: defaultProbeInterval)
_DOCKERS_TIMEOUT: Final = 30.0
_DOCKERS_RETRIES: Final = 3
_NANOSECONDS: Final = 1e9


class Limits:
    """What was asked for. ``max_pause`` (None: as long as it likes) and ``grace`` are in seconds; ``why``: by whom."""

    def __init__(
        self, max_pause: float | None = None, why: str = "", on_disconnect: str = WAIT, grace: float = GRACE
    ) -> None:
        self.max_pause, self.why = max_pause, why
        self.on_disconnect, self.grace = on_disconnect, grace


def limits_in(pause: str | None, on_disconnect: str | None) -> Limits:
    """What ``--max-pause`` and ``--on-disconnect`` say; None for one that is not given. Raises SafedlvError."""
    limits = Limits()
    if pause is not None:
        limits.max_pause, limits.why = read_pause(pause), f"--max-pause={pause}"
    if on_disconnect is not None:
        limits.on_disconnect, limits.grace = read_on_disconnect(on_disconnect)
    return limits


def read_pause(text: str) -> float | None:
    """The seconds in ``20s``, ``1.5m``, ``20``; None for ``off``. Raises SafedlvError."""
    if text == "off":
        return None
    found = _DURATION.fullmatch(text)
    seconds = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not 0.1 <= seconds <= LONGEST:
        raise SafedlvError(f"{printable(text, 40)!r} is no time for a pause", "20s, 500ms, 2m, at most 24h; or off")
    return seconds


def read_on_disconnect(text: str) -> tuple[str, float]:
    """What is to be done, and after how many seconds: ``continue``, ``detach:10s``, ``wait``. Raises SafedlvError."""
    word, colon, grace = text.partition(":")
    if word not in (CONTINUE, DETACH, WAIT) or (word == WAIT and colon):
        raise SafedlvError(
            f"there is no {printable(text, 40)!r} to do when the last client is gone",
            "continue, detach or wait; with another time than 30 s: continue:10s",
        )
    return word, (read_pause(grace) or GRACE) if colon else GRACE


def until_unhealthy(config: Any) -> tuple[float, str] | None:
    """How long a container may stand before its health check can call it unhealthy, and the check in words.

    ``config``: Healthcheck of ContainerInspect's Config; None where that has no check. The count begins with a check
    that fails at once when the target stops: the others come an interval later each (moby daemon/health.go: monitor).
    With one try only it is the time that this one is given.
    """
    if not isinstance(config, dict) or (config.get("Test") or ["NONE"])[0] == "NONE":
        return None
    interval = _seconds(config, "Interval") or _DOCKERS_INTERVAL
    timeout = _seconds(config, "Timeout") or _DOCKERS_TIMEOUT
    tries = config.get("Retries") or _DOCKERS_RETRIES
    if not isinstance(tries, int):
        return None
    seconds = max((tries - 1) * interval, min(interval, timeout))
    times = "once" if tries == 1 else f"{tries} times"
    return seconds, f"its container's health check (every {interval:g} s, failed {times}: unhealthy)"


def _seconds(config: dict[str, Any], key: str) -> float:
    value = config.get(key)
    return value / _NANOSECONDS if isinstance(value, int | float) and value > 0 else 0.0


class Clock:
    """What is to be done, told of every look at the target. The times are of one monotonic clock, in seconds."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.stood_since: float | None = None
        self.alone_since: float | None = None
        self.warned = 0

    def looked(self, now: float, *, stands: bool, clients: bool) -> str:
        """``continue``, ``detach``, ``warn``, or nothing. ``clients``: somebody is there, or nobody has come yet."""
        self.alone_since = None if clients else (self.alone_since if self.alone_since is not None else now)
        if not stands:
            self.stood_since, self.warned = None, 0
            return ""
        if self.stood_since is None:
            self.stood_since = now
        if self.has_been_alone(now):
            return self.limits.on_disconnect
        left = self.left(now)
        if left is None:
            return ""
        if left <= 0:
            self.stood_since, self.warned = None, 0
            return CONTINUE
        due = [at for at in self.warnings() if left <= at]
        if len(due) > self.warned:
            self.warned = len(due)
            return "warn"
        return ""

    def has_been_alone(self, now: float) -> bool:
        """Whether no client has been there for so long that something is to be done."""
        wanted = self.limits.on_disconnect != WAIT
        return wanted and self.alone_since is not None and now - self.alone_since >= self.limits.grace

    def left(self, now: float) -> float | None:
        """Seconds until the pause is ended; None when it is not, or there is none."""
        if self.limits.max_pause is None or self.stood_since is None:
            return None
        return self.limits.max_pause - (now - self.stood_since)

    def stood_for(self, now: float) -> float | None:
        """Seconds that the target has stood; None when it runs."""
        return None if self.stood_since is None else now - self.stood_since

    def warnings(self) -> tuple[float, ...]:
        """At how many seconds before the end a warning is due, the first one first."""
        limit = self.limits.max_pause or 0.0
        return tuple(at for at in WARNED_AT if at <= limit / 2) or (limit / 2,)

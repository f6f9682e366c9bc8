"""The status line of the terminal, from what the kernel and dlv's last answer say. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

RUNNING, STOPPED, EXITED = "running", "stopped", "exited"
BAR: Final = " │ "
LEAST_THROTTLED: Final = 1
"""Percent of its time for which a cgroup has to be throttled to be worth a word."""


class Place:
    """Where the program stands, as dlv has said it last."""

    def __init__(self, goroutine: int = 0, file: str = "", line: int = 0, function: str = "") -> None:
        self.goroutine, self.file, self.line, self.function = goroutine, file, line, function


class Status:
    """What the status line is made of. ``since`` is in seconds; ``limit``: seconds that a pause may take, or None."""

    def __init__(
        self,
        state: str,
        since: float,
        place: Place,
        *,
        limit: float | None = None,
        throttled: float | None = None,
        guard: bool | None = None,
    ) -> None:
        self.state, self.since, self.place, self.limit = state, since, place, limit
        self.throttled = throttled
        """Percent of the last seconds in which the target's cgroup was kept from the processor; None: not known."""
        self.guard = guard
        """None: that is not known."""


def status_text(status: Status, width: int) -> str:
    """The status line in at most ``width`` columns: what does not fit is left out, the last first."""
    parts = [part for part in _parts(status) if part]
    while len(parts) > 1 and len(BAR.join(parts)) + 2 > width:
        parts.pop()
    return f" {BAR.join(parts)} "[: max(width, 0)]


def _parts(status: Status) -> list[str]:
    if status.state == EXITED:
        return ["the program has exited", "exit or Ctrl-D leaves"]
    place = status.place
    stopped = status.state == STOPPED
    of = f" of {duration(status.limit)}" if stopped and status.limit is not None else ""
    throttled = status.throttled is not None and status.throttled >= LEAST_THROTTLED
    return [
        f"{status.state} {duration(status.since)}{of}",
        "" if stopped else "Ctrl-C halts",
        f"goroutine {place.goroutine}" if stopped and place.goroutine else "",
        f"{place.file.rpartition('/')[2]}:{place.line}" if stopped and place.file else "",
        f"CPU throttled {status.throttled:.0f} %" if throttled else "",
        "" if status.guard is None else f"guard {'on' if status.guard else 'off'}",
    ]


def duration(seconds: float) -> str:
    """A length of time for people: ``7 s``, ``3:05 min``, ``1:02 h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


def place_in(state: Any) -> Place:
    """Where the selected goroutine is in dlv's DebuggerState (service/api/types.go), whatever is missing there."""
    thread, goroutine = _object(state, "currentThread"), _object(state, "currentGoroutine")
    at = thread
    if goroutine and thread.get("goroutineID") != goroutine.get("id"):
        at = _object(goroutine, "userCurrentLoc")
    number = goroutine.get("id") or thread.get("goroutineID")
    file, line, function = at.get("file"), at.get("line"), _object(at, "function").get("name")
    return Place(
        number if isinstance(number, int) and number > 0 else 0,
        file if isinstance(file, str) else "",
        line if isinstance(line, int) else 0,
        function if isinstance(function, str) else "",
    )


def _object(document: Any, key: str) -> dict[str, Any]:
    found = document.get(key) if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}

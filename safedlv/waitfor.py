"""``--waitfor``: the first process whose command line begins with the words given, as dlv waits for it."""

from __future__ import annotations

import os
import time

from safedlv.errors import SafedlvError
from safedlv.target import command_line_of

LONGEST_PAUSE = 60_000.0  # milliseconds


def wait_for(prefix: str, interval_ms: float, duration_s: float) -> int:
    """The PID of the first process whose command line begins with ``prefix`` (pkg/proc/native/proc.go: WaitFor).

    Looks every ``interval_ms`` milliseconds, for ``duration_s`` seconds (0: without end). Raises SafedlvError when the
    time is up. Unlike dlv it looks again at a process that has become another program since.
    """
    deadline = time.monotonic() + duration_s if duration_s else None
    seen: dict[str, str] = {}
    while deadline is None or time.monotonic() < deadline:
        names = {name for name in os.listdir("/proc") if name.isdigit()}
        for name in names - {str(os.getpid())}:
            text = seen.get(name) or command_line_of(int(name))
            seen[name] = text if not _young(name) else ""
            if text.startswith(prefix):
                return int(name)
        seen = {name: text for name, text in seen.items() if name in names}
        time.sleep(min(max(0.1, interval_ms), LONGEST_PAUSE) / 1000)  # 0.1 first: max() then drops a NaN
    raise SafedlvError("waitfor duration expired")


def _young(name: str) -> bool:
    """Whether a process may still become another program: one second is long after any exec that follows a fork."""
    try:
        return time.time() - os.stat(f"/proc/{name}").st_ctime < 1.0
    except OSError:
        return True

"""``--waitfor``: the first process whose command line begins with the words given, as dlv waits for it."""

from __future__ import annotations

import os
import signal
import time

from safedlv.errors import SafedlvError
from safedlv.linux.descriptors import keep_open
from safedlv.linux.tracing import die_signal
from safedlv.target import command_line_of

LONGEST_PAUSE = 60_000.0  # milliseconds


def wait_for(prefix: str, interval_ms: float, duration_s: float, besides: frozenset[str] = frozenset()) -> int:
    """The PID of the first process whose command line begins with ``prefix`` (pkg/proc/native/proc.go: WaitFor).

    Looks every ``interval_ms`` milliseconds, for ``duration_s`` seconds (0: without end). Raises SafedlvError when the
    time is up. Unlike dlv it looks again at a process that has become another program since.
    ``besides``: processes that are not looked at, the caller is none in any case.
    """
    deadline = time.monotonic() + duration_s if duration_s else None
    seen: dict[str, str] = {}
    while deadline is None or time.monotonic() < deadline:
        names = {name for name in os.listdir("/proc") if name.isdigit()}
        for name in names - {str(os.getpid())} - besides:
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


class Waiter:
    """A child that waits for a process, for one who cannot: ``fd`` can be read when it has come."""

    def __init__(self, prefix: str, interval_ms: float) -> None:
        parent = os.getpid()
        self.fd, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _wait_for_another(prefix, interval_ms, parent, answer)
        os.close(answer)

    def result(self) -> int:
        """The PID of the process; 0 when the child was killed."""
        return int(os.read(self.fd, 32) or b"0")

    def close(self) -> None:
        """Wait no more."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def _wait_for_another(prefix: str, interval_ms: float, parent: int, answer: int) -> None:
    """In the child: the first process that is neither ``parent`` nor another child of it."""
    try:
        keep_open(0, 1, 2, answer)
        die_signal(signal.SIGKILL)
        with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as file:
            ours = frozenset([str(parent), *file.read().split()])
        os.write(answer, b"%d" % wait_for(prefix, interval_ms, 0, ours))
    finally:
        os._exit(0)

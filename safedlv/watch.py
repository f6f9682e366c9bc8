"""``safedlv watch``: what happens around a process, a line each, as a session shows it, and without one.

    words -> target -> sample, sleep until something ends -> the target has ended, or the time is up

The target is not touched: all is read from /proc and the cgroup file systems.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from datetime import datetime

from safedlv import target
from safedlv.errors import UsageError
from safedlv.model import Unknown
from safedlv.options import SWITCH, read_words, seconds
from safedlv.session.bystander import ended
from safedlv.session.watched import WATCHED, Line, Sample, summary
from safedlv.session.watching import EVERY, Watching
from safedlv.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

HELP = """\
usage: safedlv watch TARGET [--json] [--interval SECONDS] [--for SECONDS]

What happens around a process, a line when it happens: its cgroup frozen or changed, CPU throttling, memory pressure,
the OOM killer, who traces it and who would like to, many more or fewer threads, a Go execution trace. The process is
not touched. Ends with the process, or Ctrl-C.

A TARGET is a PID, name:PATTERN, docker:NAME or docker:NAME/PID.

  --json               one JSON object a line on stdout (schema safedlv.watch/1): the beginning, what happens, the end
  --interval SECONDS   between two looks (default 1)
  --for SECONDS        for how long
  --debug              show tracebacks of safedlv's own failures
"""
FLAGS: Final = {"json": SWITCH, "interval": "SECONDS", "for": "SECONDS", "debug": SWITCH}
SCHEMA: Final = "safedlv.watch/1"
LONGEST: Final = 365 * 86400.0
LONGEST_INTERVAL: Final = 3600.0


def watch(words: list[str]) -> int:
    """The command; 0 when the target has ended or the time is up. Raises UsageError, SafedlvError."""
    given, others = read_words(words, FLAGS, most=1)
    if "help" in given:
        sys.stdout.write(HELP)
        return 0
    every = seconds(given["interval"], "interval", LONGEST_INTERVAL) if "interval" in given else EVERY
    until = time.monotonic() + seconds(given["for"], "for", LONGEST) if "for" in given else None
    if not others:
        raise UsageError("there is no target to watch", "safedlv watch TARGET")
    found = target.resolve(others[0])
    try:
        pidfd = os.pidfd_open(found.pid)
    except ProcessLookupError as error:
        raise target.NoSuchProcessError(found.pid) from error
    finally:
        found.close()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may hold what this terminal's encoding has not
    writer = Writer(found.pid, as_json="json" in given)
    watching = Watching(found.pid, writer.line, every=every, after=0.0, begun=writer.begin)
    if _until_the_end(watching, pidfd, until):
        writer.end("ended", f"process {found.pid} has ended")
    else:
        writer.end("time", "the time is up")
    return 0


def _until_the_end(watching: Watching, pidfd: int, until: float | None) -> bool:
    """Watch a process until it ends, or the time is up; whether it has ended."""
    while not watching.ended:
        left = LONGEST_INTERVAL if until is None else until - time.monotonic()
        if left <= 0:
            return False
        if ended(pidfd, max(0.0, min(watching.due(), left))) or watching.due() <= 0:
            watching.tick()
    return True


class Writer:
    """Writes lines to stdout: for people with the time of day, or as JSON."""

    def __init__(self, pid: int, *, as_json: bool) -> None:
        self.pid, self.as_json = pid, as_json

    def begin(self, sample: Sample) -> None:
        """How it is now."""
        facts = {row.id: plain(getattr(sample, row.fact)) for row in WATCHED}
        self._write("begin", f"watching process {self.pid}: {summary(sample)}", facts=facts)

    def line(self, line: Line) -> None:
        """Something that has happened."""
        self._write("change", line.text, about=line.about)

    def end(self, reason: str, text: str) -> None:
        """The last line."""
        self._write("end", text, reason=reason)

    def _write(self, event: str, text: str, **more: Any) -> None:
        now = datetime.now().astimezone()
        if self.as_json:
            at = now.isoformat(timespec="milliseconds")
            document = {"schema": SCHEMA, "time": at, "pid": self.pid, "event": event, "text": text, **more}
            text = json.dumps(document)
        else:
            text = f"{now:%H:%M:%S} {text}"
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def plain(fact: Any) -> Any:
    """A fact as JSON has it. What is unknown says so."""
    if isinstance(fact, Unknown):
        return {"unknown": fact.errno, "source": fact.source}
    if isinstance(fact, Value):
        return {one.name: plain(getattr(fact, one.name)) for one in fact.__attrs_attrs__}
    return [plain(one) for one in fact] if isinstance(fact, tuple) else fact

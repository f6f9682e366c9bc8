"""``safedlv doctor``: the words of the command, and its answer. Changes nothing."""

from __future__ import annotations

import io
import os
import sys
from functools import partial
from typing import TextIO

from attrs import frozen

from safedlv.command_line import LONGEST_PROBE
from safedlv.errors import UsageError
from safedlv.inquiry import UNDETERMINED, diagnose, diagnose_context, probe_from_here
from safedlv.options import SWITCH, read_words, seconds
from safedlv.probe import runner
from safedlv.probe.changes import HELD_AT_MOST_US
from safedlv.standpoint import FORMS
from safedlv.values import Value

HELP = f"""\
usage: safedlv doctor [TARGET] [flags]

Can a debugger attach to TARGET, and if not, why? Changes nothing. Without TARGET: this machine and this context.
TARGET is a PID, name:PATTERN, docker:NAME or docker:NAME/PID.

  --tracer WHO             whose place to try from: {FORMS}
  --json                   one JSON object on stdout (schema safedlv.diagnosis/1)
  --steps                  as a story in five steps, with a control group beside it (see safedlv control)
  --markdown               to paste into an issue: without host names, paths and names of your own
  --all                    list every Go process with its verdict; nothing is probed
  --probe                  with --all: probe each of them, which stops it briefly
  --probe-timeout SECONDS  for one stop: 2
  --hold-limit SECONDS     for which all attempts together may hold the target, before no more are made: 0.008
  --debug                  show tracebacks of safedlv's own failures
"""
FLAGS = {
    "tracer": "WHO",
    "json": SWITCH,
    "markdown": SWITCH,
    "steps": SWITCH,
    "all": SWITCH,
    "probe": SWITCH,
    "probe-timeout": "SECONDS",
    "hold-limit": "SECONDS",
    "debug": SWITCH,
}
EXIT_CODES = {"ok": 0, "blocked": 10, "degraded": 11, "undetermined": UNDETERMINED}


def doctor(words: list[str]) -> int:
    """The command; returns the exit code of contract (0 works, 10 blocked, 11 degraded, 3 undetermined)."""
    options = _options(words)
    if options.on("help"):
        sys.stdout.write(HELP)
        return 0
    timeout = options.probe_timeout
    if options.on("all"):
        from safedlv.survey import survey

        return survey(partial(probe_from_here, timeout) if options.on("probe") else None, as_json=options.on("json"))
    if options.on("steps") and options.target is not None:
        from safedlv.steps import steps

        return EXIT_CODES[steps(options.target, options.flags.get("tracer"), timeout, options.hold_limit_us)]
    diagnosis = (
        diagnose_context()
        if options.target is None
        else diagnose(options.target, timeout, options.flags.get("tracer"), options.hold_limit_us)
    )
    if options.on("json"):
        from safedlv.report.json import document

        sys.stdout.write(document(diagnosis) + "\n")
    elif options.on("markdown"):
        from safedlv.report import markdown

        sys.stdout.buffer.write(markdown.document(diagnosis, os.uname().release).encode("utf-8", "backslashreplace"))
    else:
        from safedlv.report.text import report

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names may hold what this terminal's encoding has not
        sys.stdout.write(report(diagnosis, colour=wants_colour(sys.stdout)))
    return EXIT_CODES[diagnosis.verdict]


def wants_colour(stream: TextIO) -> bool:
    """Colours are for a terminal, and for those who have not said NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


@frozen(eq=False, repr=False)
class Options(Value):
    """What the words after ``doctor`` ask for."""

    target: str | None
    flags: dict[str, str]

    def on(self, name: str) -> bool:
        return name in self.flags

    @property
    def probe_timeout(self) -> float:
        """Seconds for one stop."""
        text = self.flags.get("probe-timeout")
        return runner.STOP_WITHIN if text is None else seconds(text, "probe-timeout", LONGEST_PROBE)

    @property
    def hold_limit_us(self) -> float:
        """Microseconds for which all attempts together may hold the target before no more are made."""
        text = self.flags.get("hold-limit")
        return HELD_AT_MOST_US if text is None else seconds(text, "hold-limit", LONGEST_PROBE) * 1e6


def _options(words: list[str]) -> Options:
    flags, others = read_words(words, FLAGS, most=1)
    options = Options(others[0] if others else None, flags)
    if options.on("all") and (options.target is not None or options.on("tracer")):
        raise UsageError("--all lists every Go process, as seen from here: it takes no TARGET and no --tracer")
    if options.on("tracer") and options.target is None:
        raise UsageError("--tracer asks about a TARGET, as seen from another's place", "name a TARGET, or leave it out")
    if options.on("markdown") and (options.on("json") or options.on("all")):
        raise UsageError("--markdown is the report on one target: it goes with neither --json nor --all")
    if options.on("steps") and (options.target is None or {"json", "markdown"} & options.flags.keys()):
        raise UsageError("--steps tells of a TARGET, for people: it goes with neither --json nor --markdown")
    if options.on("probe") and not options.on("all"):
        raise UsageError("--probe belongs to --all", "safedlv doctor TARGET probes in any case")
    return options

"""``safedlv compare A [B]``: two processes side by side, differences first; B is safedlv itself where not named."""

from __future__ import annotations

import io
import os
import sys

from safedlv import target
from safedlv.controlled.differences import Seen, compare
from safedlv.errors import SafedlvError, UsageError
from safedlv.facts.go_binary import read_go_binary
from safedlv.facts.process import read_process
from safedlv.facts.reading import unknown
from safedlv.facts.seccomp import MODE_FILTER
from safedlv.inquiry import diagnose
from safedlv.model import Unknown
from safedlv.options import SWITCH, read_words
from safedlv.probe.filters import read_filters

HELP = """\
usage: safedlv compare A [B] [flags]

Two processes or containers side by side, differences first: why does it work in that one and not in this one? Without
B: A beside the process that asks. The last line says which differences matter to a debugger: it is what doctor says of
each, which makes its probe on them.
A and B are a PID, name:PATTERN, docker:NAME or docker:NAME/PID.

  --all    what is the same, too
  --json   one JSON object on stdout (schema safedlv.comparison/1)
  --debug  show tracebacks of safedlv's own failures
"""
FLAGS = {"all": SWITCH, "json": SWITCH, "debug": SWITCH}
UNDETERMINED = 3
ITSELF = "safedlv itself"


def compare_command(words: list[str]) -> int:
    """The command; returns 0. Raises UsageError; SafedlvError when one of them cannot be looked up."""
    flags, others = read_words(words, FLAGS, most=2)
    if "help" in flags:
        sys.stdout.write(HELP)
        return 0
    if not others:
        raise UsageError("compare what?", "safedlv compare A [B]: a PID, name:PATTERN, docker:NAME or docker:NAME/PID")
    found = compare(see(others[0]), see(others[1]) if len(others) > 1 else _see_ourselves())
    if "json" in flags:
        from safedlv.controlled.differences_text import document

        sys.stdout.write(document(found) + "\n")
        return 0
    from safedlv.controlled.differences_text import report

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may hold what this terminal's encoding has not
    sys.stdout.write(report(found, everything="all" in flags))
    return 0


def see(text: str) -> Seen:
    """Everything about the process that ``text`` names, and what doctor says of it. Raises UsageError, SafedlvError."""
    try:
        found = target.resolve(text)
    except UsageError:
        raise
    except SafedlvError as error:
        raise SafedlvError(error.sentence, error.hint, error.code if error.code == 2 else UNDETERMINED) from error
    try:
        if found.pid == os.getpid():
            return _look(text, found)
        seen = _look(text, found)
    finally:
        found.close()
    return Seen(seen.text, seen.facts, seen.binary, seen.filters, diagnose(text))


def _see_ourselves() -> Seen:
    found = target.find(os.getpid())
    try:
        return _look(ITSELF, found)
    finally:
        found.close()


def _look(text: str, found: target.Found) -> Seen:
    facts = read_process(found.pid)
    mode = facts.status.seccomp
    filters: tuple[bytes, ...] | Unknown = mode if isinstance(mode, Unknown) else ()
    if mode == MODE_FILTER:
        try:
            filters = read_filters(found.pid, found.procdir)
        except OSError as error:
            filters = unknown(error, f"the seccomp programs of process {found.pid}")
    return Seen(text, facts, read_go_binary(found.procdir), filters, None)

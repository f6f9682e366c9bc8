"""``safedlv observe``: the real ``dlv attach`` under a system call tracer, and every call of it that failed."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from safedlv import delegate, target
from safedlv.errors import SafedlvError, UsageError, printable
from safedlv.observing.delve import Place
from safedlv.observing.observation import EXIT_CODES, Observation, code_of, document, lines_of, report
from safedlv.observing.session import Record
from safedlv.observing.session import observe as observed
from safedlv.observing.stand_in import StandIn, make
from safedlv.options import SWITCH, read_words
from safedlv.probe import runner
from safedlv.probe.context import Context
from safedlv.session.launch import listens_on_unix
from safedlv.standpoint import FORMS, context_of
from safedlv.target import Found

HELP = f"""\
usage: safedlv observe TARGET [flags]

Runs the real `dlv attach` under a system call tracer, and lists every call that failed and what that did to the
session. dlv attaches to a stand-in: a process of the target's own program with its credentials and namespaces, which
never runs a line of it. The target itself is not touched.
TARGET is a PID, name:PATTERN, docker:NAME or docker:NAME/PID.

  --tracer WHO  where dlv stands: {FORMS}
  --real        dlv attaches to the target itself, and lets go again
  --all         show the harmless calls, too
  --json        one JSON object on stdout (schema safedlv.observation/1)
  --debug       show tracebacks of safedlv's own failures

Exit codes: 0 the attach works, 10 it fails, 11 it works and something is refused, 3 it could not be observed.
"""
NO_LIMITS = "cgroup: dlv was in safedlv's own, so the limits of that place did not hold for it"
FLAGS = {"tracer": "WHO", "real": SWITCH, "all": SWITCH, "json": SWITCH, "debug": SWITCH}


def observe(words: list[str]) -> int:
    """The command; returns the exit code. Raises UsageError, SafedlvError."""
    flags, others = read_words(words, FLAGS, most=1)
    if "help" in flags:
        sys.stdout.write(HELP)
        return 0
    if not others:
        raise UsageError("observe whom?", "safedlv observe TARGET")
    dlv = delegate.find()
    seen = look(others[0], dlv, flags.get("tracer"), real="real" in flags)
    if "json" in flags:
        sys.stdout.write(document(seen) + "\n")
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        sys.stdout.write(report(seen, others[0], everything="all" in flags))
    return EXIT_CODES[seen.verdict]


def look(text: str, dlv: str, who: str | None, *, real: bool) -> Observation:
    """Observe dlv with the target that ``text`` names, from the place of ``who``. Raises UsageError, SafedlvError."""
    found = target.resolve(text)
    _check(found, real=real)
    who = who or ("container" if found.container and os.geteuid() == 0 else "self")
    with placed(dlv, who, found, real=real) as (place, stand_in):
        record = observed(place)
        context = place.context
        where = "safedlv" if context is None else context.who
        limits = [] if context is None or _same_cgroup(context.source) else [NO_LIMITS]
    return _observation(found, (who, where), record, stand_in, limits)


def _same_cgroup(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as theirs, open("/proc/self/cgroup", "rb") as ours:
            return theirs.read() == ours.read()
    except OSError:
        return False


def _check(found: Found, *, real: bool) -> None:
    """Raises SafedlvError for a target that dlv is not let near to."""
    if found.pid == os.getpid():
        raise SafedlvError("that is safedlv itself, which cannot be its own tracer", code=2)
    if real and found.before.traced_by:
        raise SafedlvError(f"process {found.pid} is traced already, by {found.before.traced_by}", code=3)
    if real and not runner.way_back_is_open(found.pid, found.before):
        raise SafedlvError(
            f"process {found.pid} is frozen: it would stay stopped when it is thawed",
            "thaw it, or leave --real out",
            code=3,
        )


@contextmanager
def placed(dlv: str, who: str, found: Found, *, real: bool) -> Iterator[tuple[Place, StandIn | None]]:
    """Where dlv stands and whom it attaches to, and the stand-in unless it is the ``real`` one; ``found`` is closed."""
    with ExitStack() as undo:
        undo.callback(found.close)
        context = context_of(who, found)
        if context is not None:
            undo.enter_context(context)
        stand_in = None if real else make(found)
        if stand_in is not None:
            undo.callback(stand_in.close)
        yield _place(dlv, context, found, stand_in), stand_in


def _place(dlv: str, context: Context | None, found: Found, stand_in: StandIn | None) -> Place:
    return Place(
        dlv=dlv,
        unix=listens_on_unix(delegate.version_of(dlv)),
        # A container need not have a dlv, nor a file: dlv brings its own.
        context=None if context is None else context.without_namespaces("mnt"),
        apart=context is not None and any(context.namespace(kind) for kind in ("mnt", "pid", "user")),
        target=found.pid if stand_in is None else stand_in.pid,
        stopped=found.before.stopped,
        real=stand_in is None,
    )


def _observation(
    found: Found, who: tuple[str, str], record: Record, stand_in: StandIn | None, limits: list[str]
) -> Observation:
    return Observation(
        pid=found.pid,
        inner=record.inner,
        container=found.container,
        who=who[0],
        place=who[1],
        real=stand_in is None,
        attached=record.attached,
        how=record.how,
        code=code_of(record.status),
        made=record.made,
        calls=record.calls,
        said=lines_of(record.err),
        out=lines_of(record.out),
        lacks=tuple(printable(line) for line in (*record.lacks, *limits, *(stand_in.lacks if stand_in else ()))),
        home=record.home,
    )

"""``safedlv doctor TARGET --steps``: the diagnosis in five steps, with the debugger's filter and a control group."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from safedlv.control import in_group, real_thing
from safedlv.controlled.text import body, headline
from safedlv.errors import SafedlvError, printable
from safedlv.facts.process import read_process
from safedlv.facts.seccomp import MODE_FILTER
from safedlv.inquiry import diagnose
from safedlv.linux.libseccomp import Libseccomp
from safedlv.probe.context import Context
from safedlv.report.side_by_side import paragraph
from safedlv.report.story import story
from safedlv.report.text import report
from safedlv.seccomp import bpf
from safedlv.seccomp.answers import in_words, passes
from safedlv.seccomp.bpf import Program
from safedlv.seccomp.paths import TooManyWaysError, knowledge
from safedlv.seccomp.questions import of_dlv
from safedlv.seccomp.rules import cases

OUR_OWN = ["safedlv itself is under one, which nobody can read from under it: what it refuses is what step 3 tried."]


def steps(text: str, who: str | None, timeout: float, hold_limit_us: float) -> str:
    """Print it; the verdict of the diagnosis. Raises as :func:`safedlv.inquiry.diagnose`."""
    diagnosis = diagnose(text, timeout, who, hold_limit_us)
    if diagnosis.facts is None:  # there is no process to tell of
        sys.stdout.write(report(diagnosis, colour=False))
        return diagnosis.verdict
    filtered, control = _of_the_debugger(text, who, timeout)
    sys.stdout.write(story(diagnosis, filtered, control))
    return diagnosis.verdict


def _of_the_debugger(text: str, who: str | None, timeout: float) -> tuple[list[str], list[str]]:
    """What its filter refuses, and the lines about the control group; where either is not to be had, why."""
    filtered: list[str] = []
    try:
        with real_thing(text, who) as (real, whose):
            filtered = OUR_OWN if _is_filtered(real.debugger) else list(filter_said(real.debugger))
            answer = in_group(real, whose, timeout)
    except SafedlvError as error:
        why = f"unknown: {error.sentence}"
        return filtered or [why], paragraph(why)
    return filtered, [*paragraph(headline(answer)), *body(answer)]


def _is_filtered(context: Context) -> bool:
    """Whether it is our own place, and that is under a filter."""
    return context.source == os.getpid() and read_process(os.getpid()).status.seccomp == MODE_FILTER


def filter_said(context: Context) -> Iterator[str]:
    """Which of the calls that dlv needs the programs of a context refuse, by evaluating them; a sentence each."""
    unread = [line for line in context.unread if line.startswith("seccomp:")]
    yield from map(printable, unread)
    if not context.filters and not unread:
        yield "There is none: every call reaches the kernel. (A filter on the target alone is never asked.)"
    if not context.filters:
        return
    sizes = " and ".join(str(len(program) // 8) for program in context.filters)
    yield f"{len(context.filters)} in force, of {sizes} instructions; of the calls that dlv needs to attach:"
    try:
        refused = list(_refused(tuple(map(bpf.load, context.filters))))
    except (SafedlvError, bpf.BadProgramError, TooManyWaysError) as error:
        yield f"unknown, since it cannot be evaluated: {printable(str(error))}"
        return
    yield from refused or ["all are allowed"]


def _refused(programs: tuple[Program, ...]) -> Iterator[str]:
    """A line for each answer that is none that dlv can do with, and the calls that get it."""
    library = Libseccomp()
    native = library.native
    calls: dict[str, list[str]] = {}
    for question in of_dlv():
        number = library.number(native, question.call) if question.needed else None
        if number is None or number < 0:  # this architecture has no such call
            continue
        found = cases(programs, knowledge(library.tokens[native], number, question.arguments))
        values = [case.value for case in found]
        if not any(value is not None and passes(value) for value in values):
            answers = dict.fromkeys(in_words(value) if value is not None else "unknown" for value in values)
            calls.setdefault(" or ".join(answers), []).append(question.words)
    for answer, refused in calls.items():
        yield f"{answer}: {', '.join(refused)}"

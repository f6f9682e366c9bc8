"""``safedlv seccomp explain``: what becomes of each call under a filter, by evaluating its programs."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, Final

from attrs import frozen

from safedlv.errors import SafedlvError, UsageError, printable
from safedlv.linux.libseccomp import Libseccomp
from safedlv.seccomp import rules_text
from safedlv.seccomp.answers import passes
from safedlv.seccomp.conditions import NO_ARGUMENT
from safedlv.seccomp.paths import TooManyWaysError, knowledge
from safedlv.seccomp.questions import Question, asked, of_dlv
from safedlv.seccomp.rules import Case, cases
from safedlv.seccomp_show import SOURCES, add_capabilities
from safedlv.seccomp_source import Filters, filters

SCHEMA: Final = "safedlv.seccomp-answers/1"
ALLOWED: Final = 0
REFUSED: Final = 10
DEPENDS: Final = 3
HELP: Final = """Exit codes: 0 every call that was asked about is allowed, 10 one is not, 3 it depends on an argument
that was not given. A call is written SYSCALL or SYSCALL(ARG, ...), for example ptrace(16), ptrace(PTRACE_SEIZE) or
clone(?, 0); ? and arguments that are not given are unknown. Without a call: all that dlv's attach needs, and at the end
what only a dlv needs that starts its target, which does not count for the exit code."""


@frozen
class Explained:
    """What becomes of one call."""

    question: Question
    number: int
    cases: tuple[Case, ...]
    """Each answer that it may get; the last one otherwise."""

    @property
    def verdict(self) -> int:
        """An exit code."""
        passing = {case.value is not None and passes(case.value) for case in self.cases}
        return DEPENDS if len(passing) > 1 else ALLOWED if passing == {True} else REFUSED


def explain(words: list[str]) -> int:
    """The command; its exit code."""
    options = _options(words)
    try:
        questions = tuple(map(asked, options.calls)) or of_dlv()
    except ValueError as error:
        raise UsageError(printable(str(error)), "--help shows how a call is written") from error
    found = filters(options.source, more=options.cap_add, fewer=options.cap_drop)
    answered = tuple(_explained(found, questions, asked_for=bool(options.calls)))
    if options.json:
        sys.stdout.write(json.dumps(_document(found, answered), indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(found, answered, short=not options.calls)))
    verdicts = {one.verdict for one in answered if one.question.needed}
    return REFUSED if REFUSED in verdicts else DEPENDS if DEPENDS in verdicts else ALLOWED


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="safedlv seccomp explain", description="What becomes of calls.", epilog=HELP)
    parser.add_argument("source", metavar="TARGET|FILE", help=SOURCES)
    parser.add_argument("calls", metavar="SYSCALL[(ARG...)]", nargs="*", help="without: all that dlv makes")
    parser.add_argument("--json", action="store_true", help=f"one JSON object on stdout (schema {SCHEMA})")
    add_capabilities(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks of safedlv's own failures")
    return parser.parse_args(words)


def _explained(found: Filters, questions: tuple[Question, ...], *, asked_for: bool) -> Iterator[Explained]:
    library = Libseccomp()
    native = library.native
    for question in questions:
        number = _number(library, native, question.call)
        if number is None and asked_for:
            raise UsageError(
                f"{native} has no call {printable(question.call)}", "safedlv seccomp resolve knows names and numbers"
            )
        if number is not None:
            try:
                known = knowledge(library.tokens[native], number, question.arguments)
                yield Explained(question, number, cases(found.programs, known))
            except TooManyWaysError as error:
                raise SafedlvError(f"{question.words}: {error}", "give its arguments") from error


def _number(library: Libseccomp, arch: str, call: str) -> int | None:
    if call.isdecimal():
        return int(call) if int(call) < 1 << 32 else None
    number = library.number(arch, call)
    return number if number is not None and number >= 0 else None


# ---------------------------------------------------------------- for people, and as JSON


def _lines(found: Filters, answered: tuple[Explained, ...], *, short: bool) -> Iterator[str]:
    """A line for each call; ``short``: those that are allowed together."""
    yield printable(found.origin, 400)
    needed = [one for one in answered if one.question.needed]
    yield from _rows(found, needed, short=short)
    others = [one for one in answered if not one.question.needed]
    if others:
        yield "only for a dlv that starts its target:"
        yield from _rows(found, others, short=short)
    refused = [one.question.words for one in needed if one.verdict == REFUSED]
    unclear = [one.question.words for one in needed if one.verdict == DEPENDS]
    yield f"{len(needed)} call{'s' if len(needed) != 1 else ''}: " + "; ".join(_summary(refused, unclear))


def _rows(found: Filters, rows: list[Explained], *, short: bool) -> Iterator[str]:
    together = [one for one in rows if short and one.verdict == ALLOWED and len(one.cases) == 1]
    others = [one for one in rows if one not in together]
    width = max((len(one.question.words) for one in others), default=0)
    for one in others:
        yield f"  {one.question.words:<{width}}  {_in_words(one, len(found.programs))}"
    groups: dict[str, list[str]] = {}
    for one in together:
        groups.setdefault(_in_words(one, len(found.programs)), []).append(one.question.words)
    for answer, words in groups.items():
        indent = " " * (len(answer) + 4)
        text = textwrap.fill(", ".join(words), 110, initial_indent=indent, subsequent_indent=indent)
        yield f"  {answer}  {text.lstrip()}"


def _summary(refused: list[str], unclear: list[str]) -> Iterator[str]:
    if not refused and not unclear:
        yield "all allowed"
    if refused:
        yield "not allowed: " + ", ".join(refused)
    if unclear:
        yield "depends on arguments: " + ", ".join(unclear)


def _in_words(one: Explained, programs: int) -> str:
    if len(one.cases) == 1:
        return rules_text.case_in_words(one.cases[0]) + _where(one.cases[0], programs)
    said_of = {c.argument for case in one.cases for way in case.alternatives for c in way}
    arguments = sorted(said_of - {NO_ARGUMENT})
    said = rules_text.choice_in_words(one.cases, one.question.call)
    on = "argument " + " and ".join(map(str, arguments)) if arguments else "what is computed"
    return f"depends on {on}: {said}"


def _where(case: Case, programs: int) -> str:
    """Which program said it, and at which instruction; nothing where all let it pass."""
    answer = case.answer
    if answer is None or answer.filter < 0:
        return ""
    return f"  (program {answer.filter + 1} of {programs}, instruction {answer.instruction})"


def _document(found: Filters, answered: tuple[Explained, ...]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "loaded": found.loaded,
        "origin": found.origin,
        "programs": len(found.programs),
        "calls": [_row(one) for one in answered],
    }


def _row(one: Explained) -> dict[str, Any]:
    return {
        "call": one.question.call,
        "number": one.number,
        "arguments": list(one.question.arguments),
        "needed": one.question.needed,
        "verdict": {ALLOWED: "allowed", REFUSED: "refused", DEPENDS: "depends"}[one.verdict],
        "answers": [{**rules_text.case(case), **_place(case)} for case in one.cases],
    }


def _place(case: Case) -> dict[str, int | None]:
    """The program, counted from 1, and its instruction."""
    found = case.answer is not None and case.answer.filter >= 0
    return {
        "program": case.answer.filter + 1 if case.answer is not None and found else None,
        "instruction": case.answer.instruction if case.answer is not None and found else None,
    }

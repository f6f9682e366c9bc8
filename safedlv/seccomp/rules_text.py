"""The rules that programs amount to, for people and as plain values. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from safedlv.seccomp.answers import errno_name, errno_of, in_words, outcome
from safedlv.seccomp.bpf import ArchNamer, Namer
from safedlv.seccomp.conditions import Namer as ValueNamer
from safedlv.seccomp.conditions import in_words as conditions_in_words
from safedlv.seccomp.profile import OTHER_NAMES, PTRACE_REQUESTS, TO_START
from safedlv.seccomp.rules import HIGHEST, Architecture, Case, Numbers

WIDTH: Final = 110
_UNDER: Final = 28
_X32: Final = 0x40000000
REQUESTS: Final = {number: f"PTRACE_{name}" for name, number in (PTRACE_REQUESTS | TO_START | OTHER_NAMES).items()}
VALUES: Final[Mapping[str, Mapping[int, ValueNamer]]] = {"ptrace": {0: REQUESTS}}
"""What the values of a call's arguments are called."""


def text(found: tuple[Architecture, ...], name_of: Namer, arch_name: ArchNamer) -> Iterator[str]:
    """All rules, by architecture: calls of one answer together, those with conditions one by one."""
    for architecture in found:
        audit = architecture.audit
        if audit is None:
            yield "any other architecture" if len(found) > 1 else "any architecture"
        else:
            yield arch_name(audit) or f"architecture {audit:#x}"
        yield from _of_architecture(architecture, _namer(name_of, audit))


def _namer(name_of: Namer, audit: int | None) -> Callable[[int], str | None]:
    return (lambda number: name_of(audit, number)) if audit is not None else (lambda _: None)


def _of_architecture(found: Architecture, name: Callable[[int], str | None]) -> Iterator[str]:
    rest = found.otherwise(name)
    for group in sorted(found.groups, key=lambda group: len(group.cases)):
        if group is rest:
            continue
        calls = ", ".join(_calls(group, name))
        if calls and len(group.cases) == 1:
            yield from _wrapped(case_in_words(group.cases[0]), calls)
        elif calls:
            yield from _wrapped("it depends", f"{calls}: {choice_in_words(group.cases, name(group.intervals[0][0]))}")
    yield from _wrapped(case_in_words(rest.cases[0]) if len(rest.cases) == 1 else "it depends", "everything else")


def _wrapped(answer: str, what: str) -> Iterator[str]:
    lines = textwrap.wrap(what, WIDTH - _UNDER, break_on_hyphens=False) or [""]
    yield f"  {answer:<{_UNDER - 3}} {lines[0]}"
    yield from (" " * _UNDER + line for line in lines[1:])


def _calls(group: Numbers, name: Callable[[int], str | None]) -> Iterator[str]:
    """Calls by name, numbers of no call where there are many of them, and x32's only as a number of them."""
    for low, high in group.intervals:
        if low >= _X32:
            continue
        named = [called for number in range(low, min(high, HIGHEST) + 1) if (called := name(number))]
        yield from named
        if high > HIGHEST:
            yield f"numbers from {low} on" if not named else f"numbers above {HIGHEST}"
        elif not named:
            yield f"number {low}" if low == high else f"numbers {low} to {high}"
    x32 = sum(1 for low, high in group.intervals if low >= _X32 for _ in range(low, min(high, _X32 + HIGHEST) + 1))
    if x32 and name(_X32):
        yield f"{x32} call{'s' if x32 > 1 else ''} of x32"


def case_in_words(case: Case) -> str:
    """An answer; without when it is given."""
    return "cannot be told" if case.value is None else in_words(case.value)


def choice_in_words(found: tuple[Case, ...], call: str | None) -> str:
    """Several answers, and when each is given; the last one is given otherwise."""
    names = VALUES.get(call or "", {})
    said = [f"{case_in_words(case)} if {conditions_in_words(case.alternatives, names)}" for case in found[:-1]]
    return "; ".join([*said, f"else {case_in_words(found[-1])}"])


# ---------------------------------------------------------------- plain values


def as_list(found: tuple[Architecture, ...], name_of: Namer, arch_name: ArchNamer) -> list[dict[str, Any]]:
    """The rules of each architecture, for JSON."""
    return [
        {
            "architecture": None if one.audit is None else arch_name(one.audit) or f"{one.audit:#x}",
            "rules": [_group(group, _namer(name_of, one.audit)) for group in one.groups],
        }
        for one in found
    ]


def _group(group: Numbers, name: Callable[[int], str | None]) -> dict[str, Any]:
    numbers = [number for low, high in group.intervals for number in range(low, min(high, HIGHEST) + 1)]
    names = [called for number in numbers if (called := name(number))]
    return {
        "calls": names,
        "numbers": [list(part) for part in group.intervals],
        "answers": list(map(case, group.cases)),
    }


def case(one: Case) -> dict[str, Any]:
    """An answer, and when it is given: ``when`` is null for always."""
    always = one.alternatives == ((),)
    return {**answer(one.value), "when": None if always else conditions_in_words(one.alternatives)}


def answer(value: int | None) -> dict[str, Any]:
    """An answer: its outcome in one word, the errno's name or null."""
    if value is None:
        return {"outcome": "unknown", "errno": None}
    number = errno_of(value)
    return {"outcome": outcome(value), "errno": None if number is None else errno_name(number)}

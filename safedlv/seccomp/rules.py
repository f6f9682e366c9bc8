"""The rules that programs amount to: which calls get which answer, under which conditions.

Pure. Found by following every way through the programs (:mod:`safedlv.seccomp.paths`), so the rules of several programs
are those of all of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

from safedlv.seccomp import bpf
from safedlv.seccomp.answers import profile_action
from safedlv.seccomp.bpf import Program
from safedlv.seccomp.conditions import (
    Conditions,
    Interval,
    Unclear,
    as_args,
    conditions,
    difficulty,
    has_spans,
    joined,
    spans,
    union,
)
from safedlv.seccomp.evaluate import Answer
from safedlv.seccomp.known import ANYTHING, Known
from safedlv.seccomp.paths import Knowledge, Way, knowledge, ways

HIGHEST: Final = 1023
"""No system call of any architecture that Go supports has a higher number, but for x32's."""


class Case(NamedTuple):
    """One answer to a call, and when it is given."""

    answer: Answer | None
    """None: it is computed, and cannot be told. Where two ways end with the same answer, the first of them."""
    alternatives: tuple[Conditions, ...]
    """One of them holds; ((),) is always. Where one with Unclear holds, the answer may be that of another case."""

    @property
    def value(self) -> int | None:
        return None if self.answer is None else self.answer.value


def cases(programs: Sequence[Program], known: Knowledge) -> tuple[Case, ...]:
    """The answers that a call may get, the one that is best said as "otherwise" last. Raises TooManyWaysError."""
    return _cases(ways(programs, known), known)


def _cases(found: Iterable[Way], known: Knowledge) -> tuple[Case, ...]:
    groups: dict[int | None, list[Way]] = {}
    for way in _settled(found):
        groups.setdefault(None if way.answer is None else way.answer.value, []).append(way)
    made = [_case(group, known) for group in groups.values()]
    return tuple(sorted(made, key=lambda case: difficulty(case.alternatives)))


def _case(group: list[Way], known: Knowledge) -> Case:
    return Case(group[0].answer, joined(_said(way, known) for way in group))


def _said(way: Way, known: Knowledge) -> Conditions:
    new = conditions({at: word for at, word in way.known.items() if known.get(at) != word})
    return (*new, Unclear()) if way.vague else new


def _settled(found: Iterable[Way]) -> Iterator[Way]:
    """One way for those of which cannot be told which is taken, where they all end with the same answer."""
    for since, together in groupby(found, key=lambda way: way.since):
        alike = list(together)
        if since is not None and len({None if way.answer is None else way.answer.value for way in alike}) == 1:
            yield Way(since, alike[0].answer, None)
        else:
            yield from alike


# ---------------------------------------------------------------- all calls


class Numbers(NamedTuple):
    """System calls of one architecture that get the same answers under the same conditions."""

    intervals: tuple[Interval, ...]
    cases: tuple[Case, ...]

    def has(self, number: int) -> bool:
        return any(low <= number <= high for low, high in self.intervals)


class Architecture(NamedTuple):
    """What happens to the calls of one architecture."""

    audit: int | None
    """AUDIT_ARCH_*; None: every one that has no rules of its own."""
    groups: tuple[Numbers, ...]
    """Every number is in one of them."""

    def otherwise(self, name: Callable[[int], str | None]) -> Numbers:
        """The answer to calls that the author did not think of: to most numbers without a name, up to the last rule."""
        single = [low for group in self.groups for low, high in group.intervals if low == high and low <= HIGHEST]
        top = max(single, default=HIGHEST)
        plain = [group for group in self.groups if group.cases[0].alternatives == ((),)] or list(self.groups)
        unnamed = [number for number in range(top + 1) if name(number) is None] or list(range(top + 1))
        return max(plain, key=lambda group: sum(map(group.has, unnamed)))


def rules(programs: Sequence[Program]) -> tuple[Architecture, ...]:
    """Everything that the programs say, by architecture. Raises TooManyWaysError."""
    found = list(ways(programs, {}))
    audits = dict.fromkeys(way.known.get(bpf.ARCH, ANYTHING).value for way in found)
    return tuple(Architecture(audit, _groups(_of_audit(found, audit, audits))) for audit in audits)


def _of_audit(found: list[Way], audit: int | None, audits: Collection[int | None]) -> list[Way]:
    """The ways that calls of an architecture may take; None: of those that are not among ``audits``."""
    known = [(way, way.known.get(bpf.ARCH, ANYTHING)) for way in found]
    if audit is not None:
        return [way for way, arch in known if arch.fits(audit)]
    others = [(way, arch) for way, arch in known if arch.value is None]
    alike = all(Known(excluded=arch.excluded.intersection(audits)) == arch for _, arch in others)
    return [way if alike else way._replace(since={}) for way, _ in others]


def _groups(found: list[Way]) -> tuple[Numbers, ...]:
    """Ways by the numbers that they are about, those with the same answers together."""
    borders = {0}
    parts = [(way, spans(way.known.get(bpf.NR, ANYTHING))) for way in found]
    for _, numbers in parts:
        borders |= {low for low, _ in numbers} | {high + 1 for _, high in numbers}
    of_border: dict[int, list[Way]] = {border: [] for border in borders}
    ordered = sorted(borders)
    place = {border: at for at, border in enumerate(ordered)}
    for way, numbers in parts:
        for low, high in numbers:
            for border in ordered[place[low] : place[high + 1]]:
                of_border[border].append(way)
    together: dict[tuple[Case, ...], list[Interval]] = {}
    for border, following in zip(ordered, [*ordered[1:], 0], strict=True):
        if of_border[border]:
            taken = _of_numbers(of_border[border], border, following - 1)
            together.setdefault(_without_place(_cases(taken, {})), []).append((border, following - 1))
    return tuple(Numbers(union(numbers), said) for said, numbers in together.items())


def _of_numbers(found: list[Way], first: int, last: int) -> list[Way]:
    """Those of them that calls with one of these numbers may take, without what they say of it."""
    known = [(way, way.known.get(bpf.NR, ANYTHING)) for way in found]
    if first == last:
        return [_without_number(way) for way, number in known if number.fits(first)]
    alike = all(has_spans(number) for _, number in known)
    return [_without_number(way if alike else way._replace(since={})) for way, _ in known]


def _without_number(way: Way) -> Way:
    known, since = (
        {at: word for at, word in said.items() if at not in (bpf.NR, bpf.ARCH)} for said in (way.known, way.since or {})
    )
    return Way(known, way.answer, since if way.vague else None)


def _without_place(found: tuple[Case, ...]) -> tuple[Case, ...]:
    """Without the instructions, which differ where the answers are the same."""
    return tuple(
        case._replace(answer=None if case.answer is None else case.answer._replace(filter=-1, instruction=-1))
        for case in found
    )


# ---------------------------------------------------------------- as a profile


def profile(
    programs: Sequence[Program], names: Mapping[int, Callable[[int], str | None]], architectures: list[str]
) -> dict[str, Any]:
    """An OCI profile with the same answers to the calls that have a name.

    ``names``: by AUDIT_ARCH_*, numbers to names, the machine's own first; of the others only the calls are taken that
    those before have not. ``architectures``: SCMP_ARCH_*. What runc adds by itself, ENOSYS for numbers without a name,
    is left out. Raises ValueError for conditions that a profile cannot say, naming the call; TooManyWaysError.
    """
    native, name = next(iter(names.items()))
    found = next((one for one in rules(programs) if one.audit == native), None)
    default = None if found is None else found.otherwise(name).cases[0].value
    if default is None:
        raise ValueError("it has no rules for this architecture, or its answers are computed")
    made: dict[str, dict[str, Any]] = {}
    for called, said in _named(programs, names).items():
        for rule in _profile_rules(called, said, default):
            made.setdefault(repr({**rule, "names": None}), {**rule, "names": []})["names"] += rule["names"]
    action, errno_return = profile_action(default)
    head = {"defaultAction": action, **({} if errno_return is None else {"defaultErrnoRet": errno_return})}
    # libseccomp takes some rules with conditions only after those without
    return {
        **head,
        "architectures": architectures,
        "syscalls": sorted(made.values(), key=lambda rule: len(rule["args"])),
    }


def _named(
    programs: Sequence[Program], names: Mapping[int, Callable[[int], str | None]]
) -> dict[str, tuple[Case, ...]]:
    """The answers to each call that has a name."""
    found: dict[str, tuple[Case, ...]] = {}
    for audit, name in names.items():
        for number in range(HIGHEST + 1):
            called = name(number)
            if called is not None and called not in found:
                found[called] = cases(programs, knowledge(audit, number))
    return found


def _profile_rules(name: str, found: tuple[Case, ...], default: int) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for case in found:
        if case.value is None:
            raise ValueError(f"the answer to {name} is computed")
        if case.value != default:
            action, errno_return = profile_action(case.value)
            ending = {} if errno_return is None else {"errnoRet": errno_return}
            try:
                made += [
                    {"names": [name], "action": action, "args": args, **ending} for args in as_args(case.alternatives)
                ]
            except ValueError as error:
                raise ValueError(f"a profile cannot say what it says of {name}: {error}") from error
    return made

"""What a way through a program says of the arguments of a call: as sets of 64-bit numbers where it can, in words.

Pure. A program sees an argument as two words of 32 bits; its author meant one number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple, cast

from safedlv.seccomp import bpf
from safedlv.seccomp.known import ANYTHING, Known, exactly
from safedlv.seccomp.paths import Knowledge

WORD: Final = 0xFFFFFFFF
LARGEST: Final = (1 << 64) - 1
MOST_FREE_BITS: Final = 6
NO_ARGUMENT: Final = 6
"""After all that are one."""
SMALL: Final = 16
"""An interval of at most so many values is as many rules of a profile, or names."""
Interval = tuple[int, int]
"""Both ends belong to it."""
Part = Literal["whole", "low", "high"]
PARTS: Final[tuple[Part, ...]] = ("whole", "low", "high")
Namer = Mapping[int, str]
"""What the values of an argument are called."""


class Among(NamedTuple):
    """An argument, or one half of it, is in one of these intervals, which are in order and do not touch."""

    argument: int
    intervals: tuple[Interval, ...]
    part: Part = "whole"


class Masked(NamedTuple):
    """``argument & mask`` is, or is not, the value, or with ``more`` the value or more."""

    argument: int
    mask: int
    value: int
    holds: bool
    more: bool = False


class Unclear(NamedTuple):
    """What a program computes from the call comes out so; it was not followed, so it may be that it never does."""

    argument: int = NO_ARGUMENT


Condition = Among | Masked | Unclear
Conditions = tuple[Condition, ...]
"""All of them hold; () is always. They are all that it takes: what cannot be said of an argument is Unclear."""


def conditions(known: Knowledge) -> Conditions:
    """What is known of the arguments."""
    found: list[Condition] = []
    for argument in range(6):
        offset = bpf.ARGUMENTS + 8 * argument
        low, high = (known.get(at, ANYTHING) for at in (offset, offset + 4))
        if (low, high) != (ANYTHING, ANYTHING):
            found += _of_argument(argument, low, high)
    return tuple(found)


def _of_argument(argument: int, low: Known, high: Known) -> Iterator[Condition]:
    plain = not (_bits(low) or _bits(high) or low.facts or high.facts)
    if plain and high.value is not None:
        base = high.value << 32
        yield Among(argument, tuple((base + a, base + b) for a, b in intervals(low)))
    elif plain and low == ANYTHING:
        yield Among(argument, tuple((a << 32, b << 32 | WORD) for a, b in intervals(high)))
    elif high.value is not None and high == exactly(high.value) and _only_bits(low):
        yield from _masked(argument, _bits(low), low.ones, WORD, high.value)
        yield from _facts(argument, low, 0)
    else:
        yield from _masked(argument, _bits(low), low.ones, _bits(high), high.ones)
        for part, half, shift in (("low", low, 0), ("high", high, 32)):
            if not _only_bits(half):
                yield Among(argument, tuple(intervals(half)), cast("Part", part))
            yield from _facts(argument, half, shift)


def _bits(half: Known) -> int:
    return half.ones | half.zeros


def _only_bits(half: Known) -> bool:
    return (half.low, half.high, half.excluded) == ANYTHING[:3]


def _masked(argument: int, low_mask: int, low: int, high_mask: int, high: int) -> Iterator[Condition]:
    if low_mask or high_mask:
        yield Masked(argument, high_mask << 32 | low_mask, high << 32 | low, True)


def _facts(argument: int, half: Known, shift: int) -> Iterator[Condition]:
    for mask, test, operand, holds in half.facts:
        yield Masked(argument, mask << shift, operand << shift, holds, more=test != bpf.JEQ & bpf.OPERATION)


def intervals(known: Known) -> Iterator[Interval]:
    """The words that lie between the bounds and are not excluded, whatever their bits."""
    start = known.low
    for hole in sorted(known.excluded):
        if known.low <= hole <= known.high:
            if start < hole:
                yield start, hole - 1
            start = hole + 1
    if start <= known.high:
        yield start, known.high


def spans(known: Known) -> tuple[Interval, ...]:
    """The same, and only with the bits that they must have where those are at the upper end of the word."""
    size, free = _block(known)
    if len(free) > MOST_FREE_BITS:
        return tuple(intervals(known))
    starts = (
        known.ones + sum(1 << bit for at, bit in enumerate(free) if chosen >> at & 1)
        for chosen in range(1 << len(free))
    )
    parts = [(start, start + size - 1) for start in starts]
    return union((max(a, c), min(b, d)) for a, b in parts for c, d in intervals(known) if max(a, c) <= min(b, d))


def has_spans(known: Known) -> bool:
    """Whether its spans are all that is known of it."""
    return not known.facts and len(_block(known)[1]) <= MOST_FREE_BITS


def _block(known: Known) -> tuple[int, list[int]]:
    """How many words there are that differ only below the lowest bit that is known; the free bits above that."""
    bits = _bits(known)
    size = bits & -bits or 1 << 32
    return size, [bit for bit in range(size.bit_length() - 1, 32) if not bits >> bit & 1]


# ---------------------------------------------------------------- alternatives made fewer


def joined(alternatives: Iterable[Conditions]) -> tuple[Conditions, ...]:
    """The same alternatives, those that differ in one argument's interval made one."""
    left = list(dict.fromkeys(alternatives))
    before = 0
    while before != len(left):
        before = len(left)
        for argument in range(6):
            for part in PARTS:
                left = _joined_in(left, argument, part)
    return tuple(sorted(_widened(left), key=repr))


def _joined_in(alternatives: Sequence[Conditions], argument: int, part: Part) -> list[Conditions]:
    everything = (0, LARGEST if part == "whole" else WORD)
    groups: dict[Conditions, list[Interval]] = {}
    for one in alternatives:
        own = [c for c in one if isinstance(c, Among) and (c.argument, c.part) == (argument, part)]
        rest = tuple(condition for condition in one if condition not in own)
        groups.setdefault(rest, []).extend(own[0].intervals if own else [everything])
    made: list[Conditions] = []
    for rest, parts in groups.items():
        whole = union(parts)
        own_condition = () if whole == (everything,) else (Among(argument, whole, part),)
        made.append(tuple(sorted((*rest, *own_condition), key=lambda condition: condition.argument)))
    return made


def _widened(alternatives: list[Conditions]) -> list[Conditions]:
    """Without conditions that are not needed: where one does not hold, another alternative does.

    libseccomp does not take rules of one call that exclude each other like that (EEXIST).
    """
    left = list(alternatives)
    for place, one in enumerate(left):
        others = left[:place] + left[place + 1 :]
        for condition in one:
            rest = tuple(other for other in left[place] if other != condition)
            negated = _negated(condition)
            if negated is not None and any(_within((*rest, negated), other) for other in others):
                left[place] = rest
    return _needed(left)


def _needed(alternatives: list[Conditions]) -> list[Conditions]:
    """Without those that hold only where another does; of two that hold in the same places one is left."""
    left = list(dict.fromkeys(alternatives))
    for one in tuple(left):
        if any(one != other and _within(one, other) for other in left):
            left.remove(one)
    return left


def _negated(condition: Condition) -> Condition | None:
    if isinstance(condition, Masked):
        return condition._replace(holds=not condition.holds)
    return condition._replace(intervals=_complement(condition)) if isinstance(condition, Among) else None


def _complement(condition: Among) -> tuple[Interval, ...]:
    """The numbers that are in none of its intervals."""
    largest = LARGEST if condition.part == "whole" else WORD
    ends = [-1, *(end for low, high in condition.intervals for end in (low - 1, high)), largest]
    pairs = zip(ends[::2], ends[1::2], strict=True)
    return tuple((after + 1, before) for after, before in pairs if after < before)


def _within(narrow: Conditions, wide: Conditions) -> bool:
    """Whether the second holds wherever the first does."""
    return all(any(_implies(one, other) for one in narrow) for other in wide)


def _implies(one: Condition, other: Condition) -> bool:
    if isinstance(one, Among) and isinstance(other, Among) and (one.argument, one.part) == (other.argument, other.part):
        return all(any(a <= low and high <= b for a, b in other.intervals) for low, high in one.intervals)
    return one == other


def union(parts: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same numbers in intervals that are in order and do not touch."""
    made: list[Interval] = []
    for low, high in sorted(parts):
        if made and low <= made[-1][1] + 1:
            made[-1] = (made[-1][0], max(made[-1][1], high))
        else:
            made.append((low, high))
    return tuple(made)


def difficulty(alternatives: Iterable[Conditions]) -> int:
    """How hard they are to say: the answer with the most is better said as "otherwise"."""
    return sum(1 + sum(_difficulty(condition) for condition in one) for one in alternatives)


def _difficulty(condition: Condition) -> int:
    if isinstance(condition, Among):
        return sum(min(high - low + 1, 2 * SMALL) for low, high in condition.intervals)
    return 1 if isinstance(condition, Masked) and condition.holds and not condition.more else 100


# ---------------------------------------------------------------- in words, and as an OCI profile has them


def in_words(alternatives: Sequence[Conditions], names: Mapping[int, Namer] | None = None) -> str:
    """For people; ``names``: what the values of an argument, by its place, are called."""
    return ", or ".join(
        " and ".join(_words(one, (names or {}).get(one.argument, {})) for one in all_of) for all_of in alternatives
    )


def _words(condition: Condition, names: Namer) -> str:
    if isinstance(condition, Unclear):
        return "what is computed says so"
    who = f"argument {condition.argument}"
    if isinstance(condition, Masked):
        least = f"{condition.value:#x} or more" if condition.holds else f"less than {condition.value:#x}"
        equal = f"{'' if condition.holds else 'not '}{condition.value:#x}"
        return f"{who} & {condition.mask:#x} is {least if condition.more else equal}"
    if condition.part == "whole":
        return f"{who} is {_ranges(condition.intervals, LARGEST, names)}"
    return f"the {condition.part} half of {who} is {_ranges(condition.intervals, WORD, names)}"


def _ranges(parts: tuple[Interval, ...], largest: int, names: Namer) -> str:
    holes = tuple((a[1] + 1, b[0] - 1) for a, b in pairwise(parts))
    if parts and parts[0][0] == 0 and parts[-1][1] == largest and all(low == high for low, high in holes) and holes:
        return "not " + ", ".join(_number(low, names) for low, _ in holes)
    return ", ".join(_range(low, high, largest, names) for low, high in parts)


def _range(low: int, high: int, largest: int, names: Namer) -> str:
    if low == high or (names and high - low < SMALL):
        return ", ".join(_number(value, names) for value in range(low, high + 1))
    if high == largest:
        return f"{low:#x} or more" if low else "anything"
    return f"{high:#x} or less" if low == 0 else f"{low:#x} to {high:#x}"


def _number(value: int, names: Namer) -> str:
    return names.get(value, f"{value:#x}")


def as_args(alternatives: Iterable[Conditions]) -> list[list[dict[str, Any]]]:
    """The ``args`` of the rules of a profile, one list for each rule. Raises ValueError for what a rule cannot say."""
    made: list[list[dict[str, Any]]] = []
    for all_of in alternatives:
        rules: list[list[dict[str, Any]]] = [[]]
        if len({condition.argument for condition in all_of}) < len(all_of):
            raise ValueError("two conditions on one argument")  # runtimes would take either for enough
        for condition in all_of:
            rules = [[*rule, arg] for rule in rules for arg in _args(condition)]
        made += rules
    return made


def _args(condition: Condition) -> list[dict[str, Any]]:
    """One of them has to hold."""
    if isinstance(condition, Masked) and condition.holds and not condition.more:
        return [_arg(condition.argument, "MASKED_EQ", condition.mask, condition.value)]
    if isinstance(condition, Unclear):
        raise ValueError("a condition on what is computed")
    if isinstance(condition, Masked):
        raise ValueError("a condition on some bits")
    if condition.part != "whole":
        return _half_args(condition)
    parts, argument = condition.intervals, condition.argument
    if len(parts) == 2 and parts[0][0] == 0 and parts[1][1] == LARGEST and parts[0][1] + 2 == parts[1][0]:
        return [_arg(argument, "NE", parts[0][1] + 1)]
    return [arg for low, high in parts for arg in _interval(argument, low, high)]


def _half_args(condition: Among) -> list[dict[str, Any]]:
    shift = 32 if condition.part == "high" else 0
    if any(low != high for low, high in condition.intervals):
        raise ValueError("bounds of one half of an argument")
    return [_arg(condition.argument, "MASKED_EQ", WORD << shift, low << shift) for low, _ in condition.intervals]


def _interval(argument: int, low: int, high: int) -> list[dict[str, Any]]:
    if high - low < SMALL and high != LARGEST:
        return [_arg(argument, "EQ", value) for value in range(low, high + 1)]
    if high == LARGEST:
        return [_arg(argument, "GE", low)]
    if low:
        raise ValueError("an argument between two bounds")
    return [_arg(argument, "LE", high)]


def _arg(argument: int, comparison: str, value: int, second: int = 0) -> dict[str, Any]:
    return {"index": argument, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{comparison}"}

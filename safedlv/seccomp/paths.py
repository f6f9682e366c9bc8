"""Every way through programs for calls of which not everything is known.

Pure. The interpreter of :mod:`safedlv.seccomp.evaluate` with words that stand for themselves: a test of a word that
may end in both ways is followed in both, and each way remembers what it has learned. Several programs are followed one
after the other, the one that was loaded last first, so what one has learned holds in the next. What is computed from
an unknown word, other than by masking it, is not followed: every test of it may end in both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from safedlv.seccomp import bpf
from safedlv.seccomp.answers import ALLOW, KILL_PROCESS, rank
from safedlv.seccomp.bpf import Program
from safedlv.seccomp.evaluate import TESTS, WORD, Answer, Call, arithmetic, moved
from safedlv.seccomp.known import ANYTHING, Known, exactly

STEPS: Final = 200_000
"""How many instructions are followed at most, in a second or two; all of Docker's default takes some 10,000."""
_NO_WORD: Final = -1


class TooManyWaysError(ValueError):
    """The programs branch too often to follow every way."""

    def __init__(self, most: int) -> None:
        super().__init__(f"there are too many ways through it to follow each: more than {most:,} instructions")


class Word(NamedTuple):
    """A word of the call behind a mask; offset -1: computed from something unknown."""

    offset: int
    mask: int = WORD


Value = int | Word
UNCLEAR: Final = Word(_NO_WORD)
Knowledge = Mapping[int, Known]
"""Offset in struct seccomp_data to what is known of the word there."""


class Way(NamedTuple):
    """One way through all programs."""

    known: Knowledge
    answer: Answer | None
    """None: it is computed from something unknown."""
    since: Knowledge | None
    """What was known where it first hung on something that is not followed; None: it never does.

    A call that fits this takes one of the ways that have it, but which of them cannot be told.
    """

    @property
    def vague(self) -> bool:
        """Whether it hangs on something that was not followed, so that it may not be there at all."""
        return self.since is not None


class _State(NamedTuple):
    program: int
    """By its place."""
    at: int
    a: Value
    x: Value
    memory: tuple[Value, ...]
    known: Knowledge
    answer: Answer | None
    since: Knowledge | None = None


_START: Final[tuple[int, int, int, tuple[Value, ...]]] = (0, 0, 0, (0,) * bpf.MEMORY_WORDS)


def knowledge(arch: int | None = None, nr: int | None = None, arguments: Sequence[int | None] = ()) -> Knowledge:
    """What is known of a call before it is looked at; None is unknown, and so are arguments that are not given."""
    known: dict[int, Known] = {}
    for offset, word in ((bpf.ARCH, arch), (bpf.NR, nr)):
        if word is not None:
            known[offset] = exactly(word)
    for index, argument in enumerate(arguments):
        if argument is not None:
            words = Call(0, 0, (argument,)).words()[4:6]
            known.update((bpf.ARGUMENTS + 8 * index + 4 * half, exactly(word)) for half, word in enumerate(words))
    return known


def ways(programs: Sequence[Program], known: Knowledge, most: int = STEPS) -> Iterator[Way]:
    """Each way that a call with this knowledge may take, those with the same ``since`` one after the other.

    Raises TooManyWaysError after ``most`` instructions.
    """
    last = len(programs) - 1
    waiting = [_State(last, *_START, known, Answer(ALLOW, -1, -1))]
    steps = 0
    while waiting:
        state = waiting.pop()
        while state.program >= 0:
            steps += 1
            if steps > most:
                raise TooManyWaysError(most)
            state = _step(programs[state.program], state, waiting)
        yield Way(state.known, state.answer, state.since)


def _step(program: Program, state: _State, waiting: list[_State]) -> _State:
    """The state after one instruction; another way that it opens is left waiting."""
    code, jt, jf, k = program[state.at]
    state = state._replace(at=state.at + 1)
    if code in bpf.JUMPS:
        return _jumped(state, code, state.x if code & bpf.BY_X else k, (jt, jf), waiting)
    if code in (bpf.RET, bpf.RET_A):
        return _returned(state, k if code == bpf.RET else state.a)
    if code & bpf.CLASS == bpf.ALU:
        return _computed(state, code, state.x if code & bpf.BY_X else k, waiting)
    return state._replace(at=state.at + k) if code == bpf.JA else _moved(state, code, k)


def _moved(state: _State, code: int, k: int) -> _State:
    if code == bpf.LD:
        word = state.known.get(k, ANYTHING).value
        return state._replace(a=Word(k) if word is None else word)
    if code in (bpf.ST, bpf.STX):
        value = state.a if code == bpf.ST else state.x
        return state._replace(memory=(*state.memory[:k], value, *state.memory[k + 1 :]))
    if code in (bpf.TAX, bpf.TXA):
        return state._replace(x=state.a) if code == bpf.TAX else state._replace(a=state.x)
    if code in (bpf.LD_MEM, bpf.LDX_MEM):
        return state._replace(a=state.memory[k]) if code == bpf.LD_MEM else state._replace(x=state.memory[k])
    constant = moved(code, 0, 0, k, ())[code & bpf.CLASS]
    return state._replace(x=constant) if code & bpf.CLASS else state._replace(a=constant)


def _returned(state: _State, value: Value) -> _State:
    """On to the program that was loaded before it."""
    answer = state.answer
    if isinstance(value, Word):
        settled = answer is not None and rank(answer.value) == rank(KILL_PROCESS)
        answer = answer if settled else None
    elif answer is not None and rank(value) < rank(answer.value):
        answer = Answer(value, state.program, state.at - 1)
    return _State(state.program - 1, *_START, state.known, answer, state.since)


def _computed(state: _State, code: int, operand: Value, waiting: list[_State]) -> _State:
    a = state.a
    if code == bpf.ALU | bpf.DIV | bpf.BY_X:
        if isinstance(operand, Word):
            state = _unfollowed(state)
            waiting.append(_returned(state, 0))
            return state._replace(a=UNCLEAR)
        if operand == 0:
            return _returned(state, 0)
    if code & bpf.OPERATION == bpf.ANDING and code != bpf.NEG:
        pair = (a, operand) if isinstance(a, Word) else (operand, a)
        if isinstance(pair[0], Word) and isinstance(pair[1], int):
            masked = pair[0].mask & pair[1]
            return state._replace(a=Word(pair[0].offset, masked) if masked else 0)
    if isinstance(a, Word) or (isinstance(operand, Word) and code != bpf.NEG):
        return state._replace(a=UNCLEAR)
    return state._replace(a=arithmetic(code, a, operand if isinstance(operand, int) else 0))


def _unfollowed(state: _State) -> _State:
    """The same, from here on one of several of which cannot be told which it is."""
    return state if state.since is not None else state._replace(since=state.known)


def _jumped(state: _State, code: int, operand: Value, skipped: tuple[int, int], waiting: list[_State]) -> _State:
    test, a = code & bpf.OPERATION, state.a
    taken, other = (state._replace(at=state.at + by) for by in skipped)
    if isinstance(a, int) and isinstance(operand, int):
        return taken if TESTS[test](a, operand) else other
    if skipped[0] == skipped[1]:
        return taken
    if isinstance(operand, Word) or isinstance(a, int) or a.offset == _NO_WORD:
        waiting.append(_unfollowed(other))
        return _unfollowed(taken)
    before = state.known.get(a.offset, ANYTHING)
    holds = before.decide(a.mask, test, operand)
    if holds is not None:
        return taken if holds else other
    waiting.append(other._replace(known={**state.known, a.offset: before.learn(a.mask, test, operand, False)}))
    return taken._replace(known={**state.known, a.offset: before.learn(a.mask, test, operand, True)})

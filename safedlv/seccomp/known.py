"""What is known of one 32-bit word of a call while a program is followed: bounds, single bits, values that it has not.

Pure. All of it says too little rather than too much: a word that fits has passed every test on the way.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from safedlv.seccomp import bpf
from safedlv.seccomp.evaluate import TESTS, WORD

Fact = tuple[int, int, int, bool]
"""(mask, BPF_JEQ or BPF_JGE, operand, whether it holds): a test of ``word & mask`` for which there are no bounds."""
_EQ: Final = bpf.JEQ & bpf.OPERATION
_GT: Final = bpf.JGT & bpf.OPERATION
_GE: Final = bpf.JGE & bpf.OPERATION
_SET: Final = bpf.JSET & bpf.OPERATION


class Known(NamedTuple):
    """A word between ``low`` and ``high`` and none of ``excluded``; the bits of ``ones`` are set, of ``zeros`` not."""

    low: int = 0
    high: int = WORD
    excluded: frozenset[int] = frozenset()
    ones: int = 0
    zeros: int = 0
    facts: tuple[Fact, ...] = ()

    @property
    def value(self) -> int | None:
        """The word itself, where only one is left."""
        return self.low if self.low == self.high else None

    def fits(self, word: int) -> bool:
        """Whether it may be this word."""
        return (
            self.low <= word <= self.high
            and word not in self.excluded
            and word & self.ones == self.ones
            and not word & self.zeros
            and all(TESTS[test](word & mask, operand) == holds for mask, test, operand, holds in self.facts)
        )

    def decide(self, mask: int, test: int, operand: int) -> bool | None:
        """How a test of ``word & mask`` ends; None where it may end in both ways."""
        if self.low == self.high:
            return TESTS[test](self.low & mask, operand)
        if test == _SET:
            different = self.decide(mask & operand, _EQ, 0)
            return None if different is None else not different
        if test == _GT:
            return self.decide(mask, _GE, operand + 1)
        for holds in (True, False):
            if (mask, test, operand, holds) in self.facts:
                return holds
        return self._decide_equal(mask, operand) if test == _EQ else self._decide_order(mask, test, operand)

    def _decide_equal(self, mask: int, operand: int) -> bool | None:
        if operand & ~mask or self.ones & mask & ~operand or self.zeros & operand:
            return False
        if mask == WORD:
            return None if self.fits(operand) else False
        return True if mask & ~(self.ones | self.zeros) == 0 else None

    def _decide_order(self, mask: int, test: int, operand: int) -> bool | None:
        low, high = (self.low, self.high) if mask == WORD else (self.ones & mask, mask & ~self.zeros)
        lowest, highest = TESTS[test](low, operand), TESTS[test](high, operand)
        return lowest if lowest == highest else None

    def learn(self, mask: int, test: int, operand: int, holds: bool) -> Known:
        """The same, after a test that may end so."""
        if test == _SET:
            return self.learn(mask & operand, _EQ, 0, not holds)
        if test == _GT:
            return self.learn(mask, _GE, operand + 1, holds)
        if mask == WORD:
            return self._learn_whole(test, operand, holds)
        if test == _EQ and mask & mask - 1 == 0:  # one bit, or none
            operand, holds = (operand, True) if holds else (operand ^ mask, True)
        if test == _EQ and holds:
            return self._replace(ones=self.ones | operand, zeros=self.zeros | mask & ~operand)
        return self._replace(facts=(*self.facts, (mask, test, operand, holds)))

    def _learn_whole(self, test: int, operand: int, holds: bool) -> Known:
        if test == _EQ:
            if holds:
                return Known(operand, operand)
            return self._replace(excluded=self.excluded | {operand})._tightened()
        if holds:
            return self._replace(low=max(self.low, operand))._tightened()
        return self._replace(high=min(self.high, operand - 1))._tightened()

    def _tightened(self) -> Known:
        low, high = self.low, self.high
        while low < high and low in self.excluded:
            low += 1
        while low < high and high in self.excluded:
            high -= 1
        return self._replace(low=low, high=high)


ANYTHING: Final = Known()


def exactly(word: int) -> Known:
    return Known(word, word)

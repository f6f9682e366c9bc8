"""What programs answer to a call of which everything is known: the kernel's interpreter, in Python.

Pure. Sources: net/core/filter.c (``bpf_convert_filter``: A and X begin as 0, a division by an X of 0 ends the program
with 0), kernel/bpf/core.c (a shift by X counts X modulo 32), kernel/seccomp.c (``seccomp_run_filters``: all programs
are run, the one that was loaded last first, and the lowest action counts, the first that said it).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from safedlv.seccomp import bpf
from safedlv.seccomp.answers import ALLOW, rank
from safedlv.seccomp.bpf import Program

WORD: Final = 0xFFFFFFFF

ARITHMETIC: Final[dict[int, Callable[[int, int], int]]] = {
    bpf.ADD: lambda a, by: a + by & WORD,
    bpf.SUB: lambda a, by: a - by & WORD,
    bpf.MUL: lambda a, by: a * by & WORD,
    bpf.DIV: lambda a, by: a // by,
    bpf.OR: lambda a, by: a | by,
    bpf.ANDING: lambda a, by: a & by,
    bpf.LSH: lambda a, by: a << (by & 31) & WORD,
    bpf.RSH: lambda a, by: a >> (by & 31),
    bpf.XOR: lambda a, by: a ^ by,
}
TESTS: Final[dict[int, Callable[[int, int], bool]]] = {
    bpf.JEQ & bpf.OPERATION: lambda a, by: a == by,
    bpf.JGT & bpf.OPERATION: lambda a, by: a > by,
    bpf.JGE & bpf.OPERATION: lambda a, by: a >= by,
    bpf.JSET & bpf.OPERATION: lambda a, by: bool(a & by),
}


class Call(NamedTuple):
    """struct seccomp_data."""

    arch: int
    nr: int
    arguments: tuple[int, ...] = ()
    """Up to six; those that are missing are 0. Each has 64 bits."""
    instruction_pointer: int = 0

    def words(self) -> tuple[int, ...]:
        """Its 16 words, as programs read them."""
        six = [*self.arguments, *[0] * (6 - len(self.arguments))]
        masked = (argument & (1 << 64) - 1 for argument in six)
        return struct.unpack("=16I", struct.pack("=IIQ6Q", self.nr, self.arch, self.instruction_pointer, *masked))


class Answer(NamedTuple):
    """What came of it, and where."""

    value: int
    filter: int
    """Which of the programs, by its place; -1: none had anything against it."""
    instruction: int


def answer(programs: Sequence[Program], call: Call) -> Answer:
    """What the kernel does with a call under these programs, in the order of their loading."""
    data = call.words()
    found = Answer(ALLOW, -1, -1)
    for index in range(len(programs) - 1, -1, -1):
        value, at = run(programs[index], data)
        if rank(value) < rank(found.value):
            found = Answer(value, index, at)
    return found


def run(program: Program, data: tuple[int, ...]) -> tuple[int, int]:
    """What one program, which was checked, returns for the words of a call, and the instruction that returned."""
    a = x = at = 0
    memory = [0] * bpf.MEMORY_WORDS
    equal = bpf.JEQ  # most of all that is ever run are these, hundreds in a row
    while True:
        code, jt, jf, k = program[at]
        at += 1
        if code == equal:
            at += jt if a == k else jf
        elif code == bpf.LD:
            a = data[k >> 2]
        elif code == bpf.RET:
            return k, at - 1
        elif code in bpf.JUMPS:
            at += jt if TESTS[code & bpf.OPERATION](a, x if code & bpf.BY_X else k) else jf
        elif code == bpf.JA:
            at += k
        elif code == bpf.RET_A:
            return a, at - 1
        elif code & bpf.CLASS == bpf.ALU:
            if code == bpf.ALU | bpf.DIV | bpf.BY_X and x == 0:
                return 0, at - 1
            a = arithmetic(code, a, x if code & bpf.BY_X else k)
        elif code in (bpf.ST, bpf.STX):
            memory[k] = a if code == bpf.ST else x
        else:
            a, x = moved(code, a, x, k, memory)


def arithmetic(code: int, a: int, operand: int) -> int:
    """A after an ALU instruction."""
    return -a & WORD if code == bpf.NEG else ARITHMETIC[code & bpf.OPERATION](a, operand)


def moved(code: int, a: int, x: int, k: int, memory: Sequence[int]) -> tuple[int, int]:
    """A and X after an instruction that moves a value."""
    if code in (bpf.TAX, bpf.TXA):
        return (a, a) if code == bpf.TAX else (x, x)
    constant = bpf.DATA_SIZE if code in (bpf.LD_LEN, bpf.LDX_LEN) else k
    value = memory[k] if code in (bpf.LD_MEM, bpf.LDX_MEM) else constant
    return (value, x) if code in (bpf.LD_IMM, bpf.LD_LEN, bpf.LD_MEM) else (a, value)

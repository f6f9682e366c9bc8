"""Random seccomp programs that the kernel takes, and random calls for them."""

from __future__ import annotations

import os
import random
from typing import Final

from hypothesis import strategies as st

from safedlv.seccomp import answers, bpf
from safedlv.seccomp.bpf import Instruction, Program
from safedlv.seccomp.program import AUDIT_ARCH

ARCH: Final = AUDIT_ARCH[os.uname().machine]
WORD: Final = 0xFFFFFFFF
MEMORY: Final = 3
"""Words of memory that a program writes before all else."""
READ: Final = (bpf.NR, bpf.ARCH, *range(bpf.ARGUMENTS, bpf.DATA_SIZE, 4))
"""All but the instruction pointer, which a test cannot know."""
CONSTANTS: Final = (0, 1, 2, 16, 31, 32, 1000, 1001, 0x4200, 0x7FFFFFFF, 0x80000000, WORD, ARCH)
RETURNS: Final = (
    *(answers.ALLOW, answers.LOG, answers.TRAP, answers.TRACE | 7, answers.USER_NOTIF),
    *(answers.ERRNO, answers.ERRNO | 1, answers.ERRNO | 38, answers.ERRNO | 4095, answers.ERRNO | 5000),
)
DEADLY: Final = (answers.KILL_THREAD, answers.KILL_PROCESS, 0x12340000)
_TESTS: Final = (bpf.JEQ, bpf.JGT, bpf.JGE, bpf.JSET)
_BY_K: Final = tuple(bpf.ALU | operation for operation in bpf.ARITHMETIC)
_SHIFTS: Final = (bpf.ALU | bpf.LSH, bpf.ALU | bpf.RSH)
_PLAIN: Final = (
    *(Instruction(code, 0, 0, 0) for code in (bpf.TAX, bpf.TXA, bpf.NEG, bpf.LD_LEN, bpf.LDX_LEN)),
    *(Instruction(code, 0, 0, k) for code in (bpf.ST, bpf.STX, bpf.LD_MEM, bpf.LDX_MEM) for k in range(MEMORY)),
)
_KINDS: Final = (
    *("load",) * 5,
    *("jump",) * 8,
    *("mask", "computed", "by x") * 2,
    *("plain", "immediate", "return", "away"),
)


def programs(most: int = 24) -> st.SearchStrategy[Program]:
    """Programs that bpf.check takes. Hypothesis draws the seed: drawing each instruction takes it too long."""
    return st.integers(0, 1 << 48).map(lambda seed: random_program(random.Random(seed), most))


def random_program(chosen: random.Random, most: int) -> Program:
    """Memory written first, jumps forward and not beyond the end, a return at the end."""
    made = [Instruction(bpf.LDX_IMM, 0, 0, _constant(chosen)), _load(chosen)]
    made += [Instruction(bpf.STX if word == 0 else bpf.ST, 0, 0, word) for word in range(MEMORY)]
    size = chosen.randint(1, most)
    made += [_instruction(chosen, size - place) for place in range(size)]
    end = _return(chosen) if chosen.random() < 0.8 else Instruction(bpf.RET_A, 0, 0, 0)
    return (*made, end)


def _instruction(chosen: random.Random, after: int) -> Instruction:
    """One that ``after`` others follow: mostly looking at something and jumping."""
    kind, k = chosen.choice(_KINDS), _constant(chosen)
    jt, jf = (chosen.randint(0, min(after - 1, chosen.choice((4, 255)))) for _ in range(2))
    computing = chosen.choice(_BY_K)
    by_x = chosen.random() < 0.2
    made = {
        "jump": Instruction(chosen.choice(_TESTS) | (bpf.BY_X if by_x else 0), jt, jf, 0 if by_x else k),
        "away": Instruction(bpf.JA, 0, 0, jt),
        "mask": Instruction(bpf.AND, 0, 0, k),
        "computed": Instruction(computing, 0, 0, k % 32 if computing in _SHIFTS else k or 1),
        "by x": Instruction(computing | bpf.BY_X, 0, 0, 0),
        "plain": chosen.choice(_PLAIN),
        "immediate": Instruction(chosen.choice((bpf.LD_IMM, bpf.LDX_IMM)), 0, 0, k),
    }
    return _load(chosen) if kind == "load" else _return(chosen) if kind == "return" else made[kind]


def _constant(chosen: random.Random) -> int:
    return chosen.choice(CONSTANTS) if chosen.random() < 0.8 else chosen.getrandbits(32)


def _load(chosen: random.Random) -> Instruction:
    return Instruction(bpf.LD, 0, 0, chosen.choice(READ))


def _return(chosen: random.Random) -> Instruction:
    return Instruction(bpf.RET, 0, 0, chosen.choice(DEADLY if chosen.random() < 0.05 else RETURNS))


def random_word(chosen: random.Random, program: Program) -> int:
    """A word that the program is likely to tell from others."""
    known = [instruction.k for instruction in program if instruction.code in _TESTS]
    kind = chosen.randrange(10)
    if kind < 5 and known:
        return (chosen.choice(known) + chosen.choice((-1, 0, 0, 0, 1))) & WORD
    return chosen.choice(CONSTANTS) if kind < 8 else chosen.getrandbits(32) if kind == 8 else 0


def random_arguments(chosen: random.Random, program: Program) -> tuple[int, ...]:
    return tuple(random_word(chosen, program) | random_word(chosen, program) << 32 for _ in range(6))

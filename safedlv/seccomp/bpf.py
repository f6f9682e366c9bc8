"""Classic BPF programs as seccomp takes them: read from bytes, checked as the kernel checks them, listed for people.

Pure. Sources: include/uapi/linux/filter.h and bpf_common.h (``struct sock_filter``), kernel/seccomp.c
(``seccomp_check_filter``), net/core/filter.c (``bpf_check_classic``, ``check_load_and_stores``). The listing is in the
words of the kernel's own assembler (tools/bpf/bpf_asm.c), a label before each instruction and a remark behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from safedlv.seccomp.answers import answer_word

MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS
DATA_SIZE: Final = 64  # sizeof(struct seccomp_data)
MEMORY_WORDS: Final = 16  # BPF_MEMWORDS
NR: Final = 0
ARCH: Final = 4
INSTRUCTION_POINTER: Final = 8
ARGUMENTS: Final = 16
"""Offsets in struct seccomp_data."""

# BPF_CLASS of a code, and its operand: X where the bit is set, else k.
ALU: Final = 0x04
JMP: Final = 0x05
CLASS: Final = 0x07
OPERATION: Final = 0xF0
BY_X: Final = 0x08

LD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
LD_LEN: Final = 0x80
LDX_LEN: Final = 0x81
LD_IMM: Final = 0x00
LDX_IMM: Final = 0x01
LD_MEM: Final = 0x60
LDX_MEM: Final = 0x61
ST: Final = 0x02
STX: Final = 0x03
JA: Final = 0x05
JEQ: Final = 0x15
JGT: Final = 0x25
JGE: Final = 0x35
JSET: Final = 0x45
AND: Final = 0x54
NEG: Final = 0x84
RET: Final = 0x06
RET_A: Final = 0x16
TAX: Final = 0x07
TXA: Final = 0x87
JUMPS: Final = frozenset(code | by for code in (JEQ, JGT, JGE, JSET) for by in (0, BY_X))

ADD, SUB, MUL, DIV, OR, ANDING, LSH, RSH, XOR = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xA0
ARITHMETIC: Final = {
    ADD: "add",
    SUB: "sub",
    MUL: "mul",
    DIV: "div",
    OR: "or",
    ANDING: "and",
    LSH: "lsh",
    RSH: "rsh",
    XOR: "xor",
}
"""BPF_OP of the ALU codes that seccomp takes, and what the assembler calls them. BPF_MOD is not among them."""

_WORDS: Final = {
    LD: "ld [{k}]",
    LD_LEN: "ld #len",
    LDX_LEN: "ldx #len",
    LD_IMM: "ld #{k:#x}",
    LDX_IMM: "ldx #{k:#x}",
    LD_MEM: "ld M[{k}]",
    LDX_MEM: "ldx M[{k}]",
    ST: "st M[{k}]",
    STX: "stx M[{k}]",
    TAX: "tax",
    TXA: "txa",
    NEG: "neg",
    RET: "ret #{k:#x}",
    RET_A: "ret a",
    JA: "ja l{go}",
    **{ALU | operation: f"{word} #{{k:#x}}" for operation, word in ARITHMETIC.items()},
    **{ALU | operation | BY_X: f"{word} x" for operation, word in ARITHMETIC.items()},
    **{
        code | by: f"{word} {operand}, l{{true}}, l{{false}}"
        for code, word in ((JEQ, "jeq"), (JGT, "jgt"), (JGE, "jge"), (JSET, "jset"))
        for by, operand in ((0, "#{k:#x}"), (BY_X, "x"))
    },
}
"""All codes that seccomp takes."""

Namer = Callable[[int, int], str | None]
"""(audit architecture, number) to the name of a system call, None where none is known."""
ArchNamer = Callable[[int], str | None]


class BadProgramError(ValueError):
    """The kernel would not take it: which instruction, and why."""


class Instruction(NamedTuple):
    """One ``struct sock_filter``."""

    code: int
    jt: int
    jf: int
    k: int


Program = tuple[Instruction, ...]


def load(program: bytes) -> Program:
    """The instructions of a program as the kernel would take them. Raises BadProgramError."""
    if len(program) % 8:
        raise BadProgramError(f"it is torn: {len(program)} bytes are no whole number of instructions of 8 bytes")
    instructions = tuple(Instruction(*fields) for fields in struct.iter_unpack("=HBBI", program))
    check(instructions)
    return instructions


def dump(program: Program) -> bytes:
    """The bytes of a program, an array of ``struct sock_filter`` in this machine's byte order."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


# ---------------------------------------------------------------- what the kernel takes


def check(program: Program) -> None:
    """Raise BadProgramError for what the kernel refuses with EINVAL."""
    if not program:
        raise BadProgramError("it is empty")
    if len(program) > MAX_INSTRUCTIONS:
        raise BadProgramError(f"it has {len(program)} instructions; the kernel takes {MAX_INSTRUCTIONS}")
    for at, instruction in enumerate(program):
        wrong = _wrong(instruction, len(program) - at - 1)
        if wrong:
            raise BadProgramError(f"instruction {at}: {wrong}")
    if program[-1].code not in (RET, RET_A):
        raise BadProgramError("it does not end with a return")
    _check_memory(program)


def _wrong(instruction: Instruction, after: int) -> str:
    """What is wrong with one instruction that ``after`` others follow; empty when nothing is."""
    code, jt, jf, k = instruction
    if code not in _WORDS:
        return f"code {code:#x} is none that seccomp takes"
    if (code == JA and k >= after) or (code in JUMPS and max(jt, jf) >= after):
        return "it jumps beyond the end"
    if code == LD and (k >= DATA_SIZE or k % 4):
        return f"it reads at {k}, which is no word of the {DATA_SIZE} bytes of a call"
    if code in (LD_MEM, LDX_MEM, ST, STX) and k >= MEMORY_WORDS:
        return f"there are {MEMORY_WORDS} words of memory, not {k + 1}"
    if (code == ALU | DIV and k == 0) or (code in (ALU | LSH, ALU | RSH) and k >= 32):
        return "it divides by zero" if k == 0 else f"it shifts by {k} bits"
    return ""


def _check_memory(program: Program) -> None:
    """A word of memory is read only where every way has written it (check_load_and_stores)."""
    everything = (1 << MEMORY_WORDS) - 1
    at_target = [everything] * len(program)
    written = 0
    for at, (code, jt, jf, k) in enumerate(program):
        written &= at_target[at]
        if code in (ST, STX):
            written |= 1 << k
        elif code in (LD_MEM, LDX_MEM) and not written & 1 << k:
            raise BadProgramError(f"instruction {at}: it reads word {k} of the memory, not written on every way")
        elif code == JA or code in JUMPS:
            for skipped in (k,) if code == JA else (jt, jf):
                at_target[at + 1 + skipped] &= written
            written = everything


# ---------------------------------------------------------------- for people


def listing(program: Program, name_of: Namer, arch_name: ArchNamer) -> Iterator[str]:
    """One line for each instruction, as the kernel's assembler reads it."""
    width = len(str(len(program) - 1)) + 1
    loaded = _loaded(program)
    for at, instruction in enumerate(program):
        code, jt, jf, k = instruction
        words = _WORDS[code].format(k=k, go=at + 1 + k, true=at + 1 + jt, false=at + 1 + jf)
        remark = _remark(instruction, *loaded[at], name_of, arch_name)
        line = f"{'l' + str(at):>{width}}: {words}"
        yield f"{line:<44}; {remark}" if remark else line


def _loaded(program: Program) -> list[tuple[int | None, int | None]]:
    """For each instruction what A holds (the offset it was loaded from) and the architecture, where all ways agree.

    All jumps are forward, so one pass sees every way to an instruction before the instruction.
    """
    ways: list[set[tuple[int | None, int | None]]] = [set() for _ in program]
    ways[0].add((None, None))
    result: list[tuple[int | None, int | None]] = []
    for at, (code, jt, jf, k) in enumerate(program):
        sources, arches = {way[0] for way in ways[at]}, {way[1] for way in ways[at]}
        source = sources.pop() if len(sources) == 1 else None
        arch = arches.pop() if len(arches) == 1 else None
        result.append((source, arch))
        if code in (RET, RET_A):
            continue
        if code == JA:
            ways[at + 1 + k].add((source, arch))
        elif code in JUMPS:
            ways[at + 1 + jt].add((source, k if (code, source) == (JEQ, ARCH) else arch))
            ways[at + 1 + jf].add((source, arch))
        else:
            changed = code & CLASS == ALU or code in (LD_LEN, LD_IMM, LD_MEM, TXA)
            ways[at + 1].add((k if code == LD else None if changed else source, arch))
    return result


def _remark(
    instruction: Instruction, source: int | None, arch: int | None, name_of: Namer, arch_name: ArchNamer
) -> str:
    code, _, _, k = instruction
    if code == LD:
        return field(k)
    if code == RET:
        return answer_word(k)
    if code not in (JEQ, JGE, JGT):
        return ""
    if source == ARCH:
        return arch_name(k) or ""
    return (name_of(arch, k) or "") if source == NR and arch is not None else ""


def field(offset: int) -> str:
    """What stands at an offset of struct seccomp_data, little-endian."""
    if offset < ARGUMENTS:
        return {NR: "nr", ARCH: "arch"}.get(offset, f"instruction pointer, {_half(offset)} half")
    return f"argument {(offset - ARGUMENTS) // 8}, {_half(offset)} half"


def _half(offset: int) -> str:
    return "high" if offset % 8 else "low"

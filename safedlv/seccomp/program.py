"""Classic BPF seccomp programs made from a list of refusals; everything else is allowed.

Pure: takes values, returns bytes (an array of ``struct sock_filter``, little-endian as on both architectures). Meant to
recreate a denial, not to be a security boundary: the x32 system calls of x86_64 are not covered. Sources: seccomp(2),
include/uapi/linux/seccomp.h, include/uapi/linux/filter.h, include/uapi/linux/audit.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, Literal

from attrs import field, frozen

Action = Literal["errno", "kill_process", "kill_thread", "trap", "log"]

# SECCOMP_RET_*; the low 16 bits carry the errno.
_RETURNS: Final[dict[str, int]] = {
    "kill_process": 0x80000000,
    "kill_thread": 0x00000000,
    "trap": 0x00030000,
    "errno": 0x00050000,
    "log": 0x7FFC0000,
}
_RET_ALLOW: Final = 0x7FFF0000

# AUDIT_ARCH_*: what the kernel puts into seccomp_data.arch.
AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

SYSCALLS: Final = {
    "x86_64": {
        "ptrace": 101,
        "tgkill": 234,
        "kill": 62,
        "wait4": 61,
        "openat": 257,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
    },
    "aarch64": {
        "ptrace": 117,
        "tgkill": 131,
        "kill": 129,
        "wait4": 260,
        "openat": 56,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
    },
}

# Offsets in struct seccomp_data.
_NR: Final = 0
_ARCH: Final = 4
_ARGS: Final = 16

_LD_W_ABS: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JMP_JEQ_K: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RET_K: Final = 0x06  # BPF_RET | BPF_K
_BPF_MAXINSNS: Final = 4096
_MAX_ERRNO: Final = 4095

_Instruction = tuple[int, int, int, int]
"""code, jt, jf, k of a struct sock_filter."""


@frozen
class Refuse:
    """One rule: refuse a system call, always or where one argument has one value (all 64 bits are compared)."""

    syscall: str | int
    """A name of SYSCALLS, or a number of the architecture that the program is assembled for."""
    errno: int = field(default=1, kw_only=True)
    """What the caller gets with the action ``errno``; 1 is EPERM."""
    arg: tuple[int, int] | None = field(default=None, kw_only=True)
    """(index 0 to 5, value), for example (0, 16) for PTRACE_ATTACH."""
    action: Action = field(default="errno", kw_only=True)

    def describe(self) -> str:
        """The rule in a few words, for example ``ptrace with argument 0 = 0x10: errno 1``."""
        where = "" if self.arg is None else f" with argument {self.arg[0]} = {self.arg[1]:#x}"
        answer = f"errno {self.errno}" if self.action == "errno" else self.action
        return f"{self.syscall}{where}: {answer}"


def assemble(rules: Sequence[Refuse], arch: str) -> bytes:
    """The program for one architecture, ``x86_64`` or ``aarch64``: the first rule that matches answers, else allow.

    A call through another architecture's entry kills the process, as seccomp(2) advises: its numbers mean other calls.
    Raises ValueError for an unknown architecture, name, argument index or errno, and for a program that is too long.
    """
    if arch not in AUDIT_ARCH:
        raise ValueError(f"no such architecture: {arch}; known are {', '.join(AUDIT_ARCH)}")
    program: list[_Instruction] = [
        (_LD_W_ABS, 0, 0, _ARCH),
        (_JMP_JEQ_K, 1, 0, AUDIT_ARCH[arch]),
        (_RET_K, 0, 0, _RETURNS["kill_process"]),
    ]
    for rule in rules:
        program += _rule(rule, arch)
    program.append((_RET_K, 0, 0, _RET_ALLOW))
    if len(program) > _BPF_MAXINSNS:
        raise ValueError(f"{len(program)} instructions; the kernel takes {_BPF_MAXINSNS}")
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _rule(rule: Refuse, arch: str) -> list[_Instruction]:
    words = [(_NR, _number(rule.syscall, arch)), *_argument_words(rule.arg)]
    block: list[_Instruction] = []
    for position, (offset, value) in enumerate(words):
        # A word that differs leaves the rule: over the remaining load and compare pairs, and over the return.
        leave = 2 * (len(words) - 1 - position) + 1
        block += [(_LD_W_ABS, 0, 0, offset), (_JMP_JEQ_K, 0, leave, value)]
    return [*block, (_RET_K, 0, 0, _answer(rule))]


def _argument_words(arg: tuple[int, int] | None) -> list[tuple[int, int]]:
    """BPF loads 32 bits at a time, so an argument is two words: the low one first (little-endian)."""
    if arg is None:
        return []
    index, value = arg
    if not 0 <= index <= 5:
        raise ValueError(f"a system call has the arguments 0 to 5, not {index}")
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"an argument has 64 bits, and {value:#x} has more")
    offset = _ARGS + 8 * index
    return [(offset, value & 0xFFFFFFFF), (offset + 4, value >> 32 & 0xFFFFFFFF)]


def _number(syscall: str | int, arch: str) -> int:
    if isinstance(syscall, int):
        return syscall
    if syscall not in SYSCALLS[arch]:
        raise ValueError(f"no number is known for {syscall}; give the number, or one of {', '.join(SYSCALLS[arch])}")
    return SYSCALLS[arch][syscall]


def _answer(rule: Refuse) -> int:
    if rule.action != "errno":
        return _RETURNS[rule.action]
    if not 0 <= rule.errno <= _MAX_ERRNO:
        raise ValueError(f"an errno is 0 to {_MAX_ERRNO}, not {rule.errno}")
    return _RETURNS["errno"] | rule.errno

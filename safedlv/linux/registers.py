"""The registers of a stopped tracee, by what a debugger needs them for, on the architectures that Delve attaches on.

Sources: struct user_regs_struct (arch/x86/include/asm/user_64.h), struct user_pt_regs
(arch/arm64/include/uapi/asm/ptrace.h), and the frames that a signal's handler is entered with
(arch/x86/kernel/signal_64.c: x64_setup_rt_frame; arch/arm64/kernel/signal.c: setup_return).
"""

from __future__ import annotations

import ctypes
import os

from safedlv.linux.tracing import NT_PRSTATUS, PTRACE_GETREGSET, PTRACE_POKEUSER, PTRACE_SETREGSET, Iovec, ptrace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_DEBUG_CONTROL: Final = 848 + 7 * 8
"""offsetof(struct user, u_debugreg[7]) on x86_64: which hardware watchpoints are on."""


class Machine:
    """Where an architecture has what. Registers are numbered as the words of NT_PRSTATUS, offsets are in bytes."""

    def __init__(
        self,
        instruction: bytes,
        behind: int,
        *,
        pc: int,
        sp: int,
        signal: int,
        context: int,
        context_at: int,
        saved_pc_at: int,
        back: int | None,
    ) -> None:
        self.breakpoint = instruction
        """What Delve writes over an instruction (pkg/proc/amd64_arch.go, arm64_arch.go: breakInstr)."""
        self.behind = behind
        """How far the program counter stands behind a breakpoint that was hit."""
        self.pc, self.sp = pc, sp
        self.signal, self.context = signal, context
        """The first and the third argument of a signal's handler: the signal, and a ucontext_t."""
        self.context_at = context_at
        """Where on the stack the ucontext_t is, at the handler's first instruction."""
        self.saved_pc_at = saved_pc_at
        """Where in the ucontext_t the interrupted program counter is."""
        self.back = back
        """The register with the address to which the handler returns; None: it is the top word of the stack."""


MACHINES: Final = {
    "x86_64": Machine(
        b"\xcc", 1, pc=16, sp=19, signal=14, context=12, context_at=8, saved_pc_at=168, back=None
    ),
    "aarch64": Machine(
        b"\x00\x00\x20\xd4", 0, pc=32, sp=31, signal=0, context=2, context_at=128, saved_pc_at=440, back=30
    ),
}  # fmt: skip
MACHINE: Final = MACHINES.get(os.uname().machine)
"""This one's; None where it is not known."""

_buffer = (ctypes.c_ulong * 64)()
_iovec = Iovec(ctypes.addressof(_buffer), ctypes.sizeof(_buffer))


def read_registers(tid: int) -> list[int]:
    """The general registers of a stopped tracee (PTRACE_GETREGSET). Raises OSError."""
    _iovec.len = ctypes.sizeof(_buffer)
    ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, ctypes.addressof(_iovec))
    return list(_buffer[: _iovec.len // ctypes.sizeof(ctypes.c_ulong)])


def write_registers(tid: int, words: list[int]) -> None:
    """Set them, all that were read (PTRACE_SETREGSET). Raises OSError."""
    for index, word in enumerate(words):
        _buffer[index] = word
    _iovec.len = len(words) * ctypes.sizeof(ctypes.c_ulong)
    ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, ctypes.addressof(_iovec))


def clear_watchpoints(tid: int) -> None:
    """Turn off the hardware watchpoints of a stopped tracee: they stay when their tracer dies. Raises OSError.

    On x86_64 only: Delve sets them nowhere else (pkg/proc/native/threads_linux_amd64.go: withDebugRegisters).
    """
    if MACHINE is MACHINES["x86_64"]:
        ptrace(PTRACE_POKEUSER, tid, _DEBUG_CONTROL, 0)

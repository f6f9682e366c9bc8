"""A process in the target's place: of the same program, with the same credentials, and it never runs a line of it.

A child takes on the target's context and executes the target's own file under our hands. It is stopped at its first
instruction, before the program (or its dynamic linker) has done anything; a few bytes there are written over with a
loop of pause(2), in memory that is its own. So the kernel has given it all that an execve(2) gives, a debugger finds
the program and its debug information, and nothing of what the program would do happens. dlv knows a Go program in this
state: `dlv exec` begins there.

What execve(2) changes is put right by calls that the stopped process is made to do: its capabilities, whether it is
dumpable, and that it dies when we do. Left out: the target's seccomp filters and no_new_privs, which no rule of
ptrace(2) asks for in the one who is traced. Not copied: threads, memory, limits, a Landlock domain, and what the target
is in the middle of (a freeze, another tracer).
"""

from __future__ import annotations

import os
import signal
import struct
import time
from contextlib import suppress
from typing import Final

from attrs import evolve, frozen

from safedlv.capabilities import capability_names
from safedlv.errors import SafedlvError
from safedlv.facts.process import read_process
from safedlv.facts.security_modules import yama_scope
from safedlv.linux.registers import read_registers, write_registers
from safedlv.linux.tracing import (
    PTRACE_DETACH,
    PTRACE_INTERRUPT,
    PTRACE_SEIZE,
    WALL,
    ptrace,
    signal_info,
)
from safedlv.model import NOBODY_MAY, CapabilitySets, ProcessFacts, Unknown
from safedlv.observing.following import (
    PTRACE_EVENT_EXEC,
    PTRACE_O_EXITKILL,
    PTRACE_O_TRACEEXEC,
    PTRACE_O_TRACESYSGOOD,
    PTRACE_SYSCALL,
)
from safedlv.observing.standing import Program, Standing, executing
from safedlv.probe.context import Context
from safedlv.probe.sources import read_context
from safedlv.target import Found
from safedlv.values import Value

NAME: Final = "safedlv-stand-in"
WITHIN: Final = 10.0
"""Seconds for the kernel to execute the target's file."""
FROM_OUTSIDE: Final = "safedlv itself may not trace here: as root, or from outside: safedlv observe docker:NAME"
NOBODY: Final = "kernel.yama.ptrace_scope is 3: nobody may trace here until the next boot"
HINT: Final = "--real observes dlv on the process itself"
_NOT_ASKED_OF_A_TARGET: Final = ("landlock:", "proc:", "yama:")
_PTRACE_SINGLESTEP: Final = 9
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_BELOW: Final = 4096  # bytes below the stack pointer, within what execve(2) gave it


@frozen(eq=False, repr=False)
class Code(Value):
    """How an architecture makes a system call, and pauses for ever; registers as linux/registers.py numbers them."""

    call: bytes
    forever: bytes
    pc: int
    sp: int
    number: int
    words: tuple[int, ...]
    original: int | None
    """The register that makes the kernel think of a call to be made again."""
    prctl: int
    capset: int


CODES: Final = {
    "x86_64": Code(  # syscall; mov eax, 34; syscall; jmp back
        b"\x0f\x05", b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7", 16, 19, 10, (14, 13, 12, 7, 8), 15, 157, 126
    ),
    # svc 0; mov w8, 73 (ppoll); mov x0-x4, 0; svc 0; b back: aarch64 has no pause(2)
    "aarch64": Code(
        struct.pack("<I", 0xD4000001),
        struct.pack("<8I", 0x52800928, *(0xD2800000 | at for at in range(5)), 0xD4000001, 0x17FFFFF9),
        32, 31, 8, (0, 1, 2, 3, 4), None, 167, 91,
    ),
}  # fmt: skip


class StandIn:
    """The process, paused. Make it with :func:`make`."""

    def __init__(self, pid: int, lacks: tuple[str, ...]) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.lacks = lacks
        """In what it is not as the target, a sentence each."""

    def close(self) -> None:
        """End it."""
        with suppress(ProcessLookupError, ChildProcessError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)


def make(found: Found) -> StandIn:
    """A process in the place of the target. Raises SafedlvError where none would be honest."""
    code = CODES.get(os.uname().machine)
    if code is None:
        raise SafedlvError(f"stand-ins are not made for {os.uname().machine}", HINT, code=3)
    try:
        exe = os.open("exe", os.O_PATH | os.O_CLOEXEC, dir_fd=found.procdir)
        context = read_context(found.pid, with_filters=False)
    except OSError as error:
        raise SafedlvError(
            f"no stand-in can be made for process {found.pid}: {error.strerror}", f"as root, or {HINT}", code=3
        ) from error
    try:
        with context:
            return _make(found, _for_execve(context), context.capabilities, exe, code)
    finally:
        os.close(exe)


def _for_execve(context: Context) -> Context:
    """The context that becomes the target's, or one with more capabilities, by execve(2) (capabilities(7))."""
    sets = context.capabilities
    carried = 0 if context.uid.effective == 0 or context.uid.real == 0 else sets.permitted
    before = CapabilitySets(
        inheritable=sets.inheritable | carried,
        permitted=sets.permitted | sets.inheritable,
        effective=sets.effective,
        bounding=sets.bounding,
        ambient=sets.ambient | carried,
    )
    return evolve(context.without_filters().with_no_new_privs(False), capabilities=before)


def _make(found: Found, context: Context, sets: CapabilitySets, exe: int, code: Code) -> StandIn:
    facts = read_process(found.pid)
    standing = Standing(context, lambda: _quiet(exe), (exe,))
    standing.until_ready()
    try:
        ptrace(PTRACE_SEIZE, standing.pid, 0, PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)
        stopped = _Stopped(standing.pid)
        stopped.through_execve(standing)
        stopped.pause_for_ever(code, sets, facts.dumpable)
        ptrace(PTRACE_DETACH, standing.pid, 0, signal.SIGSTOP if found.before.stopped else 0)
    except (OSError, TimeoutError) as error:
        _end(standing.pid)
        why = error.strerror or str(error)
        hint = _way_out() if isinstance(error, PermissionError) else HINT
        raise SafedlvError(f"no stand-in can be made for process {found.pid}: {why}", hint, code=3) from error
    lacks = [line for line in standing.lacks() if not line.startswith(_NOT_ASKED_OF_A_TARGET)]
    return StandIn(standing.pid, (*lacks, *differences(facts, read_process(standing.pid))))


def _way_out() -> str:
    """What there is to do where the kernel does not let safedlv itself trace."""
    return NOBODY if yama_scope(()) == NOBODY_MAY else FROM_OUTSIDE


def _end(pid: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, WALL)


def _quiet(exe: int) -> Program:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    return executing(exe, [NAME], {})


def differences(real: ProcessFacts, made: ProcessFacts) -> tuple[str, ...]:
    """In what two processes differ that a rule of ptrace(2) asks for, a sentence each."""
    found = []
    for name in ("uid", "gid"):
        ours, theirs = getattr(made.status, name), getattr(real.status, name)
        if ours != theirs:
            found.append(f"{name}: the stand-in has {ours}, the target {theirs}")
    ours, theirs = made.status.capabilities, real.status.capabilities
    if isinstance(ours, CapabilitySets) and isinstance(theirs, CapabilitySets) and ours.permitted != theirs.permitted:
        names = capability_names(ours.permitted ^ theirs.permitted)
        found.append(f"capabilities: the stand-in and the target differ in {', '.join(names)}")
    if made.dumpable != real.dumpable and not isinstance(real.dumpable, Unknown):
        found.append(f"dumpable: the target is {'' if real.dumpable else 'not '}dumpable, the stand-in is otherwise")
    if real.modules.yama_scope == 1:
        found.append("yama: whom the target has named as its tracer cannot be read, and the stand-in has named nobody")
    if real.cgroup.frozen is True:
        found.append("freeze: the target is frozen, the stand-in is not")
    if real.status.tracer_pid:
        found.append(f"tracer: the target is traced already (by {real.status.tracer_pid}), the stand-in is not")
    return tuple(found)


class _Stopped:
    """A child of ours that we trace, from its last steps before the execve(2) to its rest."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def through_execve(self, standing: Standing) -> None:
        """Let it execute the file, and stop it at its first instruction. Raises OSError."""
        ptrace(PTRACE_INTERRUPT, self.pid)
        self._next()
        standing.begin()
        event = 0
        while event != PTRACE_EVENT_EXEC:
            ptrace(PTRACE_SYSCALL, self.pid)
            event = self._next() >> 16
            if standing.stage()[0] == "failed":
                raise OSError(0, standing.stage()[1])
        ptrace(PTRACE_SYSCALL, self.pid)
        self._next()  # the end of the execve(2)

    def _next(self) -> int:
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline:
            waited, status = os.waitpid(self.pid, os.WNOHANG | WALL)
            if waited and not os.WIFSTOPPED(status):
                raise ProcessLookupError(0, "it ended before its first instruction")
            if waited:
                return status
            time.sleep(0.0005)
        raise TimeoutError("it did not come to its first instruction in time")

    def pause_for_ever(self, code: Code, sets: CapabilitySets, dumpable: bool | Unknown) -> None:
        """Put right what execve(2) changed, and leave it in a loop of pause(2). Raises OSError."""
        registers = read_registers(self.pid)
        if code.original is not None:
            registers[code.original] = 2**64 - 1  # no call is under way
        start, scratch = registers[code.pc], registers[code.sp] - _BELOW
        self._write(start, code.call + code.forever)
        self._call(code, registers, code.prctl, _PR_SET_PDEATHSIG, signal.SIGKILL)
        self._write(scratch, _capability_words(sets))
        self._call(code, registers, code.capset, scratch, scratch + 8)
        if not isinstance(dumpable, Unknown):
            self._call(code, registers, code.prctl, _PR_SET_DUMPABLE, int(dumpable))
        registers[code.pc] = start + len(code.call)
        write_registers(self.pid, registers)

    def _call(self, code: Code, registers: list[int], number: int, *words: int) -> None:
        """Have it make one system call; one that is refused shows in what it differs from the target afterwards."""
        ready = list(registers)
        ready[code.number] = number
        for register, word in zip(code.words, (*words, 0, 0, 0), strict=False):
            ready[register] = word
        write_registers(self.pid, ready)
        while True:
            ptrace(_PTRACE_SINGLESTEP, self.pid)
            status = self._next()
            if os.WSTOPSIG(status) == signal.SIGTRAP and signal_info(self.pid) is not None:
                return

    def _write(self, address: int, data: bytes) -> None:
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(address)
            memory.write(data)


def _capability_words(sets: CapabilitySets) -> bytes:
    """The two arguments of capset(2), one behind the other."""
    halves = [
        (mask >> shift & 0xFFFFFFFF) for shift in (0, 32) for mask in (sets.effective, sets.permitted, sets.inheritable)
    ]
    return struct.pack("=Ii6I", _CAPABILITY_VERSION_3, 0, *halves)

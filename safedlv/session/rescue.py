"""Bring a target home whose debugger is dying: no breakpoint in its text, no trap pending, untraced, running on.

Theory of operation. The guard calls :func:`rescue` while the thread that traces the target stands at its exit
(PTRACE_EVENT_EXIT): it still holds the target's threads. In this order:

1. a SIGSTOP is left pending on each of its threads (one for the process would let those run that have not taken it),
   so that they stop before they run user code again;
2. the breakpoints in its text are written over with what the file has there;
3. the dying tracer is let go, and with it the kernel lets go of the target (kernel/ptrace.c: exit_ptrace);
4. each thread is seized as it stops. One that stands behind a breakpoint that is gone is put back to it. To one whose
   SIGTRAP the debugger had not taken yet the kernel has delivered it: it stands at the first instruction of the
   program's signal handler, and is sent through rt_sigreturn(2) without that;
5. the stop ends (by a SIGCONT that the program does not see), traps that the debugger had queued are dropped, and every
   thread is let go, which ends a single step as well (kernel/ptrace.c: ptrace_disable).

A target that was stopped before the session is stopped again.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from safedlv.linux.registers import MACHINE, clear_watchpoints, read_registers, write_registers
from safedlv.linux.tracing import (
    PTRACE_CONT,
    PTRACE_DETACH,
    PTRACE_EVENT_STOP,
    PTRACE_INTERRUPT,
    PTRACE_SEIZE,
    ptrace,
    tgkill,
    wait_event,
)
from safedlv.session.text import restore, written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final

    from safedlv.linux.registers import Machine

WITHIN: Final = 5.0
"""Seconds for the dying tracer to let go, and for all threads to stop."""
ASKED_AFTER: Final = 0.05
"""Seconds after which a thread that has not come to its stop is interrupted."""
SAMPLE: Final = 0.0005
_PUSH: Final = {0x50: 10, 0x51: 11, 0x52: 12, 0x53: 5, 0x55: 4, 0x56: 13, 0x57: 14}
"""x86-64: push RAX, RCX, RDX, RBX, RBP, RSI, RDI: the register that is pushed, as registers.py numbers them."""


class Target:
    """Whom to bring home: a process, held by its pidfd and its open /proc/PID."""

    def __init__(self, pid: int, pidfd: int, procdir: int, *, stopped: bool, before: frozenset[int]) -> None:
        self.pid, self.pidfd, self.procdir = pid, pidfd, procdir
        self.stopped = stopped
        """It was stopped by job control before the session."""
        self.before = before
        """Addresses of breakpoints that were in its text before the session, and are not ours to take out."""

    def close(self) -> None:
        os.close(self.pidfd)
        os.close(self.procdir)


def hold_on_to(pid: int) -> Target:
    """A target as it is before the session. Raises OSError when it is gone, or its text cannot be read."""
    pidfd = os.pidfd_open(pid)
    procdir = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    before = frozenset(written(procdir, MACHINE.breakpoint)) if MACHINE else frozenset()
    return Target(pid, pidfd, procdir, stopped=state_of(procdir) == b"T", before=before)


def rescue(target: Target, tracer: int, let_go: Callable[[], None]) -> str:
    """Bring it home; ``let_go`` lets the dying ``tracer`` (a thread) end. What was done, in words for people.

    Does nothing but let go where that thread does not hold the target (any more): then it is empty. Raises OSError
    where the target cannot be stopped, read or traced; the tracer is let go in any case.
    """
    if MACHINE is None or tracer not in tracers_of(target):
        let_go()
        return ""
    restored: dict[int, bytes] = {}
    try:
        _stop(target)
        with suppress(OSError):  # where only its tracer may write, it is done when that is us
            restored = _restore(target)
    finally:
        let_go()
    return _bring_home(target, MACHINE, restored)


def needs_rescue(target: Target, *, died: bool) -> bool:
    """Whether a debugger that is gone has left a breakpoint in it, or, if it ``died`` before it let go, a stop.

    Raises OSError.
    """
    if MACHINE is None or state_of(target.procdir) in (b"Z", b"X", b"") or tracers_of(target):
        return False
    if died and state_of(target.procdir) == b"T" and not target.stopped:
        return True
    return bool(written(target.procdir, MACHINE.breakpoint).keys() - target.before)


def is_gone(target: Target) -> bool:
    """Whether it has ended, or is about to and has no memory any more (proc_pid_exe(5))."""
    try:
        os.readlink("exe", dir_fd=target.procdir)
    except OSError:
        return True
    return False


def rescue_late(target: Target) -> str:
    """The same for a target whose debugger is gone already: what can still be done. Raises OSError."""
    assert MACHINE is not None
    _stop(target)
    return _bring_home(target, MACHINE, _restore(target))


def _bring_home(target: Target, machine: Machine, restored: dict[int, bytes]) -> str:
    threads = _Threads(target, machine, restored)
    try:
        _wait_while(lambda: bool(tracers_of(target)) and not is_gone(target))
        threads.seize()
        threads.put_right()
    finally:  # also where that failed: it takes every SIGSTOP of ours with it
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(target.pidfd, signal.SIGCONT)
    threads.let_go()
    return f"{len(restored)} breakpoints taken out of its text, {threads.moved} of {len(threads.held)} threads put back"


def _stop(target: Target) -> None:
    for tid in listed(target.pid):
        with suppress(ProcessLookupError):
            tgkill(target.pid, tid, signal.SIGSTOP)


def _restore(target: Target) -> dict[int, bytes]:
    assert MACHINE is not None
    found = written(target.procdir, MACHINE.breakpoint)
    ours = {address: data for address, data in found.items() if address not in target.before}
    restore(target.procdir, ours)
    return ours


# ---------------------------------------------------------------- threads


class _Threads:
    """The threads of the target, as they are taken hold of."""

    def __init__(self, target: Target, machine: Machine, restored: dict[int, bytes]) -> None:
        self.target, self.machine, self.restored = target, machine, restored
        self.held: set[int] = set()
        self.gone: set[int] = set()
        self.moved = 0

    def seize(self) -> None:
        """Take hold of every thread, also of those that are made meanwhile. One that does not stop is left."""
        deadline = time.monotonic() + WITHIN
        while (new := listed(self.target.pid) - self.held - self.gone) and self._goes_on(deadline):
            self._until_stopped({tid for tid in new if self._seize(tid)}, deadline)

    def _goes_on(self, deadline: float) -> bool:
        return time.monotonic() < deadline and not is_gone(self.target)

    def _seize(self, tid: int) -> bool:
        try:
            ptrace(PTRACE_SEIZE, tid)
        except (ProcessLookupError, PermissionError):
            if _status(self.target.procdir, f"task/{tid}/status").get(b"State", b"Z")[:1] not in (b"Z", b"X"):
                raise
            self.gone.add(tid)
            return False
        return True

    def _until_stopped(self, seized: set[int], deadline: float) -> None:
        asked = time.monotonic() + ASKED_AFTER
        while seized and self._goes_on(deadline):
            seized = {tid for tid in seized if not self._stopped(tid)}
            if seized and time.monotonic() > asked:
                for tid in seized:
                    with suppress(ProcessLookupError):
                        ptrace(PTRACE_INTERRUPT, tid)
                asked = deadline
            time.sleep(SAMPLE if seized else 0)

    def _stopped(self, tid: int) -> bool:
        """Whether its stop has come (or it has ended); a signal that comes first goes where it belongs."""
        try:
            event = wait_event(tid)
        except OSError:
            self.gone.add(tid)
            return True
        if event is None:
            return False
        number, kind = event
        if kind == PTRACE_EVENT_STOP:
            self.held.add(tid)
            return True
        if number == signal.SIGTRAP:
            self._put_back(tid)
            number = 0
        with suppress(ProcessLookupError):
            ptrace(PTRACE_CONT, tid, 0, number)
        return False

    # ------------------------------------------------------------ put right

    def put_right(self) -> None:
        """Every thread where it would be without breakpoints; and the text, which may be ours to write only now."""
        self.restored.update(_restore(self.target))
        for tid in sorted(self.held):
            with suppress(ProcessLookupError):
                clear_watchpoints(tid)
                if not self._leave_handler(tid):
                    self._put_back(tid)

    def _put_back(self, tid: int) -> None:
        """Put the program counter back to a breakpoint that was hit and is gone."""
        registers = read_registers(tid)
        address = registers[self.machine.pc] - self.machine.behind
        if self.machine.behind and address in self.restored and self._has_hit(address, registers):
            registers[self.machine.pc] = address
            write_registers(tid, registers)
            self.moved += 1

    def _has_hit(self, address: int, registers: list[int]) -> bool:
        """Whether a thread behind it has hit the breakpoint, and has not executed the instruction that it covered.

        Only behind an instruction of one byte it may be either: a push leaves what tells, a nop may be executed twice.
        """
        pushed = _PUSH.get(self.restored[address][0])
        if pushed is None:
            return True
        return self._read(registers[self.machine.sp]) != registers[pushed]

    def _leave_handler(self, tid: int) -> bool:
        """Send a thread back that stands at the start of the handler of a SIGTRAP of the debugger's."""
        machine, registers = self.machine, read_registers(tid)
        sp, context = registers[machine.sp], registers[machine.context]
        if registers[machine.signal] != signal.SIGTRAP or context != sp + machine.context_at:
            return False
        saved_pc = context + machine.saved_pc_at
        address = self._read(saved_pc) - machine.behind
        if machine.behind and address in self.restored:
            restore(self.target.procdir, {saved_pc: address.to_bytes(8, "little")})
        if machine.back is None:
            registers[machine.pc], registers[machine.sp] = self._read(sp), sp + 8
        else:
            registers[machine.pc] = registers[machine.back]
        write_registers(tid, registers)
        self.moved += 1
        return True

    def _read(self, address: int) -> int:
        fd = os.open("mem", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.target.procdir)
        try:
            return int.from_bytes(os.pread(fd, 8, address), "little")
        finally:
            os.close(fd)

    # ------------------------------------------------------------ let go

    def let_go(self) -> None:
        """Drop what the debugger (and we) have left pending, and let every thread go."""
        deadline = time.monotonic() + WITHIN
        while (tid := next(self._with_pending(), 0)) and self._goes_on(deadline):
            self._drain(tid, deadline)
        if self.target.stopped:
            signal.pidfd_send_signal(self.target.pidfd, signal.SIGSTOP)
        for tid in self.held:
            with suppress(ProcessLookupError):
                ptrace(PTRACE_DETACH, tid)

    def _with_pending(self) -> Iterator[int]:
        """Threads that can take a signal which is not the program's own: SIGTRAP, and our SIGCONT."""
        unwanted = _bit(signal.SIGTRAP) | _bit(signal.SIGCONT)
        for tid in sorted(self.held):
            status = _status(self.target.procdir, f"task/{tid}/status")
            pending = int(status.get(b"SigPnd", b"0"), 16) | int(status.get(b"ShdPnd", b"0"), 16)
            if pending & unwanted & ~int(status.get(b"SigBlk", b"0"), 16):
                yield tid

    def _drain(self, tid: int, deadline: float) -> None:
        """Let one thread run until it has taken one of them, and hold it there; other signals are its own."""
        number, kind = 0, PTRACE_EVENT_STOP
        while self._goes_on(deadline):
            with suppress(ProcessLookupError):
                ptrace(PTRACE_CONT, tid, 0, 0 if kind else number)
            event = None
            while event is None and self._goes_on(deadline):
                time.sleep(SAMPLE)
                try:
                    event = wait_event(tid)
                except OSError:
                    self.held.discard(tid)
                    return
            number, kind = event or (0, PTRACE_EVENT_STOP)
            if not kind and number in (signal.SIGTRAP, signal.SIGCONT):
                return  # in the stop of its delivery: who lets go from here does not deliver it


# ---------------------------------------------------------------- what the kernel shows


def tracers_of(target: Target) -> set[int]:
    """The threads that trace threads of the target (TracerPid, proc_pid_status(5)): a debugger that detaches lets go
    of one thread after the other.
    """
    found = (_status(target.procdir, f"task/{tid}/status").get(b"TracerPid", b"0") for tid in listed(target.pid))
    return {int(number) for number in found} - {0}


def state_of(procdir: int) -> bytes:
    """The letter of a process's state (proc_pid_status(5)); empty when it has ended."""
    return _status(procdir, "status").get(b"State", b"")[:1]


def listed(pid: int) -> set[int]:
    """The threads of a process; none when it has ended."""
    try:
        return {int(name) for name in os.listdir(f"/proc/{pid}/task")}
    except OSError:
        return set()


def _status(procdir: int, name: str) -> dict[bytes, bytes]:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=procdir)
        with open(fd, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(b":") for line in lines)}


def _bit(number: int) -> int:
    return 1 << (number - 1)


def _wait_while(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while condition() and time.monotonic() < deadline:
        time.sleep(SAMPLE)

"""Follow every thread of a process and what it starts, call by call (ptrace(2), "PTRACE_SEIZE"), and note what fails.

Nothing about the outcome changes: signals are handed on as they came (the kernel keeps their siginfo), group-stops are
kept (PTRACE_LISTEN), and a call that a signal interrupts is made again by the kernel as without us. What a seccomp
filter answers is seen as it is: an errno at the call's end, SIGSYS as a signal that is handed on, death as an exit.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from safedlv.linux.registers import read_registers
from safedlv.linux.tracing import (
    PTRACE_CONT,
    PTRACE_EVENT_EXIT,
    PTRACE_EVENT_STOP,
    PTRACE_INTERRUPT,
    PTRACE_LISTEN,
    PTRACE_O_TRACECLONE,
    PTRACE_O_TRACEEXIT,
    PTRACE_SEIZE,
    WALL,
    event_message,
    process_vm_readv,
    ptrace,
    signal_info,
)
from safedlv.observing.calls import ATTACHED, ATTACHING, SIGSYS, STARTING, Call
from safedlv.observing.decoding import errno_name, in_words, name_of, path_of
from safedlv.observing.numbers import name_by_libseccomp

PTRACE_SYSCALL: Final = 24
PTRACE_GET_SYSCALL_INFO: Final = 0x420E
PTRACE_O_TRACESYSGOOD: Final = 0x1
PTRACE_O_TRACEFORK: Final = 0x2
PTRACE_O_TRACEVFORK: Final = 0x4
PTRACE_O_TRACEEXEC: Final = 0x10
PTRACE_O_EXITKILL: Final = 0x100000
PTRACE_EVENT_EXEC: Final = 4
_OPTIONS: Final = (
    PTRACE_O_TRACESYSGOOD
    | PTRACE_O_TRACEFORK
    | PTRACE_O_TRACEVFORK
    | PTRACE_O_TRACECLONE
    | PTRACE_O_TRACEEXEC
    | PTRACE_O_TRACEEXIT
)
_ENTRY, _EXIT = 1, 2  # PTRACE_SYSCALL_INFO_*
_HEADER: Final = 24  # of struct ptrace_syscall_info: what the union stands behind
_STOPPING: Final = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_SYS_SECCOMP: Final = 1  # si_code of a SIGSYS by a filter
_RESULT, _NUMBER = 10, 15  # rax and orig_rax, as linux/registers.py numbers them
_NOT_MADE: Final = 2**64 - 38  # -ENOSYS: what stands in rax when a call has only begun
_ATTACH: Final = 16
_RESULTLESS: Final = frozenset({"rt_sigreturn"})  # what stands in its result's place belongs to the interrupted call
_EAGAIN: Final = 11

Open = tuple[int, tuple[int, ...], int]
"""A call under way: its number, its words, and how many calls had begun before it."""
_info = (ctypes.c_ubyte * 128)()


class Following:
    """The threads of one process, and the calls of theirs that failed.

    ``at_exit`` is called with a thread that ends and what lets it end. Raises OSError when the process cannot be
    traced. ``dies_with_us``: it is killed when we are.
    """

    def __init__(self, pid: int, at_exit: Callable[[int, Callable[[], None]], None], *, dies_with_us: bool) -> None:
        self.pid = pid
        self.at_exit = at_exit
        self._failed_calls: list[Call] = []
        self._dying: list[tuple[int, int, Call]] = []
        """Calls under way in threads that ended with SIGSYS: one of them is the one that a filter killed for."""
        self._trapped_once = False
        self.made = 0
        """How many calls there were, since it was executed."""
        self.phase = STARTING
        self.status: int | None = None
        """How the process ended, as waitpid(2) has it."""
        self.threads = {pid}
        self.pidfd = os.pidfd_open(pid)
        self.began: float | None = None
        """When it was executed (time.monotonic)."""
        self._open: dict[int, Open] = {}
        self._last: dict[int, Open] = {}
        self._names: dict[int, str] = {}
        ptrace(PTRACE_SEIZE, pid, 0, _OPTIONS | (PTRACE_O_EXITKILL if dies_with_us else 0))

    def begin(self) -> None:
        """Stop it once, and let it go on: from here on its calls are seen. Raises OSError."""
        ptrace(PTRACE_INTERRUPT, self.pid)
        _, status = os.waitpid(self.pid, WALL)
        self._take(self.pid, status)

    def take_all(self) -> bool:
        """Handle all stops that there are; whether there was one."""
        seen = False
        while self.threads:
            try:
                tid, status = os.waitpid(-1, os.WNOHANG | WALL)
            except ChildProcessError:
                self.threads.clear()
                break
            if not tid:
                break
            seen = True
            with suppress(ProcessLookupError, ChildProcessError):  # killed meanwhile: its end comes next
                self._take(tid, status)
        return seen

    @property
    def killed_by_filter(self) -> bool:
        """Whether a filter has answered with SIGSYS, or with death."""
        return bool(self._dying) or self._trapped_once

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls that failed, in their order; of threads that died together, the one that they died for."""
        killed = [] if self._trapped_once else sorted(self._dying, key=lambda dying: dying[:2])[:1]
        return tuple(sorted([*self._failed_calls, *(call for _, _, call in killed)], key=lambda call: call.ms))

    def is_idle(self) -> bool:
        """Whether no thread of it runs, or is ready to, or waits for a disk."""
        return not any(_state(tid) in (b"R", b"D") for tid in self.threads)

    # ------------------------------------------------------------ stops

    def _take(self, tid: int, status: int) -> None:
        if not os.WIFSTOPPED(status):
            self._ended(tid, status)
            return
        self.threads.add(tid)
        number, event = os.WSTOPSIG(status), status >> 16
        if number == signal.SIGTRAP | 0x80:
            self._at_call(tid)
            self._send_on(PTRACE_SYSCALL, tid)
        elif event == PTRACE_EVENT_EXIT:
            self._at_exit(tid)
        elif event == PTRACE_EVENT_STOP and number in _STOPPING:
            self._send_on(PTRACE_LISTEN, tid)
        elif event:
            if event == PTRACE_EVENT_EXEC and tid == self.pid and self.began is None:
                self.began = time.monotonic()
                self.made = 0
            self._send_on(PTRACE_SYSCALL, tid)
        else:
            if number == signal.SIGSYS:
                self._trapped(tid)
            self._send_on(PTRACE_SYSCALL, tid, number)

    def _send_on(self, request: int, tid: int, number: int = 0) -> None:
        """SIGKILL ends every stop but the one at its exit; from there it must not be sent on (guard.py: _next_stop)."""
        waited, status = os.waitpid(tid, os.WNOHANG | WALL)
        if waited:
            self._take(tid, status)
        else:
            ptrace(request, tid, 0, number)

    def _ended(self, tid: int, status: int) -> None:
        """One of ours, or another child of this process: its stand-in, its keeper."""
        self.threads.discard(tid)
        self._open.pop(tid, None)
        if tid == self.pid:
            self.status = status

    def _at_call(self, tid: int) -> None:
        ptrace(PTRACE_GET_SYSCALL_INFO, tid, ctypes.sizeof(_info), ctypes.addressof(_info))
        if _info[0] == _ENTRY:
            number, *args = struct.unpack_from("=7Q", _info, _HEADER)
            self._open[tid] = number, tuple(args), self.made
            self.made += 1
            if self.phase == STARTING and args[0] == _ATTACH and self._name(number) == "ptrace":
                self.phase = ATTACHING
        elif _info[0] == _EXIT and tid in self._open:
            self._last[tid] = self._open.pop(tid)
            result, is_error = struct.unpack_from("=qB", _info, _HEADER)
            if is_error:
                self._failed(tid, self._last[tid], -result)
            self._note_readiness(self._last[tid], result)

    def _note_readiness(self, made: Open, result: int) -> None:
        """dlv accepts its client when it has attached, and not before (service/rpccommon/server.go: Run)."""
        accepts = self.phase == ATTACHING and (result >= 0 or result == -_EAGAIN)
        if accepts and self._name(made[0]) in ("accept4", "accept"):
            self.phase = ATTACHED

    def _at_exit(self, tid: int) -> None:
        code = event_message(tid)
        if os.WIFSIGNALED(code) and os.WTERMSIG(code) == signal.SIGSYS:
            with suppress(OSError):
                self._dies_of_sigsys(tid)
        self.at_exit(tid, lambda: _go_on(tid))

    def _dies_of_sigsys(self, tid: int) -> None:
        part = _part_in_it(tid)
        made = self._open.get(tid) or (self._last.get(tid) if part == 0 else None)
        if made is not None:
            self._dying.append((part, -made[2], self._call(tid, made, SIGSYS)))

    def _trapped(self, tid: int) -> None:
        """A SIGSYS is about to be delivered: by a filter, it is the answer to the call that was just made."""
        info = signal_info(tid)
        made = self._open.get(tid) or self._last.get(tid)
        if info is not None and info[0] == _SYS_SECCOMP and made is not None:
            self._note(tid, made, SIGSYS)
            self._trapped_once = True

    # ------------------------------------------------------------ calls

    def _failed(self, tid: int, made: Open, number: int) -> None:
        name = self._name(made[0])
        if name in _RESULTLESS or (self.began is None and not name.startswith("execve")):
            return
        self._note(tid, made, errno_name(number))

    def _note(self, tid: int, made: Open, error: str) -> None:
        self._failed_calls.append(self._call(tid, made, error))

    def _call(self, tid: int, made: Open, error: str) -> Call:
        number, args, _ = made
        name = self._name(number)

        def read(address: int, size: int) -> bytes:
            return process_vm_readv(tid, address, size)

        return Call(
            name=name,
            args=args,
            errno=error,
            tid=tid,
            ms=round((time.monotonic() - self.began) * 1e3, 3) if self.began else 0.0,
            phase=self.phase,
            executed=self.began is not None,
            text=in_words(name, args, read),
            path=path_of(name, args, read),
            plain_file=name == "epoll_ctl" and _is_plain_file(tid, args[2]),
        )

    def _name(self, number: int) -> str:
        if number not in self._names:
            self._names[number] = name_of(number, name_by_libseccomp)
        return self._names[number]


def _go_on(tid: int) -> None:
    with suppress(ProcessLookupError):
        ptrace(PTRACE_CONT, tid)


def _part_in_it(tid: int) -> int:
    """How likely it is that a thread which dies of SIGSYS made the call: 0 surely, 1 (it has begun one), 2 (others).

    A filter that kills the process has the registers rolled back to the call (kernel/seccomp.c: syscall_rollback); one
    that kills the thread leaves it in the middle. Only x86 has the call's number beside its result.
    """
    if os.uname().machine != "x86_64":
        return 2
    registers = read_registers(tid)
    if registers[_RESULT] == registers[_NUMBER]:
        return 0
    return 1 if registers[_RESULT] == _NOT_MADE else 2


def _is_plain_file(tid: int, fd: int) -> bool:
    try:
        mode = os.stat(f"/proc/{tid}/fd/{fd & 0xFFFFFFFF}").st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISCHR(mode)


def _state(tid: int) -> bytes:
    try:
        with open(f"/proc/{tid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1]
    except OSError:
        return b""

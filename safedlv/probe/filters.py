"""The seccomp programs that a process runs under, read out of it by PTRACE_SECCOMP_GET_FILTER.

The kernel gives them to a tracer with CAP_SYS_ADMIN and without a filter of its own (kernel/seccomp.c,
seccomp_get_filter). The process is somebody's, so it is held as gently as there is a way: PTRACE_SEIZE sends no
signal and PTRACE_INTERRUPT leaves nothing queued (ptrace(2)); a signal that arrives in between is handed on by
PTRACE_DETACH with its siginfo; a process that was stopped stays stopped; one that never stops is let go by the end of
the child that does all this. It works on a process in a frozen v2 cgroup too.
"""

from __future__ import annotations

import errno
import marshal
import os
import select
import struct
import time
from typing import Final, NoReturn

from safedlv.linux import tracing
from safedlv.probe.runner import STOP_WITHIN
from safedlv.probe.sequence import rest

_MARGIN_SECONDS: Final = 1.0
_RET_K: Final = 0x06  # BPF_RET | BPF_K
_ACTION: Final = 0xFFFF0000
_USER_NOTIF: Final = 0x7FC00000  # SECCOMP_RET_USER_NOTIF


def read_filters(pid: int, procdir: int, timeout: float = STOP_WITHIN) -> tuple[bytes, ...]:
    """The programs of the leader of process ``pid`` (``procdir``: its open /proc/PID), in the order of their loading.

    Raises OSError: EACCES without the privilege, EPERM when it is traced already, ESRCH when it ended, TimeoutError
    when it did not stop in ``timeout`` seconds, EMEDIUMTYPE for a program that the kernel cannot give.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _child(pid, procdir, writer, time.monotonic() + timeout)
    os.close(writer)
    try:
        answer = _until_end(reader, time.monotonic() + timeout + _MARGIN_SECONDS)
    finally:
        os.close(reader)
        os.kill(child, 9)  # not reaped yet, so the PID is still its own
        os.waitpid(child, 0)
    if not answer:
        raise TimeoutError(errno.ETIMEDOUT, f"the seccomp programs of process {pid} could not be read in time")
    number, text, programs = marshal.loads(answer)  # noqa: S302  written by our own child
    if number:
        raise OSError(number, text)
    return tuple(programs)


def asks_a_supervisor(program: bytes) -> bool:
    """Whether a program can answer SECCOMP_RET_USER_NOTIF: then its supervisor decides, and a copy has none."""
    instructions = struct.iter_unpack("=HBBI", program[: len(program) // 8 * 8])
    return any(code == _RET_K and k & _ACTION == _USER_NOTIF for code, _, _, k in instructions)


def _until_end(reader: int, deadline: float) -> bytes:
    """Everything that the child writes; what came is thrown away when its end does not come in time."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    data = b""
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        chunk = os.read(reader, 65536)
        if not chunk:
            return data
        data += chunk
    return b""


def _child(pid: int, procdir: int, writer: int, deadline: float) -> NoReturn:
    try:
        os.setsid()
        try:
            answer = marshal.dumps((0, "", _read(pid, procdir, deadline)))
        except OSError as error:
            answer = marshal.dumps((error.errno or errno.EIO, error.strerror or str(error), ()))
        view = memoryview(answer)
        while view:
            view = view[os.write(writer, view) :]
    finally:
        os._exit(0)


def _read(pid: int, procdir: int, deadline: float) -> tuple[bytes, ...]:
    tracing.ptrace(tracing.PTRACE_SEIZE, pid)
    os.stat("stat", dir_fd=procdir)  # the process that was meant, not a later one with its number
    tracing.ptrace(tracing.PTRACE_INTERRUPT, pid)
    handed_on = _await_stop(pid, deadline)
    programs: list[bytes] = []
    try:
        while True:
            programs.append(tracing.seccomp_filter(pid, len(programs)))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    finally:
        tracing.ptrace(tracing.PTRACE_DETACH, pid, 0, handed_on)
    return tuple(programs)


def _await_stop(pid: int, deadline: float) -> int:
    """Wait until it is stopped, by us or by a signal of its own; that signal, or 0. Raises TimeoutError."""
    spins = 0
    while True:
        stop = tracing.wait_event(pid)
        if stop is not None:
            signal, event = stop
            return 0 if event == tracing.PTRACE_EVENT_STOP else signal
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"process {pid} did not stop")
        spins += 1
        rest(spins)

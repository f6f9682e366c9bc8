"""System calls on another process: ptrace(2), its waits, tgkill(2), process_vm_readv(2), /proc/PID identity.

Every attach pays for importing this file, so it needs ctypes and nothing else. python-ptrace offers the same
calls, but importing it costs three bare Python starts and runs ldconfig (measured by ``make bench``); the tests
hold the numbers below against python-ptrace's.

Non-goals: no policy, no retries, no reading of facts (facts/), no order of calls (probe/sequence.py).
"""

from __future__ import annotations

import ctypes
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# include/uapi/linux/ptrace.h
PTRACE_PEEKDATA: Final = 2
PTRACE_POKEDATA: Final = 5
PTRACE_POKEUSER: Final = 6
PTRACE_CONT: Final = 7
PTRACE_ATTACH: Final = 16
PTRACE_DETACH: Final = 17
PTRACE_SETOPTIONS: Final = 0x4200
PTRACE_GETEVENTMSG: Final = 0x4201
PTRACE_GETSIGINFO: Final = 0x4202
PTRACE_GETREGSET: Final = 0x4204
PTRACE_SETREGSET: Final = 0x4205
PTRACE_SEIZE: Final = 0x4206
PTRACE_INTERRUPT: Final = 0x4207
PTRACE_LISTEN: Final = 0x4208
PTRACE_GETSIGMASK: Final = 0x420A
PTRACE_SETSIGMASK: Final = 0x420B
PTRACE_SECCOMP_GET_FILTER: Final = 0x420C
PTRACE_O_TRACECLONE: Final = 0x8
PTRACE_O_TRACEEXIT: Final = 0x40
PTRACE_EVENT_EXIT: Final = 6
PTRACE_EVENT_STOP: Final = 128

NT_PRSTATUS: Final = 1  # include/uapi/linux/elf.h
WALL: Final = 0x40000000  # __WALL: wait for threads of other processes too (wait(2))
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_PTRACER: Final = 0x59616D61  # include/uapi/linux/prctl.h
_SIGSET: Final = 8  # sizeof(sigset_t) in the kernel
_BPF_MAXINSNS: Final = 4096  # include/uapi/linux/bpf_common.h; an instruction has 8 bytes
SIGCONT: Final = 18  # the same on every architecture Go supports but MIPS; ``signal`` costs an import of enum
SIGSTOP: Final = 19
SI_KERNEL: Final = 0x80  # PTRACE_ATTACH's own SIGSTOP carries this code (kernel/ptrace.c: SEND_SIG_PRIV)
SI_TKILL: Final = -6
# The numbers of tgkill(2); musl has no wrapper for it. Everything but x86 uses the generic table.
_TGKILL: Final = {"x86_64": 234, "i686": 270, "i386": 270}.get(os.uname().machine, 131)

_libc = ctypes.CDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_siginfo = (ctypes.c_int * 32)()  # siginfo_t is 128 bytes
_registers = (ctypes.c_ulong * 256)()


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


_register_iovec = Iovec(ctypes.addressof(_registers), ctypes.sizeof(_registers))


def ptrace(request: int, tid: int, addr: int = 0, data: int = 0) -> None:
    """ptrace(2) for every request whose result is only success or failure. Raises OSError with the errno."""
    if _ptrace(request, tid, addr, data) == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace({request:#x}, {tid}): {os.strerror(code)}")


def peek(tid: int, addr: int) -> int:
    """The word at ``addr`` of a stopped tracee (PTRACE_PEEKDATA). Raises OSError."""
    ctypes.set_errno(0)
    word: int = _ptrace(PTRACE_PEEKDATA, tid, addr, 0)
    code = ctypes.get_errno()
    if word == -1 and code:  # -1 can be the word itself; only errno tells (ptrace(2))
        raise OSError(code, f"ptrace(PEEKDATA, {tid}): {os.strerror(code)}")
    return word & (2**64 - 1)


def signal_info(tid: int) -> tuple[int, int] | None:
    """(si_code, si_pid) of the signal that a tracee is stopped at; None in a group-stop, which has no siginfo.

    Raises OSError when PTRACE_GETSIGINFO is refused. EINVAL marks the group-stop (ptrace(2), "Group-stop").
    """
    if _ptrace(PTRACE_GETSIGINFO, tid, 0, ctypes.addressof(_siginfo)) == -1:
        code = ctypes.get_errno()
        if code == errno.EINVAL:
            return None
        raise OSError(code, f"ptrace(GETSIGINFO, {tid}): {os.strerror(code)}")
    return _siginfo[2], _siginfo[4]


def event_message(tid: int) -> int:
    """What the kernel says about the event a tracee is stopped at: at its exit, its exit status (PTRACE_GETEVENTMSG).

    Raises OSError.
    """
    ptrace(PTRACE_GETEVENTMSG, tid, 0, ctypes.addressof(_registers))
    return int(_registers[0])


def get_registers(tid: int) -> int:
    """Read the general registers of a stopped tracee (PTRACE_GETREGSET, NT_PRSTATUS); their size. Raises OSError."""
    _register_iovec.len = ctypes.sizeof(_registers)
    ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, ctypes.addressof(_register_iovec))
    size: int = _register_iovec.len
    return size


def seccomp_filter(tid: int, index: int) -> bytes:
    """One seccomp program of a stopped tracee, the one that was loaded first at index 0 (PTRACE_SECCOMP_GET_FILTER).

    Raises OSError: ENOENT beyond the last one, EACCES for a caller without CAP_SYS_ADMIN or with a filter of its own,
    EMEDIUMTYPE for a program that the kernel did not keep, EIO where it is built without CONFIG_CHECKPOINT_RESTORE.
    """
    buffer = ctypes.create_string_buffer(8 * _BPF_MAXINSNS)
    count = _ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, ctypes.addressof(buffer))
    if count == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace(SECCOMP_GET_FILTER, {tid}, {index}): {os.strerror(code)}")
    return buffer.raw[: 8 * count]


def name_tracer(pid: int) -> None:
    """Let process ``pid`` and its descendants trace the caller, where Yama would not (PR_SET_PTRACER, prctl(2)).

    Says nothing where there is no Yama.
    """
    _libc.prctl(_PR_SET_PTRACER, ctypes.c_ulong(pid), 0, 0, 0)


def die_signal(signal: int) -> None:
    """Be sent ``signal`` when the parent ends (PR_SET_PDEATHSIG, prctl(2))."""
    _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal), 0, 0, 0)


def block_signals(tid: int, *signals: int) -> None:
    """Block them in a stopped tracee: what is sent to its process, other threads take (PTRACE_SETSIGMASK, ptrace(2)).

    Raises OSError.
    """
    ptrace(PTRACE_GETSIGMASK, tid, _SIGSET, ctypes.addressof(_registers))
    for signal in signals:
        _registers[0] |= 1 << (signal - 1)
    ptrace(PTRACE_SETSIGMASK, tid, _SIGSET, ctypes.addressof(_registers))


def tgkill(tgid: int, tid: int, signal: int) -> None:
    """Send ``signal`` to one thread (tgkill(2)), as Delve stops threads. Raises OSError."""
    if _syscall(_TGKILL, tgid, tid, signal) == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"tgkill({tgid}, {tid}, {signal}): {os.strerror(code)}")


def may_signal(pid: int) -> bool:
    """Whether the process is there, and ours to signal (kill(2))."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def wait_stopped(tid: int) -> int | None:
    """The signal that tracee ``tid`` is stopped at, or None while it runs on (waitpid(2) with WNOHANG and __WALL).

    Raises ChildProcessError when it is no tracee of ours any more, ProcessLookupError when it ended.
    """
    waited, status = os.waitpid(tid, os.WNOHANG | WALL)
    if not waited:
        return None
    if not os.WIFSTOPPED(status):
        raise ProcessLookupError(errno.ESRCH, f"tracee {tid} ended")
    return os.WSTOPSIG(status)


def wait_event(tid: int, options: int = os.WNOHANG) -> tuple[int, int] | None:
    """(signal, PTRACE_EVENT_*) that a seized tracee is stopped at, or None while it runs on; raises as wait_stopped.

    ``options``: 0 waits for a stop.
    """
    waited, status = os.waitpid(tid, options | WALL)
    if not waited:
        return None
    if not os.WIFSTOPPED(status):
        raise ProcessLookupError(errno.ESRCH, f"tracee {tid} ended")
    return os.WSTOPSIG(status), status >> 16


def process_vm_readv(pid: int, addr: int, size: int) -> bytes:
    """``size`` bytes at ``addr`` of another process (process_vm_readv(2)). Raises OSError."""
    buffer = ctypes.create_string_buffer(size)
    local = Iovec(ctypes.addressof(buffer), size)
    remote = Iovec(addr, size)
    count = _libc.process_vm_readv(
        pid, ctypes.byref(local), ctypes.c_ulong(1), ctypes.byref(remote), ctypes.c_ulong(1), ctypes.c_ulong(0)
    )
    if count == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"process_vm_readv({pid}): {os.strerror(code)}")
    return buffer.raw[:count]


def warm() -> None:
    """Go through ctypes and waitpid once, with calls that concern nobody, and touch the buffers of the others."""
    _libc.getppid()
    ctypes.set_errno(0)
    ctypes.addressof(_register_iovec)
    _registers[0] = _registers[255] = 0
    _siginfo[2] = _siginfo[4] = 0
    try:
        os.waitpid(-1, os.WNOHANG | WALL)
    except ChildProcessError:
        return

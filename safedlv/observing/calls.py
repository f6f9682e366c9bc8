"""A call that failed, and what that did to the session: a table of the harmless, and one of those that matter. Pure.

The rows are looked at from top to bottom, and the first that fits counts. What dlv (and the Go runtime in it) makes of
a failed call is in its source: pkg/proc/native/proc_linux.go, threads_linux.go, ptrace_linux.go, dump_linux.go, and
Go's runtime/os_linux.go, internal/poll, os/pidfd_linux.go, net/ipsock_posix.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen

from safedlv.values import Value

HARMLESS, DETOUR, UNKNOWN, POORER, BREAKS = "harmless", "detour", "unknown", "poorer", "breaks"
"""What a failed call does to a session: nothing; dlv does the same in another way; that is not in the tables; it goes
on without; it fails by it."""
STARTING, ATTACHING, ATTACHED = "starting", "attaching", "attached"
"""How far dlv had come: it has not touched the target; it attaches; it takes clients."""
SIGSYS: Final = "SIGSYS"
"""In the place of an errno: a seccomp filter answered with a signal, or with death (seccomp(2))."""
WNOHANG: Final = 1
_NO_DESCRIPTOR: Final = 0xFFFFFFFF
_RESTARTED: Final = frozenset({"ERESTARTSYS", "ERESTARTNOINTR", "ERESTARTNOHAND", "ERESTART_RESTARTBLOCK"})

# include/uapi/linux/ptrace.h, and asm/ptrace-abi.h for the lower numbers: what debuggers use.
PTRACE_REQUESTS: Final = {
    0: "PTRACE_TRACEME",
    1: "PTRACE_PEEKTEXT",
    2: "PTRACE_PEEKDATA",
    3: "PTRACE_PEEKUSER",
    4: "PTRACE_POKETEXT",
    5: "PTRACE_POKEDATA",
    6: "PTRACE_POKEUSER",
    7: "PTRACE_CONT",
    8: "PTRACE_KILL",
    9: "PTRACE_SINGLESTEP",
    12: "PTRACE_GETREGS",
    13: "PTRACE_SETREGS",
    14: "PTRACE_GETFPREGS",
    15: "PTRACE_SETFPREGS",
    16: "PTRACE_ATTACH",
    17: "PTRACE_DETACH",
    24: "PTRACE_SYSCALL",
    0x4200: "PTRACE_SETOPTIONS",
    0x4201: "PTRACE_GETEVENTMSG",
    0x4202: "PTRACE_GETSIGINFO",
    0x4203: "PTRACE_SETSIGINFO",
    0x4204: "PTRACE_GETREGSET",
    0x4205: "PTRACE_SETREGSET",
    0x4206: "PTRACE_SEIZE",
    0x4207: "PTRACE_INTERRUPT",
    0x4208: "PTRACE_LISTEN",
    0x420E: "PTRACE_GET_SYSCALL_INFO",
}


@frozen(eq=False, repr=False)
class Call(Value):
    """One call that failed. Numbers are dlv's own: it may stand in another PID namespace."""

    name: str
    args: tuple[int, ...]
    """The six words that it was made with."""
    errno: str
    """The errno's name, or SIGSYS."""
    tid: int
    """The thread that made it, as we see it."""
    ms: float
    """Milliseconds since dlv was executed."""
    phase: str
    executed: bool = True
    """dlv runs; before, it was still to be executed."""
    text: str = ""
    """The call, decoded, for people."""
    path: str | None = None
    """The path that it was made with."""
    plain_file: bool = False
    """For epoll_ctl(2): the descriptor is one of a file, a directory or a device."""

    @property
    def request(self) -> str | None:
        """The request of a ptrace(2)."""
        if self.name != "ptrace" or not self.args:
            return None
        return PTRACE_REQUESTS.get(self.args[0], f"{self.args[0]:#x}")


@frozen(eq=False, repr=False)
class Meaning(Value):
    """What a failed call did."""

    level: str
    effect: str


@frozen(eq=False, repr=False)
class Rule(Value):
    """A row: calls and errnos (empty: all), a condition on the rest, and what it means."""

    calls: frozenset[str]
    errnos: frozenset[str]
    level: str
    effect: str
    when: Callable[[Call, int], bool] | None = None
    """Given the call, and the target's PID as dlv names it."""

    def fits(self, call: Call, target: int) -> bool:
        return (
            (not self.calls or call.name in self.calls)
            and (not self.errnos or call.errno in self.errnos)
            and (self.when is None or self.when(call, target))
        )


def meaning(call: Call, target: int) -> Meaning:
    """What a failed call did to the session with process ``target`` (as dlv names it)."""
    for rule in RULES:
        if rule.fits(call, target):
            return Meaning(rule.level, rule.effect)
    return Meaning(UNKNOWN, "what dlv makes of it is not known here")


def first_that_matters(judged: list[tuple[Call, Meaning]], *, failed: bool) -> int | None:
    """Its place in the list: where dlv failed, the first that breaks a session; else the first that spoils it.

    Where dlv failed and none of them is known to break one, the last that is not known to be harmless. None: there is
    none.
    """
    found = [at for at, (_, what) in enumerate(judged) if what.level == BREAKS]
    if found:
        return found[0]
    others = [at for at, (_, what) in enumerate(judged) if what.level == POORER]
    if others and not failed:
        return others[0]
    unknown = [at for at, (_, what) in enumerate(judged) if what.level in (DETOUR, POORER, UNKNOWN)]
    return unknown[-1] if failed and unknown else None


# ---------------------------------------------------------------- conditions


def _before_dlv(call: Call, _target: int) -> bool:
    return not call.executed


def _of_target(call: Call, target: int) -> bool:
    """A file of the target's /proc directory."""
    return (call.path or "").startswith(f"/proc/{target}/") or call.path == f"/proc/{target}"


def _not_of_target(call: Call, target: int) -> bool:
    return not _of_target(call, target)


def _requests(*names: str) -> Callable[[Call, int], bool]:
    wanted = {f"PTRACE_{name}" for name in names}
    return lambda call, _target: call.request in wanted


def _on_leader(call: Call, target: int) -> bool:
    return call.request == "PTRACE_ATTACH" and call.args[1] == target


def _on_thread(call: Call, target: int) -> bool:
    return call.request == "PTRACE_ATTACH" and call.args[1] != target


def _to_target(call: Call, target: int) -> bool:
    return call.args[0] == target


def _does_not_wait(call: Call, _target: int) -> bool:
    return bool(call.args[2] & WNOHANG)


def _asks_with_none(call: Call, _target: int) -> bool:
    return any(word & _NO_DESCRIPTOR == _NO_DESCRIPTOR for word in call.args[:2])


def _is_plain_file(call: Call, _target: int) -> bool:
    return call.plain_file


def _phase(*phases: str) -> Callable[[Call, int], bool]:
    return lambda call, _target: call.phase in phases


# ---------------------------------------------------------------- the tables


def _rule(calls: str, errnos: str, level: str, effect: str, when: Callable[[Call, int], bool] | None = None) -> Rule:
    return Rule(frozenset(calls.split()), frozenset(errnos.split()), level, effect, when)


_LOOKS = "open openat openat2 access faccessat faccessat2 stat lstat newfstatat statx readlink readlinkat chdir execve"
_NO_MEMORY = "dlv looked where the target has no memory"
_FORKS = "clone clone3 fork vfork"
_HARMLESS: Final = (
    _rule("", SIGSYS, BREAKS, "a filter answers with SIGSYS: dlv dies of it, or hangs without that thread"),
    _rule("execve execveat", "", BREAKS, "dlv cannot be started there", _before_dlv),
    _rule("", " ".join(_RESTARTED), HARMLESS, "a signal came first; the kernel makes the call again"),
    _rule("", "EINTR", HARMLESS, "a signal came first; it is made again"),
    _rule("futex nanosleep clock_nanosleep", "ETIMEDOUT", HARMLESS, "the wait was as long as it was meant to be"),
    _rule("futex", "EAGAIN", HARMLESS, "there was nothing left to wait for"),
    _rule(
        "read readv pread64 accept accept4 recvfrom recvmsg write sendto sendmsg epoll_wait epoll_pwait",
        "EAGAIN",
        HARMLESS,
        "there was nothing yet; it is tried again",
    ),
    _rule(_LOOKS, "ENOENT ENOTDIR", HARMLESS, "an optional file that is not there", _not_of_target),
    _rule("connect", "ENOENT ECONNREFUSED", HARMLESS, "an optional service that is not there"),
    _rule("mkdir mkdirat", "", HARMLESS, "it is there already, or dlv does without its configuration"),
    _rule("readlink readlinkat", "EINVAL", HARMLESS, "it is no link"),
    _rule("epoll_ctl", "EPERM", HARMLESS, "a file is always ready and cannot be polled", _is_plain_file),
    _rule("epoll_ctl", "EEXIST ENOENT", HARMLESS, "Go's poller had it already, or not yet"),
    _rule("ioctl", "ENOTTY", HARMLESS, "dlv asks whether it talks to a terminal"),
    _rule("prctl arch_prctl madvise sched_setaffinity", "EINVAL", HARMLESS, "a wish that this kernel does not know"),
    _rule("socket", "EAFNOSUPPORT", HARMLESS, "Go asks which networks there are"),
    _rule("setsockopt", "ENOPROTOOPT EPROTONOSUPPORT", HARMLESS, "Go asks which networks there are"),
    _rule("bind connect", "EADDRNOTAVAIL", HARMLESS, "Go asks which networks there are", _phase(STARTING)),
    _rule("wait4", "ECHILD", HARMLESS, "nobody is left to wait for", _does_not_wait),
    _rule("waitid", "EBADF ECHILD", HARMLESS, "Go asks what the kernel can do"),
    _rule("pidfd_send_signal", "EBADF", HARMLESS, "Go asks what the kernel can do", _asks_with_none),
    _rule("process_vm_readv", "EFAULT EIO", HARMLESS, _NO_MEMORY),
    _rule("ptrace", "EIO EFAULT", HARMLESS, _NO_MEMORY, _requests("PEEKDATA", "PEEKTEXT")),
    _rule("tgkill", "ESRCH", HARMLESS, "that thread had ended"),
    _rule("bpf", "", HARMLESS, "dlv asks whether it could trace by eBPF, which it does not for an attach"),
    _rule(
        "clone3 faccessat2 statx openat2 close_range pidfd_open pidfd_send_signal process_madvise",
        "ENOSYS",
        HARMLESS,
        "an older call does it, too",
    ),
    _rule("sched_getaffinity getrandom rseq", "ENOSYS EINVAL", HARMLESS, "Go does without it"),
)  # fmt: skip
_MATTERS: Final = (
    _rule("ptrace", "", BREAKS, "the attach fails", _on_leader),
    _rule("ptrace", "ESRCH", HARMLESS, "that thread had ended", _on_thread),
    _rule("ptrace", "", POORER, "dlv goes on without that thread: breakpoints in it end the target", _on_thread),
    _rule(
        "ptrace",
        "",
        POORER,
        "dlv goes on without it: threads that start later are not traced, and one that runs into a breakpoint takes "
        "the target down",
        _requests("SETOPTIONS"),
    ),
    _rule("ptrace", "", BREAKS, "the target cannot be continued", _requests("CONT")),
    _rule("ptrace", "", BREAKS, "the target cannot be stepped, nor taken past a breakpoint", _requests("SINGLESTEP")),
    _rule(
        "ptrace",
        "",
        BREAKS,
        "dlv cannot read a thread's registers: no stack, no variables, no step",
        _requests("GETREGSET", "GETREGS"),
    ),
    _rule(
        "ptrace",
        "",
        BREAKS,
        "dlv cannot set a thread's registers: it cannot go on from a breakpoint",
        _requests("SETREGSET", "SETREGS"),
    ),
    _rule("ptrace", "", POORER, "dlv does without floating point registers", _requests("GETFPREGS", "SETFPREGS")),
    _rule("ptrace", "", BREAKS, "dlv cannot read the target's memory", _requests("PEEKDATA", "PEEKTEXT")),
    _rule("ptrace", "", BREAKS, "dlv cannot set breakpoints", _requests("POKEDATA", "POKETEXT")),
    _rule("ptrace", "", POORER, "dlv cannot set watchpoints", _requests("PEEKUSER", "POKEUSER")),
    _rule("ptrace", "", POORER, "dlv does not learn of threads that start", _requests("GETEVENTMSG")),
    _rule("ptrace", "", BREAKS, "dlv cannot let go of the target: it stays held until dlv ends", _requests("DETACH")),
    _rule("wait4 waitid", "", BREAKS, "dlv never learns that the target stopped, and may leave it stopped"),
    _rule(
        "tgkill",
        "",
        BREAKS,
        "dlv cannot stop the target's threads: the target may die when it is continued",
        _to_target,
    ),
    _rule("tgkill", "", POORER, "dlv cannot signal threads: it could not stop those of a target that has several"),
    _rule("kill", "", BREAKS, "dlv cannot halt the target"),
    _rule("process_vm_readv", "", DETOUR, "dlv reads the target's memory word by word instead, which is slower"),
    _rule("process_vm_writev", "", DETOUR, "dlv writes the target's memory word by word instead"),
    _rule(_LOOKS, "", BREAKS, "dlv needs this file of the target", _of_target),
    _rule(_LOOKS, "", DETOUR, "dlv does without that file", _not_of_target),
    _rule(_FORKS, "", BREAKS, "dlv cannot start the threads that it needs"),
    _rule("mmap mprotect brk", "", BREAKS, "dlv gets no memory"),
    _rule("socket bind listen", "", BREAKS, "dlv cannot listen for its client", _phase(STARTING)),
    _rule("epoll_create1 epoll_ctl epoll_pwait eventfd2 pipe2", "", BREAKS, "the Go runtime in dlv cannot work"),
    _rule("accept accept4 read pread64 futex", "", BREAKS, "dlv cannot do without it"),
)
RULES: Final = _HARMLESS + _MATTERS

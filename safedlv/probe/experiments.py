"""What an unprivileged tracer can still find out: the same calls where only a filter can refuse them.

Sources: kernel/ptrace.c looks the PID up before anything else (ESRCH), and __ptrace_may_access lets a process trace a
child with its own credentials; Yama counts a child as a descendant.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import NoReturn

from safedlv import target
from safedlv.linux import confine, tracing
from safedlv.linux.tracing import PTRACE_ATTACH, ptrace
from safedlv.probe import runner
from safedlv.probe.sequence import LOOKED, Progress, Sequence

PR_SET_PTRACER_ANY = -1  # include/uapi/linux/prctl.h
UNEXPECTED = 255  # no errno
IMPOSSIBLE_PID = (1 << 22) + 1  # PID_MAX_LIMIT of linux/threads.h is 1 << 22
NOBODYS_CALLS: dict[str, Callable[[], object]] = {
    "attach": lambda: ptrace(PTRACE_ATTACH, IMPOSSIBLE_PID),
    "setoptions": lambda: ptrace(tracing.PTRACE_SETOPTIONS, IMPOSSIBLE_PID, 0, tracing.PTRACE_O_TRACECLONE),
    "cont": lambda: ptrace(tracing.PTRACE_CONT, IMPOSSIBLE_PID),
    "getregset": lambda: tracing.get_registers(IMPOSSIBLE_PID),
    "peekdata": lambda: tracing.peek(IMPOSSIBLE_PID, 0),
    "pokedata": lambda: ptrace(tracing.PTRACE_POKEDATA, IMPOSSIBLE_PID),
    "tgkill": lambda: tracing.tgkill(IMPOSSIBLE_PID, IMPOSSIBLE_PID, tracing.SIGSTOP),
}
"""The calls of the probe that a filter may refuse, by the names of its steps."""


def ask_nobody() -> tuple[tuple[str, str], ...]:
    """(step of the probe, what its call gives on a PID that cannot exist): an errno's name, SIGSYS when it kills.

    Every ptrace request but TRACEME, and tgkill, look the PID up first and say ESRCH (kernel/ptrace.c, kernel/signal.c
    do_send_specific); any other answer is a filter's.
    """
    return tuple((step, _in_a_child(call) or "0") for step, call in NOBODYS_CALLS.items())


def look(found: target.Found) -> tuple[tuple[str, str | None], ...]:
    """(file of /proc/PID or ``kill``, the errno's name or None): what the probe looks at after a refused call.

    For a probe whose process was killed before it could look. Opens and closes; no signal is sent.
    """
    sequence = Sequence(found.pid, found.procdir, stopped=True, deadline=0, progress=Progress(bytearray(8)))
    sequence.access()
    return tuple((name.removeprefix(LOOKED), failure) for name, failure, _ in sequence.needs)


def open_stranger() -> tuple[str | None, str | None]:
    """What opening /proc/PID/mem of a process of our own gives that is no descendant of the opener: errno's name, None.

    The kernel asks for it what it asks for an attach (PTRACE_MODE_ATTACH), and nothing is stopped. Twice: as it is, and
    after that process let any tracer trace it with PR_SET_PTRACER, of which Yama alone takes notice
    (security/yama/yama_lsm.c). Opener and process are two children of ours.
    """
    commands, to_stranger = os.pipe()
    answers, from_stranger = os.pipe()
    stranger = os.fork()
    if stranger == 0:
        os.close(to_stranger)
        _obey(commands, from_stranger)
    os.close(commands)
    os.close(from_stranger)
    try:
        plain = _in_a_child(lambda: _open_memory(stranger))
        os.write(to_stranger, b"n")
        os.read(answers, 1)
        return plain, _in_a_child(lambda: _open_memory(stranger))
    finally:
        os.close(to_stranger)
        os.close(answers)
        runner.reap(stranger)


def _obey(commands: int, answers: int) -> NoReturn:
    """In the stranger: name any tracer when told to; end when nobody is there to tell it anything."""
    try:
        while os.read(commands, 1):
            confine.set_ptracer(PR_SET_PTRACER_ANY)
            os.write(answers, b"n")
    finally:
        os._exit(0)


def _open_memory(pid: int) -> None:
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC))


def _in_a_child(call: Callable[[], object]) -> str | None:
    """The errno's name of a call that a child makes, None when it passes; SIGSYS when a filter kills the child."""
    child = os.fork()
    if child == 0:
        code = UNEXPECTED
        try:
            call()
            code = 0
        except OSError as error:
            code = error.errno or UNEXPECTED
        finally:
            os._exit(code)
    status = runner.reap(child)
    if os.WIFSIGNALED(status):
        return "SIGSYS" if os.WTERMSIG(status) == runner.SIGSYS else "KILLED"
    code = os.WEXITSTATUS(status)
    return errno.errorcode.get(code, str(code)) if code else None


def attempt_on_own_child(timeout: float = runner.STOP_WITHIN) -> runner.RawAttempt:
    """The probe on a child that does nothing and is gone afterwards."""
    with own_child() as child:
        found = target.find(child)
        try:
            return runner.start(child, found.procdir, found.before, timeout).result()
        finally:
            found.close()


@contextlib.contextmanager
def own_child() -> Iterator[int]:
    """The PID of a child that waits until the block ends.

    It names any process as its tracer, so that Yama's scope 1 lets the probe's process, its sibling, trace it.
    """
    read_end, write_end = os.pipe()
    ready, from_child = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        with contextlib.suppress(OSError):  # no Yama in this kernel
            confine.set_ptracer(PR_SET_PTRACER_ANY)
        os.close(from_child)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    os.close(from_child)
    os.read(ready, 1)
    os.close(ready)
    try:
        yield child
    finally:
        os.close(write_end)
        runner.reap(child)

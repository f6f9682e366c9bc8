"""The processes of the control group, as functions that run in them."""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import signal
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, NoReturn

from attrs import evolve

from safedlv.controlled.ingredients import Setup
from safedlv.linux import confine
from safedlv.linux.steps import Step, seccomp_filter
from safedlv.linux.tracing import PTRACE_DETACH, ptrace
from safedlv.probe.context import Context, steps
from safedlv.runtimes.sandbox import Running

READY_SECONDS: Final = 20.0
ENVIRONMENT: Final = {"HOME": "/dev/null", "LANG": "C.UTF-8"}
"""No configuration of the user's is read, and none is made."""
LISTENING: Final = b"listening at"
PTRACE_TRACEME: Final = 0  # include/uapi/linux/ptrace.h
_CHUNK: Final = 65536
_LET_THROUGH: Final = {  # execve, execveat, brk, mmap, munmap
    "x86_64": (59, 322, 12, 9, 11),
    "aarch64": (221, 281, 214, 222, 215),
}
"""arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h."""


class Told:
    """A pipe on which a process says that it is ready."""

    def __init__(self, undo: ExitStack) -> None:
        self.reader, self.writer = os.pipe()
        undo.callback(os.close, self.reader)

    def say(self, message: bytes) -> None:
        """In the process: all that there is to say."""
        os.write(self.writer, message)
        os.close(self.writer)

    def answer(self, running: Running, until: bytes = b"") -> bytes:
        """What the process says, up to ``until``; call it once, when it was started.

        Raises TimeoutError; WorkloadFailed, with why, when it ended before that.
        """
        os.close(self.writer)
        deadline = time.monotonic() + READY_SECONDS
        message = b""
        while not message or until not in message:
            if not select.select([self.reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"a process of the control group is not ready after {READY_SECONDS:.0f} s")
            chunk = os.read(self.reader, _CHUNK)
            if not chunk:
                running.result(READY_SECONDS)  # raises what it raised
                raise ChildProcessError("a process of the control group ended before it was ready")
            message += chunk
        return message


def wait_for_ever() -> NoReturn:
    """Until it is killed."""
    while True:
        signal.pause()


def waiting_target(context: Context, setup: Setup, told: Told) -> Callable[[], bytes]:
    """A process that takes on a context, says what it could not take on, and waits."""

    def live() -> bytes:
        missing = take_on(steps_of(context))
        if setup.ptracer is not None:
            with contextlib.suppress(OSError):  # no Yama in this kernel
                confine.set_ptracer(setup.ptracer)
        confine.set_dumpable(setup.dumpable)
        told.say(marshal.dumps(missing))
        wait_for_ever()

    return live


def go_sample(context: Context, setup: Setup, program: int, words: list[str], told: Told) -> Callable[[], bytes]:
    """A Go program that waits, executed from its descriptor: what its user may not find, it may still run."""

    def live() -> bytes:
        missing = take_on(steps_of(context))
        if missing:
            raise OSError(missing[0])
        if setup.ptracer is not None:
            with contextlib.suppress(OSError):
                confine.set_ptracer(setup.ptracer)
        os.dup2(told.writer, 1)
        os.dup2(told.writer, 2)
        os.execve(program, words, ENVIRONMENT)

    return live


def held_program(context: Context, program: int, told: Told) -> Callable[[], bytes]:
    """A child that has executed somebody's program and stands before its first instruction; tells the child's PID.

    Should it ever run, then under a filter that kills it at the first call that could do anything.
    """

    def live() -> bytes:
        missing = take_on(steps_of(context))
        if missing:
            raise OSError(missing[0])
        filtering = seccomp_filter(harmless(os.uname().machine))
        child = os.fork()
        if child == 0:
            confine.set_pdeathsig(signal.SIGKILL)
            with contextlib.suppress(OSError):
                confine.set_ptracer(confine.PR_SET_PTRACER_ANY)
            confine.set_no_new_privs()
            ptrace(PTRACE_TRACEME, 0)
            filtering.apply()
            os.execve(program, ["program"], {})
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            raise OSError(f"the program was not executed (wait status {status:#x})")
        ptrace(PTRACE_DETACH, child, 0, signal.SIGSTOP)
        os.waitpid(child, os.WUNTRACED)
        told.say(marshal.dumps(child))
        wait_for_ever()

    return live


def harmless(machine: str) -> bytes:
    """A filter that lets a process be replaced by a program, have memory, and nothing else. KeyError: no numbers. Pure.

    struct sock_filter (include/uapi/linux/filter.h): load the call's number, a jump to the end for each that is let
    through, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ALLOW.
    """
    numbers = _LET_THROUGH[machine]
    load = struct.pack("=HBBI", 0x20, 0, 0, 0)  # BPF_LD | BPF_W | BPF_ABS, seccomp_data.nr
    last = len(numbers)
    jumps = (struct.pack("=HBBI", 0x15, last - place, 0, number) for place, number in enumerate(numbers))
    kill, allow = (struct.pack("=HBBI", 0x06, 0, 0, value) for value in (0x80000000, 0x7FFF0000))
    return load + b"".join(jumps) + kill + allow


def debugger(context: Context, program: int, words: list[str], stdin: int, told: Told, go: int) -> Callable[[], bytes]:
    """dlv, executed when a byte comes from ``go``: with its limits in place by then, and its filters just loaded."""

    def live() -> bytes:
        todo = steps_of(context)
        first = len(todo) - len(context.filters)
        missing = take_on(todo[:first])
        if missing:
            raise OSError(missing[0])
        os.dup2(stdin, 0)
        told.say(b"ready")
        os.read(go, 1)
        for step in todo[first:]:
            step.take()
        os.execve(program, words, ENVIRONMENT)

    return live


def holder(kind: str, owner: int, told: Told) -> Callable[[], bytes]:
    """A process in a new namespace of one kind; ``owner``: the uid to whom a user namespace shall belong."""

    def live() -> bytes:
        if owner:
            os.setresuid(owner, owner, owner)
        confine.unshare(kind)
        if kind == "pid" and os.fork() == 0:  # the namespace is there when its first process is
            confine.set_pdeathsig(signal.SIGKILL)
            told.say(b"ready")
            wait_for_ever()
        confine.set_dumpable(True)  # for whoever looks at its namespaces
        if kind != "pid":
            told.say(b"ready")
        wait_for_ever()

    return live


def steps_of(context: Context) -> list[Step]:
    """The steps of a context for the calling process, whose groups stay as they are: ptrace does not ask for them."""
    own_procdir = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return steps(evolve(context, groups=tuple(os.getgroups())), own_procdir)


def take_on(todo: list[Step]) -> tuple[str, ...]:
    """Take the steps; what was refused, a sentence each. Dies with its parent from then on as it did before."""
    parent = os.getppid()
    missing = []
    for step in todo:
        try:
            step.take()
        except OSError as error:
            missing.append(str(error.strerror))
    confine.set_pdeathsig(signal.SIGKILL)  # a change of ids has cleared it
    if os.getppid() != parent:
        os._exit(1)
    return tuple(missing)

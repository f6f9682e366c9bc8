"""The probe, made from another place: by a fresh child that takes on a context first.

Theory of operation: the caller opens the target (a pidfd and /proc/PID) and forks, while its children belong into the
context's PID namespace (setns(2) concerns only children there, so the caller itself stays where it is, and the child
is its own). The child opens a /proc of its namespace that is mounted nowhere, finds the target in it by the pidfd,
takes the context's steps one by one, and runs the sequence. From there on nothing of the mount namespace is used: no
shell, no library, no /proc. Results lie in memory that both share, so no filter can keep them back; the caller has
the deadline and mends what a child that was killed may have left (probe/runner.py).

A step that is refused is not taken and said in ``missing``; the others are taken all the same.
"""

from __future__ import annotations

import errno
import gc
import marshal
import os
import select
import time
from contextlib import ExitStack
from typing import Final, NoReturn

from attrs import frozen

from safedlv.facts.reading import decimal
from safedlv.linux import confine
from safedlv.linux.descriptors import keep_open
from safedlv.linux.steps import Step
from safedlv.probe.context import Context, steps
from safedlv.probe.rehearsal import rehearse
from safedlv.probe.runner import STOP_WITHIN, Before, RawAttempt, Running, conduct, shared_pages
from safedlv.probe.sequence import Progress, Sequence
from safedlv.values import Value

_GONE: Final[RawAttempt] = ((("attach", "ESRCH", 0),), (), (0, 0), True)
_PATH: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@frozen(eq=False, repr=False)
class Experiment(Value):
    """One probe from a context."""

    attempt: RawAttempt
    missing: tuple[str, ...]
    """What of the context was not taken on or could not be read; a sentence each, beginning with the part's name."""
    inner_pid: int | None
    """The target's PID in the context's PID namespace; None: it cannot be named there (then the attempt says ESRCH)."""
    us: int
    """Microseconds that it all took."""


def probe_from(context: Context, pid: int, timeout: float = STOP_WITHIN) -> Experiment:
    """Make the probe of process ``pid`` (as we see it) from ``context``; ``timeout`` is in seconds, for one stop.

    A frozen target is the caller's to refuse beforehand (runner.way_back_is_open). Call it before this process has
    other threads: it forks. Raises ProcessLookupError when the context's PID namespace has ended, OSError when the
    fork fails. A target that is gone is an attempt that says ESRCH.
    """
    return Begun(context, pid, timeout).result()


class Begun:
    """A probe from a context that is under way, as :func:`probe_from` makes it; ``result()`` waits for it."""

    def __init__(self, context: Context, pid: int, timeout: float) -> None:
        self.began = time.perf_counter()
        self.gone: Experiment | None = None
        with ExitStack() as undo:
            try:
                target = _Target(pid, undo)
            except (FileNotFoundError, ProcessLookupError):
                self.gone = Experiment(_GONE, context.unread, pid, _us(self.began))
                return
            parent = os.pidfd_open(os.getpid())
            undo.callback(os.close, parent)
            self.missing = [*context.unread, *_of_our_own()]
            self.helper = _Helper(context, target, timeout, parent)
            child = self.helper.start(self.missing)
            self.running = Running(pid, target.procdir, target.before, child, self.helper.shared, timeout)
            self.undo = undo.pop_all()

    def result(self) -> Experiment:
        """Wait for it; call it once."""
        if self.gone is not None:
            return self.gone
        with self.undo:
            return self.helper.experiment(self.running.result(), self.missing, self.began)


class _Target:
    """The target, held open in two ways that both pin its identity."""

    def __init__(self, pid: int, undo: ExitStack) -> None:
        self.pid = pid
        self.procdir = os.open(f"/proc/{pid}", _PATH)
        undo.callback(os.close, self.procdir)
        self.pidfd = os.pidfd_open(pid)
        undo.callback(os.close, self.pidfd)
        self.before = Before.of(self.procdir)  # it still lives, so both are of one process


def _of_our_own() -> list[str]:
    """What the child inherits from us and cannot put off."""
    with open("/proc/thread-self/status", "rb") as file:
        ours = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
    if not int(ours.get(b"Seccomp", b"0")):
        return []
    return ["seccomp: this process is under a filter itself, and the probe stayed under it"]


# ---------------------------------------------------------------- the child


class _Helper:
    """The child that stands in the other place, and what it tells its parent besides the attempt."""

    def __init__(self, context: Context, target: _Target, timeout: float, parent: int) -> None:
        self.context, self.target, self.timeout, self.parent = context, target, timeout, parent
        self.shared = shared_pages()
        self.told = shared_pages()
        self.missing: list[str] = []
        self.inner = target.pid

    def start(self, missing: list[str]) -> int:
        """Fork into the PID namespace; the child's PID. A namespace that cannot be joined is added to ``missing``."""
        link = self.context.namespace("pid")
        if link is None or link.fd is None:
            return self._fork(False)
        with ExitStack() as undo:
            own = os.open("/proc/thread-self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, own)
            try:
                confine.setns(link.fd, "pid")
            except OSError as error:
                missing.append(f"join the pid namespace: {error.strerror}")
                return self._fork(False)
            undo.callback(confine.setns, own, "pid")
            return self._fork(True)

    def _fork(self, inside: bool) -> int:
        try:
            child = os.fork()
        except OSError as error:
            if inside and error.errno == errno.ENOMEM:  # its init has ended (pid_namespaces(7))
                raise ProcessLookupError(errno.ESRCH, f"the PID namespace of {self.context.who} has ended") from error
            raise
        if child == 0:
            self._stand(inside)
        return child

    def _stand(self, inside: bool) -> NoReturn:
        """In the child: take on the context, make the probe, end."""
        try:
            os.setsid()
            gc.disable()  # a collection would touch, and so copy, every page while the target waits
            confine.set_dumpable(False)
            self._tell("began")
            self._probe(inside)
        except BaseException as error:
            self._tell("failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            os._exit(0)

    def _probe(self, inside: bool) -> None:
        procdir, own_procdir = self._find(inside)
        if procdir < 0:
            self._tell("hidden")
            return
        poll = select.poll()
        poll.register(self.parent, select.POLLIN)
        todo = steps(self.context, own_procdir)
        filters = len(self.context.filters)
        keep_open(procdir, own_procdir, self.parent, *self._namespaces())
        self._take(todo[: len(todo) - filters])
        keep_open(procdir, self.parent)
        progress = Progress(memoryview(self.shared))
        self._tell("entered")
        self._take(todo[len(todo) - filters :])
        deadline = time.monotonic() + self.timeout  # only now: a time namespace has a clock of its own
        sequence = Sequence(
            self.inner, procdir, stopped=self.target.before.stopped, deadline=deadline, progress=progress
        )
        self._tell("ready")
        conduct(sequence, self.shared, lambda: bool(poll.poll(0)))

    def _find(self, inside: bool) -> tuple[int, int]:
        """The target's open /proc/PID as this PID namespace numbers it (-1: it does not), and the child's own."""
        if not inside:
            rehearse()
            return self.target.procdir, os.open("/proc/self", _PATH)
        proc = confine.mount_detached("proc")
        own_procdir = os.open("self", _PATH, dir_fd=proc)
        self.inner = self._number(own_procdir)
        if self.inner <= 0:
            return -1, own_procdir
        procdir = os.open(str(self.inner), _PATH, dir_fd=proc)
        if self._number(own_procdir) != self.inner:
            return -1, own_procdir
        rehearse(proc)
        return procdir, own_procdir

    def _number(self, own_procdir: int) -> int:
        """The PID of a pidfd in the namespace of this /proc: 0 where it has none, -1 when it ended (pidfd_open(2))."""
        fd = os.open(f"fdinfo/{self.target.pidfd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=own_procdir)
        try:
            fields = dict(line.split(b":", 1) for line in os.read(fd, 4096).splitlines())
        finally:
            os.close(fd)
        return -1 if fields[b"Pid"].strip() == b"-1" else decimal(fields[b"Pid"])

    def _take(self, todo: list[Step]) -> None:
        for step in todo:
            try:
                step.take()
            except OSError as error:
                self.missing.append(str(error.strerror))

    def _namespaces(self) -> list[int]:
        return [link.fd for link in self.context.namespaces if link.fd is not None]

    # ------------------------------------------------------------ across to the parent

    def _tell(self, stage: str, text: str = "") -> None:
        self.told.seek(0)
        self.told.write(marshal.dumps((stage, text, tuple(self.missing), self.inner)))

    def experiment(self, attempt: RawAttempt, missing: list[str], began: float) -> Experiment:
        """In the parent, when the child has ended: what it all came to."""
        stage, text, said, inner = marshal.loads(self.told[:])  # noqa: S302  written by our own child
        missing = [*missing, *said]
        if stage == "hidden":
            return Experiment(_GONE, tuple(missing), inner if inner < 0 else None, _us(began))
        if stage != "ready":
            missing.append(f"the probe was not made: its process ended before it ({text or stage})")
            attempt = (), (), (0, 0), attempt[3]
        return Experiment(attempt, tuple(missing), inner, _us(began))


def _us(began: float) -> int:
    return round((time.perf_counter() - began) * 1e6)

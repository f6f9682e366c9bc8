"""Run the probe in a child of its own, and mend what a child that was killed may have left.

The child is forked while this process has one thread, leaves the session (a Ctrl-C or a killed process group does
not reach it) and finishes by itself even if this process is killed. Child and parent share one page, so that the
parent knows how far a child came that a seccomp filter killed.
"""

from __future__ import annotations

import errno
import gc
import marshal
import mmap
import os
import select
import time

from safedlv.linux.tracing import SIGCONT, SIGSTOP, may_signal
from safedlv.probe.rehearsal import rehearse
from safedlv.probe.sequence import STEPS, Progress, RawStep, Sequence, TargetGoneError, word_after

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

Held = tuple[int, int]
"""Microseconds for which the leader was stopped, and the sum over the other threads, held one at a time."""
RawAttempt = tuple[tuple[RawStep, ...], tuple[RawStep, ...], Held, bool]
"""The three calls, the needs, time held, left as found (model.Attempt, before anyone thinks about it)."""

STOP_WITHIN = 2.0
"""Seconds for the target to stop when it is probed, before it is given up (--probe-timeout)."""
SIGKILL = 9
SIGSYS = 31
_HEADER = 8  # bytes of Progress; the marshalled result follows


class Before:
    """How the target was before it was touched, read with as little as possible (proc_pid_status(5))."""

    __slots__ = ("catches_sigcont", "stopped", "tgid", "traced_by")

    def __init__(self, status: bytes) -> None:
        fields = {key: rest.split() for key, _, rest in (line.partition(b":") for line in status.splitlines())}
        self.stopped = fields.get(b"State", [b"?"])[0] == b"T"
        self.tgid = int(fields.get(b"Tgid", [b"0"])[0])
        self.traced_by = int(fields.get(b"TracerPid", [b"0"])[0])
        self.catches_sigcont = bool(int(fields.get(b"SigCgt", [b"0"])[0], 16) >> (SIGCONT - 1) & 1)

    @classmethod
    def of(cls, procdir: int) -> Before:
        """Raises OSError when the process is gone."""
        fd = os.open("status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=procdir)
        try:
            return cls(os.read(fd, 16384))
        finally:
            os.close(fd)


def refused(attempt: RawAttempt) -> bool:
    """Whether an attempt shows that dlv would fail. It does without process_vm_readv: PEEKDATA is its second choice."""
    steps, needs, _, _ = attempt
    return not steps or any(failure for name, failure, _ in steps + needs if name != "process_vm_readv")


def way_back_is_open(pid: int, before: Before) -> bool:
    """Whether a target that cannot stop could be left without a trace: by SIGCONT, allowed and without a handler.

    Only a frozen target is known beforehand not to stop; it is not attached to when there is no way back.
    """
    if before.stopped or (not before.catches_sigcont and may_signal(pid)):
        return True
    from safedlv.facts.cgroup import read_cgroup
    from safedlv.facts.procfs import ProcDir

    with ProcDir(pid) as procdir:
        return read_cgroup(procdir).frozen is not True


def shared_pages() -> mmap.mmap:
    """Memory that a child forked from here shares: four bytes of :class:`Progress`, then the result."""
    return mmap.mmap(-1, mmap.PAGESIZE * 4)


def start(pid: int, procdir: int, before: Before, timeout: float) -> Running:
    """Fork the probe of ``pid`` (``procdir``: its open /proc/PID). ``timeout``: seconds until a stop is given up."""
    shared = shared_pages()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _child(pid, procdir, before, time.monotonic() + timeout, shared, parent)
    return Running(pid, procdir, before, child, shared, timeout)


def _child(pid: int, procdir: int, before: Before, deadline: float, shared: mmap.mmap, parent: int) -> None:
    try:
        os.setsid()
        gc.disable()  # a collection would touch, and so copy, every page while the target waits
        rehearse()
        progress = Progress(memoryview(shared))
        sequence = Sequence(pid, procdir, stopped=before.stopped, deadline=deadline, progress=progress)
        conduct(sequence, shared, lambda: os.getppid() != parent)
    finally:
        os._exit(0)


def conduct(sequence: Sequence, shared: mmap.mmap, orphaned: Callable[[], bool]) -> None:
    """Run the sequence and leave its result in the pages that the parent reads (:class:`Running`)."""
    try:
        sequence.run()
    except (TargetGoneError, FileNotFoundError, ProcessLookupError):
        sequence.steps = sequence.steps or [("attach", "ESRCH", 0)]
    held = (round(sequence.held * 1e6), round(sequence.held_threads * 1e6))
    if sequence.gave_up and not sequence.stopped and orphaned():
        os.kill(sequence.pid, SIGCONT)  # the parent, whose task it is, has been killed
    result = marshal.dumps((tuple(sequence.steps), tuple(sequence.needs), held, sequence.gave_up))
    shared[_HEADER : _HEADER + len(result)] = result
    shared[3] = 1


class Running:
    """A probe under way. ``result()`` waits for it; meanwhile the caller may do other things."""

    def __init__(self, pid: int, procdir: int, before: Before, child: int, shared: mmap.mmap, timeout: float) -> None:
        self.pid, self.procdir, self.before = pid, procdir, before
        self.child, self.shared, self.timeout = child, shared, timeout

    def result(self) -> RawAttempt:
        """The attempt. A child that was killed by a filter counts as refused with SIGSYS at the step it had begun."""
        killed_by = self._reap()
        if self.shared[3]:
            steps, needs, held, gave_up = marshal.loads(self.shared[_HEADER:])  # noqa: S302  written by our own child
            if gave_up and not self.before.stopped:
                _ignore_gone(lambda: os.kill(self.pid, SIGCONT))
            elif any(failure for _, failure, _ in steps + needs):
                self._mend()  # whatever was refused in between may have left a stop
        else:
            if self.shared[0]:  # else it ended before it touched the target
                self._mend()
            steps, needs, held = self._as_far_as_it_came(killed_by)
        return steps, needs, held, self._left_as_found()

    def _reap(self) -> int:
        """Wait for the child, as long as its heartbeat goes on; returns the signal that ended it, or 0."""
        beat = -1
        while not _ends_within(self.child, self.timeout + 1):
            if self.shared[2] == beat:
                os.kill(self.child, SIGKILL)
            beat = self.shared[2]
        status = reap(self.child)
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    def _as_far_as_it_came(self, killed_by: int) -> tuple[tuple[RawStep, ...], tuple[RawStep, ...], Held]:
        reached = self.shared[0]
        word = "SIGSYS" if killed_by == SIGSYS else "KILLED"
        done = tuple((name, None, 0) for name in STEPS[: max(reached - 1, 0)])
        failed = ((STEPS[max(reached - 1, 0)], word, 0),)
        every = done + failed
        return every[:3], every[3:], (0, 0)

    def _mend(self) -> None:
        """A killed child may leave a SIGSTOP queued or a signal of the target undelivered."""
        held = self.shared[1]
        if held:
            _ignore_gone(lambda: os.kill(self.pid, held))
        if not self.before.stopped and (self._state() == b"T" or self._stop_queued()):
            _ignore_gone(lambda: os.kill(self.pid, SIGCONT))

    def _left_as_found(self) -> bool:
        """Untraced (or traced by whom it was before), and stopped or running as before; a target that ended counts."""
        deadline = time.monotonic() + 0.2  # a job stop is taken up again within microseconds of the detach
        while True:
            try:
                after = Before.of(self.procdir)
            except OSError:
                return True
            if after.traced_by == self.before.traced_by and after.stopped == self.before.stopped:
                return True
            if time.monotonic() > deadline:
                return False
            pause(0.0005)

    def _state(self) -> bytes:
        return word_after(self.procdir, "stat", b") ")

    def _stop_queued(self) -> bool:
        mask = word_after(self.procdir, "status", b"\nSigPnd:\t")
        return bool(mask) and bool(int(mask, 16) >> (SIGSTOP - 1) & 1)


def _ignore_gone(call: Callable[[], None]) -> None:
    try:
        call()
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EPERM):
            raise


def reap(child: int) -> int:
    """Wait for a child of ours; its status as waitpid(2) has it, 0 where a filter lets nobody wait."""
    try:
        return os.waitpid(child, 0)[1]
    except PermissionError:
        return 0


def _ends_within(child: int, seconds: float) -> bool:
    """Whether a child ends in that time (pidfd_open(2)); looked up in /proc where a filter refuses to wait for it."""
    try:
        pidfd = os.pidfd_open(child)
    except PermissionError:
        return _seen_to_end_within(child, seconds)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    except PermissionError:
        return _seen_to_end_within(child, seconds)
    finally:
        os.close(pidfd)


def _seen_to_end_within(child: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{child}/stat", "rb") as file:
                if file.read().rpartition(b") ")[2][:1] in (b"Z", b"X"):
                    return True
        except OSError:
            return True
        pause(0.0005)
    return False


def pause(seconds: float) -> None:
    """Sleep; not at all where a filter refuses it."""
    try:
        time.sleep(seconds)
    except OSError:
        return

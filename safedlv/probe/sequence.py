"""The probe: ATTACH, SETOPTIONS, CONT and the way back; then what else Delve needs.

It runs in a single-threaded child made for it (probe/runner.py), on a process that must not notice:

* ``attach``      PTRACE_ATTACH, and the wait for the stop that its SIGSTOP causes
* ``setoptions``  PTRACE_O_TRACECLONE, the only option Delve sets; taken back at once, so that no thread that the
                  target starts meanwhile is traced by us
* ``cont``        PTRACE_CONT; then one more stop, by tgkill as Delve does it, and PTRACE_DETACH

Three rules keep the target as it was (all of them kernel/signal.c and kernel/ptrace.c):

* A stop is ours only if its siginfo says so: ATTACH's SIGSTOP has si_code SI_KERNEL, our tgkill's SI_TKILL. Every
  other signal is handed on with PTRACE_CONT, and the wait goes on.
* A tracee that was job-stopped reports a group-stop first (no siginfo), with ATTACH's SIGSTOP still queued. It is
  let go only as far as that SIGSTOP's delivery, which happens before it returns to user code; detaching there
  puts it back into its job stop.
* A target that never stops is given up after the deadline. Its queued SIGSTOP would stop it for good when it
  wakes, so SIGCONT is sent, which removes queued stop signals at the moment it is sent (prepare_signal) and is
  itself dropped by a process that has no handler for it. While we trace the target it would be queued instead, so
  the parent sends it when this child, and with it the tracing, is gone (probe/runner.py).

After an attach that was refused, two files of /proc/PID tell what else the caller may (:meth:`Sequence.access`).

The results cross to the parent as plain tuples: (name, errno's name or None, microseconds).
"""

from __future__ import annotations

import errno
import os
import time

from safedlv.linux import tracing
from safedlv.linux.tracing import (
    PTRACE_ATTACH,
    PTRACE_CONT,
    PTRACE_DETACH,
    PTRACE_O_TRACECLONE,
    PTRACE_POKEDATA,
    PTRACE_SETOPTIONS,
    SI_KERNEL,
    SI_TKILL,
    SIGSTOP,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Calls(Protocol):
        """The system calls of the sequence: the module linux.tracing, or a stand-in with the same functions."""

        def ptrace(self, request: int, tid: int, addr: int = 0, data: int = 0) -> None: ...
        def peek(self, tid: int, addr: int) -> int: ...
        def signal_info(self, tid: int) -> tuple[int, int] | None: ...
        def get_registers(self, tid: int) -> int: ...
        def tgkill(self, tgid: int, tid: int, signal: int) -> None: ...
        def wait_stopped(self, tid: int) -> int | None: ...
        def process_vm_readv(self, pid: int, addr: int, size: int) -> bytes: ...


RawStep = tuple[str, "str | None", int]
SPINS = 400  # a stop usually takes 10 to 50 us; sleeping at once would cost the target ten times that
AT_ENTRY = 9  # getauxval(3)


class TargetGoneError(Exception):
    """The target (or one thread of it) ended while it was looked at."""


class NeverStoppedError(Exception):
    """The stop did not come before the deadline: frozen, a vfork parent, or in an uninterruptible sleep."""


class Progress:
    """What the parent must know if this child is killed: the step begun, and a signal of the target in our hands."""

    def __init__(self, shared: bytearray | memoryview) -> None:
        self.shared = shared

    def begin(self, step: int) -> None:
        self.shared[0] = step
        self.shared[2] = (self.shared[2] + 1) % 256  # a heartbeat, so that a slow probe is told from a stuck one

    def holding(self, signal: int) -> None:
        self.shared[1] = signal


LOOKED = "looked:"
"""What the names of the looks after a refused call begin with, among the needs."""
STEPS = ("attach", "setoptions", "cont", "getregset", "peekdata", "pokedata", "tgkill", "threads", "files")


class Sequence:
    """One run of the probe on one process. ``procdir`` is an open /proc/PID, which pins the identity."""

    def __init__(
        self,
        pid: int,
        procdir: int,
        *,
        stopped: bool,
        deadline: float,
        progress: Progress,
        calls: Calls = tracing,
    ) -> None:
        self.pid = pid
        self.procdir = procdir
        self.stopped = stopped
        self.deadline = deadline
        self.progress = progress
        self.calls = calls
        self.steps: list[RawStep] = []
        self.needs: list[RawStep] = []
        self.held = 0.0  # seconds for which the leader was stopped by us
        self.held_threads = 0.0  # the same for all other threads, which are held one at a time
        self.gave_up = False
        """A SIGSTOP of ours may be queued on the target."""
        self.examined = False
        self.entry = 0
        self.own_pid = os.getpid()  # -1 under a filter that refuses it

    # ------------------------------------------------------------ the path, in order

    def run(self) -> None:
        """The whole probe; results are in ``steps``, ``needs`` and ``held``."""
        try:
            self.entry = self._entry_address()
            self._three_calls()
            if all(failure is None for _, failure, _ in self.steps):
                self._threads()
                self._files()
            else:
                self.access()
        except NeverStoppedError:
            self.gave_up = True

    def _three_calls(self) -> None:
        pid = self.pid
        os.stat("stat", dir_fd=self.procdir)  # the process that was looked at, not a later one with its number
        began = time.perf_counter()
        if not self._try("attach", self.steps, lambda: self._attach(pid), began):
            return
        held_since = began
        self._try("setoptions", self.steps, lambda: self.calls.ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACECLONE))
        untraced = (
            self._quietly(lambda: self.calls.ptrace(PTRACE_SETOPTIONS, pid, 0, 0)) or self.steps[-1][1] is not None
        )
        if not untraced or not self._try("cont", self.steps, lambda: self.calls.ptrace(PTRACE_CONT, pid)):
            self._quietly(lambda: self.calls.ptrace(PTRACE_DETACH, pid))
            self._hold_time(held_since)
            return
        if self.stopped:
            self._await_stop(pid)
        else:
            self._hold_time(held_since)
        self._second_stop(pid)

    def _second_stop(self, pid: int) -> None:
        """Stop the leader again as Delve does, look at what needs a stopped thread, and let go for good."""
        began = time.perf_counter()
        if not self._try("tgkill", self.needs, lambda: self.calls.tgkill(pid, pid, SIGSTOP)):
            self._look("kill", lambda: os.kill(pid, 0))  # refused too: then it is no filter on tgkill
            return  # it runs, traced: our exit lets it go, and it runs on
        if self.stopped:
            self.calls.ptrace(PTRACE_CONT, pid)  # from one queued SIGSTOP to the next, without a step of user code
        kind = self._await_stop(pid)
        self._examine(pid)
        self._release(pid, kind)
        self._hold_time(began)

    def _threads(self) -> None:
        """Attach to every other thread, one at a time, as long as it takes to set the options on it."""
        failure: str | None = None
        began_all = time.perf_counter()
        try:
            names = self._thread_names()
        except OSError as error:
            if isinstance(error, FileNotFoundError | ProcessLookupError):  # it ended
                raise
            self.needs.append(("threads", _name(error), _us(began_all)))
            return
        for name in names:
            tid = int(name)
            if tid == self.pid:
                continue
            self.progress.begin(STEPS.index("threads") + 1)
            began = time.perf_counter()
            failure = self.one_thread(tid) or failure
            self.held_threads += 0.0 if self.stopped else time.perf_counter() - began
        self.needs.append(("threads", failure, _us(began_all)))

    def one_thread(self, tid: int) -> str | None:
        """Attach to one more thread and let it go; the errno that stood in the way, or None."""
        try:
            kind = self._attach(tid)
        except TargetGoneError:
            return None
        except OSError as error:
            return None if self._thread_gone(tid) else _name(error)
        except NeverStoppedError:
            self.needs.append(("threads", "TIMEOUT", 0))
            raise
        failure = None
        try:
            self.calls.ptrace(PTRACE_SETOPTIONS, tid, 0, PTRACE_O_TRACECLONE)
            if not self.examined:
                self._examine(tid)
        except OSError as error:
            failure = _name(error)
        self._release(tid, kind)
        return failure

    def _files(self) -> None:
        """The files of /proc/PID that Delve opens, and memory read without stopping anything."""
        self.progress.begin(STEPS.index("files") + 1)
        for name in ("auxv", "maps", "exe"):
            self._try(name, self.needs, lambda name=name: os.close(self._open(name)))  # type: ignore[misc]
        if self.entry:
            self._try("process_vm_readv", self.needs, lambda: self.calls.process_vm_readv(self.pid, self.entry, 8))
        self._try("mem", self.needs, self._read_mem)

    def access(self) -> None:
        """After a refused call: what of the target the same caller may open, and whether it may signal it.

        Opening exe asks the kernel's access rules with PTRACE_MODE_READ, opening mem with PTRACE_MODE_ATTACH, which
        PTRACE_ATTACH asks too (fs/proc/base.c); no filter on ptrace(2) sees either. The step of the
        probe stays the one that was refused, whatever becomes of this.
        """
        for name in ("auxv", "maps", "exe", "mem"):
            self._look(f"{LOOKED}{name}", lambda name=name: os.close(self._open(name)))  # type: ignore[misc]
        self._look(f"{LOOKED}kill", lambda: os.kill(self.pid, 0))

    def _look(self, name: str, call: Callable[[], object]) -> None:
        began = time.perf_counter()
        failure: str | None = None
        try:
            call()
        except OSError as error:
            failure = _name(error)
        self.needs.append((name, failure, _us(began)))

    # ------------------------------------------------------------ stops

    def _attach(self, tid: int) -> bool:
        self.calls.ptrace(PTRACE_ATTACH, tid)
        try:
            os.stat(f"task/{tid}/stat", dir_fd=self.procdir)
        except FileNotFoundError as error:  # the number belongs to another process by now: let go at once
            self._await_stop(tid)
            self.calls.ptrace(PTRACE_DETACH, tid)
            raise TargetGoneError from error
        try:
            return self._await_stop(tid)
        except OSError as error:  # a filter on wait4(2): the stop comes, and we shall not see it
            self.gave_up = True
            self.needs.append(("wait4", _name(error), 0))
            raise

    def _await_stop(self, tid: int) -> bool:
        """Wait for a stop of our making; True when it is a group-stop, with our own SIGSTOP still queued."""
        while True:
            signal = self._wait(tid)
            try:
                info = self.calls.signal_info(tid)
            except OSError:  # a filter refuses it: all that is left is the signal's number
                info = None if self.stopped else (SI_KERNEL if signal == SIGSTOP else 0, 0)
            if info is None:
                return True
            code, sender = info
            ours = sender in (0, self.own_pid) or self.own_pid <= 0
            if signal == SIGSTOP and (code == SI_KERNEL or (code == SI_TKILL and ours)):
                return False
            self._hand_on(tid, signal)

    def _hand_on(self, tid: int, signal: int) -> None:
        """Give the target the signal that it is stopped at. If CONT is refused, DETACH can still carry it."""
        self.progress.holding(signal)
        try:
            self.calls.ptrace(PTRACE_CONT, tid, 0, signal)
        except OSError:
            self.calls.ptrace(PTRACE_DETACH, tid, 0, signal)
            self.gave_up = True
            raise
        finally:
            self.progress.holding(0)

    def _wait(self, tid: int) -> int:
        """The signal that ``tid`` stopped at. Raises TargetGoneError, NeverStoppedError."""
        spins = 0
        while True:
            try:
                signal = self.calls.wait_stopped(tid)
            except (ChildProcessError, ProcessLookupError) as error:
                raise TargetGoneError from error
            if signal is not None:
                return signal
            if time.monotonic() > self.deadline:
                raise NeverStoppedError
            spins += 1
            rest(spins)

    def _release(self, tid: int, group_stop: bool) -> None:
        """Detach from a stopped thread with no SIGSTOP of ours left in its queue."""
        if group_stop and self._stop_is_queued(tid):
            self.calls.ptrace(PTRACE_CONT, tid)
            self._await_stop(tid)
        self._quietly(lambda: self.calls.ptrace(PTRACE_DETACH, tid))

    # ------------------------------------------------------------ what else Delve needs

    def _examine(self, tid: int) -> None:
        """On a stopped thread: registers, and one word of the program's text read and written back as it was."""
        self.examined = True
        self._try("getregset", self.needs, lambda: self.calls.get_registers(tid))
        if not self.entry:
            return
        word = 0

        def read() -> None:
            nonlocal word
            word = self.calls.peek(tid, self.entry)

        if self._try("peekdata", self.needs, read):
            self._try("pokedata", self.needs, lambda: self.calls.ptrace(PTRACE_POKEDATA, tid, self.entry, word))

    def _entry_address(self) -> int:
        """The program's entry point (AT_ENTRY of /proc/PID/auxv), a word that nothing else ever writes; 0: unknown."""
        try:
            fd = self._open("auxv")
        except OSError:
            return 0
        data = os.read(fd, 4096)
        os.close(fd)
        words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data) - 7, 8)]
        return dict(zip(words[::2], words[1::2], strict=False)).get(AT_ENTRY, 0) & ~7

    def _read_mem(self) -> None:
        fd = self._open("mem")
        try:
            if self.entry:
                os.pread(fd, 8, self.entry)
        finally:
            os.close(fd)

    # ------------------------------------------------------------ small things

    def _thread_names(self) -> list[str]:
        """Through the open directory: the mount namespace that this runs in may have no /proc."""
        fd = self._open("task")
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def _open(self, name: str) -> int:
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self.procdir)

    def _thread_gone(self, tid: int) -> bool:
        """Gone or ending: the kernel refuses ptrace on a thread that is on its way out."""
        return word_after(self.procdir, f"task/{tid}/stat", b") ") in (b"", b"Z", b"X")

    def _stop_is_queued(self, tid: int) -> bool:
        mask = word_after(self.procdir, f"task/{tid}/status", b"\nSigPnd:\t")
        return not mask or bool(int(mask, 16) >> (SIGSTOP - 1) & 1)

    def _hold_time(self, since: float) -> None:
        if not self.stopped:
            self.held += time.perf_counter() - since

    def _try(self, name: str, log: list[RawStep], call: Callable[[], object], began: float | None = None) -> bool:
        self.progress.begin(STEPS.index(name) + 1 if name in STEPS else len(STEPS))
        began = began or time.perf_counter()
        failure: str | None = None
        try:
            call()
        except OSError as error:
            failure = _name(error)
        except TargetGoneError:
            failure = "ESRCH"
        except NeverStoppedError:
            log.append((name, "TIMEOUT", _us(began)))
            raise
        log.append((name, failure, _us(began)))
        return failure is None

    @staticmethod
    def _quietly(call: Callable[[], object]) -> bool:
        try:
            call()
        except OSError:
            return False
        return True


def word_after(procdir: int, name: str, before: bytes) -> bytes:
    """The word after the last ``before`` in a file of an open /proc/PID; empty when either is not there."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=procdir)
        data = os.read(fd, 16384)
        os.close(fd)
    except OSError:
        return b""
    return (data.rpartition(before)[2].split() or [b""])[0]


def _us(began: float) -> int:
    return round((time.perf_counter() - began) * 1e6)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def rest(spins: int) -> None:
    """A pause between two looks; none where a filter refuses it."""
    try:
        if spins < SPINS:
            os.sched_yield()
        else:
            time.sleep(0.0002)
    except OSError:
        return

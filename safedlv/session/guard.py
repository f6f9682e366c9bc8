"""The guard: a small process that sees dlv die before the kernel lets go of the target, and brings the target home.

It seizes dlv's own threads (PTRACE_SEIZE with TRACEEXIT and TRACECLONE, and no more): each of them then stops at its
exit, PTRACE_EVENT_EXIT, whatever kills it (SIGKILL and the OOM killer too), while it still holds the threads that it
traces. All other stops are passed on at once: signals are delivered, group-stops are kept, new threads run.

dlv is seized only when it is dlv, after execve(2): a tracer at an execve would take the file's capabilities from it.
Nothing of dlv is read, changed or delayed by it. When the guard is killed, the kernel lets go of dlv, which runs on,
and the keeper starts another one. When the keeper is killed, the guard ends the session once safedlv is gone as well:
it kills dlv, and brings the target home.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from contextlib import suppress

from safedlv.errors import printable
from safedlv.linux.descriptors import keep_open
from safedlv.linux.registers import MACHINE
from safedlv.linux.tracing import PTRACE_CONT, PTRACE_EVENT_STOP, PTRACE_SEIZE, WALL, die_signal, ptrace
from safedlv.session.rescue import is_gone, listed, needs_rescue, rescue, rescue_late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from safedlv.session.rescue import Target

PTRACE_LISTEN: Final = 0x4208
PTRACE_O_TRACECLONE, PTRACE_O_TRACEEXIT = 0x8, 0x40
PTRACE_EVENT_EXIT: Final = 6
_STOPPING: Final = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
EXEC_WITHIN: Final = 5.0
"""Seconds for the process that will be dlv to become it."""
SAMPLE: Final = 0.002
LOOKS_EVERY: Final = 0.2  # seconds
ON, OFF, SAVED, LOST = b"on", b"off", b"saved", b"lost"
"""What the guard says, the first word of a line: it watches; it cannot, and why; dlv died, and what was done then."""


def start(dlv: int, target: Target, tell: int) -> int:
    """Fork the guard of process ``dlv``, which we may trace; its PID. ``tell``: a socket for what it has to say."""
    keeper = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        keep_open(0, 1, 2, tell, target.pidfd, target.procdir)
        _watch(dlv, target, tell, keeper)
    finally:
        os._exit(0)
    raise AssertionError  # never reached


def _watch(dlv: int, target: Target, tell: int, keeper: int) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # it ends when dlv does
    _stand_in(dlv, tell, keeper)
    if MACHINE is None:
        _say(tell, OFF, f"it is not made for {os.uname().machine}")
        return
    guard = Guard(dlv, target, tell)
    try:
        _until_executed(dlv)
        guard.run()
    except FileNotFoundError:  # dlv was gone before it was seized
        guard.late()
    except OSError as error:
        _say(tell, OFF, f"it may not watch dlv: {error.strerror}")


def _stand_in(dlv: int, tell: int, keeper: int) -> None:
    """When the keeper is killed, end dlv as soon as safedlv has ended, or wants to leave: nobody else would."""

    def look(_number: int, _frame: object) -> None:
        if os.getppid() != keeper and _has_ended(tell):
            os.kill(dlv, signal.SIGKILL)  # that process still: it is not waited for before we have let go of it
        elif os.getppid() != keeper:
            signal.setitimer(signal.ITIMER_REAL, LOOKS_EVERY)

    signal.signal(signal.SIGALRM, look)
    die_signal(signal.SIGALRM)
    look(0, None)  # it may have ended before that


def _has_ended(lifeline: int) -> bool:
    """Whether the other end of a socket is closed; what was said on it stays there."""
    poll = select.poll()
    poll.register(lifeline, select.POLLRDHUP)
    return bool(poll.poll(0))


def _say(tell: int, word: bytes, text: str = "") -> None:
    try:
        os.write(tell, word + b" " + text.encode() + b"\n")
    except OSError:  # nobody listens any more
        return


def told(lifeline: socket.socket, *, asked: bool) -> list[str]:
    """What a guard has said, in sentences; ``asked``: dlv's end is of our own making, which needs none."""
    lines: list[str] = []
    with suppress(OSError):
        while data := lifeline.recv(512, socket.MSG_DONTWAIT):
            word, _, text = data.decode("utf-8", "replace").strip().partition(" ")
            if word == SAVED.decode() and not asked:
                lines.append(f"dlv died; its target was brought home and runs on ({printable(text)})")
            elif word == LOST.decode():
                lines.append(f"dlv died, and its target may still have its breakpoints: {printable(text)}")
            elif word == OFF.decode() and not asked:
                lines.append(f"dlv was not guarded: {printable(text)}")
    return lines


def _until_executed(dlv: int) -> None:
    """Wait until it runs another program than we do. Raises OSError when it has ended or may not be looked at."""
    own = os.readlink("/proc/self/exe")
    deadline = time.monotonic() + EXEC_WITHIN
    while os.readlink(f"/proc/{dlv}/exe") == own and time.monotonic() < deadline:
        time.sleep(SAMPLE)


class Guard:
    """Watches one dlv. ``run()`` returns when it has ended."""

    def __init__(self, dlv: int, target: Target, tell: int) -> None:
        self.dlv, self.target, self.tell = dlv, target, tell

    def run(self) -> None:
        """Seize dlv's threads and pass on their stops until there is none left. Raises OSError when that is refused."""
        self._seize()
        _say(self.tell, ON)
        while True:
            try:
                tid, status = os.waitpid(-1, WALL)
            except ChildProcessError:
                return
            if os.WIFSTOPPED(status):
                self._stopped(tid, os.WSTOPSIG(status), status >> 16)

    def _seize(self) -> None:
        """Every thread, also those that are made meanwhile: a seized one's new threads are seized at birth."""
        seized: set[int] = set()
        while new := listed(self.dlv) - seized:
            for tid in new:
                try:
                    ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXIT)
                except ProcessLookupError:
                    continue
                except PermissionError:
                    if not _is_ours(tid):
                        raise
            seized |= new
        if not seized:
            raise FileNotFoundError

    def _stopped(self, tid: int, number: int, event: int) -> None:
        if event == PTRACE_EVENT_EXIT:
            self._exits(tid)
        elif event == PTRACE_EVENT_STOP and number in _STOPPING:
            _go_on(tid, PTRACE_LISTEN)
        else:
            _go_on(tid, PTRACE_CONT, 0 if event else number)

    def _exits(self, tid: int) -> None:
        """A thread of dlv ends: where it is the one that traces the target, dlv is dying and has not let go."""
        self._rescued(lambda: rescue(self.target, tid, lambda: _go_on(tid, PTRACE_CONT)))

    def late(self) -> None:
        """dlv died before it was watched: what it may have left is taken away all the same."""
        self._rescued(lambda: rescue_late(self.target) if needs_rescue(self.target) else "")

    def _rescued(self, make: Callable[[], str]) -> None:
        try:
            done = make()
        except OSError as error:
            if not is_gone(self.target):
                _say(self.tell, LOST, str(error.strerror))
        else:
            if done:
                _say(self.tell, SAVED, done)


def tracer_of(pid: int) -> int:
    """The process that traces ``pid`` (TracerPid, proc_pid_status(5)); 0 for nobody, or when it has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return int(next((line.split()[1] for line in file if line.startswith(b"TracerPid:")), b"0"))
    except OSError:
        return 0


def _is_ours(tid: int) -> bool:
    """Whether it was seized at birth."""
    try:
        return os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | os.WNOWAIT | WALL) is None
    except ChildProcessError:
        return False


def _go_on(tid: int, request: int, number: int = 0) -> None:
    with suppress(ProcessLookupError):  # killed meanwhile
        ptrace(request, tid, 0, number)

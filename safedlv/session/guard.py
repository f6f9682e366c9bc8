"""The guard: a small process that sees dlv die before the kernel lets go of the target, and brings the target home.

It waits until a thread of dlv traces the target, and seizes that one thread (PTRACE_SEIZE with TRACEEXIT, and no more):
it then stops at its exit, PTRACE_EVENT_EXIT, whatever kills it (SIGKILL and the OOM killer too), while it still holds
the threads that it traces. All its other stops are passed on at once: signals are delivered, group-stops are kept,
and the two signals that come often are blocked in it from then on. The other threads of dlv, which read debug
information and serve clients, are left alone.

Nothing else of dlv is read, changed or delayed by it. When the guard is killed, the kernel lets go of dlv, which runs
on, and the keeper starts another one. When the keeper is killed, the guard ends the session once safedlv is gone as
well: it kills dlv, and brings the target home.
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
from safedlv.linux.tracing import (
    PTRACE_CONT,
    PTRACE_EVENT_EXIT,
    PTRACE_EVENT_STOP,
    PTRACE_LISTEN,
    PTRACE_O_TRACEEXIT,
    PTRACE_SEIZE,
    block_signals,
    die_signal,
    event_message,
    ptrace,
    wait_event,
)
from safedlv.session.bystander import ended, tracer_of
from safedlv.session.rescue import hold_on_to, is_gone, listed, needs_rescue, rescue, rescue_late, tracers_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from safedlv.session.rescue import Target

_STOPPING: Final = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_FREQUENT: Final = (signal.SIGCHLD, signal.SIGURG)
"""Signals that dlv's thread can do without: SIGCHLD comes with each stop of the target, and dlv waits with wait4;
with SIGURG the Go runtime preempts a goroutine that runs for long (runtime/preempt.go: it can do so without)."""
SAMPLE: Final = 0.002
READY_WITHIN: Final = 5.0
"""Seconds for a guard that was just started to seize dlv's thread; one that may not says so at once."""
SELDOM: Final = 0.01
"""Seconds between two looks for dlv's thread: at first, and at most. Until it is seized dlv is not guarded."""
LOOKS_EVERY: Final = 0.1
"""Seconds between two looks for safedlv, when the keeper was killed."""
URGENT: Final = -10
"""nice(2): the guard has little to do, and that at once."""
LOOKED: Final = b"looked"
"""What the keeper says when it has taken note of a target."""
LOOKED_WITHIN: Final = 10.0
"""Seconds for that; a keeper that was killed while its guard lives never says it."""
ON, OFF, SAVED, LOST = b"on", b"off", b"saved", b"lost"
"""What the guard says, the first word of a line: it watches; it cannot, and why; dlv died, and what was done then.
The keeper says that it is off, without a reason, where there is none to be."""


class Guarding:
    """The keeper's hold on the guard: started when dlv and its target are known, and again when it is killed."""

    def __init__(self, tell: int) -> None:
        self.tell = tell
        self.target: Target | None = None
        self.pid = 0
        self.pidfd = -1
        self.off = False

    def look_at(self, target: int) -> None:
        """Take note of the target as it is before dlv comes; 0: of none. A guard for another one ends."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self.target = None
        with suppress(OSError):  # it is gone, or is not ours to read: dlv will not attach either
            self.target = hold_on_to(target) if target else None

    def keep_up(self, lifeline: socket.socket, dlv: int, dlv_pidfd: int) -> None:
        """See to it that dlv is guarded, until something comes on the lifeline."""
        while not self.off and self.target is not None and dlv_pidfd != -1:
            self.begin(dlv, dlv_pidfd)
            poll = select.poll()
            poll.register(lifeline, select.POLLIN)
            poll.register(self.pidfd, select.POLLIN)
            if self.pidfd not in (fd for fd, _ in poll.poll()):
                return
            self.off = self.wait() == 0  # it has ended by itself: dlv has, or cannot be guarded

    def begin(self, dlv: int, dlv_pidfd: int) -> None:
        """Have a guard look out for the moment when dlv attaches; returns when it does."""
        if not self.pid and self.target is not None and dlv_pidfd != -1:
            self._start(dlv, dlv_pidfd, self.target)

    def watches(self, dlv: int, dlv_pidfd: int) -> bool:
        """Whether dlv is guarded; one that was killed a moment ago is replaced, and a new one is given the time."""
        deadline = time.monotonic() + READY_WITHIN
        while self.pid and self.target is not None:
            if ended(self.pidfd, 0):
                if self.wait() == 0:  # it cannot watch
                    return False
                self._start(dlv, dlv_pidfd, self.target)
            elif _watches(self.pid, dlv, self.target):
                return True
            elif time.monotonic() > deadline:
                return False
            time.sleep(SAMPLE)
        return False

    def _start(self, dlv: int, dlv_pidfd: int, target: Target) -> None:
        self.pid = start(dlv, dlv_pidfd, target, self.tell)
        self.pidfd = os.pidfd_open(self.pid)

    def wait(self) -> int:
        """Wait for the guard's end, which comes with dlv's; its exit code, negative when it was killed."""
        if not self.pid:
            return 0
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)


def start(dlv: int, pidfd: int, target: Target, tell: int) -> int:
    """Fork the guard of process ``dlv``, which we may trace; its PID, when it has begun to look.

    ``pidfd``: dlv's, which may have ended already. ``tell``: a socket for what the guard has to say.
    """
    keeper, (begun, looks) = os.getpid(), os.pipe()
    pid = os.fork()
    if pid:
        os.close(looks)
        os.read(begun, 1)
        os.close(begun)
        return pid
    try:
        os.setsid()
        keep_open(0, 1, 2, tell, pidfd, target.pidfd, target.procdir, looks)
        _watch(Guard(dlv, pidfd, target, tell), keeper, looks)
    finally:
        os._exit(0)
    raise AssertionError  # never reached


def _watch(guard: Guard, keeper: int, looks: int) -> None:
    """``looks``: closed when all is ready. Python takes milliseconds for that, in which dlv would have a processor less
    for its attach: it sleeps for 200 ms where the target's first stop does not come at once (pkg/proc/native: wait).
    """
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # it ends when dlv does
    with suppress(OSError):  # it takes privilege
        os.setpriority(os.PRIO_PROCESS, 0, URGENT)
    if MACHINE is None:
        _say(guard.tell, OFF, f"it is not made for {os.uname().machine}")
        return
    try:
        _stand_in(guard.dlv, guard.tell, keeper)
        os.close(looks)
        guard.run()
    except OSError as error:
        _say(guard.tell, OFF, f"it may not watch dlv: {error.strerror}")


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


def _say(tell: int, word: bytes, text: str) -> None:
    try:
        os.write(tell, word + b" " + text.encode() + b"\n")
    except OSError:  # nobody listens any more
        return


def until_looked(lifeline: socket.socket) -> list[bytes]:
    """Wait until the keeper has taken note of the target that it was told: what dlv writes into it before that would
    be taken for its own. What guards have said meanwhile.
    """
    said = []
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    deadline = time.monotonic() + LOOKED_WITHIN
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        data = lifeline.recv(512)
        if data in (LOOKED, b""):
            break
        said.append(data)
    return said


def until_settled(lifeline: socket.socket, dlv_pidfd: int) -> tuple[bool, list[bytes]]:
    """Wait until the guard watches, or it is known that there will be none, or dlv has ended.

    Whether one of these came within READY_WITHIN, and what guards have said meanwhile.
    """
    said: list[bytes] = []
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.register(dlv_pidfd, select.POLLIN)
    deadline = time.monotonic() + READY_WITHIN
    while ready := poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        if lifeline.fileno() not in (fd for fd, _ in ready):
            return True, said
        data = lifeline.recv(512)
        said.append(data)
        if not data or data.startswith((ON, OFF)):
            return True, said
    return False, said


def told(lifeline: socket.socket, said: list[bytes], *, asked: bool) -> list[str]:
    """What guards have said and say, in sentences; ``asked``: dlv's end is of our own making, which needs none."""
    said = list(said)
    with suppress(OSError):
        while data := lifeline.recv(512, socket.MSG_DONTWAIT):
            said.append(data)
    return [sentence for data in said if (sentence := _sentence(data, asked=asked))]


def _sentence(data: bytes, *, asked: bool) -> str:
    word, _, text = data.decode("utf-8", "replace").strip().partition(" ")
    if word == SAVED.decode() and not asked:
        return f"dlv died; its target was brought home and runs on ({printable(text)})"
    if word == LOST.decode():
        return f"dlv died, and its target may still have its breakpoints: {printable(text)}"
    if word == OFF.decode() and text and not asked:
        return f"dlv was not guarded: {printable(text)}"
    return ""


class Guard:
    """Watches one dlv."""

    def __init__(self, dlv: int, pidfd: int, target: Target, tell: int) -> None:
        self.dlv, self.pidfd, self.target, self.tell = dlv, pidfd, target, tell

    def run(self) -> None:
        """Watch over dlv until it has ended. Raises OSError when that is refused."""
        pause, died = SAMPLE, True
        while not ended(self.pidfd, pause):
            tid = self._tracer()
            if tid and self._seize(tid):
                _say(self.tell, ON, "")
                died = self._follow(tid)
            pause = min(pause * 1.01, SELDOM)  # to begin with often: it attaches when it has started
        self._rescued(lambda: rescue_late(self.target) if needs_rescue(self.target, died=died) else "")

    def _tracer(self) -> int:
        """The thread of dlv that traces the target; 0 while there is none. dlv begins with the target's leader."""
        tid = tracer_of(self.target.pid)
        return tid if tid and tid in listed(self.dlv) else 0

    def _seize(self, tid: int) -> bool:
        try:
            ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACEEXIT)
        except ProcessLookupError:
            return False
        return True

    def _follow(self, tid: int) -> bool:
        """Pass on the stops of a seized thread until it has ended; whether a signal killed it.

        dlv killed just after it has let go may have left a stop: it looks for one 50 ms later, and ends it
        (pkg/proc/native/proc_linux.go: detach).
        """
        killed = False
        with suppress(ChildProcessError, ProcessLookupError):  # it has ended
            while True:
                number, event = _next_stop(tid)
                if event == PTRACE_EVENT_EXIT:
                    killed = _is_killed(tid)
                    self._rescued(lambda: rescue(self.target, tid, lambda: _go_on(tid, PTRACE_CONT)))
                elif event == PTRACE_EVENT_STOP and number in _STOPPING:
                    _go_on(tid, PTRACE_LISTEN)
                else:
                    _go_on(tid, PTRACE_CONT, 0 if event else number)
        return killed

    def _rescued(self, make: Callable[[], str]) -> None:
        """Bring the target home, and say so where there was something to do."""
        try:
            done = make()
        except OSError as error:
            if not is_gone(self.target):
                _say(self.tell, LOST, str(error.strerror))
        else:
            if done:
                _say(self.tell, SAVED, done)


def _next_stop(tid: int) -> tuple[int, int]:
    """The next stop of a seized thread: signal and PTRACE_EVENT_*. Raises ProcessLookupError when it has ended.

    SIGKILL ends every stop but the last: a thread that was about to be sent on may stand at its exit instead, and must
    not be sent on from there. It is asked for that at the end; what is left of the race is made rare by blocking what
    stops it again and again (:data:`_FREQUENT`).
    """
    number, event = wait_event(tid, 0) or (0, 0)
    if event == PTRACE_EVENT_EXIT:
        return number, event
    if event == 0 and number in _FREQUENT:
        with suppress(ProcessLookupError):
            block_signals(tid, *_FREQUENT)
    return wait_event(tid) or (number, event)


def _is_killed(tid: int) -> bool:
    """Whether a thread that stands at its exit ends by a signal."""
    try:
        return os.WIFSIGNALED(event_message(tid))
    except ProcessLookupError:
        return True


def _watches(guard: int, dlv: int, target: Target) -> bool:
    """Whether that guard has seized the thread of dlv that traces the target, or dlv holds nothing yet."""
    tracers = tracers_of(target) & listed(dlv)
    return all(tracer_of(tid) == guard for tid in tracers)


def _go_on(tid: int, request: int, number: int = 0) -> None:
    with suppress(ProcessLookupError):  # killed meanwhile
        ptrace(request, tid, 0, number)

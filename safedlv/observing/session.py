"""One observed session: dlv started in its place, followed, told to attach, run and let go, and its target kept alive.

Who holds whom: we trace dlv, dlv traces the target. When we are killed, the kernel lets go of dlv, and a small process
(remainder.py) ends it in order; on a stand-in dlv is killed with us. When dlv dies, it stops at its exit, where it
still holds the target: a real one is brought home then (session/rescue.py), as by the guard of any session.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final

from attrs import frozen

from safedlv.errors import SafedlvError
from safedlv.observing import remainder
from safedlv.observing.calls import ATTACHED, Call
from safedlv.observing.conversation import Conversation
from safedlv.observing.delve import Delve, Place
from safedlv.observing.following import Following
from safedlv.observing.standing import Standing
from safedlv.session import keeper
from safedlv.session.guard import until_looked
from safedlv.session.rescue import Target, hold_on_to, is_gone, needs_rescue, rescue, rescue_late
from safedlv.values import Value

HANGS_AFTER: Final = 2.0
"""Seconds in which no thread of dlv runs or makes a call, while it is to attach or to end."""
LONGEST: Final = 300.0
"""Seconds for a whole session: reading the debug information of a very large program takes long."""
LOOKS_EVERY: Final = 0.25
ENDED, HUNG, KILLED_BY_FILTER, LEFT = "ended", "hung", "killed by a filter", "interrupted"
"""How dlv came to its end: by itself, or because it was told to let go; it had to be killed; a filter did; we were told
to leave."""


@frozen(eq=False, repr=False)
class Record(Value):
    """What was seen."""

    calls: tuple[Call, ...]
    made: int
    """How many calls there were in all."""
    inner: int
    """The target's PID as dlv names it; 0: it cannot."""
    attached: bool
    how: str
    status: int | None
    """How dlv ended, as waitpid(2) has it."""
    out: bytes
    err: bytes
    lacks: tuple[str, ...]
    """What of the context dlv had not."""
    home: str
    """What was done to bring a real target home; empty where nothing was."""


def observe(place: Place) -> Record:
    """Run the session. Raises SafedlvError."""
    with ExitStack() as undo:
        return _Session(place, undo).run()


class _Session:
    def __init__(self, place: Place, undo: ExitStack) -> None:
        self.place = place
        self.home: list[str] = []
        self.how = ENDED
        self.leaving = 0
        self.connection: socket.socket | None = None
        self.conversation = Conversation(runs=not place.real and not place.stopped)
        self.following: Following | None = None
        self.target = _held(place.target, undo) if place.real else None
        self.delve = Delve(place, undo)
        self.keeper_pid, self.lifeline = remainder.start(
            self.delve.directory, place.target, stopped=place.stopped, real=place.real
        )
        undo.callback(self._end_keeper)
        self.delve.make_directory()
        self.wake = _woken_by_signals(self._leave, undo)

    def run(self) -> Record:
        standing = Standing(self.place.context, lambda: self.delve.prepare(self.keeper_pid), self.delve.keep)
        standing.until_ready()
        inner = self.delve.inner()
        if inner <= 0:
            standing.end()
            return Record((), 0, 0, False, ENDED, None, b"", b"", tuple(standing.lacks()), "")
        self.delve.stands_as(standing.pid)
        self.lifeline.send(keeper.DLV + b"%d" % standing.pid)
        self.following = _follow(standing, self._at_exit, dies_with_us=not self.place.real)
        until_looked(self.lifeline)
        standing.begin()
        self._until_ended(self.following)
        self._look_after_target(self.following.status)
        return self._record(standing, self.following, inner)

    def _record(self, standing: Standing, following: Following, inner: int) -> Record:
        filtered = following.killed_by_filter and following.status is not None and os.WIFSIGNALED(following.status)
        return Record(
            calls=following.calls,
            made=following.made,
            inner=inner,
            attached=following.phase == ATTACHED,
            how=KILLED_BY_FILTER if filtered and self.how == ENDED else self.how,
            status=following.status,
            out=self.delve.said(),
            err=self.delve.complained(),
            lacks=tuple(standing.lacks()),
            home="; ".join(self.home),
        )

    # ------------------------------------------------------------ the loop

    def _until_ended(self, following: Following) -> None:
        seen = said = began = time.monotonic()
        poll = select.poll()
        poll.register(self.wake, select.POLLIN)
        while following.threads:
            came = following.take_all()
            now = time.monotonic()  # not before: a dlv that makes many calls keeps us there
            if came:
                seen = now
            if not following.threads:
                break
            if following.phase == ATTACHED and self.connection is None:
                self._begin(following, poll)
                said = now
            patience = self.conversation.patience
            hangs = now - began > LONGEST or (now - seen > HANGS_AFTER and following.is_idle())
            if hangs and following.status is not None:
                break  # what it left running has nothing to do with the target
            if self.leaving > 1 or hangs:
                self._kill(following, LEFT if self.leaving else HUNG)
                seen = now
            elif patience is not None and now - said > patience:
                self._say(self.conversation.waited())
                said = now
            if self._listen(poll, LOOKS_EVERY if patience is None else min(LOOKS_EVERY, patience)):
                said = now

    def _begin(self, following: Following, poll: select.poll) -> None:
        try:
            self.connection = self.delve.connect()
        except (OSError, ValueError):
            self.connection = socket.socket(socket.AF_UNIX)  # nobody is at the other end
            self._kill(following, HUNG)
            return
        poll.register(self.connection, select.POLLIN)
        self._say(self.conversation.begin())

    def _listen(self, poll: select.poll, seconds: float) -> bool:
        """Wait for a stop or for dlv's words; whether dlv said something."""
        heard = False
        for fd, _ in poll.poll(seconds * 1000):
            if fd == self.wake:
                os.read(fd, 65536)
            elif self.connection is not None:
                data = b""
                with suppress(OSError):
                    data = self.connection.recv(65536, socket.MSG_DONTWAIT)
                if not data:
                    poll.unregister(fd)
                self._say(self.conversation.heard(data))
                heard = True
        return heard

    def _say(self, words: bytes) -> None:
        if words and self.connection is not None:
            with suppress(OSError):
                self.connection.sendall(words, socket.MSG_DONTWAIT)

    def _kill(self, following: Following, how: str) -> None:
        """What is left where dlv does not end by itself: it stops at its exit, and a real target is brought home."""
        self.how = how
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(following.pidfd, signal.SIGKILL)

    def _leave(self, _number: int, _frame: object) -> None:
        """We are told to end: dlv is told to let go as soon as it can be told; a second time it is killed."""
        self.leaving += 2 if not self.place.real else 1
        self.conversation.runs = False

    # ------------------------------------------------------------ the target

    def _at_exit(self, tid: int, let_go: Callable[[], None]) -> None:
        if self.target is None:
            let_go()
            return
        target = self.target
        self._at_home(lambda: rescue(target, tid, let_go), target)

    def _look_after_target(self, status: int | None) -> None:
        """dlv has ended. What it left in a real target is put right."""
        target = self.target
        if target is not None:
            died = status is None or os.WIFSIGNALED(status)
            self._at_home(lambda: rescue_late(target) if needs_rescue(target, died=died) else "", target)

    def _at_home(self, make: Callable[[], str], target: Target) -> None:
        try:
            done = make()
        except OSError as error:
            done = "" if is_gone(target) else f"it may still have dlv's breakpoints: {error.strerror}"
        self.home += [done] if done else []

    def _end_keeper(self) -> None:
        """It removes the directory; where dlv still runs it ends that first, as soon as we have let go of it."""
        following = self.following
        if following is not None and following.status is None and following.threads:
            self.lifeline.close()
            return
        with suppress(OSError):
            self.lifeline.send(remainder.DONE)
        self.lifeline.close()
        with suppress(ChildProcessError):
            os.waitpid(self.keeper_pid, 0)


# ---------------------------------------------------------------- pieces


def _follow(standing: Standing, at_exit: Callable[[int, Callable[[], None]], None], *, dies_with_us: bool) -> Following:
    try:
        following = Following(standing.pid, at_exit, dies_with_us=dies_with_us)
        following.begin()
    except OSError as error:
        standing.end()
        raise SafedlvError(
            f"dlv cannot be observed from here: safedlv may not trace it ({error.strerror})",
            "as root, or from outside the container: safedlv observe docker:NAME",
            code=3,
        ) from error
    return following


def _held(pid: int, undo: ExitStack) -> Target:
    try:
        target = hold_on_to(pid)
    except OSError as error:
        raise SafedlvError(
            f"process {pid} cannot be observed: it could not be brought home if dlv died ({error.strerror})",
            "without --real a stand-in is used",
            code=3,
        ) from error
    undo.callback(target.close)
    return target


def _woken_by_signals(leave: Callable[[int, object], None], undo: ExitStack) -> int:
    """A descriptor that is readable when a signal has come: a stop of dlv's threads, or one that tells us to end."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    undo.callback(os.close, reader)
    undo.callback(os.close, writer)
    undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writer, warn_on_full_buffer=False))
    undo.callback(signal.signal, signal.SIGCHLD, signal.signal(signal.SIGCHLD, lambda *_: None))
    undo.callback(signal.signal, signal.SIGTSTP, signal.signal(signal.SIGTSTP, signal.SIG_IGN))  # dlv would wait for us
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        undo.callback(signal.signal, number, signal.signal(number, leave))
    return reader

"""What is left when observe is killed: a dlv that is attached to a target. A small process ends it in order.

It is the keeper of every session (session/keeper.py) with one difference: as long as observe traces dlv nobody else
can, so the guard comes when observe has gone without a word. A target that is our own stand-in needs none.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

from safedlv.session.bystander import ended
from safedlv.session.guard import LOOKED, Guarding
from safedlv.session.keeper import DLV, Keeper, apart
from safedlv.session.rescue import needs_rescue, rescue_late

DONE: Final = b"e"
"""Said on the lifeline: dlv has ended in order, and only its directory is left."""


def start(directory: str, target: int, *, stopped: bool, real: bool) -> tuple[int, socket.socket]:
    """Fork it; its PID, and our end of its lifeline, on which it is told dlv's PID and DONE. It answers when dlv may
    be started (guard.until_looked).
    """

    def keep(theirs: socket.socket) -> None:
        Remainder(directory, target, stopped=stopped, guard=Guarding(theirs.fileno()) if real else None).keep(theirs)

    return apart(keep)


class Remainder(Keeper):
    """The keeper of an observed session."""

    def __init__(self, directory: str, target: int, *, stopped: bool, guard: Guarding | None) -> None:
        super().__init__(directory, 0, guard=guard)
        self._heard_of_target(b"%d %d" % (target, stopped), guarded=True)

    def keep(self, lifeline: socket.socket) -> None:
        """Listen until the lifeline ends; then end what is left."""
        done = False
        with suppress(ConnectionResetError, BrokenPipeError):
            lifeline.send(LOOKED)
            while data := lifeline.recv(64):
                if data.startswith(DLV):
                    self.dlv = int(data[1:])
                    with suppress(ProcessLookupError):
                        self.pidfd = os.pidfd_open(self.dlv)
                done = done or data == DONE
        if done:
            self.guard, self.pidfd = None, -1
        else:
            self._guard_what_is_left(lifeline)
        self.end()

    def _guard_what_is_left(self, lifeline: socket.socket) -> None:
        if self.guard is None or self.pidfd == -1:
            return
        if not ended(self.pidfd, 0):
            self.guard.keep_up(lifeline, self.dlv, self.pidfd)
        elif self.guard.target is not None:  # it had ended, and observe was killed while it put things right
            with suppress(OSError):
                if needs_rescue(self.guard.target, died=True):
                    rescue_late(self.guard.target)

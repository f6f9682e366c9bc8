"""How the one client of a DAP session comes in: it connects, or we have connected to it, or it holds our pipes."""

from __future__ import annotations

import socket
import sys

from safedlv.session.channel import Channel
from safedlv.session.listen import Listener, same_user
from safedlv.session.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from safedlv.session.loop import Loop

STARTS = b"Cc"  # the first byte of a DAP message: Content-Length, and so is that of the other field, Content-Type


class Door:
    """A client that is there already: on ``channel``."""

    def __init__(self, channel: Channel | None) -> None:
        self.channel = channel

    def open(self, _loop: Loop, came: Callable[[Channel], None]) -> None:
        """Call ``came`` with the client when it is there."""
        assert self.channel is not None
        came(self.channel)

    def close(self) -> None:
        """Let nobody in any more."""


class ListeningDoor(Door):
    """Whoever connects and says something is the client.

    A connection that closes without a byte (a port scan, a health check) is none, and one that says something else
    than DAP is sent away: dlv would take either for its only client.
    """

    def __init__(self, listener: Listener, *, check_user: bool) -> None:
        super().__init__(None)
        self.listener = listener
        self.check_user = check_user and not listener.unix_path and listener.loopback
        self.candidates: dict[int, socket.socket] = {}

    def open(self, loop: Loop, came: Callable[[Channel], None]) -> None:
        self.loop, self.came = loop, came
        self.listener.sock.setblocking(False)
        loop.watch(self.listener.sock.fileno(), READ, self._accept)

    def close(self) -> None:
        if self.listener.sock.fileno() != -1:
            self.loop.unwatch(self.listener.sock.fileno())
        self.listener.close()
        for fd in list(self.candidates):
            self._drop(fd)

    def _accept(self, _mask: int) -> None:
        try:
            candidate, _ = self.listener.sock.accept()
        except OSError:  # it has gone already
            return
        if self.check_user and not _is_same_user(candidate):
            sys.stderr.write(
                "safedlv: a connection from another user was closed; --only-same-user=false would let it in\n"
            )
            candidate.close()
            return
        fd = candidate.fileno()
        self.candidates[fd] = candidate
        self.loop.watch(fd, READ, lambda _: self._first_byte(fd))

    def _first_byte(self, fd: int) -> None:
        try:
            first = self.candidates[fd].recv(1, socket.MSG_PEEK)
        except OSError:
            first = b""
        if not first or first not in STARTS:
            if first:
                sys.stderr.write("safedlv: a client sent something that is not DAP; its connection was closed\n")
            self._drop(fd)
            return
        client = self.candidates.pop(fd)
        self.loop.unwatch(fd)
        self.close()
        self.came(Channel.of_socket(client))

    def _drop(self, fd: int) -> None:
        self.loop.unwatch(fd)
        self.candidates.pop(fd).close()


def _is_same_user(connection: socket.socket) -> bool:
    try:
        return same_user(connection)
    except OSError:  # it has gone already
        return False

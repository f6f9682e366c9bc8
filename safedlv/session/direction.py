"""One direction of one client: what was read on one side and not yet taken by the other.

There is one small buffer. While it is not empty nothing more is read, which keeps the back-pressure.
"""

from __future__ import annotations

import socket

from safedlv.session.channel import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Direction:
    """One direction of one client: what was read from ``source`` and not yet taken by ``sink``."""

    __slots__ = ("buffer", "count", "ended", "limited", "pass_end", "sink", "source", "through")

    def __init__(self, source: socket.socket, sink: socket.socket, *, limited: bool, pass_end: bool) -> None:
        self.source, self.sink = source, sink
        self.buffer = memoryview(b"")
        self.ended = False
        self.limited = limited
        self.pass_end = pass_end
        self.count = 0  # bytes since the last newline
        self.through: Callable[[bytes], bytes] | None = None
        """What becomes of what was read; told of the end by no bytes at all."""

    def move(self) -> None:
        """Move what can be moved without waiting. Raises ConnectionError when either side is gone, FramingError."""
        if not self.buffer and not self.ended:
            try:
                data = self.source.recv(CHUNK)
            except BlockingIOError:
                return
            except ConnectionResetError:  # dlv was killed, which may be by the keeper
                if self.through is None or self.limited:
                    raise
                data = b""
            self.ended = not data
            self.buffer = memoryview(data if self.through is None else self.through(data))
            if self.limited:
                newline = data.rfind(b"\n")
                self.count = self.count + len(data) if newline < 0 else len(data) - newline
        self.flush()

    def put(self, data: bytes) -> None:
        """Say something of our own after what waits."""
        self.buffer = memoryview(bytes(self.buffer) + data)

    def flush(self) -> None:
        if self.buffer:
            try:
                self.buffer = self.buffer[self.sink.send(self.buffer) :]
            except BlockingIOError:
                return
        if self.ended and not self.buffer and self.pass_end:
            self.sink.shutdown(socket.SHUT_WR)

"""A two-way byte stream that never waits: a connected socket, or a pair of pipes (stdin and stdout)."""

from __future__ import annotations

import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 64 * 1024  # the C library maps larger pieces of memory anew each time, which costs more than it saves


class Channel:
    """Reads from ``source``, writes to ``sink`` (the same descriptor for a socket)."""

    def __init__(self, source: int, sink: int, close: Callable[[], None]) -> None:
        self.source, self.sink, self._close = source, sink, close
        self.waiting: list[memoryview] = []
        self.ended = False
        """Nothing more will be read."""
        self.broken = False
        """Nobody reads what is written."""

    @classmethod
    def of_socket(cls, sock: socket.socket) -> Channel:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(sock.fileno(), sock.fileno(), sock.close)

    @classmethod
    def of_pipes(cls, source: int, sink: int) -> Channel:
        """Two descriptors, which are left as they were found: whether they wait is shared with whoever has them too."""
        waited = [(fd, os.get_blocking(fd)) for fd in (source, sink)]
        for fd, _ in waited:
            os.set_blocking(fd, False)

        def restore() -> None:
            for fd, before in waited:
                os.set_blocking(fd, before)

        return cls(source, sink, restore)

    def read(self) -> bytes:
        """What has come; empty when nothing has, or when nothing more will (``ended``)."""
        try:
            data = os.read(self.source, CHUNK)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        self.ended = not data
        return data

    @property
    def pending(self) -> int:
        """Bytes that wait to be written."""
        return sum(map(len, self.waiting))

    def put(self, data: bytes) -> None:
        """Write it, now or when there is room."""
        if not self.broken:
            self.waiting.append(memoryview(data))
            self.flush()

    def flush(self) -> None:
        """Write what can be written without waiting."""
        while self.waiting:
            try:
                written = os.write(self.sink, self.waiting[0])
            except BlockingIOError:
                return
            except OSError:
                self.broken = True
                self.waiting.clear()
                return
            rest = self.waiting[0][written:]
            if rest:
                self.waiting[0] = rest
            else:
                del self.waiting[0]

    def close(self) -> None:
        self._close()


def write_all(fd: int, data: bytes) -> None:
    """Write all of it; nothing when nobody reads it any more."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError:
            return

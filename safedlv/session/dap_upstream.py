"""dlv's side of a DAP session: our own dlv, which dials in, or another in its place, which is dialed when it listens.

What is said to dlv before it can be reached waits here.
"""

from __future__ import annotations

import os

from safedlv.session.channel import CHUNK, Channel, write_all
from safedlv.session.loop import READ
from safedlv.session.wire import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from safedlv.session.dap_server import DapServer
    from safedlv.session.launch import Delve
    from safedlv.session.loop import Loop


class Upstream:
    """The dlv of a session, and the connection to it. ``log``: where what it logs goes."""

    def __init__(self, loop: Loop, server: DapServer | None, log: int) -> None:
        self.loop, self.log = loop, log
        self.server = server
        self.dlv: Delve | None = server
        self.channel: Channel | None = None
        self.stream = Stream()
        self.waiting: list[bytes] = []
        self.log_rest = b""

    def open(self, came: Callable[[], None], ended: Callable[[int], None]) -> None:
        """Call ``came`` when dlv can be reached, ``ended`` when its process has ended."""
        self.came, self.ended = came, ended
        if self.server is not None:
            self.loop.watch(self.server.pidfd, READ, ended)
            self.loop.watch(self.server.door.fileno(), READ, self._dialed)

    def replace(self, dlv: Delve) -> None:
        """Another dlv takes the place of ours, which is ended; the other says in its log where it listens."""
        self.close()
        self.stream = Stream()
        self.dlv = dlv
        self.loop.watch(dlv.pidfd, READ, self.ended)
        self.loop.watch(dlv.log, READ, self._read_log)

    def put(self, data: bytes) -> None:
        """Say something to dlv, now or when it can be reached."""
        if self.channel is None:
            self.waiting.append(data)
        else:
            self.channel.put(data)

    def take_back(self) -> bytes:
        """What has not been said yet."""
        waiting, self.waiting = b"".join(self.waiting), []
        return waiting

    def tell_keeper(self, words: bytes) -> None:
        """Say something to dlv's keeper (keeper.py)."""
        if self.dlv is not None:
            self.dlv.tell_keeper(words)

    def close(self) -> None:
        """dlv has ended, or ends now in order."""
        if self.channel is not None:
            self.loop.unwatch_channel(self.channel)
            self.channel.close()
            self.channel = None
        if self.server is not None and self.server.door.fileno() != -1:
            self.loop.unwatch(self.server.door.fileno())
        if self.dlv is not None:
            self.loop.unwatch(self.dlv.pidfd)
            if self.dlv.log >= 0:
                self.loop.unwatch(self.dlv.log)
            self.dlv.close()
        self.dlv = self.server = None

    def _dialed(self, _mask: int) -> None:
        assert self.server is not None
        fd = self.server.door.fileno()
        connection = self.server.accept()
        if connection is not None:
            self.loop.unwatch(fd)
            self._connected(Channel.of_socket(connection))

    def _connected(self, channel: Channel) -> None:
        self.channel = channel
        if self.waiting:
            channel.put(self.take_back())
        self.came()

    def _read_log(self, _mask: int) -> None:
        """The log of a dlv elsewhere: the line that says where it listens is for us, the rest for the user."""
        assert self.dlv is not None
        try:
            data = os.read(self.dlv.log, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self.loop.unwatch(self.dlv.log)
        self.log_rest += data
        while not self.dlv.listening and b"\n" in self.log_rest:
            line, _, self.log_rest = self.log_rest.partition(b"\n")
            if not self.dlv.heard(line):
                write_all(self.log, line + b"\n")
        if self.dlv.listening:
            write_all(self.log, self.log_rest)
            self.log_rest = b""
            if self.channel is None:
                self._dial()

    def _dial(self) -> None:
        assert self.dlv is not None
        try:
            connection = self.dlv.connect()
        except OSError:  # it has ended already, which is seen to elsewhere
            return
        self.dlv.show_keeper(connection, b"C")
        self._connected(Channel.of_socket(connection))

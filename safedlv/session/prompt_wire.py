"""The line between dlv's terminal and dlv, listened to; and questions of our own put on it.

dlv's terminal (``dlv connect``) is the one client of the session, as ever: what it says goes on as it is, request by
request. Between two requests the prompt may ask something itself, for completion; those answers stay here. So dlv need
take no second client, which would have its terminal ask other questions at its end and at Ctrl-C.

A thread moves it all, so that neither waits for the other.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time

from safedlv.session import rpc
from safedlv.session.ears import COMMAND, STAYS
from safedlv.session.listen import same_user
from safedlv.session.prompt_status import Place, place_in
from safedlv.session.wire import FramingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safedlv.session.listen import Listener

CHUNK = 1 << 18
FIRST = 1 << 41
"""Our requests are numbered from here: dlv's terminal counts from 0, the keeper and the relay from 1 << 40."""
STATE = b'"RPCServer.State"'


class Asked:
    """A question put to dlv. ``wait`` gives what it answered, or None when it has not, or has refused."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.result: Any = None

    def wait(self, seconds: float) -> Any:
        return self.result if self.done.wait(seconds) else None


class Wire(threading.Thread):
    """Leads the one connection that comes to ``listener`` to dlv. ``dial`` gives the connection to dlv."""

    def __init__(self, listener: Listener, dial: Callable[[], socket.socket]) -> None:
        super().__init__(daemon=True)
        self.listener, self.dial = listener, dial
        self.requests = rpc.Requests()
        self.connection: socket.socket | None = None
        self.upstream: socket.socket | None = None
        """The connection to dlv, as long as something can be said on it."""
        self.sending = threading.Lock()
        self.number = FIRST
        self.asked: dict[int, Asked] = {}
        self.watched: set[int] = set()
        """Requests of the terminal's whose answer tells where the program stands."""
        self.moving: set[int] = set()
        """Those of them that make it move."""
        self.place = Place()
        self.exited = False
        self.moved = self.seen = 0
        """How often it was made to move, and has stopped; how often dlv has said where it stands: what was asked of it
        before may be no longer true.
        """

    # ------------------------------------------------------------ for the prompt

    def look(self) -> None:
        """Have dlv say where the program stands."""
        self.ask("State", NonBlocking=True)

    def ask(self, method: str, **arguments: Any) -> Asked:
        """Put a question to dlv. Not while the program moves: dlv answers nothing then, and would hear no halt."""
        asked = Asked()
        with self.sending:
            if self.upstream is None or self.moving:
                asked.done.set()
                return asked
            self.number += 1
            self.asked[self.number] = asked
            if method == "State":
                self.watched.add(self.number)
            request = rpc.Request(method, arguments, self.number)
            with contextlib.suppress(OSError):
                self.upstream.sendall(request.encoded)
        return asked

    def settle(self, seconds: float) -> None:
        """Wait for the answers that are on their way, for at most so long: a dlv that cannot get rid of a long one
        would hear nothing else, and not that it is to detach.
        """
        deadline = time.monotonic() + seconds
        for asked in list(self.asked.values()):
            asked.done.wait(max(0.0, deadline - time.monotonic()))

    def hang_up(self) -> None:
        """End the connection to dlv, and with it the session."""
        if self.connection is not None:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    # ------------------------------------------------------------ the thread

    def run(self) -> None:
        client, client_ended = self._client(), False
        with contextlib.suppress(OSError, FramingError):
            with self.sending:
                self.connection = self.upstream = self.dial()
            client_ended = self._lead(client, self.connection)
        with self.sending:
            self.upstream = None
        if client_ended:
            self.hang_up()
        client.close()  # where dlv has ended, the relay shall hear of that first, and not that we left
        for asked in list(self.asked.values()):
            asked.done.set()

    def _client(self) -> socket.socket:
        while True:
            client, _ = self.listener.sock.accept()
            if self.listener.unix_path or same_user(client):
                self.listener.close()
                return client
            client.close()

    def _lead(self, client: socket.socket, upstream: socket.socket) -> bool:
        """Until one of the two ends; whether that was dlv's terminal. Raises OSError."""
        poll = select.poll()
        poll.register(client, select.POLLIN)
        poll.register(upstream, select.POLLIN)
        line = bytearray()
        while True:
            for fd, _ in poll.poll():
                data = (client if fd == client.fileno() else upstream).recv(CHUNK)
                if not data:
                    return fd == client.fileno()
                if fd == client.fileno():
                    for request in self.requests.feed(data):
                        self._outward(request, upstream)
                else:
                    end = data.rfind(b"\n") + 1
                    if end:
                        client.sendall(self._inward(bytes(line) + data[:end]))
                        line.clear()
                    line += data[end:]

    def _outward(self, request: bytes, upstream: socket.socket) -> None:
        with self.sending:
            if COMMAND in request or STATE in request:
                self._note(request)
            upstream.sendall(request)

    def _note(self, data: bytes) -> None:
        request = rpc.read_request(data)
        if request is None or not isinstance(request.number, int):
            return
        self.watched.add(request.number)
        if request.method == "Command" and rpc.field(request.params, "name") not in STAYS:
            self.moving.add(request.number)

    def _inward(self, data: bytes) -> bytes:
        """The answers, one in each line, that are for dlv's terminal."""
        return b"".join(line for line in data.splitlines(keepends=True) if self._is_for_terminal(line))

    def _is_for_terminal(self, line: bytes) -> bool:
        number = _number_of(line)
        if number in self.watched:
            self.watched.discard(number)
            self._stands(line)
            self.moved += number in self.moving
            self.moving.discard(number)
        if number not in self.asked:
            return True
        asked = self.asked.pop(number)
        asked.result = _result_of(line)
        asked.done.set()
        return False

    def _stands(self, line: bytes) -> None:
        result = _result_of(line)
        state = result.get("State") if isinstance(result, dict) else None
        if not isinstance(state, dict):
            self.exited = self.exited or b"has exited with status" in line
            return
        self.exited = state.get("exited") is True
        if not state.get("Running"):
            self.place = place_in(state)
            self.seen += 1


def _number_of(line: bytes) -> int:
    """The id of an answer: Go writes it first (net/rpc/jsonrpc: serverResponse). -1 for what has none."""
    digits = line[6:26].partition(b",")[0]
    return int(digits) if line.startswith(b'{"id":') and digits.isdigit() else -1


def _result_of(line: bytes) -> Any:
    try:
        return json.loads(line).get("result")
    except (ValueError, RecursionError, AttributeError):
        return None


def dial_within(dial: Callable[[], socket.socket], seconds: float) -> socket.socket:
    """Dial until somebody listens. Raises OSError after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return dial()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)

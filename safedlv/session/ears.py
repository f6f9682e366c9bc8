"""What the relay listens for in what its clients say. Everything else passes as it is.

* A driver's ``Detach`` over JSON-RPC is not for dlv but for the keeper: in plain dlv a queued SIGTRAP kills the target
  (bystander.py), and so may its own breakpoints when the target is to be ended.
* Who makes the program move, where there may be several clients.
* An observer's requests are read, each of them, and those that do more than look are answered here (observers.py).
"""

from __future__ import annotations

import json
import re

from safedlv.session import dap_messages, observers, rpc
from safedlv.session.bystander import DAP, FIRST_ID, NUDGE
from safedlv.session.wire import FramingError, Message, Messages, Stream, frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from safedlv.session.wire import Piece

    Said = Callable[[rpc.Request], bool]

DETACH, COMMAND = b".Detach", b".Command"
STAYS = ("switchGoroutine", "switchThread")
"""What Command does that moves nothing."""
MOVES = re.compile(rb'"command"\s*:\s*"(continue|next|stepIn|stepOut|stepBack|reverseContinue|pause)"')
TO_US = b'{"id":%d' % (FIRST_ID // 10**4)
"""How an answer begins to what has a number of the keeper's or the relay's (13 digits; Go writes the id first)."""
NO_REQUEST = "sent something that is no request, or not in plain words"


class RpcDriver:
    """A client over JSON-RPC. ``detach`` takes a Detach on, or leaves it to dlv; ``moved`` is told of every move."""

    def __init__(self, detach: Said, moved: Callable[[str], None]) -> None:
        self.requests = rpc.Requests()
        self.detach, self.moved = detach, moved
        self.over = False

    def outward(self, data: bytes) -> bytes:
        """What goes on to dlv of what the client said. Raises FramingError."""
        whole = self.requests.feed(data)
        if len(whole) == 1 and DETACH not in whole[0] and COMMAND not in whole[0]:
            return b"" if self.over else whole[0]
        return b"".join(request for request in whole if self._passes(request))

    def _passes(self, data: bytes) -> bool:
        if not self.over and (DETACH in data or COMMAND in data):
            request = rpc.read_request(data)
            if request is not None and request.method == "Command":
                name = str(rpc.field(request.params, "name"))
                if name not in STAYS:
                    self.moved(name)
            elif request is not None and request.method == "Detach":
                self.over = self.detach(request)
        return not self.over


class DapDriver:
    """A client over DAP. ``moved`` is told of every move. What is ours goes between dlv's messages.

    Its ``pause`` before the first stop is preceded by a nudge, without which dlv may drop it (bystander.py: NUDGE).
    """

    def __init__(self, moved: Callable[[str], None]) -> None:
        self.moved = moved
        self.messages, self.stream = Messages(), Stream()
        self.writer, self.number = dap_messages.Writer(), dap_messages.FIRST_REQUEST
        self.stopped_once = self.dropping = False
        self.continuing = 0
        """Our request to continue, which dlv has not answered."""
        self.waiting: list[bytes] = []

    def outward(self, data: bytes) -> bytes:
        """What goes on to dlv of what the client said. Raises FramingError."""
        return b"".join(self._passes(message) for message in self.messages.feed(data))

    def _passes(self, message: Message) -> bytes:
        found = MOVES.search(message.body)
        if found is None:
            return message.framed
        how = found.group(1).decode()
        self.moved(how)
        nudged = how == "pause" and not self.stopped_once
        return (frame(NUDGE % self._own()) if nudged else b"") + message.framed

    def inward(self, data: bytes) -> bytes:
        """What goes on to the client of what dlv said; an empty ``data`` is its end. Raises FramingError."""
        kept = [piece.data for piece in self.stream.feed(data) if self._is_for_client(piece)] if data else []
        if self.stream.between:
            kept += self.waiting
            self.waiting = []
        return b"".join(kept)

    def _is_for_client(self, piece: Piece) -> bool:
        if piece.head is not None:
            stopped = piece.head.name == "stopped" and dap_messages.ON_ENTRY not in piece.data
            self.stopped_once = self.stopped_once or stopped
            self.dropping = piece.head.kind == "response" and piece.head.request_seq >= dap_messages.OURS
            if self.dropping and piece.head.request_seq == self.continuing and piece.head.success:
                self.waiting.append(self._continued())
        return not self.dropping

    def go_on(self) -> bytes:
        """The request that has dlv continue the target; the client is told when dlv does."""
        self.continuing = self._own()
        return frame(DAP["continue"] % self.continuing)

    def console(self, text: str) -> bytes:
        """Text for the client's console: what can be said at once of it, the rest waits for the end of a message."""
        return self._say(self.writer.console(text))

    def _continued(self) -> bytes:
        return self.writer.event("continued", {"threadId": 1, "allThreadsContinued": True})

    def _say(self, message: bytes) -> bytes:
        if self.stream.between:
            return message
        self.waiting.append(message)
        return b""

    def _own(self) -> int:
        self.number += 1
        return self.number


class Answers:
    """dlv's answers to a client over JSON-RPC, without those to what we or the keeper asked on its connection."""

    def __init__(self) -> None:
        self.rest = b""
        self.dropping = False
        self.expected = False
        """We have asked something, and dlv has not answered."""

    def inward(self, data: bytes) -> bytes:
        """What goes on to the client; an empty ``data`` is the end. An answer ends with its line (encoding/json)."""
        text, self.rest = self.rest + data, b""
        kept: list[bytes] = []
        while text:
            if self.dropping:
                _, ended, text = text.partition(b"\n")
                self.dropping = not ended
                continue
            before, found, after = text.partition(TO_US)
            kept.append(before)
            self.dropping, text = bool(found), after
            self.expected = self.expected and not found
        if data and kept and not self.dropping:  # the rest of the mark may still come
            torn = next((n for n in range(len(TO_US) - 1, 0, -1) if kept[-1].endswith(TO_US[:n])), 0)
            if torn:
                self.rest, kept[-1] = kept[-1][-torn:], kept[-1][:-torn]
        return b"".join(kept)


class Parting:
    """What a client hears after its Detach: what dlv had left to say, and the answer as dlv would have given it.

    The keeper may have asked dlv on the same connection; dlv's answer to that is left out.
    """

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heard: list[bytes] = []

    def inward(self, data: bytes) -> bytes:
        """Nothing until the end, which is an empty ``data``; then everything."""
        if data:
            self.heard.append(data)
            return b""
        lines = b"".join(self.heard).splitlines(keepends=True)
        return b"".join(line for line in lines if line.endswith(b"\n") and not _is_to_keeper(line)) + self.answer


def _is_to_keeper(line: bytes) -> bool:
    """Whether it answers a request that the keeper numbered (bystander.py)."""
    try:
        number = json.loads(line)["id"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return False
    return isinstance(number, int) and number > FIRST_ID


class Observer:
    """A client that may only look. ``say`` says something of ours to it; ``stands``: whether the program stands still.

    What is said of ours must not come in the middle of a message of dlv's: it waits for the end of that.
    """

    def __init__(self, first: bytes, say: Callable[[bytes], None], stands: Callable[[], bool]) -> None:
        self.dap = first == b"C"
        self.say, self.stands = say, stands
        self.requests, self.messages = rpc.Requests(), Messages()
        self.stream, self.writer = Stream(), dap_messages.Writer()
        self.between = True
        self.waiting: list[bytes] = []

    def outward(self, data: bytes) -> bytes:
        """What goes on to dlv of what the client said. Raises FramingError for what cannot be understood."""
        if self.dap:
            return b"".join(self._dap(message.body) for message in self._messages(data))
        return b"".join(self._rpc(request) for request in self.requests.feed(data) if request.strip())

    def inward(self, data: bytes) -> bytes:
        """What goes on to the client of what dlv said; an empty ``data`` is its end. Raises FramingError."""
        if self.dap:
            data = b"".join(piece.data for piece in self.stream.feed(data))
            self.between = self.stream.between
        elif data:
            self.between = data.endswith(b"\n")
        if self.between and self.waiting:
            data += b"".join(self.waiting)
            self.waiting.clear()
        return data

    def _messages(self, data: bytes) -> list[Message]:
        try:
            return list(self.messages.feed(data))
        except FramingError as error:
            raise FramingError(f"sent what is no DAP message: {error}") from error

    def _rpc(self, data: bytes) -> bytes:
        request = rpc.read_request(data)
        if request is None:
            raise FramingError(NO_REQUEST)
        why = observers.rpc_refusal(request)
        if not why:
            return request.encoded
        self._say(request.refused(why))
        return b""

    def _dap(self, body: bytes) -> bytes:
        request = dap_messages.read_request(body)
        if request is None:
            raise FramingError(NO_REQUEST)
        if request.command == observers.CONFIGURED:
            self._say(self.writer.response(request.seq, request.command))
            self._say(self.writer.event("stopped", observers.ON_ENTRY))
            return b""
        why = observers.dap_refusal(request, self.stands)
        if not why:
            return observers.dap_allowed(request)
        code = dap_messages.FAILED_TO_ATTACH if request.command == "attach" else dap_messages.DLV_ENDED
        show = request.command in dap_messages.TITLES
        self._say(self.writer.failure(request.seq, request.command, code, why, show=show))
        return b""

    def _say(self, message: bytes) -> None:
        if self.between:
            self.say(message)
        else:
            self.waiting.append(message)

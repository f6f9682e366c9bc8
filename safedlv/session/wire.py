"""The framing of the Debug Adapter Protocol: bytes in, messages out. Pure.

A message is a header, ``Content-Length: N``, an empty line, and N bytes of JSON (microsoft.github.io/debug-adapter-
protocol, Base Protocol). Two readers, for two needs:

* :class:`Messages` gives whole messages. What a client says is short, and dlv must never be left with half of it.
* :class:`Stream` gives a long message piece by piece, its beginning first: what dlv says is passed on while it
  comes, and is never decoded: the beginning tells what it is (:func:`head`).

No byte is copied more often than once in and once out, however finely or coarsely the stream is cut.
"""

from __future__ import annotations

from safedlv.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

END = b"\r\n\r\n"
LENGTH = b"content-length"
HEADER_LIMIT = 4096
"""Bytes of a header: the one field that there is needs 30."""
BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of a message from a client. dlv itself takes 4 MiB (google/go-dap, io.go: contentMaxLength)."""
HEAD = 256
"""Bytes at the beginning of a message of dlv's in which everything stands that :func:`head` looks for."""
HELD = 64 * 1024
"""Bytes of a message of dlv's that is given whole only: a dlv that dies leaves no half of it with the client."""
LONGEST_NUMBER = 20


class FramingError(Exception):
    """What came is no DAP message; the text says what is wrong with it."""


class Message:
    """One message: ``body`` is its JSON as it came."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body

    @property
    def framed(self) -> bytes:
        """The message with its header, as dlv wants it: one field, nothing else."""
        return frame(self.body)


class Head:
    """What a message of dlv's is: ``kind`` is ``response``, ``event``, ``request``, or empty when that is not known."""

    __slots__ = ("kind", "name", "request_seq", "success")

    def __init__(self, kind: str, name: str, request_seq: int, success: bool) -> None:
        self.kind = kind
        self.name = name
        """The event or the command."""
        self.request_seq = request_seq
        self.success = success


class Piece:
    """A part of a message: ``head`` is there in its first part; ``last`` in its last."""

    __slots__ = ("data", "head", "last")

    def __init__(self, head: Head | None, data: bytes, *, last: bool) -> None:
        self.head, self.data, self.last = head, data, last


def frame(body: bytes) -> bytes:
    """A message of this JSON."""
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


class Messages:
    """Cuts what it is fed into whole messages, of at most ``limit`` bytes each."""

    def __init__(self, limit: int = BODY_LIMIT) -> None:
        self.limit = limit
        self.buffer = bytearray()
        self.length = -1  # of the body that is being waited for; -1: of none, its header is not here yet

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that ``data`` completes. Raises FramingError; nothing can be read after that."""
        self.buffer += data
        while True:
            if self.length < 0:
                self.length = _take_header(self.buffer, self.limit)
            if self.length < 0 or len(self.buffer) < self.length:
                return
            body = bytes(memoryview(self.buffer)[: self.length])
            del self.buffer[: self.length]
            self.length = -1
            yield Message(body)

    @property
    def torn(self) -> bool:
        """Whether a message has begun and not ended."""
        return self.length >= 0 or bool(self.buffer)


class Stream:
    """Cuts what it is fed into pieces of messages, without holding long ones back until they are whole."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.rest = 0  # bytes of the present message that are still to come
        self.length = -1

    @property
    def between(self) -> bool:
        """Whether the last piece given was the last of its message: only then may another message be put in."""
        return self.rest == 0

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The pieces in ``data``, each with its header before it. Raises FramingError."""
        if self.rest and not self.buffer and len(data) <= self.rest:  # nearly all of a long message comes so
            self.rest -= len(data)
            yield Piece(None, data, last=self.rest == 0)
            return
        self.buffer += data
        while self.buffer:
            if self.rest:
                taken = self._take(self.rest)
                self.rest -= len(taken)
                yield Piece(None, taken, last=self.rest == 0)
                continue
            if self.length < 0:
                self.length = _take_header(self.buffer, -1)
            if self.length < 0 or len(self.buffer) < (self.length if self.length <= HELD else HEAD):
                return
            length, self.length = self.length, -1
            taken = self._take(length)
            self.rest = length - len(taken)
            header = b"Content-Length: %d\r\n\r\n" % length
            yield Piece(head(taken[:HEAD]), header + taken, last=self.rest == 0)

    def _take(self, most: int) -> bytes:
        taken = bytes(memoryview(self.buffer)[:most])
        del self.buffer[: len(taken)]
        return taken


def _take_header(buffer: bytearray, limit: int) -> int:
    """Take a header off the buffer: the length that it gives, -1 while it is not whole. ``limit``: -1 for none."""
    end = buffer.find(END, 0, HEADER_LIMIT)
    if end < 0:
        if len(buffer) >= HEADER_LIMIT:
            raise FramingError(f"there is no end to a message's header in {HEADER_LIMIT} bytes")
        return -1
    header = bytes(buffer[:end])
    del buffer[: end + len(END)]
    length = _length_in(header)
    if 0 <= limit < length:
        raise FramingError(f"a message of {length} bytes is announced; no message may have more than {limit}")
    return length


def _length_in(header: bytes) -> int:
    """The one Content-Length of a header; other fields do not matter. Raises FramingError."""
    found: list[bytes] = []
    for line in header.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon:
            raise FramingError(f"{printable(line, 60)!r} is no field of a message's header")
        if name.strip().lower() == LENGTH:
            found.append(value.strip())
    if len(found) != 1:
        raise FramingError(f"a message's header has {len(found)} times Content-Length")
    if not found[0].isdigit() or len(found[0]) > LONGEST_NUMBER:
        raise FramingError(f"{printable(found[0], 40)!r} is no length of a message")
    return int(found[0])


# ---------------------------------------------------------------- what dlv's messages are


def head(start: bytes) -> Head:
    """What the message that begins so is.

    dlv's fields come in one order (google/go-dap, schematypes.go): seq, type, then event, or request_seq, success and
    command; only then what may hold text of the program. A message in another order is of no known kind.
    """
    kind = _text_after(start, b'"type":"')
    if kind == "event":
        return Head(kind, _text_after(start, b'"event":"'), -1, success=True)
    if kind == "response":
        success = start.find(b'"success":true') >= 0
        return Head(kind, _text_after(start, b'"command":"'), _number_after(start, b'"request_seq":'), success=success)
    if kind == "request":
        return Head(kind, _text_after(start, b'"command":"'), -1, success=True)
    return Head("", "", -1, success=True)


def _text_after(text: bytes, key: bytes) -> str:
    at = text.find(key)
    end = text.find(b'"', at + len(key)) if at >= 0 else -1
    return text[at + len(key) : end].decode("ascii", "replace") if end >= 0 else ""


def _number_after(text: bytes, key: bytes) -> int:
    at = text.find(key) + len(key)
    digits = text[at : at + LONGEST_NUMBER].split(b",", 1)[0]
    return int(digits) if at >= len(key) and digits.isdigit() else -1

"""DAP framing: however a stream is cut, the same messages come out; what is no message is refused in a sentence."""

from __future__ import annotations

import contextlib
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedlv.session.wire import BODY_LIMIT, HEADER_LIMIT, HELD, FramingError, Messages, Stream, frame, head

BODIES = st.lists(st.binary(max_size=600), max_size=8)
CUTS = st.lists(st.integers(min_value=0, max_value=3000), max_size=20)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(c for c in cuts if c < len(data))})
    return [data[a:b] for a, b in pairwise(places)]


@given(BODIES, CUTS)
def test_messages_come_out_whole(bodies: list[bytes], cuts: list[int]) -> None:
    reader = Messages()
    found = [message.body for part in cut(b"".join(map(frame, bodies)), cuts) for message in reader.feed(part)]
    assert found == bodies
    assert not reader.torn


@given(BODIES, CUTS)
def test_pieces_add_up(bodies: list[bytes], cuts: list[int]) -> None:
    reader, data = Stream(), b"".join(map(frame, bodies))
    pieces = [piece for part in cut(data, cuts) for piece in reader.feed(part)]
    assert b"".join(piece.data for piece in pieces) == data
    assert [piece.head is not None for piece in pieces].count(True) == len(bodies)
    assert [piece.last for piece in pieces].count(True) == len(bodies)
    assert reader.between


def test_a_short_message_comes_whole() -> None:
    """dlv may die in the middle of it: then nothing of it has been passed on."""
    body = b'{"seq":12,"type":"event","event":"output","body":"%s"}' % (b"a" * (HELD - 100))
    reader, data = Stream(), frame(body)
    torn = [data[at : at + 7] for at in range(0, len(data) - 7, 7)]
    assert [piece for part in torn for piece in reader.feed(part)] == []
    assert reader.between
    assert [(piece.data, piece.last) for piece in reader.feed(data[7 * len(torn) :])] == [(data, True)]


def test_a_message_begins_with_enough_to_know_it() -> None:
    body = b'{"seq":12,"type":"response","request_seq":5,"success":true,"command":"threads","body":"%s"}' % (
        b"a" * 90_000
    )
    reader, data = Stream(), frame(body)
    first = next(piece for at in range(len(data)) for piece in reader.feed(data[at : at + 1]))
    assert first.head is not None
    assert (first.head.kind, first.head.name, first.head.request_seq) == ("response", "threads", 5)
    assert not first.last
    assert not reader.between


@pytest.mark.parametrize(
    "header",
    [b"Content-Length: 2", b"content-length:2", b"CONTENT-LENGTH:   2  ", b"Content-Type: x\r\nContent-Length: 2"],
)
def test_headers_that_are_understood(header: bytes) -> None:
    [message] = Messages().feed(header + b"\r\n\r\n{}")
    assert message.framed == b"Content-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"Content-Length: -1\r\n\r\n", "'-1' is no length"),
        (b"Content-Length: 0x10\r\n\r\n", "'0x10' is no length"),
        (b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", "is no length"),
        (b"Content-Length: \r\n\r\n", "'' is no length"),
        (b"Content-Length: %d\r\n\r\n" % (BODY_LIMIT + 1), f"no message may have more than {BODY_LIMIT}"),
        (b"Content-Type: x\r\n\r\n", "0 times Content-Length"),
        (b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", "2 times Content-Length"),
        (b"\x1b[31m\r\n\r\n", r"'\\x1b[31m' is no field"),
        (b"a" * HEADER_LIMIT, "no end to a message's header"),
        (b"\r\n\r\n", "is no field"),
    ],
)
def test_what_is_no_message(data: bytes, said: str) -> None:
    with pytest.raises(FramingError) as refusal:
        list(Messages().feed(data))
    assert said in str(refusal.value)
    assert str(refusal.value).isprintable()


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for reader in (Messages(), Stream()):
        with contextlib.suppress(FramingError):
            list(reader.feed(data))
        head(data)


def test_work_is_linear() -> None:
    """16 MiB in small parts: four times as much takes about four times as long, not sixteen times."""
    taken = []
    for size in (4 << 20, 16 << 20):
        data, began = memoryview(frame(b"a" * size)), time.process_time()
        for reader in (Messages(), Stream()):
            for at in range(0, len(data), 1024):
                for _ in reader.feed(bytes(data[at : at + 1024])):
                    pass
        taken.append(time.process_time() - began)
    assert taken[1] < taken[0] * 10 + 1


@pytest.mark.parametrize(
    ("start", "kind", "name"),
    [
        (b'{"seq":1,"type":"event","event":"stopped","body":{"reason":"\\"command\\":\\"x\\""}}', "event", "stopped"),
        (b'{"seq":1,"type":"request","command":"runInTerminal"}', "request", "runInTerminal"),
        (b'{"type": "event"}', "", ""),
        (b"", "", ""),
        (b'{"type":"event","event":"', "event", ""),
    ],
)
def test_heads(start: bytes, kind: str, name: str) -> None:
    found = head(start)
    assert (found.kind, found.name, found.request_seq) == (kind, name, -1)

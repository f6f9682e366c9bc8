"""Requests of Delve's JSON-RPC are cut right however they come, and read by one meaning only."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedlv.session import rpc
from safedlv.session.wire import FramingError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=8), JSON, max_size=4)
GAPS = st.sampled_from([b"", b"\n", b" \r\n\t"])


@given(st.lists(st.tuples(OBJECTS, GAPS, st.sampled_from([None, 1]), st.booleans()), max_size=5), st.data())
def test_cut_anywhere(said: list[tuple[dict[str, object], bytes, int | None, bool]], data: st.DataObject) -> None:
    texts = [json.dumps(one, indent=indent, ensure_ascii=plain).encode() for one, _, indent, plain in said]
    stream = b"".join(text + gap for text, (_, gap, _, _) in zip(texts, said, strict=True))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    requests = rpc.Requests()
    found = [part for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) for part in requests.feed(stream[a:b])]
    assert b"".join(found) == stream
    assert [json.loads(part) for part in found if part.strip()] == [one for one, *_ in said]


def test_what_is_torn_is_kept() -> None:
    requests = rpc.Requests()
    assert requests.feed(b'{"method":"RPCServer.De') == []
    assert requests.feed(b'tach"}') == [b'{"method":"RPCServer.Detach"}']


@pytest.mark.parametrize("noise", [b"}", b"]]", b'"a" }', b"5 ]"])
def test_what_is_no_json_is_left_to_dlv(noise: bytes) -> None:
    requests = rpc.Requests()
    assert b"".join(requests.feed(noise)) == noise
    assert requests.feed(b'{"a":') == [b'{"a":']


def test_no_request_is_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "LIMIT", 100)
    requests = rpc.Requests()
    assert requests.feed(b'{"a":"' + b"\n" * 60) == []
    with pytest.raises(FramingError):
        requests.feed(b"\n" * 60)


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[]",
        '{"method":"RPCServer.State"}',
        '{"method":"Other.State","params":[{}],"id":1}',
        '{"method":"RPCServer.State","params":[],"id":1}',
        '{"method":"RPCServer.State","Method":"RPCServer.Detach","params":[{}],"id":1}',
        '{"method":"RPCServer.State","params":[{"a":1,"A":2}],"id":1}',
        '{"method":"RPCServer.State","param\u017f":[{}],"params":[{}],"id":1}',
        "{" * 100000,
    ],
)
def test_what_is_no_request(text: str) -> None:
    assert rpc.read_request(text.encode()) is None


def test_a_request() -> None:
    request = rpc.read_request(b'{"Method":"RPCServer.Detach","params":[{"kill":true}],"id":7,"more":1}')
    assert request is not None
    assert (request.method, rpc.field(request.params, "Kill"), request.number) == ("Detach", True, 7)
    assert json.loads(request.encoded) == {"method": "RPCServer.Detach", "params": [{"kill": True}], "id": 7}
    assert request.done() == b'{"id":7,"result":{},"error":null}\n'
    assert json.loads(request.refused("no")) == {"id": 7, "result": None, "error": "no"}


def test_a_request_of_version_1() -> None:
    request = rpc.read_request(b'{"method":"RPCServer.Detach","params":[true],"id":7}')
    assert request is not None
    assert request.params is True
    assert request.done() == b'{"id":7,"result":0,"error":null}\n'

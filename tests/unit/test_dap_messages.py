"""What safedlv says in DAP, and what it reads of requests: whatever comes, nothing but a request is one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedlv.session.dap_messages import Writer, argument, encode, read_request, without
from safedlv.session.wire import Messages

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)
)


@given(JSON | st.fixed_dictionaries({"type": st.just("request"), "seq": JSON, "command": JSON, "arguments": JSON}))
def test_only_requests_are_requests(document: Any) -> None:
    request = read_request(json.dumps(document).encode())
    if request is None:
        return
    assert isinstance(request.seq, int)
    assert isinstance(request.command, str)
    assert isinstance(request.arguments, dict)


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    read_request(data)


@pytest.mark.parametrize("body", [b"[" * 100000, b'{"seq":' + b"9" * 5000 + b"}", b"\xff\xfe", b"NaN", b"1", b'""'])
def test_what_is_none(body: bytes) -> None:
    assert read_request(body) is None


def test_arguments_in_whatever_case() -> None:
    """Go's encoding/json reads them so."""
    assert argument({"PROCESSID": 3}, "processId") == 3
    assert argument({"processid": 3, "processId": 4}, "processId") == 4
    assert argument({}, "processId") is None
    assert without({"ProcessId": 3, "mode": 1}, "processId") == {"mode": 1}


def test_changed_arguments_leave_the_rest() -> None:
    body = '{"seq":3,"type":"request","command":"attach","extra":[1.5,"ü"],"arguments":{"a":1}}'
    request = read_request(body.encode())
    assert request is not None
    [message] = Messages().feed(request.with_arguments({"b": 2}))
    assert json.loads(message.body) == {**json.loads(body), "arguments": {"b": 2}}


def test_a_failure_is_shaped_as_dlvs() -> None:
    [message] = Messages().feed(Writer().failure(7, "attach", 3001, "because", show=True))
    document = json.loads(message.body)
    assert document.pop("seq") > 1 << 30
    error = {"id": 3001, "format": "Failed to attach: because", "showUser": True}
    assert document == {
        "type": "response",
        "request_seq": 7,
        "success": False,
        "command": "attach",
        "message": "Failed to attach",
        "body": {"error": error},
    }


def test_names_that_are_no_text() -> None:
    [message] = Messages().feed(encode({"name": "a\udcff"}))
    assert json.loads(message.body) == {"name": "a?"}

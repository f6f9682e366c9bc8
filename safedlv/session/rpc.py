"""Delve's JSON-RPC (service/rpc2) as far as safedlv reads it: requests as they are cut, and answers. Pure.

A request is a JSON object. Nothing frames it: it may come torn anywhere, and several may come at once, with white space
between them or without (net/rpc/jsonrpc: json.Decoder).
"""

from __future__ import annotations

import json
import re

from safedlv.session.wire import FramingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SERVICE = "RPCServer."
LIMIT = 64 * 1024 * 1024
"""Bytes of one request: none is that long, and dlv would keep them all."""
_OUTSIDE = re.compile(rb'["{}\[\]]')
_INSIDE = re.compile(rb'["\\]')


class Requests:
    """Cuts what it is fed into whole JSON objects. What is no JSON is passed on as it comes: dlv refuses it."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self._restart()
        self.lost = False
        """It was no JSON; no request will be found in it any more."""

    def _restart(self) -> None:
        self.at = self.depth = 0
        self.quoted = False

    def feed(self, data: bytes) -> list[bytes]:
        """The requests that ``data`` completes, byte by byte as they came. Raises FramingError for one too long."""
        if not self.buffer and (self.lost or _is_one(data)):  # nearly always
            return [data]
        self.buffer += data
        whole: list[bytes] = []
        while (end := self._end()) > 0:
            whole.append(bytes(memoryview(self.buffer)[:end]))
            del self.buffer[:end]
            self._restart()
        if self.lost or not self.buffer.strip():
            whole.append(bytes(self.buffer))
            self.buffer.clear()
            self._restart()
        if len(self.buffer) > LIMIT:
            raise FramingError(f"sent {LIMIT >> 20} MiB without the end of a message")
        return [part for part in whole if part]

    def _end(self) -> int:
        """Where the first object ends that is whole; 0 when there is none."""
        while found := (_INSIDE if self.quoted else _OUTSIDE).search(self.buffer, self.at):
            self.at = found.end()
            mark = found.group()
            if mark == b"\\":
                self.at += 1  # what it takes the meaning from
            elif mark == b'"':
                self.quoted = not self.quoted
            elif mark in b"{[":
                self.depth += 1
            else:
                self.depth -= 1
                self.lost = self.lost or self.depth < 0
                if self.depth <= 0:
                    return 0 if self.lost else self.at
        self.at = max(self.at, len(self.buffer))
        return 0


def _is_one(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


class Request:
    """A request: ``method`` without the name of the service, ``params`` its one argument, ``number`` its id."""

    __slots__ = ("method", "number", "params")

    def __init__(self, method: str, params: Any, number: Any) -> None:
        self.method, self.params, self.number = method, params, number

    @property
    def encoded(self) -> bytes:
        """The request as it was understood, and nothing else that may have stood in it."""
        document = {"method": SERVICE + self.method, "params": [self.params], "id": self.number}
        return json.dumps(document).encode() + b"\n"

    def done(self) -> bytes:
        """The answer of a method that returns nothing (Detach): dlv's own, in version 2 of the API and in version 1."""
        return _answer(self.number, {} if isinstance(self.params, dict) else 0, None)

    def refused(self, why: str) -> bytes:
        return _answer(self.number, None, why)


def _answer(number: Any, result: Any, error: str | None) -> bytes:
    document = {"id": number, "result": result, "error": error}
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def read_request(data: bytes) -> Request | None:
    """The request that this JSON is; None for what is none, or what two readers may understand differently."""
    try:
        document = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not is_plain(document):
        return None
    fields = {key.lower(): value for key, value in document.items()}
    method, params = fields.get("method"), fields.get("params")
    if not isinstance(method, str) or not method.startswith(SERVICE):
        return None
    if not isinstance(params, list) or len(params) != 1:
        return None
    if isinstance(params[0], dict) and not is_plain(params[0]):
        return None
    return Request(method.removeprefix(SERVICE), params[0], fields.get("id"))


def is_plain(document: dict[str, Any]) -> bool:
    """Whether no two names differ in case only: Go takes them for one, and the last of them counts (encoding/json)."""
    return all(key.isascii() for key in document) and len({key.lower() for key in document}) == len(document)


def field(params: Any, name: str) -> Any:
    """A field of a request's argument, in whatever case it is written."""
    if not isinstance(params, dict):
        return None
    return next((value for key, value in params.items() if key.lower() == name.lower()), None)

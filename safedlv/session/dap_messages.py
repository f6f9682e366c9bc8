"""What safedlv itself says in the Debug Adapter Protocol, and what it reads of a client's requests. Pure.

The shapes are dlv's own (service/dap/server.go: sendErrorResponseWithOpts, service/dap/error_ids.go).
"""

from __future__ import annotations

import json

from safedlv.session.wire import frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FAILED_TO_LAUNCH, FAILED_TO_ATTACH, NO_SESSION, DLV_ENDED = 3000, 3001, 3003, 9999
TITLES = {"attach": "Failed to attach", "launch": "Failed to launch"}
FIRST_SEQ = 1 << 30
"""Our messages are numbered from here: dlv does not come so far, and every client can hold the number."""
FIRST_REQUEST = 1 << 41
"""Requests of our own to dlv; those of the keeper begin below (bystander.py: FIRST_ID)."""
OURS = 1 << 40
ON_ENTRY = b'"reason":"entry"'
"""In a ``stopped`` that no stop of the program's came before: it stands since it was attached to."""
CAPABILITIES = {"supportsConfigurationDoneRequest": True}
"""Said where there is no dlv that could say more: all that will be asked then is to attach."""


class Request:
    """A client's request; ``document`` is all of it."""

    __slots__ = ("command", "document", "seq")

    def __init__(self, seq: int, command: str, document: dict[str, Any]) -> None:
        self.seq, self.command, self.document = seq, command, document

    @property
    def arguments(self) -> dict[str, Any]:
        found = self.document.get("arguments")
        return found if isinstance(found, dict) else {}

    def with_arguments(self, arguments: dict[str, Any]) -> bytes:
        """The same request, framed, with other arguments."""
        return encode({**self.document, "arguments": arguments})


def read_request(body: bytes) -> Request | None:
    """The request that this JSON is; None for what is none, which is dlv's to answer."""
    try:
        document = json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("type") != "request":
        return None
    seq, command = document.get("seq"), document.get("command")
    if not isinstance(seq, int) or not isinstance(command, str):
        return None
    return Request(seq, command, document)


def argument(arguments: dict[str, Any], name: str) -> Any:
    """An argument by its name, in whatever case: so dlv reads it (Go's encoding/json)."""
    if name in arguments:
        return arguments[name]
    return next((value for key, value in arguments.items() if key.lower() == name.lower()), None)


def without(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    """The arguments but for those of these names, in whatever case."""
    gone = {name.lower() for name in names}
    return {key: value for key, value in arguments.items() if key.lower() not in gone}


def encode(document: dict[str, Any]) -> bytes:
    """A message, framed. Lone surrogates (names of files) become question marks: JSON has no way to say them."""
    return frame(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


class Writer:
    """Numbers what we say to the client."""

    def __init__(self) -> None:
        self.seq = FIRST_SEQ

    def response(self, seq: int, command: str, body: dict[str, Any] | None = None) -> bytes:
        """A request that was done."""
        return self._message("response", request_seq=seq, success=True, command=command, **_body(body))

    def failure(self, seq: int, command: str, code: int, text: str, *, show: bool) -> bytes:
        """A request that failed; ``text`` is what the user reads, in a dialog where ``show``."""
        title = TITLES.get(command, f"Unable to process `{command}`")
        error = {"id": code, "format": f"{title}: {text}", "showUser": show}
        body = {"error": error}
        return self._message("response", request_seq=seq, success=False, command=command, message=title, body=body)

    def event(self, name: str, body: dict[str, Any] | None = None) -> bytes:
        return self._message("event", event=name, **_body(body))

    def console(self, text: str) -> bytes:
        """Text for the Debug Console; it ends in a newline."""
        return self.event("output", {"category": "console", "output": text})

    def _message(self, kind: str, **fields: Any) -> bytes:
        self.seq += 1
        return encode({"seq": self.seq, "type": kind, **fields})


def _body(body: dict[str, Any] | None) -> dict[str, Any]:
    return {} if body is None else {"body": body}

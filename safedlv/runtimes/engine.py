"""One question to a Docker Engine behind a unix socket: what it knows about a container.

Contract: :func:`inspect_container` sends ``GET /containers/NAME/json`` (Engine API, ContainerInspect) and changes
nothing. It stands beside the docker package because every ``doctor docker:NAME`` asks it, and importing that package
takes longer than everything else together; what does more than ask, or goes over another transport, uses the package.
HTTP/1.0 is spoken so that the answer comes whole, not in chunks, and ends with the connection (RFC 1945).
"""

from __future__ import annotations

import os
import re
import socket
import time
from typing import Any, Final

SOCKET: Final = "/var/run/docker.sock"
"""Where the engine listens unless DOCKER_HOST names another place."""
LONGEST_ANSWER: Final = 64 << 20
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)  # moby daemon/names/names.go


class EngineError(Exception):
    """The engine answered with a status that is not 200: ``status`` is the number, the text is its own."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def unix_socket() -> str | None:
    """The path of the engine's unix socket; None when DOCKER_HOST names an engine elsewhere."""
    host = os.environ.get("DOCKER_HOST", "")
    if not host:
        return SOCKET
    return host.removeprefix("unix://") if host.startswith("unix://") else None


def inspect_container(path: str, name: str, seconds: float) -> Any:
    """The engine's document about a container, as JSON gives it.

    ``path`` is the engine's socket; ``seconds`` how long it may take. Raises EngineError for a refusal (404:
    there is no such container); OSError when the engine cannot be reached or is too slow; ValueError when what it
    says is no answer.
    """
    import json

    if not _NAME.fullmatch(name):
        raise EngineError(404, f"No such container: {name}")
    head, _, body = _ask(path, f"GET /containers/{name}/json HTTP/1.0\r\nHost: docker\r\n\r\n", seconds).partition(
        b"\r\n\r\n"
    )
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError("what answers there is no Docker Engine")
    document = json.loads(body)
    if words[1] != b"200":
        text = document.get("message") if isinstance(document, dict) else None
        raise EngineError(int(words[1]), str(text or f"status {int(words[1])}"))
    return document


def _ask(path: str, request: str, seconds: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        deadline = time.monotonic() + seconds
        connection.settimeout(seconds)
        connection.connect(path)
        connection.sendall(request.encode())
        answer = bytearray()
        while part := connection.recv(1 << 16):
            answer += part
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            if len(answer) > LONGEST_ANSWER:
                raise ValueError("its answer has no end")
        return bytes(answer)

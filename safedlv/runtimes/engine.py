"""A Docker Engine behind a unix socket, asked with as little as possible: which one, and a few simple requests.

Contract: :func:`inspect_container` sends ``GET /containers/NAME/json`` (Engine API, ContainerInspect) and
:func:`list_containers` ``GET /containers/json`` (ContainerList): they change nothing; :func:`signal_container` and
:func:`remove_container` are for the keeper, which must be able to end what it keeps with nothing loaded. It stands
beside the docker package because every ``doctor docker:NAME`` asks it, and importing that package takes longer than
everything else together; all other effects, and other transports, use it.
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


def address() -> str:
    """Where the engine is: DOCKER_HOST, else the current context's host, else the usual socket (docker(1))."""
    return os.environ.get("DOCKER_HOST") or _host_of_context() or f"unix://{SOCKET}"


def unix_socket() -> str | None:
    """The path of the engine's unix socket; None when it is reached in another way."""
    where = address()
    return where.removeprefix("unix://") if where.startswith("unix://") else None


def _host_of_context() -> str | None:
    """The host of the Docker context in use: DOCKER_CONTEXT, else currentContext of config.json (docker-context(1))."""
    config = os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    name = os.environ.get("DOCKER_CONTEXT")
    if not name and not os.path.exists(os.path.join(config, "config.json")):
        return None
    import hashlib
    import json

    try:
        if not name:
            with open(os.path.join(config, "config.json"), "rb") as file:
                name = json.load(file).get("currentContext")
        if not isinstance(name, str) or name in ("", "default"):
            return None
        directory = hashlib.sha256(name.encode()).hexdigest()
        with open(os.path.join(config, "contexts", "meta", directory, "meta.json"), "rb") as file:
            return str(json.load(file)["Endpoints"]["docker"]["Host"])
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return None  # as good as none; the docker command says what is wrong with it


def signal_container(path: str, name: str, signal: str, seconds: float) -> None:
    """Send a signal (``SIGTERM``) to the container's first process. Raises as :func:`inspect_container`."""
    _expect(_ask(path, _request("POST", f"/containers/{name}/kill?signal={signal}"), seconds), b"204")


def remove_container(path: str, name: str, seconds: float, *, force: bool = True) -> None:
    """Remove the container with its anonymous volumes; with ``force`` it is killed first if it runs.

    Without, the engine refuses one that runs (409), and one that is about to be started never runs: it settles which
    comes first. Raises as :func:`inspect_container`.
    """
    _expect(_ask(path, _request("DELETE", f"/containers/{name}?force={force:d}&v=1"), seconds), b"204")


def inspect_container(path: str, name: str, seconds: float) -> Any:
    """The engine's document about a container, as JSON gives it.

    ``path`` is the engine's socket; ``seconds`` how long it may take. Raises EngineError for a refusal (404:
    there is no such container); OSError when the engine cannot be reached or is too slow; ValueError when what it
    says is no answer.
    """
    import json

    if not _NAME.fullmatch(name):
        raise EngineError(404, f"No such container: {name}")
    return json.loads(_expect(_ask(path, _request("GET", f"/containers/{name}/json"), seconds), b"200"))


def list_containers(path: str, seconds: float) -> Any:
    """The engine's list of the containers that run (ContainerList), as JSON gives it. Raises as above."""
    import json

    return json.loads(_expect(_ask(path, _request("GET", "/containers/json"), seconds), b"200"))


def _request(method: str, what: str) -> str:
    return f"{method} {what} HTTP/1.0\r\nHost: docker\r\nContent-Length: 0\r\n\r\n"


def _expect(answer: bytes, status: bytes) -> bytes:
    """The body of an answer with that status. Raises EngineError for another, ValueError when it is no answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError("what answers there is no Docker Engine")
    if words[1] == status:
        return body
    import json

    document = json.loads(body)
    text = document.get("message") if isinstance(document, dict) else None
    raise EngineError(int(words[1]), str(text or f"status {int(words[1])}"))


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

"""Containers of a Docker Engine: which process of this machine a name means. The only importer of the docker package.

Contract: :func:`container_process` asks the engine that the environment names (DOCKER_HOST, else the usual socket) and
reads /proc; it changes nothing. An engine behind a unix socket is asked directly (engine.py). Sources: the Engine
API's ContainerInspect (State.Pid is the container's first process, as the engine's PID namespace numbers it),
pid_namespaces(7), proc_pid_status(5) (NSpid).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, Final, Self, TypeVar

from safedlv.errors import SafedlvError, UsageError, printable
from safedlv.runtimes.engine import EngineError, address, inspect_container, unix_socket

T = TypeVar("T")

NOT_FOUND: Final = 404
ENGINE_SECONDS: Final = 5
"""How long the engine may take to answer one question."""
WORK_SECONDS: Final = 60
"""How long it may take for one piece of work."""


def container_process(text: str) -> int:
    """The PID, as we see it, of ``NAME`` (a container's first process) or ``NAME/PID`` (PID as seen inside it).

    NAME is a container's name, its id, or the beginning of its id. Raises UsageError for words that name no container;
    SafedlvError when there is no engine, no permission, no such process, or the container does not run.
    """
    name, slash, inner = text.partition("/")
    if not name or (slash and not (inner.isascii() and inner.isdigit())):
        raise UsageError(f"docker:{printable(text)} names no container", "write docker:NAME or docker:NAME/PID")
    first = _first_process(name)
    return _process_inside(name, first, int(inner)) if slash else first


def _first_process(name: str) -> int:
    state = inspect(name)["State"]
    pid = state.get("Pid")
    if not isinstance(pid, int) or pid <= 0:
        status = printable(str(state.get("Status") or "not running"))
        raise SafedlvError(
            f"container {printable(name)} does not run: it is {status}", f"docker start {printable(name)}"
        )
    if not os.path.exists(f"/proc/{pid}"):
        raise SafedlvError(
            f"the Docker Engine says that container {printable(name)} is process {pid}, which is not there",
            "the engine runs on another machine, or in another PID namespace: run safedlv beside it",
        )
    return pid


def inspect(name: str) -> dict[str, Any]:
    """The engine's document about a container (ContainerInspect). Every way not to answer becomes a sentence.

    Raises UsageError for a container that there is not; SafedlvError when the engine cannot be asked.
    """
    path = unix_socket()
    try:
        found = inspect_container(path, name, ENGINE_SECONDS) if path else _inspect_elsewhere(name)
    except EngineError as error:
        if error.status == NOT_FOUND:
            raise UsageError(f"there is no container {printable(name)}", "docker ps lists those that run") from error
        said = printable(str(error))
        raise SafedlvError(f"the Docker Engine does not tell about container {printable(name)}: {said}") from error
    except (OSError, ValueError) as error:
        raise _unreachable(error) from error
    if not isinstance(found, dict) or not isinstance(found.get("State"), dict):
        raise _unreachable(ValueError("it answered something else than the state of a container"))
    return found


def _inspect_elsewhere(name: str) -> Any:
    """The same over any transport that the docker package knows. Raises EngineError, OSError, ValueError."""
    with Engine() as engine:
        return engine.ask("tell about it", lambda: engine.api.inspect_container(name))


def _unreachable(error: BaseException) -> SafedlvError:
    """Why the engine cannot be asked."""
    engine = printable(address())
    text = str(error)  # the docker package wraps the system's own error several times
    if isinstance(error, PermissionError) or "PermissionError" in text:
        return SafedlvError(
            f"no permission to talk to the Docker Engine at {engine}", "run as root, or as a member of the group docker"
        )
    silent = isinstance(error, FileNotFoundError | ConnectionRefusedError)
    if silent or "FileNotFoundError" in text or "ConnectionRefusedError" in text or "Connection refused" in text:
        return SafedlvError(f"no Docker Engine answers at {engine}", "start it, or name another one with DOCKER_HOST")
    return SafedlvError(
        f"the Docker Engine at {engine} cannot be asked: {printable(text, 300)}", "see whether docker ps works"
    )


# ---------------------------------------------------------------- what changes something


class Engine:
    """An engine, through the docker package: for everything that makes, changes or removes something.

    ``api`` is the package's low-level client; :meth:`ask` turns its failures into sentences of ours.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages it imports, about each other's versions
            import docker  # type: ignore[import-untyped,unused-ignore]
            from docker.errors import APIError, DockerException  # type: ignore[import-untyped,unused-ignore]
            from requests.exceptions import RequestException
        self._refusal = APIError
        self._failures = (DockerException, RequestException, OSError, ValueError)
        try:
            if os.environ.get("DOCKER_HOST"):
                client = docker.from_env(timeout=WORK_SECONDS)
            else:
                client = docker.DockerClient(base_url=address(), timeout=WORK_SECONDS)
        except self._failures as error:
            raise _unreachable(error) from error
        self.api: Any = client.api
        self._client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, what: str, call: Callable[[], T]) -> T:
        """The answer to one request; ``what`` says in a sentence what it was for (``make the container``).

        Raises EngineError with the engine's own words for a refusal, SafedlvError when the engine is not there.
        """
        try:
            return call()
        except self._refusal as error:
            said = f"the Docker Engine did not {what}: {printable(str(error.explanation or error), 500)}"
            raise EngineError(error.status_code or 0, said) from error
        except self._failures as error:
            raise _unreachable(error) from error


# ---------------------------------------------------------------- a PID as the container sees it


def _process_inside(name: str, first: int, inner: int) -> int:
    """The process that the PID namespace of process ``first`` numbers ``inner``."""
    try:
        namespace = os.stat(f"/proc/{first}/ns/pid").st_ino
    except PermissionError as error:
        raise SafedlvError(
            f"the PID namespace of container {printable(name)} cannot be read: permission denied", "run as root"
        ) from error
    except OSError as error:
        raise SafedlvError(f"container {printable(name)} has ended") from error
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _innermost_pid(entry) == inner and _pid_namespace(entry) == namespace:
            return int(entry)
    raise SafedlvError(
        f"container {printable(name)} has no process {inner}", f"docker top {printable(name)} lists them"
    )


def _innermost_pid(pid: str) -> int | None:
    """The last number of NSpid: the process's PID in its own namespace."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            line = next((line for line in file if line.startswith(b"NSpid:")), b"")
    except OSError:
        return None  # it ended meanwhile
    return int(line.split()[-1]) if len(line.split()) > 1 else None


def _pid_namespace(pid: str) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None

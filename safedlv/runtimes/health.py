"""The health check of the container that a process is in (Engine API: ContainerInspect, Config.Healthcheck)."""

from __future__ import annotations

import re

from safedlv.runtimes.engine import EngineError, inspect_container, unix_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ENGINE_SECONDS = 1.0
CONTAINER_ID = re.compile(rb"[0-9a-f]{64}")  # of a container in the paths of its cgroups, whatever the cgroup driver


def health_check_of(pid: int) -> Any:
    """What the engine says of it; None where there is none, no container, or no engine that answers."""
    path, name = unix_socket(), _container_in(pid)
    if path is None or name is None:
        return None
    try:
        return (inspect_container(path, name, ENGINE_SECONDS).get("Config") or {}).get("Healthcheck")
    except (EngineError, OSError, ValueError, LookupError, AttributeError):
        return None


def _container_in(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            found = CONTAINER_ID.search(file.read(65536))
    except OSError:
        return None
    return found[0].decode() if found else None

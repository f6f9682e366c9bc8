"""What this process itself runs in: hints that choose which commands a report shows first, and convict nobody."""

from __future__ import annotations

import os
from typing import Final

from safedlv.diagnosis.sides import INITIAL_PID_NAMESPACE
from safedlv.errors import SafedlvError

MARKS: Final = (
    ("/var/run/secrets/kubernetes.io", "kubernetes"),  # the service account's token, mounted unless a pod says no
    ("/run/.containerenv", "podman"),  # podman-run(1)
    ("/.dockerenv", "docker"),  # moby daemon/initlayer
)


def surroundings() -> tuple[bool, str | None]:
    """Whether this process is in a container (or another PID namespace), and what runs it; None: it does not show."""
    runtime = next((name for path, name in MARKS if os.path.exists(path)), None)
    return runtime is not None or _has_own_pids(), runtime


def _has_own_pids() -> bool:
    try:
        return os.stat("/proc/self/ns/pid").st_ino != INITIAL_PID_NAMESPACE
    except OSError:
        return False


def compose_service(container: str) -> str | None:
    """The Compose service of a Docker container: the label that Compose gives it; None when there is none.

    The engine answered a moment ago; if it does not now, the commands name no service.
    """
    from safedlv.runtimes.docker import inspect

    try:
        found: object = inspect(container)
    except SafedlvError:
        return None
    for key in ("Config", "Labels", "com.docker.compose.service"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) and found else None

"""Sidecars whose safedlv and keeper were both killed: found by their labels, ended in order, removed.

A label names the keeper and the safedlv of each sidecar by PID, start time and PID namespace. A sidecar is stale when
neither lives any more. Of those that were made in another PID namespace that cannot be known: they are left alone
while they run.
"""

from __future__ import annotations

import os
from typing import Any

from safedlv.facts.procfs import ProcDir, identity, parse_stat
from safedlv.runtimes.docker import Engine
from safedlv.runtimes.engine import unix_socket
from safedlv.session.keeper import INSIDE, Keeper
from safedlv.sibling.plan import LABEL, OWNER, PROCESS


def owner_label(*pids: int) -> str:
    """The label for a sidecar of these processes: ``NAMESPACE PID:START PID:START``. Raises OSError, ValueError."""
    return " ".join([_namespace(), *(f"{pid}:{_started(pid)}" for pid in pids)])


def sweep(engine: Engine, *, dry: bool = False) -> list[str]:
    """End stale sidecars, or with ``dry`` name them only; a line for each.

    dlv is made to leave its target as at the end of any session (session/keeper.py). Raises EngineError, SafedlvError.
    """
    listed = engine.ask("list its containers", lambda: engine.api.containers(all=True, filters={"label": LABEL}))
    lines = []
    for entry in listed:
        if not is_stale(entry["Labels"].get(OWNER, ""), running=entry["State"] not in ("exited", "dead")):
            continue
        name = entry["Names"][0].lstrip("/") if entry.get("Names") else entry["Id"][:12]
        lines.append(f"{'would end' if dry else 'ended'} sidecar {name}, whose safedlv was killed")
        if not dry:
            _end(entry)
    return lines


def is_stale(owner: str, *, running: bool) -> bool:
    """Whether nobody who would end a sidecar lives any more, by its label."""
    namespace, *owners = owner.split()[:3] or [""]
    if namespace != _namespace():
        return not running  # then nothing is lost with it
    return not any(_lives(*pair.partition(":")[::2]) for pair in owners)


def _lives(pid: str, started: str) -> bool:
    """Not so of a zombie, which nobody may have waited for (proc_pid_stat(5): state)."""
    try:
        with ProcDir(pid) as procdir:
            return parse_stat(procdir.read("stat"))[1][0] not in (b"Z", b"X") and str(identity(procdir)) == started
    except (OSError, ValueError, IndexError):
        return False


def _started(pid: int) -> int:
    with ProcDir(pid) as procdir:
        return identity(procdir)


def _namespace() -> str:
    return str(os.stat("/proc/self/ns/pid").st_ino)


def _end(entry: dict[str, Any]) -> None:
    """End it as its keeper would have."""
    target = entry["Labels"].get(PROCESS, "")
    orphaned = Keeper(_directory(entry), int(target) if target.isascii() and target.isdigit() else 0)
    orphaned.container = entry["Id"], unix_socket() or ""
    orphaned.made = True
    orphaned.end()


def _directory(entry: dict[str, Any]) -> str:
    """The session's directory; a place that holds nothing unless what the container was given looks like ours."""
    for mount in entry.get("Mounts") or ():
        directory, inside = os.path.split(mount.get("Source") or "")
        if inside == INSIDE and os.path.basename(directory).startswith("safedlv-"):
            return directory
    return os.devnull

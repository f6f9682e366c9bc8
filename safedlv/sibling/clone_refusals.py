"""Containers that no copy is made of, or that are not to be stopped for one: each with the reason. Pure."""

from __future__ import annotations

from typing import Any, Final

from safedlv.errors import SafedlvError, printable
from safedlv.sibling.clone import BESIDE, COPY, SWAP

Document = dict[str, Any]
MANAGERS: Final = {
    "com.docker.swarm.service.id": "Swarm",
    "io.kubernetes.pod.uid": "Kubernetes",
    "com.amazonaws.ecs.cluster": "the ECS agent",
}
"""Labels by which those who start a container again when it stops know it."""


def refuse(container: Document, others: tuple[Document, ...], mode: str) -> None:
    """Raise SafedlvError with the reason when a copy cannot be made in this way. ``others``: all other containers."""
    for reason in (_of_itself, _of_the_swap if mode == SWAP else _of_the_place):
        if found := reason(container, others):
            raise SafedlvError(*found)


Reason = tuple[str, str] | None


def _of_itself(container: Document, others: tuple[Document, ...]) -> Reason:
    name, state = printable(container["Name"].lstrip("/")), container["State"]
    if COPY in (container["Config"].get("Labels") or {}):
        return f"{name} is a debuggable copy itself", f"safedlv attach docker:{name}"
    if state.get("Paused"):
        return f"container {name} is paused", f"docker unpause {name}"
    if not state.get("Running") or state.get("Restarting"):
        return f"container {name} does not run: it is {printable(str(state.get('Status')))}", f"docker start {name}"
    return None


def _of_the_swap(container: Document, others: tuple[Document, ...]) -> Reason:
    name = printable(container["Name"].lstrip("/"))
    beside = f"leave it as it is: safedlv relaunch --debuggable {name} --{BESIDE}"
    if container["HostConfig"].get("AutoRemove"):
        what = "it and its anonymous volumes" if container.get("Mounts") else "it and the files that it has written"
        return f"container {name} was started with --rm: the engine removes {what} when it stops", beside
    for label, manager in MANAGERS.items():
        if label in (container["Config"].get("Labels") or {}):
            return f"container {name} belongs to {manager}, which starts another one when it stops", beside
    dependent = [printable(other["Name"].lstrip("/")) for other in others if _joins(other, container)]
    if dependent:
        return (
            f"container {', '.join(dependent)} has joined a namespace of {name}, which ends when {name} stops",
            beside,
        )
    return None


def _joins(other: Document, container: Document) -> bool:
    names = (f"container:{container['Id']}", f"container:{container['Name'].lstrip('/')}")
    modes = (str(other["HostConfig"].get(key) or "") for key in ("NetworkMode", "PidMode", "IpcMode"))
    return bool((other.get("State") or {}).get("Running")) and any(mode in names for mode in modes)


def _of_the_place(container: Document, others: tuple[Document, ...]) -> Reason:
    private = [mount for mount in container.get("Mounts") or [] if "Z" in str(mount.get("Mode") or "").split(",")]
    if private and container.get("ProcessLabel"):
        where = printable(private[0]["Destination"])
        return (
            f"the mount at {where} is labelled for this container alone (:Z): a second one would take it away",
            f"put the copy in its place: --{SWAP}",
        )
    return None

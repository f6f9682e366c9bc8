"""The steps from a container to its copy and back, as values: each can describe itself, be done, and be undone.

Contract for all of them: ``undo`` puts right whatever became of ``do``, also nothing, and may be called again. For a
step that a killed safedlv has begun, ``settled`` says whether the engine has done it; a request that it had received
goes on without the one who asked. The fields are what a record keeps: never a value of an environment variable.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeVar

from attrs import asdict, field, frozen

from safedlv.runtimes.docker import NOT_FOUND, Engine
from safedlv.runtimes.engine import EngineError
from safedlv.sibling.clone import COPY, SWAP, Clone, Document
from safedlv.values import Value

T = TypeVar("T")
SNAPSHOTS: Final = "safedlv-snapshot"
"""The repository of images that hold a container's written files."""
CONFLICT: Final = 409
LEAST_STOP: Final = 10
"""Seconds that a container has to stop where it does not say (moby container/container.go: StopTimeout)."""
REMOVED_WITHIN: Final = 20.0
"""Seconds in which a container whose removal is under way is gone."""


@frozen(eq=False, repr=False)
class Step(Value):
    """The common part of all steps."""

    kind: ClassVar[str] = ""
    verb: ClassVar[str] = "changed"
    settle_seconds: ClassVar[float] = 1.0

    def describe(self) -> str:
        """What doing it does."""
        raise NotImplementedError

    def do(self, engine: Engine) -> None:
        """Do it. Raises EngineError, SafedlvError."""
        raise NotImplementedError

    def undo(self, engine: Engine) -> str:
        """Undo it; what was done for that, in words, "" for nothing. Raises EngineError, SafedlvError."""
        return ""

    def settled(self, engine: Engine) -> bool:
        """Whether the engine has done it."""
        return True

    def patience(self) -> float:
        """Seconds after which a request that was sent has certainly been done."""
        return self.settle_seconds

    def document(self) -> dict[str, Any]:
        """For the record."""
        return {"kind": self.kind, **asdict(self, filter=lambda attribute, _: attribute.metadata.get("kept", True))}


@frozen(eq=False, repr=False)
class Commit(Step):
    """An image with the files that the container has written."""

    kind: ClassVar[str] = "commit"
    verb: ClassVar[str] = "created"
    settle_seconds: ClassVar[float] = 5.0
    container: str
    repository: str
    tag: str

    def describe(self) -> str:
        return f"make the image {self.repository}:{self.tag} of its files (it is paused for as long as that takes)"

    def do(self, engine: Engine) -> None:
        engine.ask(
            "commit the container's files",
            lambda: engine.api.commit(self.container, repository=self.repository, tag=self.tag),
        )

    def undo(self, engine: Engine) -> str:
        name = f"{self.repository}:{self.tag}"
        gone = _unless_gone(engine, "remove the image", lambda: engine.api.remove_image(name))
        return f"removed image {name}" if gone else ""

    def settled(self, engine: Engine) -> bool:
        return bool(engine.ask("list images", lambda: engine.api.images(name=f"{self.repository}:{self.tag}")))


@frozen(eq=False, repr=False)
class Create(Step):
    """The copy, not started."""

    kind: ClassVar[str] = "create"
    verb: ClassVar[str] = "created"
    settle_seconds: ClassVar[float] = 3.0
    record: str
    name: str
    body: dict[str, Any] = field(factory=dict, metadata={"kept": False})

    def describe(self) -> str:
        return f"create the copy as {self.name}"

    def do(self, engine: Engine) -> None:
        engine.ask("create the copy", lambda: engine.api.create_container_from_config(self.body, self.name))

    def undo(self, engine: Engine) -> str:
        found = copies(engine, self.record)
        for container in found:
            remove(engine, container["Id"])
        return f"removed container {self.name}" if found else ""

    def settled(self, engine: Engine) -> bool:
        return bool(copies(engine, self.record))


@frozen(eq=False, repr=False)
class Join(Step):
    """A further network of the copy."""

    kind: ClassVar[str] = "join"
    name: str
    network: str
    settings: dict[str, Any]

    def describe(self) -> str:
        return f"connect it to the network {self.network}"

    def do(self, engine: Engine) -> None:
        settings = self.settings
        addresses = settings.get("IPAMConfig") or {}
        engine.ask(
            f"connect the copy to the network {self.network}",
            lambda: engine.api.connect_container_to_network(
                self.name,
                self.network,
                ipv4_address=addresses.get("IPv4Address") or None,
                ipv6_address=addresses.get("IPv6Address") or None,
                link_local_ips=addresses.get("LinkLocalIPs") or None,
                aliases=settings.get("Aliases"),
                links=[tuple(str(link).split(":", 1)) for link in settings.get("Links") or []] or None,
                driver_opt=settings.get("DriverOpts"),
                mac_address=settings.get("MacAddress"),
            ),
        )


@frozen(eq=False, repr=False)
class Leave(Step):
    """A network that the engine has put the copy into, and the original is not in."""

    kind: ClassVar[str] = "leave"
    name: str
    network: str

    def describe(self) -> str:
        return f"take it out of the network {self.network}"

    def do(self, engine: Engine) -> None:
        engine.ask(
            f"take the copy out of the network {self.network}",
            lambda: engine.api.disconnect_container_from_network(self.name, self.network),
        )


@frozen(eq=False, repr=False)
class Hold(Step):
    """The original's restart policy, so that a restart of the engine does not start it beside its copy."""

    kind: ClassVar[str] = "hold"
    container: str
    policy: dict[str, Any]

    def describe(self) -> str:
        return "take the restart policy off the original"

    def do(self, engine: Engine) -> None:
        self._set(engine, {"Name": "no"})

    def undo(self, engine: Engine) -> str:
        found = _inspect(engine, self.container)
        if not found or found["HostConfig"]["RestartPolicy"] == self.policy:
            return ""
        self._set(engine, self.policy)
        return "gave the original its restart policy back"

    def settled(self, engine: Engine) -> bool:
        found = _inspect(engine, self.container)
        return not found or found["HostConfig"]["RestartPolicy"] != self.policy

    def _set(self, engine: Engine, policy: dict[str, Any]) -> None:
        engine.ask(
            "change the restart policy", lambda: engine.api.update_container(self.container, restart_policy=policy)
        )


@frozen(eq=False, repr=False)
class Stop(Step):
    """The original, by its own signal and within its own time."""

    kind: ClassVar[str] = "stop"
    container: str
    name: str
    seconds: int | None
    """StopTimeout; None: the engine's."""

    def describe(self) -> str:
        within = LEAST_STOP if self.seconds is None else self.seconds
        return f"stop {self.name} by its own stop signal (killed after {within} s)"

    def do(self, engine: Engine) -> None:
        stop(engine, self.container, self.seconds)

    def undo(self, engine: Engine) -> str:
        found = _inspect(engine, self.container)
        if found is None:
            return f"cannot start {self.name} again: somebody else has removed it"
        if found["State"]["Running"]:
            return ""
        engine.ask(f"start {self.name} again", lambda: engine.api.start(self.container))
        return f"started {self.name} again"

    def settled(self, engine: Engine) -> bool:
        found = _inspect(engine, self.container)
        return found is None or not found["State"]["Running"]

    def patience(self) -> float:
        return (LEAST_STOP if self.seconds is None else self.seconds) + 5.0


@frozen(eq=False, repr=False)
class Rename(Step):
    """The original's name."""

    kind: ClassVar[str] = "rename"
    container: str
    before: str
    after: str

    def describe(self) -> str:
        return f"rename {self.before} to {self.after}"

    def do(self, engine: Engine) -> None:
        rename(engine, self.container, self.after)

    def undo(self, engine: Engine) -> str:
        return f"renamed {self.after} to {self.before}" if rename(engine, self.container, self.before) else ""

    def settled(self, engine: Engine) -> bool:
        found = _inspect(engine, self.container)
        return found is None or found["Name"] == f"/{self.after}"


@frozen(eq=False, repr=False)
class RenameCopy(Step):
    """The copy's name: first one of its own, then the original's."""

    kind: ClassVar[str] = "rename-copy"
    record: str
    before: str
    after: str

    def describe(self) -> str:
        return f"rename {self.before} to {self.after}"

    def do(self, engine: Engine) -> None:
        for container in copies(engine, self.record):
            rename(engine, container["Id"], self.after)

    def undo(self, engine: Engine) -> str:
        for container in copies(engine, self.record):
            rename(engine, container["Id"], self.before)
        return ""  # it is removed soon

    def settled(self, engine: Engine) -> bool:
        return all(f"/{self.after}" in (container.get("Names") or ()) for container in copies(engine, self.record))


@frozen(eq=False, repr=False)
class Start(Step):
    """The copy runs."""

    kind: ClassVar[str] = "start"
    settle_seconds: ClassVar[float] = 2.0
    record: str
    name: str
    seconds: int | None

    def describe(self) -> str:
        return f"start the copy, {self.name}"

    def do(self, engine: Engine) -> None:
        engine.ask("start the copy", lambda: engine.api.start(self.name))

    def undo(self, engine: Engine) -> str:
        for container in copies(engine, self.record):
            stop(engine, container["Id"], self.seconds)
        return ""  # it is removed soon

    def settled(self, engine: Engine) -> bool:
        return all(container.get("State") == "running" for container in copies(engine, self.record))


KINDS: Final[dict[str, type[Step]]] = {
    one.kind: one for one in (Commit, Create, Join, Leave, Hold, Stop, Rename, RenameCopy, Start)
}


def step_of(document: dict[str, Any]) -> Step:
    """The step of a record. Raises ValueError for what is none."""
    fields = dict(document)
    try:
        return KINDS[fields.pop("kind")](**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no step of a copy: {error}") from error


# ---------------------------------------------------------------- one request each


def copies(engine: Engine, record: str) -> list[dict[str, Any]]:
    """The containers that carry the label of a record."""
    wanted = {"label": f"{COPY}={record}"}
    found: list[dict[str, Any]] = engine.ask(
        "list its containers", lambda: engine.api.containers(all=True, filters=wanted)
    )
    return found


def stop(engine: Engine, container: str, seconds: int | None) -> None:
    """Stop a container gently; one that does not run, or is gone, is left alone."""
    _unless_gone(engine, "stop the container", lambda: engine.api.stop(container, timeout=seconds))


def rename(engine: Engine, container: str, name: str) -> bool:
    """Give a container a name; whether it had another one. One that is gone has none."""
    found = _inspect(engine, container)
    if found is None or found["Name"] == f"/{name}":
        return False
    return _unless_gone(engine, f"rename the container to {name}", lambda: engine.api.rename(container, name))


def remove(engine: Engine, container: str) -> None:
    """Remove a copy, stopped or not; a removal that is under way already is waited for.

    Its anonymous volumes go with it, but for those that it has by --volumes-from, which are another container's: the
    engine would take them for its own (moby daemon/mounts.go: removeMountPoints; volumes with a name always stay).
    """
    found = _inspect(engine, container)
    volumes = found is not None and not found["HostConfig"].get("VolumesFrom")
    deadline = time.monotonic() + REMOVED_WITHIN
    while True:
        try:
            engine.ask("remove the copy", lambda: engine.api.remove_container(container, v=volumes, force=True))
        except EngineError as error:
            if error.status == NOT_FOUND:
                return
            if error.status != CONFLICT or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _inspect(engine: Engine, container: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = engine.ask("tell about the container", lambda: engine.api.inspect_container(container))
    except EngineError as error:
        if error.status == NOT_FOUND:
            return None
        raise
    return found


def _unless_gone(engine: Engine, what: str, call: Callable[[], object]) -> bool:
    """Make the request; False when there is no such thing any more."""
    try:
        engine.ask(what, call)
    except EngineError as error:
        if error.status == NOT_FOUND:
            return False
        raise
    return True


# ---------------------------------------------------------------- the whole way


def steps_of(
    clone: Clone, container: Document, record: str, name: str | None, *, snapshot: bool
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The steps that make the copy, during which the original is not touched, and those that start it.

    ``name``: of a copy beside the original, where it shall not be NAME-debug.
    """
    original, seconds, swap = clone.original, container["Config"].get("StopTimeout"), clone.mode == SWAP
    made = f"{clone.name}-safedlv-copy" if swap else name or f"{clone.name}-debug"
    prepare: list[Step] = [Commit(original, SNAPSHOTS, record)] if snapshot else []
    prepare.append(Create(record, made, clone.body))
    prepare += [Join(made, endpoint.key, endpoint.settings) for endpoint in clone.joins]
    prepare += [Leave(made, network) for network in clone.leaves]
    if not swap:
        return tuple(prepare), (Start(record, made, seconds),)
    policy = container["HostConfig"].get("RestartPolicy") or {}
    held: tuple[Step, ...] = (Hold(original, policy),) if policy.get("Name") == "always" else ()
    return tuple(prepare), (
        *held,
        Stop(original, clone.name, seconds),
        Rename(original, clone.name, f"{clone.name}-safedlv-original"),
        RenameCopy(record, made, clone.name),
        Start(record, clone.name, seconds),
    )

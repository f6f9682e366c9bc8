"""The debuggable copy of a container as a value: what the engine is told, and every change with its risk. Pure.

The engine's own document about the original (ContainerInspect) is the source: ``Config`` and ``HostConfig`` go back to
it whole (ContainerCreate takes the same two structures), then a few fields are changed, each declared as a
:class:`Change`. What does not come back as it was told is put right in :func:`_as_create_takes_it`: sources are moby's
runconfig/hostconfig*.go (which settings exclude each other), daemon/commit.go (merge) and daemon/create.go (what the
image adds), daemon/links.go, daemon/volumes.go.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from attrs import frozen

from safedlv.diagnosis.remedies import LOW, MEDIUM
from safedlv.diagnosis.remedy_commands import MEMORY_FOR_DLV, ROOM_FOR_DLV
from safedlv.errors import SafedlvError, printable
from safedlv.sibling.clone_networks import BUILT_IN, Endpoint, endpoints
from safedlv.values import Value

Document = dict[str, Any]

COPY: Final = "safedlv.copy"
"""The label of every copy: the id of the record that it belongs to."""
RECORD: Final = "safedlv.record"
"""The label that says where that record is: ``HOST:PATH``."""
ONE_OFF: Final = "com.docker.compose.oneoff"
COMPOSE_PROJECT: Final = "com.docker.compose.project"
BESIDE, SWAP = "beside", "swap"
DOES_NOTHING_TO_A_CONTAINER: Final = frozenset({"user", "root", "delve"})
"""Changes of the debugger alone: whom ``docker exec --user`` starts it as, and that there is one."""
LIVING: Final = frozenset({"thaw", "limit:pids", "limit:memory"})
"""Changes that the engine makes to a container while it runs."""


@frozen(eq=False, repr=False)
class Change(Value):
    """One difference between original and copy."""

    path: tuple[str, ...]
    """Where ``docker inspect`` shows it; what lies below it differs, too."""
    words: str
    """Empty for one that belongs to the change before it."""
    risk: str = LOW


@frozen(eq=False, repr=False)
class Wish(Value):
    """What kind of copy is to be made."""

    mode: str
    """``beside`` or ``swap``."""
    ids: tuple[str, ...]
    """Ids of changes, as diagnosis/remedies.py names them."""
    profile: str | None = None
    """The seccomp profile, as JSON, where ``seccomp`` is among the ids."""
    apparmor: str | None = None
    image: str | None = None
    """The image with the container's written files, where they are to be taken along."""
    named_image: str | None = None
    """The id of the image that the name in the container's configuration means now."""
    record: str = ""
    record_path: str = ""


@frozen(eq=False, repr=False)
class Clone(Value):
    """A copy of one container."""

    original: str
    """The container's id."""
    name: str
    """Its name."""
    mode: str
    body: Document
    """The body of ContainerCreate."""
    joins: tuple[Endpoint, ...]
    """Networks to connect after that, before the start."""
    leaves: tuple[str, ...]
    """Networks that the engine connects by itself and the original is not in."""
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    def describe(self) -> tuple[str, ...]:
        """The changes with their risks, then what else there is to know: a line each."""
        told = [change for change in self.changes if change.words]  # the others belong to the one before
        return (*(f"{change.words} (risk: {change.risk})" for change in told), *self.notes)


class _Draft:
    """A copy in the making: the two structures, and what was changed in them."""

    def __init__(self, container: Document, image: Document, wish: Wish) -> None:
        self.container, self.image, self.wish = container, image, wish
        self.config: Document = deepcopy(container["Config"])
        self.host: Document = deepcopy(container["HostConfig"])
        self.changes: list[Change] = []
        self.notes: list[str] = []

    def changed(self, *path: str, words: str, risk: str = LOW) -> None:
        self.changes.append(Change(path, words, risk))


def clone_of(container: Document, image: Document, wish: Wish) -> Clone:
    """The copy of a container; ``image`` is the engine's document about its image (ImageInspect).

    Raises SafedlvError for a change that no copy can have.
    """
    draft = _Draft(container, image, wish)
    _as_create_takes_it(draft)
    _labels(draft)
    _image(draft)
    for change in wish.ids:
        _needed(draft, change)
    if wish.mode == BESIDE:
        _beside(draft)
    else:
        _same_volumes(draft)
    _notes(draft)
    first, joins, leaves = endpoints(container, beside=wish.mode == BESIDE)
    draft.changes += [Change(path, words) for endpoint in (*first, *joins) for path, words in endpoint.changes]
    body = {**draft.config, "HostConfig": draft.host}
    if len(first) > 1 or any(endpoint.settings for endpoint in first):
        body["NetworkingConfig"] = {"EndpointsConfig": {endpoint.key: endpoint.settings for endpoint in first}}
    name = container["Name"].lstrip("/")
    changes, notes = tuple(draft.changes), tuple(draft.notes)
    return Clone(container["Id"], name, wish.mode, body, joins, leaves, changes, notes)


# ---------------------------------------------------------------- what does not come back as it was told


def _as_create_takes_it(draft: _Draft) -> None:
    """The same container in the words that ContainerCreate accepts; nothing of this is a change."""
    config, host, container = draft.config, draft.host, draft.container
    mode = str(host.get("NetworkMode") or "")
    if config.get("Hostname") == container["Id"][:12] or host.get("UTSMode") == "host":
        config["Hostname"] = ""  # the engine's own choice
    if mode.startswith("container:"):  # it is the other container's, and so are its ports
        config |= {"Hostname": "", "Domainname": "", "ExposedPorts": None}
    image = draft.image.get("Config") or {}
    if not config.get("Entrypoint") and image.get("Entrypoint"):
        config["Entrypoint"] = [""]  # nothing would mean the image's


def _labels(draft: _Draft) -> None:
    labels = draft.config["Labels"] = dict(draft.config.get("Labels") or {})
    labels |= {COPY: draft.wish.record, RECORD: draft.wish.record_path}
    draft.changed("Config", "Labels", COPY, words="two labels more, by which safedlv finds the copy again")
    draft.changed("Config", "Labels", RECORD, words="")
    if COMPOSE_PROJECT in labels:
        labels[ONE_OFF] = "True"
        words = "a label that tells Compose that the copy is not the service's own container"
        draft.changed("Config", "Labels", ONE_OFF, words=words)
        draft.notes.append(
            "docker compose ps, exec and logs go on meaning the original; docker compose down removes both"
        )


def _image(draft: _Draft) -> None:
    """By the name that the original has, as long as that still names the same image."""
    if draft.wish.image is not None:
        draft.config["Image"] = draft.wish.image
        draft.changed("Config", "Image", words="an image with the files that the container has written", risk=LOW)
        draft.changed("Image", words="")
    elif draft.wish.named_image != draft.container["Image"]:
        draft.config["Image"] = draft.container["Image"]
        draft.changed("Config", "Image", words="the same image, by its id: its name has been given to another one")


# ---------------------------------------------------------------- what makes it debuggable


def _needed(draft: _Draft, change: str) -> None:
    """One change by its id. Raises SafedlvError for what is no setting of a container."""
    kind, _, name = change.partition(":")
    if kind == "cap":
        held = [str(capability) for capability in draft.host.get("CapAdd") or []]
        draft.host["CapAdd"] = [*held, name.upper()]
        why = "its processes may then trace all that they can name" if name == "sys_ptrace" else "for its processes"
        draft.changed("HostConfig", "CapAdd", words=f"the capability {name.upper()}: {why}", risk=MEDIUM)
    elif kind == "seccomp":
        _security_option(draft, "seccomp", draft.wish.profile or "")
        words = "its own seccomp profile, made to allow what dlv needs and nothing else"
        draft.changed("HostConfig", "SecurityOpt", words=words, risk=MEDIUM)
    elif change == "label:apparmor" and draft.wish.apparmor:
        _security_option(draft, "apparmor", draft.wish.apparmor)
        words = f"the AppArmor profile {printable(draft.wish.apparmor)}"
        draft.changed("HostConfig", "SecurityOpt", words=words, risk=MEDIUM)
        draft.changed("AppArmorProfile", words="")
    elif kind == "limit":
        _limit(draft, name)
    elif kind not in DOES_NOTHING_TO_A_CONTAINER:
        raise SafedlvError(
            f"no copy would help: the change that is needed ({change}) is no setting of a container",
            "safedlv doctor says what to do"
            + ("; --apparmor PROFILE names another profile" if change == "label:apparmor" else ""),
        )


def _security_option(draft: _Draft, key: str, value: str) -> None:
    """The last one of a kind counts for the engine (moby daemon/daemon_unix.go: parseSecurityOpt)."""
    others = [option for option in draft.host.get("SecurityOpt") or [] if not _is_option(str(option), key)]
    draft.host["SecurityOpt"] = [*others, f"{key}={value}"]


def _is_option(option: str, key: str) -> bool:
    return option.startswith((f"{key}=", f"{key}:"))


def _limit(draft: _Draft, name: str) -> None:
    host = draft.host
    if name == "pids" and (host.get("PidsLimit") or 0) > 0:
        host["PidsLimit"] += ROOM_FOR_DLV
        draft.changed("HostConfig", "PidsLimit", words=f"{ROOM_FOR_DLV} threads more: dlv could not run beside it")
    elif name == "memory" and (host.get("Memory") or 0) > 0:
        host["Memory"] += MEMORY_FOR_DLV
        draft.changed(
            "HostConfig", "Memory", words=f"{MEMORY_FOR_DLV >> 20} MiB more: dlv could not run beside the program"
        )
        if (host.get("MemorySwap") or 0) > 0:
            host["MemorySwap"] += MEMORY_FOR_DLV
            draft.changed("HostConfig", "MemorySwap", words="")
    else:
        raise SafedlvError(f"the limit of {name} that leaves no room for dlv is not the container's own")


# ---------------------------------------------------------------- volumes, and what two containers cannot both have


def _same_volumes(draft: _Draft) -> None:
    """In place of the original: its anonymous volumes by their names, which also keeps them from being removed."""
    for mount in anonymous_volumes(draft.container):
        where = mount["Destination"]
        of_mounts = [entry for entry in draft.host.get("Mounts") or [] if entry.get("Target") == where]
        if of_mounts:
            of_mounts[0]["Source"] = mount["Name"]
            path: tuple[str, ...] = ("HostConfig", "Mounts", where)
        else:
            read_only = "" if mount.get("RW", True) else ":ro"
            draft.host["Binds"] = [*(draft.host.get("Binds") or []), f"{mount['Name']}:{where}{read_only}"]
            path = ("HostConfig", "Binds")
        draft.changed(*path, words=f"the anonymous volume at {printable(where)} is named: it is the same volume")


def anonymous_volumes(container: Document) -> list[Document]:
    """Mounts of volumes that nobody gave a name: the image's VOLUME, ``-v /path``, or ``--mount`` without a source."""
    host, config = container["HostConfig"], container["Config"]
    by_mounts = {entry.get("Target"): entry.get("Source") for entry in host.get("Mounts") or []}
    bound = {str(bind).split(":")[1] for bind in host.get("Binds") or [] if ":" in str(bind)}
    borrowed = bool(host.get("VolumesFrom"))
    return [
        mount
        for mount in container.get("Mounts") or []
        if mount.get("Type") == "volume"
        and mount["Destination"] not in bound
        and not by_mounts.get(mount["Destination"])
        and (
            mount["Destination"] in by_mounts
            or (not borrowed and mount["Destination"] in (config.get("Volumes") or {}))
        )
    ]


def _beside(draft: _Draft) -> None:
    """Next to the original: nothing that only one of two can have."""
    config, host = draft.config, draft.host
    bindings = host.get("PortBindings") or {}
    if any(str(binding.get("HostPort") or "0") != "0" for found in bindings.values() for binding in found or ()):
        host["PortBindings"] = {
            port: [{**binding, "HostPort": ""} for binding in found or ()] for port, found in bindings.items()
        }
        draft.changed("HostConfig", "PortBindings", words="ports of this machine that the engine chooses")
    if config.get("MacAddress"):
        config["MacAddress"] = ""
        draft.changed("Config", "MacAddress", words="a MAC address of its own")
    if host.get("AutoRemove"):
        host["AutoRemove"] = False
        draft.changed("HostConfig", "AutoRemove", words="when it ends it is not removed by itself, but by safedlv")
    for mount in anonymous_volumes(draft.container):
        where = mount["Destination"]
        draft.changed("Mounts", where, words=f"a new volume at {printable(where)}: the original's has no name")


# ---------------------------------------------------------------- what else there is to know


def _notes(draft: _Draft) -> None:
    host, beside = draft.host, draft.wish.mode == BESIDE
    mode = str(host.get("NetworkMode") or "")
    if beside:
        own = {mount["Destination"] for mount in anonymous_volumes(draft.container)}
        shared = [m for m in draft.container.get("Mounts") or [] if m.get("RW") and m["Destination"] not in own]
        for mount in shared:
            what = "volume" if mount.get("Type") == "volume" else "directory"
            draft.notes.append(f"both write to the same {what} at {printable(mount['Destination'])}")
        if mode == "host" or mode.startswith("container:"):
            draft.notes.append("it has the original's network: a port that both listen on is taken")
        if draft.container["Config"].get("Labels"):
            draft.notes.append("labels are kept: what goes by labels, such as a proxy, sees the copy, too")
    elif mode not in BUILT_IN and not mode.startswith("container:"):
        draft.notes.append("an address that the engine chose may be another one afterwards, as after every start")
    if {"user", "root"} & set(draft.wish.ids):
        draft.notes.append("dlv is to be started as another user: docker exec --user, see safedlv doctor")
    if not beside and draft.container.get("ExecIDs"):
        draft.notes.append("what docker exec has started in the original ends with it")

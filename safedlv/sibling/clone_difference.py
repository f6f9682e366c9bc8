"""How two containers differ, as ``docker inspect`` tells it: what was set, not what the engine made of it. Pure.

Left out are ids, times, the state, the paths of the engine's own files, and what it chooses anew at each start
(addresses and ports that nobody asked for). Lists that mean sets are compared as sets; nothing, [] and {} are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from attrs import frozen

from safedlv.sibling.clone import Change
from safedlv.sibling.clone_networks import SETTINGS, without_own_id
from safedlv.values import Value

Document = dict[str, Any]

TOP: Final = ("Path", "Args", "Image", "Driver", "Platform")
SETS: Final = frozenset({"Binds", "CapAdd", "CapDrop", "Links", "SecurityOpt", "Aliases", "DeviceCgroupRules"})
OF_A_MOUNT: Final = ("Type", "Name", "Source", "Driver", "RW", "Propagation")
"""Mode is left out: for a volume the engine writes "" or "z" by the way it was named."""


@frozen(eq=False, repr=False)
class Difference(Value):
    """One place where two containers differ."""

    path: tuple[str, ...]
    before: Any
    after: Any

    def shown(self) -> str:
        """In a line; without the values of environment variables."""
        secret = "Env" in self.path
        return ".".join(self.path) + ("" if secret else f": {self.before!r} -> {self.after!r}")


def differences(original: Document, copy: Document) -> tuple[Difference, ...]:
    """Every difference in what the two were told to be."""
    running = all((document.get("State") or {}).get("Running") for document in (original, copy))
    top = (*TOP, "AppArmorProfile") if running else TOP  # the engine settles on a profile at the start
    return tuple(_compare((), _settings(original, top), _settings(copy, top)))


def undeclared(found: tuple[Difference, ...], declared: tuple[Change, ...]) -> tuple[Difference, ...]:
    """Those that are not at or below the path of a change."""
    paths = [change.path for change in declared]
    return tuple(one for one in found if not any(one.path[: len(path)] == path for path in paths))


def _settings(document: Document, top: tuple[str, ...]) -> Document:
    config, host = dict(document["Config"]), dict(document["HostConfig"])
    own = document["Id"][:12]
    mode = str(host.get("NetworkMode") or "")
    if config.get("Hostname") == own or mode == "host" or mode.startswith("container:"):
        config["Hostname"] = None
    if mode.startswith("container:"):  # filled in at the start, from the other container's
        config["Domainname"] = None
    config["Env"] = _variables(config.get("Env"))
    host["Mounts"] = {mount.get("Target"): mount for mount in host.get("Mounts") or []}
    host["Links"] = [_link(link) for link in host.get("Links") or []]
    for key in ("CapAdd", "CapDrop"):
        host[key] = [str(name).upper().removeprefix("CAP_") for name in host.get(key) or []]
    networks = (document.get("NetworkSettings") or {}).get("Networks") or {}
    return {
        **{key: document.get(key) for key in top},
        "Config": config,
        "HostConfig": host,
        "Mounts": {
            mount["Destination"]: {key: mount.get(key) for key in OF_A_MOUNT} for mount in document.get("Mounts") or []
        },
        "NetworkSettings": {"Networks": {name: _endpoint(found or {}, own) for name, found in networks.items()}},
    }


def _endpoint(found: Document, own: str) -> Document:
    settings = {key: found.get(key) for key in SETTINGS}
    return {"connected": True, **settings, "Aliases": without_own_id(found.get("Aliases"), own)}


def _variables(env: list[str] | None) -> Document:
    return {name: value if equals else None for name, equals, value in (str(one).partition("=") for one in env or [])}


def _link(link: str) -> str:
    """``/other:/own name/alias`` without the own name (moby daemon/inspect.go)."""
    other, _, alias = str(link).partition(":")
    return f"{other}:{alias.rpartition('/')[2]}"


def _compare(path: tuple[str, ...], before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, dict) or isinstance(after, dict):
        left, right = (value if isinstance(value, dict) else {} for value in (before, after))
        for key in dict.fromkeys((*left, *right)):
            yield from _compare((*path, str(key)), left.get(key), right.get(key))
    elif _plain(path, before) != _plain(path, after):
        yield Difference(path, before, after)


def _plain(path: tuple[str, ...], value: Any) -> Any:
    """The value for a comparison: nothing is nothing in each of its forms, and a set has no order."""
    if value is None or value in ("", [], 0, False):
        return None
    return sorted(value, key=str) if isinstance(value, list) and path[-1] in SETS else value

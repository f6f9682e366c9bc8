"""The networks of a copy: from the state that the engine tells (NetworkSettings) to the settings that it takes. Pure.

Since API 1.44 (engine 25) ContainerCreate takes all networks, with a MAC address and a gateway's priority each; before,
it takes one, and the others are connected before the start. Of an endpoint only the settings go back, not what the
engine made of them (moby api/types/network/endpoint.go). Up to API 1.43 it lists the container's own short id among
the aliases, and adds it again (daemon/container_operations.go).
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from attrs import frozen

from safedlv.values import Value

SETTINGS: Final = ("IPAMConfig", "Links", "Aliases", "DriverOpts", "GwPriority")
SINCE_1_44: Final = "DNSNames"
"""What every endpoint has in the answers of an engine of API 1.44 or later."""
BUILT_IN: Final = frozenset({"", "default", "bridge", "host", "none"})
ONLY_ONE_HAS: Final = {
    "IPAMConfig": "no address of its own choice in the network",
    "Aliases": "no aliases in the network",
}


@frozen(eq=False, repr=False)
class Endpoint(Value):
    """A network that the copy is in."""

    key: str
    """How ContainerCreate is told: the network's name, or the mode of a built-in one."""
    settings: dict[str, Any]
    changes: tuple[tuple[tuple[str, ...], str], ...] = ()
    """(where docker inspect shows it, in words)."""


def endpoints(
    container: dict[str, Any], *, beside: bool
) -> tuple[tuple[Endpoint, ...], tuple[Endpoint, ...], tuple[str, ...]]:
    """What ContainerCreate is given, what is to be connected after it, and what to be disconnected."""
    mode = str(container["HostConfig"].get("NetworkMode") or "default")
    networks: dict[str, Any] = (container.get("NetworkSettings") or {}).get("Networks") or {}
    if mode.startswith("container:"):
        return (), (), ()
    first = next((name for name, found in networks.items() if _is_of(mode, name, found or {})), None)
    made = {name: _endpoint(name, found or {}, container["Id"], beside=beside) for name, found in networks.items()}
    joins = tuple(endpoint for name, endpoint in made.items() if name != first)
    if first is None:
        return (), joins, ("bridge" if mode == "default" else mode,)
    own = made[first]
    own.settings.pop("MacAddress", None)  # one that was chosen is in Config.MacAddress
    if mode in BUILT_IN:  # of these the engine takes no address and no alias
        own = Endpoint(mode, {key: value for key, value in own.settings.items() if key in ("DriverOpts", "GwPriority")})
    if any(SINCE_1_44 in (found or {}) for found in networks.values()):
        return (own, *joins), (), ()
    return (own,), joins, ()


def _is_of(mode: str, name: str, endpoint: dict[str, Any]) -> bool:
    """Whether a network is the one that NetworkMode names: by its name, or its id."""
    if mode in BUILT_IN:
        return name == ("bridge" if mode == "default" else mode)
    return name == mode or str(endpoint.get("NetworkID") or "").startswith(mode)


def _endpoint(name: str, found: dict[str, Any], container: str, *, beside: bool) -> Endpoint:
    settings = {key: deepcopy(found[key]) for key in SETTINGS if found.get(key)}
    if aliases := without_own_id(settings.get("Aliases"), container):
        settings["Aliases"] = aliases
    else:
        settings.pop("Aliases", None)
    if SINCE_1_44 in found and found.get("MacAddress") and not beside:
        settings["MacAddress"] = found["MacAddress"]  # whether somebody chose it is not told
    changes = []
    for key in ONLY_ONE_HAS if beside else ():
        if settings.pop(key, None):
            changes.append((("NetworkSettings", "Networks", name, key), f"{ONLY_ONE_HAS[key]} {name}"))
    return Endpoint(name, settings, tuple(changes))


def without_own_id(aliases: list[str] | None, container: str) -> list[str]:
    """The aliases that somebody chose."""
    return [alias for alias in aliases or [] if alias != container[:12]]

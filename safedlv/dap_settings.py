"""What an attach request says under ``safedlv``: read once, refused in sentences. Pure."""

from __future__ import annotations

from safedlv.command_line import CLONE, SIDECAR
from safedlv.errors import SafedlvError, printable
from safedlv.session.dap_messages import argument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OWN = "safedlv"
"""The argument that holds ours; dlv does not get it."""
NEVER, ASK = "never", "ask"
WORDS = {"via": (NEVER, ASK, SIDECAR, CLONE), "guard": ("on", "off"), "onDisconnect": ("detach",)}
"""Settings that are one of a few words, which each has when it is not given: none."""
KEYS = ("via", "target", "guard", "tracer", "maxPause", "onDisconnect")


class Settings:
    """``via`` is empty where nothing is said; ``tracer`` as for ``doctor --tracer``; ``target`` may be anything.

    ``max_pause`` as for ``attach --max-pause``; None where nothing is said. A client that is gone is the end of its
    session, and the target is let go of: ``onDisconnect`` can say nothing else.
    """

    def __init__(self, own: dict[str, Any]) -> None:
        self.via: str = own.get("via", "")
        self.guarded = own.get("guard", "on") == "on"
        self.tracer: str = own.get("tracer", "")
        self.target: object = own.get("target")
        pause = own.get("maxPause")
        self.max_pause = None if pause is None else str(pause)


def read_settings(arguments: dict[str, Any]) -> Settings:
    """Ours of a request's arguments. Raises SafedlvError for what is none of them."""
    own = argument(arguments, OWN)
    if own is not None and not isinstance(own, dict):
        raise SafedlvError('"safedlv" in the launch configuration is no object', 'write "safedlv": {"via": "ask"}')
    own = own or {}
    for key, value in own.items():
        if key not in KEYS:
            raise SafedlvError(f'there is no "safedlv": {{"{printable(key, 40)}": ...}}', f"there is {_or(KEYS)}")
        if key in WORDS and value not in WORDS[key]:
            raise SafedlvError(f'"{key}" is {printable(str(value), 40)!r}', f"it may be {_or(WORDS[key])}")
        if key == "tracer" and not isinstance(value, str):
            raise SafedlvError('"tracer" is no text', 'write "container:1000" or what else doctor --tracer takes')
        if key == "maxPause" and (isinstance(value, bool) or not isinstance(value, str | int | float)):
            raise SafedlvError('"maxPause" is no time', 'write "20s", a number of seconds, or "off"')
    return Settings(own)


def _or(words: tuple[str, ...]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]

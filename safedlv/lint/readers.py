"""What options of an engine say, into a :class:`Container`: for every format that has them. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any, Final

from safedlv.lint.values import Setting
from safedlv.lint.words import Option

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtpKMGTPE]?)(i?)[bB]?")
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}


def size(text: str, *, decimal: bool = False) -> int | None:
    """Bytes of ``64m``, ``64MiB``; ``decimal``: Kubernetes' 64M is 64 million, 64Mi is not. None: no size."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    base = 1000 if decimal and not match[3] else 1024
    return int(float(match[1]) * base ** _POWERS[match[2].lower()])


def count(text: str) -> int | None:
    """A whole number; None where it is none."""
    return int(text) if re.fullmatch(r"-?\d{1,18}", text.strip()) else None


def security(settings: Iterable[Setting], kind: str) -> Setting | None:
    """The last ``seccomp=`` or ``apparmor=`` among security options, its value alone; the last one holds (moby)."""
    found = None
    for setting in settings:
        name, _, value = re.sub("[:=]", "=", setting.value, count=1).partition("=")
        if name == kind and value:
            found = Setting(value, setting.line, setting.path, setting.items)
    return found


def split(text: str) -> tuple[str, ...]:
    """A command written as one text; whole where its quotes do not match."""
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return (text,)


def from_options(options: Iterable[Option], setting: Callable[[Option], Setting]) -> dict[str, Any]:
    """Fields of a Container, out of options as docker run has them."""
    by_name: dict[str, list[Option]] = {}
    for option in options:
        by_name.setdefault(option.name, []).append(option)

    def every(name: str) -> tuple[Setting, ...]:
        return tuple(setting(option) for option in by_name.get(name, []))

    def last(name: str) -> Setting | None:
        return every(name)[-1] if name in by_name else None

    privileged, user = last("privileged"), last("user")
    return {
        "privileged": privileged if privileged and privileged.value != "false" else None,
        "cap_add": every("cap-add"),
        "cap_drop": every("cap-drop"),
        "seccomp": security(every("security-opt"), "seccomp"),
        "apparmor": security(every("security-opt"), "apparmor"),
        "user": user.value if user else None,
        "pids": last("pids-limit"),
        "memory": last("memory"),
        "swap": last("memory-swap"),
        "sysctls": every("sysctl"),
        "runtime": last("runtime"),
        "platform": last("platform"),
    }

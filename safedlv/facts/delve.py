"""What a dlv on this machine is: its version, and which versions of Go it understands.

The cheap ways come first: the build information and the symbol table of the binary are read, not run.  Only a dlv
that was stripped of them is asked: ``dlv version``, and a headless server on dlv itself for RPCServer.GetVersion.
Finding dlv, which every attach does, is in :mod:`.delve_path`.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from safedlv.facts.delve_path import MODULE, delve_version_from_binary, find_delve
from safedlv.facts.elf import Elf, MalformedElf, read_elf
from safedlv.facts.reading import MALFORMED, unknown
from safedlv.model import Delve, Unknown

__all__ = ["delve_version_from_binary", "find_delve", "parse_go_version", "read_delve", "read_go_range", "supports"]

VERSION_DEADLINE: Final = 5.0
EXPERIMENT_DEADLINE: Final = 10.0
"""Seconds; a headless dlv on itself answers in about half a second."""

_SYMBOLS: Final = tuple(
    f"{MODULE}/pkg/goversion.{end}SupportedVersionOfGo{part}" for end in ("Min", "Max") for part in ("Major", "Minor")
)
_MAX_NUMBER = 10_000
_DEVELOPMENT = -1
_RELEASE = 0

Range = tuple[str, str]


def read_delve(path: str) -> Delve:
    """The facts about the dlv at ``path``; what neither its file nor itself tells is Unknown.

    May run dlv: at most VERSION_DEADLINE plus EXPERIMENT_DEADLINE seconds, and only where the file does not tell.
    """
    version: str | Unknown | None = delve_version_from_binary(path)
    supported = read_go_range(path)
    if isinstance(supported, Unknown) and supported.errno == "STRIPPED":
        from safedlv.facts.delve_asked import ask_go_range

        answer = ask_go_range(path, EXPERIMENT_DEADLINE)
        supported = _range(answer) if not isinstance(answer, Unknown) else answer
    if version is None:
        from safedlv.facts.delve_asked import ask_version

        version = ask_version(path, VERSION_DEADLINE)
    low, high = (supported, supported) if isinstance(supported, Unknown) else supported
    return Delve(path=path, version=version, min_go=low, max_go=high)


def read_go_range(path: str) -> Range | Unknown:
    """The oldest and the newest Go that this dlv supports, from the variables of its package goversion.

    They are ordinary package variables (pkg/goversion/compat.go), initialised in .data and never written, so the file
    holds their values wherever it still has a symbol table; Unknown STRIPPED where it has none.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return unknown(error, path)
    try:
        return _go_range(read_elf(fd), path)
    except OSError as error:
        return unknown(error, path)
    except MalformedElf:
        return Unknown(MALFORMED, path)
    finally:
        os.close(fd)


def _go_range(elf: Elf, path: str) -> Range | Unknown:
    addresses = elf.symbol_addresses(_SYMBOLS)
    if len(addresses) < len(_SYMBOLS):
        return Unknown("STRIPPED", f"{path} .symtab")
    layout = elf.order + ("q" if elf.bits == 64 else "i")  # Go's int
    numbers = []
    for name in _SYMBOLS:
        (number,) = struct.unpack(layout, elf.read_address(addresses[name], struct.calcsize(layout)))
        if not 0 <= number < _MAX_NUMBER:
            raise MalformedElf(f"{name} is {number}")
        numbers.append(number)
    return f"{numbers[0]}.{numbers[1]}", f"{numbers[2]}.{numbers[3]}"


def _range(answer: tuple[str, str]) -> Range | Unknown:
    """GetVersion's ``1.25.0`` as ``1.25``: dlv compares no more than that."""
    low, high = (parse_go_version(text) for text in answer)
    if low is None or high is None:
        return Unknown(MALFORMED, "RPCServer.GetVersion")
    return f"{low[0]}.{low[1]}", f"{high[0]}.{high[1]}"


# ---------------------------------------------------------------- versions of Go


def supports(delve: Delve, go_version: str | Unknown | None) -> bool | Unknown:
    """Whether this dlv supports programs built by that Go (``go1.26.8``), as dlv's own goversion.Compatible decides.

    Betas and release candidates count as their release; a development version of 1.28 counts as the last of 1.27.
    Unknown when the version is, when it names no number (``devel +abc``), or when dlv's range is unknown.
    """
    if isinstance(go_version, Unknown):
        return go_version
    number = parse_go_version(go_version or "")
    if number is None:
        return Unknown(MALFORMED, f"Go version {go_version!r}")
    for end in (delve.min_go, delve.max_go):
        if isinstance(end, Unknown):
            return end
    low, high = parse_go_version(str(delve.min_go)), parse_go_version(str(delve.max_go))
    if low is None or high is None:
        return Unknown(MALFORMED, f"supported Go of {delve.path}")
    return low <= number < (high[0], high[1] + 1, _RELEASE)


def parse_go_version(text: str) -> tuple[int, int, int] | None:
    """Major, minor, and 0, or -1 for a development version; None for what names no release.

    Takes ``go1.26.8``, ``1.26``, ``go1.27rc1``, ``go1.26.8-custom X:boringcrypto``, ``devel go1.28-abc Tue``,
    ``go1.28-devel_abc`` (pkg/goversion/go_version.go of Delve).
    """
    words = text.split()
    development = words[:1] == ["devel"]
    version = "".join(words[development : development + 1]).removeprefix("go")
    major, _, rest = version.partition(".")
    minor = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    tail = rest[len(minor) :]
    if not _is_number(major) or not _is_number(minor) or tail[:1] not in ("", ".", "-", "b", "r"):
        return None
    return int(major), int(minor), _DEVELOPMENT if development or tail.startswith("-devel") else _RELEASE


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6

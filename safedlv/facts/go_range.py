"""Which versions of Go a dlv supports, as far as its file tells.

An editor's attach pays for this file, so at run time it imports only struct and :mod:`.elf`.
"""

from __future__ import annotations

import os
import struct

from safedlv.facts.delve_path import MODULE
from safedlv.facts.elf import MalformedElf, read_elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_SYMBOLS: Final = tuple(
    f"{MODULE}/pkg/goversion.{end}SupportedVersionOfGo{part}" for end in ("Min", "Max") for part in ("Major", "Minor")
)
_MAX_NUMBER: Final = 10_000
_DEVELOPMENT: Final = -1
_RELEASE: Final = 0


def range_in_file(path: str) -> tuple[str, str] | None:
    """The oldest and the newest Go that the dlv at ``path`` supports, from the variables of its package goversion.

    They are ordinary package variables (pkg/goversion/compat.go), initialised in .data and never written, so the file
    holds their values wherever it still has a symbol table; None where it has none. Raises OSError, MalformedElf.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        elf = read_elf(fd)
        addresses = elf.symbol_addresses(_SYMBOLS)
        if len(addresses) < len(_SYMBOLS):
            return None
        layout = elf.order + ("q" if elf.bits == 64 else "i")  # Go's int
        numbers = []
        for name in _SYMBOLS:
            (number,) = struct.unpack(layout, elf.read_address(addresses[name], struct.calcsize(layout)))
            if not 0 <= number < _MAX_NUMBER:
                raise MalformedElf(f"{name} is {number}")
            numbers.append(number)
    finally:
        os.close(fd)
    return f"{numbers[0]}.{numbers[1]}", f"{numbers[2]}.{numbers[3]}"


def surely_unsupported(path: str, go_version: str | None) -> bool:
    """Whether the file of the dlv at ``path`` tells that it does not support that Go; False where that is not known."""
    try:
        found, number = range_in_file(path), parse_go_version(go_version or "")
    except (OSError, MalformedElf):
        return False
    return found is not None and number is not None and is_within(number, *found) is False


def is_within(number: tuple[int, int, int], oldest: str, newest: str) -> bool | None:
    """Whether a version of Go is in a dlv's range (goversion.Compatible); None where that is no range."""
    low, high = parse_go_version(oldest), parse_go_version(newest)
    if low is None or high is None:
        return None
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

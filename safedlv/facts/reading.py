"""From reads to facts: an OSError or text that makes no sense becomes an :class:`Unknown` with its source."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TypeVar

from safedlv.facts.procfs import READ_LIMIT, ProcDir, read_path
from safedlv.model import Unknown

T = TypeVar("T")

MALFORMED = "MALFORMED"
_MASK_LIMIT = 1 << 64


def unknown(error: OSError, source: str) -> Unknown:
    """The fact that could not be read because of ``error``."""
    number = error.errno or 0
    return Unknown(errno.errorcode.get(number, f"errno {number}"), source)


def read(procdir: ProcDir, name: str, limit: int = READ_LIMIT) -> bytes | Unknown:
    """A file of a process."""
    try:
        return procdir.read(name, limit)
    except OSError as error:
        return unknown(error, f"{procdir.path}/{name}")


def readlink(procdir: ProcDir, name: str) -> str | Unknown:
    """The text of a link of a process."""
    try:
        return procdir.readlink(name)
    except OSError as error:
        return unknown(error, f"{procdir.path}/{name}")


def stat(procdir: ProcDir, name: str) -> os.stat_result | Unknown:
    """stat(2) of a file of a process."""
    try:
        return procdir.stat(name)
    except OSError as error:
        return unknown(error, f"{procdir.path}/{name}")


def listdir(procdir: ProcDir, name: str) -> list[str] | Unknown:
    """The names in a directory of a process."""
    try:
        return procdir.listdir(name)
    except OSError as error:
        return unknown(error, f"{procdir.path}/{name}")


def read_system(path: str, limit: int = READ_LIMIT) -> bytes | Unknown:
    """A file that belongs to no process (/proc/sys, /sys)."""
    try:
        return read_path(path, limit)
    except OSError as error:
        return unknown(error, path)
    except ValueError:  # a path with a NUL in it, from a malformed file
        return Unknown(MALFORMED, path)


def parsed(data: bytes | Unknown, parse: Callable[[bytes], T], source: str) -> T | Unknown:
    """What ``parse`` makes of the data; MALFORMED where it raises ValueError."""
    if isinstance(data, Unknown):
        return data
    try:
        return parse(data)
    except ValueError:
        return Unknown(MALFORMED, source)


def decimal(text: str | bytes) -> int:
    """A decimal number as the kernel prints it; ValueError for what only Python takes (``1_000``, ``+1``)."""
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"not a number: {digits[:40]!r}")
    return int(digits)


def mask(text: str) -> int:
    """A bit mask in hexadecimal, as in /proc/PID/status; ValueError when it is none or wider than 64 bits."""
    value = int(text, 16)
    if not 0 <= value < _MASK_LIMIT:
        raise ValueError("a mask wider than 64 bits")
    return value

"""Descriptors of a process that has been forked off."""

from __future__ import annotations

import os

_MANY = 1 << 20  # more descriptors than a process has


def keep_open(*fds: int) -> None:
    """Close every descriptor of this process but these (close_range(2))."""
    start = 0
    for fd in sorted(fds):
        if start < fd:  # an empty range would be all of them: CPython 3.11 asks for 0 to -1
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, start + _MANY)

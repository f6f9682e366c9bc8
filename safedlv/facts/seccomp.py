"""What /proc/PID/status says of seccomp (seccomp(2)); the filters themselves are read in :mod:`safedlv.seccomp`."""

from __future__ import annotations

from safedlv.facts.reading import decimal

MODE_KEY = "Seccomp"
"""The line with the mode; absent where the kernel was built without seccomp."""

FILTERS_KEY = "Seccomp_filters"
"""The line with the number of filters that the task runs under; since Linux 5.9 (c818c03b661c)."""

MODES = {0: "disabled", 1: "strict", 2: "filter"}
"""SECCOMP_MODE_* of linux/seccomp.h and what they are called."""


MODE_FILTER = 2
"""SECCOMP_MODE_FILTER: programs decide."""


def parse_mode(text: str) -> int:
    """The mode, a key of :data:`MODES`; ValueError for anything else."""
    mode = decimal(text)
    if mode not in MODES:
        raise ValueError(f"no such seccomp mode: {mode}")
    return mode

"""Which dlv would run, and which version it says it is, without running it.

Every attach pays for this file, so at run time it imports only os, stat and :mod:`.buildinfo`; what takes longer is
in :mod:`.delve`.
"""

from __future__ import annotations

import os
import stat

from safedlv.facts.buildinfo import read_buildinfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

NAME: Final = "dlv"
MODULE: Final = "github.com/go-delve/delve"

LAUNCHER: Final = "dlv-launcher"
"""What shims/launcher is built as."""
_SHIM_HEAD = 4096


def find_delve(path_env: str | None, explicit: str | None) -> str | None:
    """The dlv to hand off to: ``explicit`` when given, else the first ``dlv`` in ``path_env``; None without one.

    ``explicit`` (the user's choice, such as $SAFEDLV_DLV) is a path, or a name to look up; where it leads nowhere
    nothing else is tried.  Relative and empty directories of PATH are passed over, as Go's exec.LookPath refuses
    their results: a debugger run as root must not start what lies in the current directory.  So is a script that
    leads back to safedlv (shims/dlv), or its launcher: it would start itself for ever.
    """
    if explicit and "/" in explicit:
        return explicit if is_program(explicit) and not _is_own_shim(explicit) else None
    name = explicit or NAME
    for directory in (path_env or "").split(":"):
        candidate = f"{directory}/{name}"
        if directory.startswith("/") and is_program(candidate) and not _is_own_shim(candidate):
            return candidate
    return None


def is_program(path: str) -> bool:
    """A regular file that this process may execute (access(2), effective ids); False whenever that cannot be seen."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.X_OK, effective_ids=True)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False


def delve_version_from_binary(path: str) -> str | None:
    """The version of the module that the dlv at ``path`` was built from, for example ``1.27.2``.

    None when it cannot be read, when it is not dlv, and for a build from a source tree, which only records
    ``(devel)``.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        info = read_buildinfo(fd)
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
    if info is None or info.module_path != MODULE or not (info.module_version or "").startswith("v"):
        return None
    return (info.module_version or "")[1:]


def _is_own_shim(path: str) -> bool:
    if os.path.basename(os.path.realpath(path)) == LAUNCHER:
        return True
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            head = os.read(fd, _SHIM_HEAD)
        finally:
            os.close(fd)
    except OSError:  # executable but not readable: no script can run like that
        return False
    return head[:2] == b"#!" and b"safedlv" in head

"""A root of dlv's own, in another's namespaces.

Whoever lives there, and is root, may look into a process that comes from outside: /proc/PID/root leads to what that
process has as its root. So dlv gets a root in which nothing is ours: a file system in memory with a copy of dlv and of
the libraries that it links, /dev/null, and the /proc of the PID namespace. It goes with the last process in it.
"""

from __future__ import annotations

import os
from typing import Final

from safedlv.linux import confine

RUN: Final = "/run"
"""Where dlv may write."""
_MS_BIND: Final = 0x1000
_SAFE: Final = confine.MS_NOSUID | confine.MS_NODEV


def enter_own_root(on: str, files: tuple[tuple[str, str], ...], owner: tuple[int, int]) -> None:
    """Make the root, and make it the calling process's, in a mount namespace of its own.

    ``on``: a directory to mount it on; ``files``: (path in it, path here); ``owner``: whose :data:`RUN` is to be.
    Raises OSError.
    """
    confine.unshare("mnt")
    confine.mount("none", "/", None, confine.MS_REC | confine.MS_PRIVATE)
    confine.mount("tmpfs", on, "tmpfs", _SAFE)
    os.umask(0o022)
    os.chmod(on, 0o755)  # noqa: S103  it is a root directory
    for inside, here in files:
        os.makedirs(os.path.dirname(on + inside), exist_ok=True)
        _copy(here, on + inside)
    os.mkdir(on + RUN, 0o700)
    os.chown(on + RUN, *owner)
    os.mkdir(f"{on}/dev")
    open(f"{on}/dev/null", "wb").close()
    confine.mount("/dev/null", f"{on}/dev/null", None, _MS_BIND)
    os.mkdir(f"{on}/proc")
    confine.mount("proc", f"{on}/proc", "proc", _SAFE | confine.MS_NOEXEC)
    confine.pivot_root(on)


def _copy(source: str, made: str) -> None:
    with open(source, "rb") as here, open(made, "wb") as there:
        size = os.fstat(here.fileno()).st_size
        while size > 0 and (count := os.sendfile(there.fileno(), here.fileno(), None, size)):
            size -= count
        os.fchmod(there.fileno(), 0o755)

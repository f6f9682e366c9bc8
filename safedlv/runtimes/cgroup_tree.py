"""Control groups of a sandbox's own, below the caller's: one on v2 where that is mounted, and one per v1 controller.

Contract: :func:`plan` only looks and chooses the paths; the methods of :class:`CgroupTree` make, use and remove exactly
those directories and change nothing above them. Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/freezer-subsystem.rst of the kernel.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Final

from attrs import frozen

V1_CONTROLLERS: Final = ("freezer", "pids", "memory")
_FREEZE_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.002
_LIMIT_FILES: Final = {  # controller: its limit on v1, on v2
    "pids": ("pids.max", "pids.max"),
    "memory": ("memory.limit_in_bytes", "memory.max"),
}


@frozen
class CgroupTree:
    """The directories of one sandbox and the limits that they carry."""

    v2: Path | None
    v1: tuple[tuple[str, Path], ...]
    """(controller, directory), for the controllers of V1_CONTROLLERS that are mounted on v1."""
    limits: tuple[tuple[str, int], ...]
    """(controller, limit): processes for pids, bytes for memory."""

    @property
    def directories(self) -> tuple[Path, ...]:
        """Each directory once (two v1 controllers may share a mount)."""
        found = [*([self.v2] if self.v2 else []), *(path for _, path in self.v1)]
        return tuple(dict.fromkeys(found))

    def describe(self) -> list[str]:
        """What will be made, one line each."""
        limits = [f"limit {controller} to {limit}" for controller, limit in self.limits]
        return [*(f"make cgroup {path}" for path in self.directories), *limits]

    def create(self) -> None:
        """Make the directories and write the limits. Raises OSError that names the file."""
        for path in self.directories:
            path.mkdir()
        for controller, limit in self.limits:
            self.limit(controller, limit)

    def limit(self, controller: str, limit: int) -> None:
        """Set the limit of one controller, processes or bytes. Raises OSError that names the file."""
        v1 = dict(self.v1)
        on_v1, on_v2 = _LIMIT_FILES[controller]
        if controller in v1:
            _write(v1[controller] / on_v1, limit)
        elif self.v2 is not None:
            _write(self.v2 / on_v2, limit)

    def join(self) -> None:
        """Move the calling (single-threaded) process in. Raises OSError that names the file."""
        for path in self.directories:
            _write(path / "cgroup.procs", 0)

    def freeze(self, version: str | None = None) -> None:
        """Freeze with the ``v2`` or the ``v1`` freezer (None: v2 where there is one), and wait until it holds.

        Raises OSError: ENOTSUP when there is no such freezer, and TimeoutError when it does not hold in time.
        """
        freezers = self._freezers()
        chosen = version or next(iter(freezers), "v2")
        if chosen not in freezers:
            raise OSError(errno.ENOTSUP, f"no {chosen} freezer in {', '.join(map(str, self.directories))}")
        _set_frozen(chosen, freezers[chosen], True)

    def thaw(self) -> None:
        """Thaw every freezer. Raises OSError, and TimeoutError when one stays frozen."""
        for version, path in self._freezers().items():
            _set_frozen(version, path, False)

    def kill(self) -> None:
        """Send SIGKILL to every process in the tree; the v1 freezer must be thawed for them to die of it."""
        if self.v2 is not None and (self.v2 / "cgroup.kill").exists():
            _write(self.v2 / "cgroup.kill", 1)
        for directory in self.directories:
            for path in _descendants(directory):
                for pid in _members(path):
                    _kill(pid)

    def remove(self) -> bool:
        """Remove what can be removed, the deepest first; True when nothing is left.

        Raises OSError when a directory cannot be removed for another reason than that processes are still in it.
        """
        left = False
        for directory in self.directories:
            for path in _descendants(directory):
                try:
                    path.rmdir()
                except FileNotFoundError:
                    pass
                except OSError as error:
                    if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                        raise
                    left = True
        return not left

    def _freezers(self) -> dict[str, Path]:
        found = {}
        if self.v2 is not None and (self.v2 / "cgroup.freeze").exists():
            found["v2"] = self.v2
        freezer = dict(self.v1).get("freezer")
        if freezer is not None and freezer.exists():
            found["v1"] = freezer
        return found


def plan(pids_max: int | None = None, memory_max: int | None = None) -> CgroupTree:
    """Choose the directories: below the caller's own cgroup in each v1 hierarchy, and on v2 below the nearest one
    (its own or an ancestor) that hands down the controllers which the limits need there.

    Raises OSError: ENOTSUP when no cgroup file system is mounted, or a limit's controller is nowhere to be had.
    """
    name = f"safedlv-{os.getpid()}-{secrets.token_hex(4)}"
    limits = tuple((key, limit) for key, limit in (("pids", pids_max), ("memory", memory_max)) if limit is not None)
    own = dict(_own_directories())
    v2 = own.pop("", None)
    v1 = tuple((key, own[key] / name) for key in V1_CONTROLLERS if key in own)
    missing = {key for key, _ in limits} - own.keys()
    parent = None if v2 is None else _delegating(v2, missing)
    if missing and parent is None:
        raise OSError(errno.ENOTSUP, f"no cgroup above this process has the controllers {', '.join(sorted(missing))}")
    if parent is None and not v1:
        raise OSError(errno.ENOTSUP, "no cgroup file system with a freezer is mounted")
    return CgroupTree(v2=None if parent is None else parent / name, v1=v1, limits=limits)


def _own_directories() -> Iterator[tuple[str, Path]]:
    """The caller's own directory per v1 controller, and under "" in v2 (proc_pid_mountinfo(5), cgroups(7))."""
    paths = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ", 1)
        _, _, _, root, mount_point = map(_unescaped, before.split()[:5])
        kind, _, options = after.split()[:3]
        for key in {"cgroup2": [""], "cgroup": options.split(",")}.get(kind, []):
            # A mount shows the hierarchy from its root downwards; what lies above it cannot be reached.
            if key in paths and (paths[key] + "/").startswith(root.rstrip("/") + "/"):
                yield key, Path(mount_point) / os.path.relpath(paths[key], root)


def _delegating(own: Path, controllers: Iterable[str]) -> Path | None:
    """The nearest cgroup, from ``own`` up to the root of its mount, whose children get all these controllers."""
    needed = set(controllers)
    for path in (own, *own.parents):
        control = path / "cgroup.subtree_control"
        if not control.exists():
            return None
        if needed <= set(control.read_text().split()):
            return path
    return None


def _set_frozen(version: str, path: Path, frozen_: bool) -> None:
    if version == "v2":
        _write(path / "cgroup.freeze", int(frozen_))
        shown, wanted = path / "cgroup.events", f"frozen {frozen_:d}"
    else:
        wanted = "FROZEN" if frozen_ else "THAWED"
        _write(path / "freezer.state", wanted)
        shown = path / "freezer.state"
    deadline = time.monotonic() + _FREEZE_SECONDS
    while wanted not in shown.read_text().splitlines():
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"{shown} does not say {wanted!r} after {_FREEZE_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


def _descendants(directory: Path) -> list[Path]:
    """The directory and all below it, the deepest first."""
    return [Path(path) for path, _, _ in os.walk(directory, topdown=False)]


def _members(directory: Path) -> list[int]:
    try:
        return [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
    except OSError as error:
        # Removed meanwhile: ENOENT at open, ENODEV at read. EOPNOTSUPP: a threaded cgroup lists none.
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            raise
        return []


def _kill(pid: int) -> None:
    try:
        if pid:  # 0: a process of a PID namespace that is not below ours
            os.kill(pid, SIGKILL)
    except ProcessLookupError:
        pass  # it ended meanwhile


def _write(path: Path, value: int | str) -> None:
    try:
        # Unbuffered: the kernel's answer comes from this write, not from a later close.
        with path.open("wb", buffering=0) as file:
            file.write(str(value).encode())
    except OSError as error:
        raise OSError(error.errno, f"write {value} to {path}: {os.strerror(error.errno or 0)}") from error


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)

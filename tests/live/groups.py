"""Cgroups of a test's own, and the OOM killer at work in one. Takes root, and a controller in v1 or in v2's root."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from pathlib import Path

from safedlv.facts.cgroup import V2, read_mounts
from safedlv.model import Unknown
from tests.support import require, status, wait_until

EATER = """
import os
open("/proc/self/oom_score_adj", "w").write("%d")
open("%s/cgroup.procs", "w").write(str(os.getpid()))
data = bytearray(b"x") * (1 << 30)
"""
ROOM = 16 << 20
"""Bytes that a cgroup has left when its memory is eaten: a Python starts in them."""


class Group:
    """A cgroup for one controller (or in the v2 hierarchy), and which version that is."""

    def __init__(self, controller: str) -> None:
        mounts = read_mounts()
        require(os.geteuid() == 0 and not isinstance(mounts, Unknown), "makes cgroups as root")
        assert not isinstance(mounts, Unknown)
        v1 = [mount.point for mount in mounts if controller in mount.hierarchies and controller != V2]
        v2 = [mount.point for mount in mounts if V2 in mount.hierarchies]
        require(v1 or v2, "needs a cgroup file system")
        self.v1 = bool(v1)
        self.parent = Path((v1 or v2)[0])
        self.path = self.parent / f"safedlv-test-{uuid.uuid4().hex[:8]}"
        self.path.mkdir()
        known = (self.path / "cgroup.controllers").read_text() if not self.v1 and controller != V2 else controller
        require(controller in known, f"needs the controller {controller}")

    def set(self, v1: str, v2: str, value: int | str) -> None:
        """Write to a file, which goes by two names."""
        (self.path / (v1 if self.v1 else v2)).write_text(str(value))

    def take(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Let its processes out, and remove it."""
        for pid in (self.path / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (self.parent / "cgroup.procs").write_text(pid)
        wait_until(self._removed, "the cgroup is removed")

    def _removed(self) -> bool:
        with contextlib.suppress(OSError):
            self.path.rmdir()
        return not self.path.exists()


def eat(directory: Path, *, first: bool) -> subprocess.Popen[bytes]:
    """A process that eats the memory of a cgroup until it is killed; ``first``: before all others there."""
    return subprocess.Popen([sys.executable, "-S", "-c", EATER % (1000 if first else 0, directory)])


def out_of_memory(pid: int, directory: Path, *, v1: bool) -> None:
    """Have the OOM killer kill process ``pid``, which is alone in a memory cgroup: another one eats what is left."""
    used, limit = ("memory.usage_in_bytes", "memory.limit_in_bytes") if v1 else ("memory.current", "memory.max")
    started = status(pid, "Name")
    Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
    (directory / limit).write_text(str(int((directory / used).read_text()) + ROOM))
    with eat(directory, first=False) as eater:
        try:
            wait_until(lambda: status(pid, "State")[:1] in ("", "Z") or status(pid, "Name") != started, "it is killed")
            assert kills(directory, v1=v1) > 0
        finally:
            eater.kill()


def kills(directory: Path, *, v1: bool) -> int:
    """How many processes of a cgroup the OOM killer has killed."""
    lines = (directory / ("memory.oom_control" if v1 else "memory.events")).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

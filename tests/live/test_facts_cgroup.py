"""The cgroup reader against real cgroups, made for the test and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from safedlv.facts import cgroup, process
from safedlv.facts.procfs import ProcDir
from tests.live.test_facts import DEADLINE, IS_ROOT, eventually, running, script_of
from tests.support import require


def mount_point(controller: str) -> str | None:
    mounts = cgroup.parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())
    found = [mount.point for mount in mounts if controller in mount.hierarchies and mount.root == "/"]
    return next((point for point in found if os.access(point, os.W_OK)), None)


@contextlib.contextmanager
def made(*parts: str) -> Iterator[Path]:
    """A cgroup, nested where several parts are given, that is gone afterwards; it must be empty by then."""
    paths = [Path(*parts[: depth + 2]) for depth in range(len(parts) - 1)]
    for path in paths:
        path.mkdir()
    try:
        yield paths[-1]
    finally:
        for path in reversed(paths):
            eventually(lambda path=path: removed(path))  # type: ignore[misc]


def removed(path: Path) -> bool:
    """Remove a cgroup; False while its processes are still on their way out."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


@contextlib.contextmanager
def frozen(control: Path, freeze: str, thaw: str) -> Iterator[None]:
    control.write_text(freeze)
    try:
        yield
    finally:
        control.write_text(thaw)


def test_frozen_by_an_ancestor_on_v2() -> None:
    point = mount_point(cgroup.V2)
    require(IS_ROOT and point is not None, "needs root and a v2 tree")
    assert point is not None
    name = f"safedlv-test-{os.getpid()}"
    with made(point, name, "inner") as inner, running("wait()") as child:
        (inner / "cgroup.procs").write_text(str(child.pid))
        found = process.read_process(child.pid).cgroup
        assert (found.frozen, found.frozen_by) == (False, None)
        assert found.path == f"/{name}/inner"
        with ProcDir(child.pid) as procdir:
            assert cgroup.directory(procdir) == str(inner)
        with frozen(inner.parent / "cgroup.freeze", "1", "0"):
            found = process.read_process(child.pid).cgroup
            assert (found.frozen, found.frozen_by) == (True, str(inner.parent))
            eventually(lambda: "frozen 1" in (inner / "cgroup.events").read_text())
            assert process.read_process(child.pid).cgroup.frozen is True
        assert process.read_process(child.pid).cgroup.frozen is False


def test_frozen_on_v1() -> None:
    point = mount_point("freezer")
    if not IS_ROOT or point is None:
        pytest.skip("needs root and a v1 freezer, which a pure v2 machine has not")
    with made(point, f"safedlv-test-{os.getpid()}") as path, running("wait()") as child:
        (path / "cgroup.procs").write_text(str(child.pid))
        assert process.read_process(child.pid).cgroup.frozen is False
        with frozen(path / "freezer.state", "FROZEN", "THAWED"):
            facts = process.read_process(child.pid)
            assert (facts.cgroup.frozen, facts.cgroup.frozen_by) == (True, str(path))
            assert facts.vfork_parent is False


def test_limits_on_v1() -> None:
    pids, memory = mount_point("pids"), mount_point("memory")
    if not IS_ROOT or pids is None or memory is None:
        pytest.skip("needs root and v1's pids and memory, which a pure v2 machine has not")
    name = f"safedlv-test-{os.getpid()}"
    with made(pids, name) as few, made(memory, name) as little, running("wait()") as child:
        for path in (few, little):
            (path / "cgroup.procs").write_text(str(child.pid))
        (few / "pids.max").write_text("7")
        (little / "memory.limit_in_bytes").write_text(str(1 << 28))
        found = process.read_process(child.pid).cgroup
        assert (found.pids_current, found.pids_max, found.memory_max) == (1, 7, 1 << 28)


def test_limits_on_v2() -> None:
    point = mount_point(cgroup.V2)
    enabled = Path(point, "cgroup.subtree_control").read_text().split() if point is not None else []
    if not IS_ROOT or point is None or not {"pids", "memory"} <= set(enabled):
        pytest.skip("needs root and a v2 tree with controllers, which a hybrid machine has not")
    with made(point, f"safedlv-test-{os.getpid()}") as path, running("wait()") as child:
        (path / "cgroup.procs").write_text(str(child.pid))
        (path / "pids.max").write_text("7")
        (path / "memory.max").write_text(str(1 << 28))
        found = process.read_process(child.pid).cgroup
        assert (found.pids_current, found.pids_max, found.memory_max) == (1, 7, 1 << 28)


def test_from_inside_a_cgroup_namespace() -> None:
    point = mount_point(cgroup.V2)
    require(IS_ROOT and point is not None and shutil.which("unshare") is not None, "needs root, a v2 tree and unshare")
    assert point is not None
    ask = """
from safedlv.facts import process
own, parent = (process.read_process(pid).cgroup for pid in (os.getpid(), os.getppid()))
print(own.path, parent.path, own.frozen.errno)
"""
    name = f"safedlv-test-{os.getpid()}"
    enter = f'echo $$ > "{point}/{name}/cgroup.procs"; exec unshare --cgroup --mount "$0" -c "$1"'
    with made(point, name):
        done = subprocess.run(
            ["sh", "-c", enter, sys.executable, script_of(ask)],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        )
    # Only the host's tree is mounted, and the names from its root down to the namespace's are not told in there.
    assert done.stdout.split() == ["/", "/..", "ENOENT"]

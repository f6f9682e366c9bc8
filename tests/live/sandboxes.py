"""What the tests of the sandbox share."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from safedlv.runtimes.sandbox import Sandbox, start
from tests.support import require

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long

ARCH = platform.machine()
SLEEP = ["sleep", "60"]
NOBODY = 65534
SYS_PTRACE = 1 << 19
PTRACE_CONT, PTRACE_ATTACH, PTRACE_DETACH, PTRACE_SETOPTIONS, PTRACE_GETREGSET = 7, 16, 17, 0x4200, 0x4204
SECONDS = 10.0


@pytest.fixture
def needs_root() -> None:
    require(os.geteuid() == 0, "makes namespaces and cgroups as root")


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """The test leaves no child, no descriptor and no cgroup behind."""
    before = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert (children(), len(os.listdir("/proc/self/fd"))) == before
    assert cgroups_of(os.getpid()) == []


def children() -> set[int]:
    """The children of this process, zombies too."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return {pid for pid in pids if status(pid).get("PPid") == str(os.getpid())}


def cgroups_of(caller: int) -> list[str]:
    found = []
    for path, names, _ in os.walk("/sys/fs/cgroup"):
        found += [f"{path}/{name}" for name in names if name.startswith(f"safedlv-{caller}-")]
    return found


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status; none when there is no such process."""
    try:
        lines = Path("/proc", str(pid), "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def forever() -> bytes:
    while True:
        signal.pause()


def ptrace(request: int, pid: int, data: int = 0) -> int:
    """0 or the errno."""
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.ptrace(request, pid, None, data) == -1 else 0


def attach_and_let_go(pid: int) -> bytes:
    """The errno of PTRACE_ATTACH as text; detached again once it is stopped."""
    refused = ptrace(PTRACE_ATTACH, pid)
    if not refused:
        os.waitpid(pid, 0x40000000)  # __WALL
        ptrace(PTRACE_DETACH, pid)
    return str(refused).encode()


def run_here(spec: Sandbox, workload: Callable[[], bytes]) -> bytes:
    with start(spec, workload) as running:
        return running.result(SECONDS)

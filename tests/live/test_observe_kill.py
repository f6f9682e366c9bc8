"""``safedlv observe --real`` killed at any moment, or its dlv: the target runs on, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import SAFEDLV, Server, assert_unharmed, count, our_directories, our_processes, wait_until

pytestmark = pytest.mark.usefixtures("newest_dlv")


def start(server: Server, *flags: str) -> subprocess.Popen[bytes]:
    words = [*SAFEDLV, "observe", *flags, str(server.pid)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def undisturbed(server: Server, *flags: str) -> float:
    """Seconds that a run takes here and now."""
    began = time.monotonic()
    assert start(server, *flags).wait(60) == 0
    return time.monotonic() - began


def assert_all_is_well(server: Server) -> None:
    """The server serves, nobody holds it, and no process and no directory of ours is left."""
    wait_until(lambda: not our_processes(), "all that observe started has ended", 30)
    assert_unharmed(server.pid)
    assert server.get().startswith("hello")
    wait_until(lambda: not our_directories(), "the session's directory is gone")


@pytest.mark.parametrize("flags", [("--real",), ()], ids=["real", "stand-in"])
def test_observe_is_killed(server: Server, flags: tuple[str, ...]) -> None:
    """With SIGKILL, at random moments."""
    moments, longest = random.Random(7), undisturbed(server, *flags)
    for _ in range(count(60, 3 if flags else 1)):
        observer = start(server, *flags)
        time.sleep(moments.uniform(0, longest))
        observer.kill()
        observer.wait()
        assert_all_is_well(server)


def test_dlv_is_killed(server: Server) -> None:
    """observe stands by: it brings the target home."""
    moments, longest = random.Random(11), undisturbed(server, "--real")
    for _ in range(count(50, 2)):
        observer = start(server, "--real")
        time.sleep(moments.uniform(0.2, 1) * longest)
        for pid in dlv_of(observer.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert observer.wait(30) in (0, 10)
        assert_all_is_well(server)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT][: count(2)])
def test_observe_is_told_to_end(server: Server, number: signal.Signals) -> None:
    """It has dlv let go, and ends by itself."""
    observer = start(server, "--real")
    wait_until(lambda: any(dlv_of(observer.pid)), "dlv runs")
    observer.send_signal(number)
    assert observer.wait(30) in (0, 10)
    assert_all_is_well(server)


def dlv_of(pid: int) -> list[int]:
    """Those children of a process that have become a dlv."""
    return [child for child in children(pid) if executable(child).startswith("dlv")]


def executable(pid: int) -> str:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []

"""SIGKILL at random moments: whatever was going on, the target runs on and nothing of ours is left."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.clients import JsonRpc
from tests.live.test_session import LINE, SOURCE, assert_left_nothing, in_background
from tests.support import SAFEDLV, Server, count


def a_session(process: subprocess.Popen[str], server: Server) -> None:
    """What a client does until the connection breaks: breakpoints, hits, steps."""
    assert process.stdout is not None
    address = process.stdout.readline().partition(": ")[2].strip()
    if not address:
        return
    with contextlib.suppress(OSError, RuntimeError, ValueError), contextlib.closing(JsonRpc(address)) as client:
        client.call("CreateBreakpoint", Breakpoint={"file": SOURCE, "line": LINE})
        while True:
            request = in_background(lambda: server.get(timeout=3))
            client.command("continue")
            client.command("next")
            client.command("next")
            client.send("Command", name="continue")
            request.join()
            client.command("halt")
            client.answer()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", ["start", "session"])
def test_kill_of_safedlv(newest_dlv: str, server: Server, part: str) -> None:
    """150 times while it starts (probe, hand-off) and 150 times at any moment of a session."""
    moments = random.Random(part)
    for trial in range(count(150)):
        process = subprocess.Popen(
            [*SAFEDLV, "attach", "--headless", str(server.pid)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        client = threading.Thread(target=a_session, args=(process, server))
        client.start()
        time.sleep(moments.uniform(0, 0.15 if part == "start" else 2.0))  # the moment, not a hope
        process.send_signal(signal.SIGKILL)
        process.communicate()
        client.join()
        assert_left_nothing(server.pid)
        assert "hello" in server.get(), f"trial {trial}"


@pytest.mark.timeout(600)
def test_kill_of_the_terminal(newest_dlv: str, server: Server) -> None:
    import pexpect

    moments = random.Random("terminal")
    for _ in range(count(50)):
        terminal = pexpect.spawn(SAFEDLV[0], [*SAFEDLV[1:], "attach", str(server.pid)], timeout=20)
        terminal.sendline(f"break {SOURCE}:{LINE}")
        terminal.sendline("continue")
        time.sleep(moments.uniform(0, 1.5))
        terminal.kill(signal.SIGKILL)
        terminal.close(force=True)
        assert_left_nothing(server.pid)
        assert "hello" in server.get()


def test_kill_leaves_no_socket(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    """Not even the one that the user named: it would make the next start fail."""
    path = tmp_path / "socket"
    for _ in range(2):
        process = subprocess.Popen(
            [*SAFEDLV, "attach", "--headless", f"--listen=unix:{path}", str(server.pid)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == f"API server listening at: {path}\n"
        process.kill()
        process.communicate()
        assert_left_nothing(server.pid)
        assert not path.exists()


@pytest.mark.timeout(600)
def test_kill_during_the_probe_of_a_frozen_target(newest_dlv: str) -> None:
    """The hardest moment: ATTACH was accepted, the stop has not come. The probe's child cleans up alone."""
    from tests.support import assert_unharmed, require, wait_until

    freezer = Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified").is_dir() else Path("/sys/fs/cgroup")
    require((freezer / "cgroup.procs").exists(), "needs a cgroup v2 tree and root")
    group = freezer / "safedlv-test-frozen"
    group.mkdir(exist_ok=True)
    target = subprocess.Popen(["sleep", "600"])
    try:
        (group / "cgroup.procs").write_text(str(target.pid))
        (group / "cgroup.freeze").write_text("1")
        wait_until(lambda: "frozen 1" in (group / "cgroup.events").read_text(), "the cgroup is frozen")
        process = subprocess.Popen([*SAFEDLV, "attach", "--headless", "--probe-timeout=1", str(target.pid)])
        tracer = Path(f"/proc/{target.pid}/status")
        wait_until(lambda: "TracerPid:\t0\n" not in tracer.read_text(), "the probe has attached")
        process.kill()
        process.wait()
        wait_until(lambda: "TracerPid:\t0\n" in tracer.read_text(), "the probe has given up")
        (group / "cgroup.freeze").write_text("0")
        wait_until(lambda: "frozen 0" in (group / "cgroup.events").read_text(), "the cgroup is thawed")
        assert_unharmed(target.pid)
    finally:
        (group / "cgroup.freeze").write_text("0")
        target.kill()
        target.wait()
        wait_until(lambda: _removed(group), "the cgroup is removed")


def _removed(group: Path) -> bool:
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()

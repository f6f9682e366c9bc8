"""What tests of every kind share."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
LONG = bool(os.environ.get("SAFEDLV_LONG"))
"""Every trial at its full count."""
SAFEDLV = [sys.executable, "-m", "safedlv"]
SIGSTOP_BIT = 1 << (signal.SIGSTOP - 1)
T = TypeVar("T")


def require(ok: object, reason: str) -> None:
    """Skip the test where the machine cannot run it; under CI, where it must, fail instead."""
    if ok:
        return
    import pytest  # not in the virtual machine, where the rest of this is used as well

    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must be able to run this: {reason}")
    pytest.skip(reason)


def count(full: int, short: int = 0) -> int:
    """How often a long trial runs: in full by ``make test-long``, else at a tenth, or ``short`` where given."""
    return full if LONG else short or max(full // 10, 1)


def answer_of(*words: str, environment: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a safedlv command that says nothing to people; ``environment``: variables besides ours."""
    env = {**os.environ, **(environment or {})}
    done = subprocess.run([*SAFEDLV, *words], capture_output=True, text=True, check=False, timeout=60, env=env)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def wait_until(condition: Callable[[], T], what: str, within: float = 15.0) -> T:
    """Wait for a condition to hold and return its value; fails the test with ``what`` after ``within`` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            import pytest

            pytest.fail(f"waited {within} s in vain for: {what}")
        time.sleep(0.005)


def status(pid: int, key: str, tid: int | None = None) -> str:
    """One line of /proc/PID/status; empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/task/{tid}/status" if tid else f"/proc/{pid}/status").read_text("utf-8", "replace")
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(f"{key}:")), "")


def threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def harmed(pid: int, *, stopped: bool = False) -> str:
    """What is not as it should be with a process that was probed or debugged; empty when all is well."""
    if not status(pid, "State") or status(pid, "State").startswith(("Z", "X")):
        return "it is dead"
    for tid in threads(pid):
        if status(pid, "TracerPid", tid) not in ("0", ""):
            return f"thread {tid} is traced by {status(pid, 'TracerPid', tid)}"
        state = status(pid, "State", tid)
        if state and state.startswith(("T", "t")) != stopped:
            return f"thread {tid} is in state {state}"
        if int(status(pid, "SigPnd", tid) or "0", 16) & SIGSTOP_BIT:
            return f"a SIGSTOP is pending on thread {tid}"
    return ""


def assert_unharmed(pid: int, *, stopped: bool = False) -> None:
    """The process runs (or is stopped, as before), nobody traces it, and no SIGSTOP waits for it."""
    deadline = time.monotonic() + 5
    while (harm := harmed(pid, stopped=stopped)) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not harm, f"process {pid}: {harm}"


def left_as_found(pid: int, stands: str = "running") -> str:
    """What every session says on stderr at its end, when all is well."""
    return f"safedlv: left process {pid} as it was found: untraced, {stands}, its code as in its file\n"


def go_tool() -> str | None:
    return shutil.which("go")


def new_dlv() -> str | None:
    """The newest dlv of this machine: $SAFEDLV_TEST_DLV, else the one on the PATH."""
    return os.environ.get("SAFEDLV_TEST_DLV") or shutil.which("dlv")


def old_dlv() -> str | None:
    """The oldest dlv that safedlv supports, 1.20: $SAFEDLV_TEST_DLV_OLD."""
    return os.environ.get("SAFEDLV_TEST_DLV_OLD")


def build_go(source: Path, output: Path, *flags: str, environment: dict[str, str] | None = None) -> Path:
    """Build a Go program for debugging, once per output path."""
    if not output.exists():
        go = go_tool()
        require(go, "needs the Go tool chain")
        env = {**os.environ, **(environment or {})}
        command = [str(go), "build", *(flags or ("-gcflags=all=-N -l",)), "-o", str(output), "."]
        subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=600, env=env)
    return output


class Server:
    """The example server, running."""

    def __init__(self, binary: Path) -> None:
        self.process = subprocess.Popen([str(binary), "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])
        self.pid = self.process.pid

    def get(self, path: str = "/you", timeout: float = 10.0) -> str:
        """One request; raises OSError when no answer comes in time."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while data := connection.recv(65536):
                answer += data
        return answer.partition(b"\r\n\r\n")[2].decode()

    def stop(self) -> None:
        self.process.kill()
        for pid in our_processes():  # a failed test may have left a dlv that holds the server, and so its end
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def our_processes() -> list[int]:
    """The safedlvs, keepers and dlvs that this test run has started and that still run.

    They are known by the run's own TMPDIR in their environment, so that two runs at a time do not mix.
    """
    mark = f"TMPDIR={os.environ.get('TMPDIR', '')}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            environment = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = (b"-m" in words and b"safedlv" in words) or any(b"/safedlv-" in word for word in words)
        if ours and mark in environment:
            found.append(int(name))
    return found


def our_directories() -> list[str]:
    """Session directories that are left in this run's TMPDIR."""
    return [name for name in os.listdir(os.environ["TMPDIR"]) if name.startswith("safedlv-")]

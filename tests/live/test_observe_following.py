"""A program that is followed call by call does what it does when nobody looks (observing/following.py)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from safedlv.linux import tracing
from safedlv.linux.tracing import may_signal
from safedlv.observing import following as module
from safedlv.observing.following import Following
from tests.support import count, status

SECONDS = 20.0
TIMES = count(200)
SIGNALLED = """\
import os, signal, sys, threading
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
worker = threading.Thread(target=lambda: None)
worker.start(), worker.join()
sys.stdin.readline()
for _ in range(int(sys.argv[1])):
    print("ready", flush=True)
    info = signal.sigwaitinfo([signal.SIGUSR1])
    print(info.si_signo, info.si_code, info.si_pid, flush=True)
"""
HANDLED = """\
import signal, sys, time
seen = []
signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
sys.stdin.readline()
print("ready", flush=True)
began = time.monotonic()
time.sleep(0.5)
print(len(seen) > 0, time.monotonic() - began >= 0.5, flush=True)
"""
FAILING = """\
import os, sys
sys.stdin.readline()
try:
    os.open("/nowhere/at/all", os.O_RDONLY)
except FileNotFoundError:
    pass
if os.fork() == 0:
    os.execv("/bin/sh", ["sh", "-c", "exec cat /nowhere/either 2>/dev/null"])
os.wait()
os.kill(os.getpid(), signal := 9)
"""


class Program:
    """A Python program that waits for its first line, and is followed from there."""

    def __init__(self, text: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", text, str(TIMES)], stdin=PIPE, stdout=PIPE)
        self.following = Following(self.process.pid, lambda _tid, let_go: let_go(), dies_with_us=True)
        self.following.began = time.monotonic()  # it is executed already
        self.following.begin()
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Follow it until then. Each of its calls waits for us twice, so this looks more often than wait_until."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            if not self.following.take_all():
                time.sleep(0.0002)
            assert time.monotonic() < deadline, f"waited {SECONDS} s in vain for: {what}"

    def line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        said: list[bytes] = []

        def heard() -> bool:
            assert self.process.stdout is not None
            said.append(self.process.stdout.readline())
            return b"".join(said).endswith(b"\n")

        self.until(heard, "it says something")
        return b"".join(said).decode().strip()

    def run_out(self) -> int:
        self.until(lambda: not self.following.threads, "it ends")
        assert self.following.status is not None
        return os.waitstatus_to_exitcode(self.following.status)


@pytest.fixture
def program() -> Iterator[Callable[[str], Program]]:
    made: list[Program] = []

    def make(text: str) -> Program:
        made.append(Program(text))
        return made[-1]

    yield make
    for one in made:
        if one.following.status is None:
            one.process.kill()
            one.run_out()
        one.process.returncode = 0
        for stream in (one.process.stdin, one.process.stdout):
            assert stream is not None
            stream.close()


def test_signals_keep_what_they_carry(program: Callable[[str], Program]) -> None:
    """Each comes once, with its code and its sender."""
    followed = program(SIGNALLED)
    for _ in range(TIMES):
        assert followed.line() == "ready"
        os.kill(followed.process.pid, signal.SIGUSR1)
        assert followed.line() == f"{signal.SIGUSR1.value} 0 {os.getpid()}"
    assert followed.run_out() == 0


def test_an_interrupted_sleep_is_as_long(program: Callable[[str], Program]) -> None:
    """A signal's handler runs in the middle of a call, and the call goes on after it."""
    followed = program(HANDLED)
    assert followed.line() == "ready"
    os.kill(followed.process.pid, signal.SIGUSR1)
    assert followed.line() == "True True"
    assert followed.run_out() == 0


def test_a_stopped_program_stays_stopped(program: Callable[[str], Program]) -> None:
    """Job control works on it: it stops for SIGSTOP, and goes on with SIGCONT, not before."""
    followed = program(HANDLED)
    assert followed.line() == "ready"
    pid = followed.process.pid
    os.kill(pid, signal.SIGSTOP)

    def stands(samples: int) -> bool:
        """It is in a stop and makes no call: one that is about to be made is a stop too, and is sent on."""
        before = followed.following.made
        for _ in range(samples):
            followed.following.take_all()
            time.sleep(0.005)
        return status(pid, "State").startswith("t") and followed.following.made == before

    followed.until(lambda: stands(4), "it is stopped")
    assert stands(20)
    os.kill(pid, signal.SIGCONT)
    assert followed.line() == "False True"
    assert followed.run_out() == 0


def test_failed_calls_of_it_and_of_what_it_starts(program: Callable[[str], Program]) -> None:
    """Children are followed too, and it ends as it ends."""
    followed = program(FAILING)
    assert followed.run_out() == -signal.SIGKILL
    failed = [(call.path, call.errno, call.tid == followed.process.pid) for call in followed.following.calls]
    assert ("/nowhere/at/all", "ENOENT", True) in failed
    assert ("/nowhere/either", "ENOENT", False) in failed
    assert not may_signal(followed.process.pid)


def test_numbers_are_the_kernels() -> None:
    """Against the kernel's header, where it is installed, and python-ptrace."""
    from ptrace.binding import func

    assert func.PTRACE_SYSCALL == module.PTRACE_SYSCALL
    assert func.PTRACE_EVENT_EXEC == module.PTRACE_EVENT_EXEC
    assert func.PTRACE_O_TRACESYSGOOD == module.PTRACE_O_TRACESYSGOOD
    header = Path("/usr/include/linux/ptrace.h")
    text = header.read_text() if header.exists() else ""
    for name in ("PTRACE_GET_SYSCALL_INFO", "PTRACE_LISTEN", "PTRACE_INTERRUPT"):
        number = getattr(module, name, None) or getattr(tracing, name)
        assert not text or re.search(rf"#define\s+{name}\s+{number:#x}\b", text, re.IGNORECASE)

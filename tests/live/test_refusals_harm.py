"""Whatever a filter refuses to whoever asks, the target is afterwards as it was.

The calls are those that a probe makes from PTRACE_ATTACH on, and those that wait for it (seen with strace). What
doctor says of such a place is for other tests; here it may even fail.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ptrace.syscall import SYSCALL_NAMES

from safedlv.runtimes.sandbox import Sandbox
from safedlv.seccomp.program import Refuse, assemble
from tests.everyone import Everyones
from tests.live.sandboxes import ARCH, forever
from tests.live.test_doctor import Boxed, assert_serves, boxed
from tests.support import LONG, require, status

CALLS = [
    "clock_nanosleep", "close", "exit_group", "fcntl", "getdents64", "getpid", "getppid", "kill", "lseek", "mmap",
    "munmap", "newfstatat", "openat", "pidfd_open", "poll", "pread64", "process_vm_readv", "ptrace", "read",
    "sched_yield", "setsid", "tgkill", "wait4", "waitid", "write",
]  # fmt: skip
ACTIONS = ["errno", "kill_process"] if LONG else ["errno"]
SECONDS = 20
WORDS = ("doctor", "--json", "--probe-timeout", "0.5")
NUMBERS: dict[str, int] = {}
for number, name in sorted(SYSCALL_NAMES.items()):
    NUMBERS.setdefault(name, number)  # x86_64 has some twice, the second for x32


def refusing(call: str, action: Any) -> bytes:
    return assemble([Refuse(NUMBERS[call], errno=errno.EPERM, action=action)], ARCH)


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "needs root to make the contexts")


def ask_inside(target: Boxed, everyones: Everyones, program: bytes) -> None:
    """The tracer asks, if it can so much as start."""
    words = everyones.safedlv(*WORDS, str(target.pid))
    with ExitStack() as last:
        null = last.enter_context(open(os.devnull, "wb")).fileno()
        last.enter_context(target.running.run(words, seccomp=program, stdout=null, stderr=null)).wait(SECONDS)


def ask_outside(target: Boxed, everyones: Everyones, program: bytes) -> None:
    """Root asks, who is under no filter, for the place of a process that is; and has an answer if that one can live."""
    with target.running.run(forever, seccomp=program) as tracer:
        words = everyones.safedlv(*WORDS, "--tracer", f"pid:{tracer.pid}", str(target.pid))
        done = subprocess.run(words, capture_output=True, check=False, timeout=SECONDS)
        if status(tracer.pid, "State"):
            assert not done.stderr, done.stderr.decode()
            assert json.loads(done.stdout)["verdict"] in ("ok", "blocked", "undetermined")


@pytest.mark.parametrize("ask", [ask_inside, ask_outside])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("call", CALLS)
def test_the_target_is_as_it_was(call: str, action: str, ask: Any, everyones: Everyones, public_server: Path) -> None:
    if ARCH == "aarch64" and call not in NUMBERS:
        pytest.skip(f"{ARCH} has left out {call}")
    with boxed(public_server, Sandbox()) as target:
        try:
            ask(target, everyones, refusing(call, action))
        finally:
            assert_serves(target)

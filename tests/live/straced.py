"""The same dlv, in the same place and with a like target, under strace or nobody: what observe is held against.

strace is started where we are, and traces dlv from there: it needs nothing in a container, and no filter is its own.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from attrs import frozen

from safedlv import target
from safedlv.observe import placed
from safedlv.observing.conversation import Conversation
from safedlv.observing.delve import Delve
from safedlv.observing.standing import Standing
from tests.support import status, wait_until

SECONDS = 30.0
HANGS_AFTER = 2.0
Failed = Counter[tuple[str, str]]
# What is left out of a comparison of two runs: waiting, and calls that a signal interrupts, depend on how the threads
# of the Go runtime happen to be scheduled, and its scheduler interrupts them by tgkill(2) and polls some files;
# rt_sigreturn(2) has no result; a message may be there at once or later.
TIMING = {
    "futex", "nanosleep", "clock_nanosleep", "epoll_pwait", "read", "recvfrom", "accept4", "rt_sigreturn",
    "restart_syscall", "waitid", "madvise", "tgkill", "epoll_ctl",
}  # fmt: skip
ELSEWHERE = {"EINTR", "EAGAIN", "ETIMEDOUT", "EPIPE", "EFAULT", "EIO"}
"""Interrupted, too early, too late: dlv ends while it still answers; and addresses without memory, which are where they
happen to be in each target."""
ONCE = {"clone3"}
"""glibc tries it for each thread, and Docker's profile says ENOSYS; how many there are is the scheduler's choice."""
ARENAS = "/sys/devices/system/cpu/online"
"""glibc's malloc looks for it when threads meet there; a root of dlv's own (observing/own_root.py) has no /sys."""
LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(\(| resumed>)(.*?)= (?:-1 (E\w+) |(\?))")
CALL = re.compile(r"^(\d+) +(\w+)\((PTRACE_\w+)?")
KILLED = re.compile(r"^(\d+) +(?:<\.\.\. )?ptrace\b.*= (?:\?|101|117)$")
"""A ptrace(2) without a result, or with its own number as the result: the kernel does so where a filter kills."""
TRAPPED = re.compile(r"--- SIGSYS \{.*si_syscall=__NR_(\w+)")


@frozen
class Outcome:
    """What came of dlv."""

    code: int
    stderr: list[str]
    failed: Failed


def comparable(name: str, errno: str, text: str) -> bool:
    """Whether a failed call, here in words, is one that two like runs have in common."""
    timing = name in TIMING or errno in ELSEWHERE or errno.startswith("ERESTART")
    return not timing and not (name == "openat" and ARENAS in text)


def compared(calls: Iterable[tuple[str, str, str]]) -> Failed:
    """Name (with its request) and errno of those that two like runs have in common, of (name, errno, words) each."""
    found = Counter((name, errno) for name, errno, text in calls if comparable(name, errno, text))
    return Counter({(name, errno): 1 if name in ONCE else times for (name, errno), times in found.items()})


def comparable_words(lines: list[str]) -> list[str]:
    """dlv's words, but for what differs from run to run: PIDs; and the stacks that it prints when it dies."""
    words = [re.sub(r"\b\d+\b", "N", line) for line in lines if line.strip()]
    return words[:1] if words and words[0].startswith("SIGSYS") else words


def play(dlv: str, who: str, text: str, log: Path | None, *, real: bool = False) -> Outcome:
    """dlv as ``observe --tracer WHO TEXT`` starts and leads it; strace writes to ``log``, if any.

    ``real``: with the target itself, which has nobody here who would bring it home if dlv died.
    """
    found = target.resolve(text)
    with placed(dlv, who, found, real=real) as (place, _), ExitStack() as undo:
        delve = Delve(place, undo)
        delve.make_directory()
        undo.callback(shutil.rmtree, delve.directory)
        standing = Standing(place.context, lambda: delve.prepare(0), delve.keep)
        standing.until_ready()
        delve.stands_as(standing.pid)
        if log is not None:
            undo.enter_context(_strace(standing.pid, log))
        standing.begin()
        _lead(standing.pid, delve, Conversation(runs=not real and not found.before.stopped))
        _, state = os.waitpid(standing.pid, 0)
        code, said = os.waitstatus_to_exitcode(state), delve.complained().decode().splitlines()
    failed = parse(log.read_text("utf-8", "replace")) if log is not None else Failed()
    return Outcome(code, comparable_words(said), failed)


class _strace:  # noqa: N801
    def __init__(self, pid: int, log: Path) -> None:
        words = ["strace", "-f", "-q", "-o", str(log), "-p", str(pid)]
        self.process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        wait_until(lambda: status(pid, "TracerPid") == str(self.process.pid), "strace holds it")

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        self.process.wait(SECONDS)


def _lead(pid: int, delve: Delve, conversation: Conversation) -> None:
    """Speak with dlv as observe does, until it has ended; a dlv that hangs is killed."""
    connection: socket.socket | None = None
    began = changed = said = time.monotonic()
    before = ""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() - began < SECONDS:
        time.sleep(0.005)
        now, ticks = time.monotonic(), _ticks(pid)
        changed, before = (now, ticks) if ticks != before else (changed, before)
        if now - changed > HANGS_AFTER:
            os.kill(pid, signal.SIGKILL)
        if connection is None:
            with suppress(OSError, ValueError):
                connection = delve.connect()
                connection.sendall(conversation.begin())
                said = now
            continue
        words = b""
        with suppress(BlockingIOError, ConnectionResetError):
            words = conversation.heard(connection.recv(65536, socket.MSG_DONTWAIT))
        patience = conversation.patience
        if not words and patience is not None and now - said > patience:
            words = conversation.waited()
        if words:
            with suppress(OSError):
                connection.sendall(words)
            said = now
    if connection is not None:
        connection.close()


def _ticks(pid: int) -> str:
    """How often its threads went to sleep and were put off a processor."""
    texts = []
    for tid in os.listdir(f"/proc/{pid}/task") if Path(f"/proc/{pid}/task").exists() else []:
        texts += [status(pid, "voluntary_ctxt_switches", int(tid)), status(pid, "nonvoluntary_ctxt_switches", int(tid))]
    return " ".join(texts)


def parse(text: str) -> Failed:
    """The failed calls in what ``strace -f -o`` wrote, from the execve on."""
    found: list[tuple[str, str, str]] = []
    deaths: list[tuple[str, str, str]] = []
    latest: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        trapped = TRAPPED.search(line)
        if trapped:
            name, words = latest.get(line.split()[0], (trapped[1], ""))
            found.append((name, "SIGSYS", words))
            continue
        call = CALL.match(line)
        if call:
            latest[call[1]] = f"{call[2]}({call[3]})" if call[3] else call[2], line
        killed = KILLED.search(line)
        if killed:
            name, words = latest[killed[1]]
            deaths.append((name, "SIGSYS", words))
        ended = LINE.match(line)
        if ended and ended[5]:
            name, words = latest.get(ended[1], (ended[2], ""))
            found.append((name, ended[5], words))
    return compared(found if any(errno == "SIGSYS" for _, errno, _ in found) else found + deaths)

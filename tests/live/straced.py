"""The same dlv, in the same place and with a like target, under strace or nobody: what observe is held against."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

from attrs import frozen

from safedlv import target
from safedlv.observe import place_of
from safedlv.observing.conversation import Conversation
from safedlv.observing.delve import Delve
from safedlv.observing.stand_in import make
from safedlv.observing.standing import Standing
from safedlv.probe.context import Context
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
ELSEWHERE = {"EINTR", "EAGAIN", "ETIMEDOUT", "EFAULT", "EIO"}
"""Interrupted, too early, too late; and addresses without memory, which are where they happen to be in each target."""
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


def comparable(name: str, errno: str) -> bool:
    """Whether a failed call is one that two like runs have in common."""
    return name not in TIMING and errno not in ELSEWHERE and not errno.startswith("ERESTART")


def comparable_words(lines: list[str]) -> list[str]:
    """dlv's words, but for what differs from run to run: PIDs; and the stacks that it prints when it dies."""
    words = [re.sub(r"\b\d+\b", "N", line) for line in lines if line.strip()]
    return words[:1] if words and words[0].startswith("SIGSYS") else words


def play(dlv: str, context: Context | None, pid: int, log: Path | None) -> Outcome:
    """dlv from ``context`` with a stand-in for ``pid``, led as observe does; strace writes to ``log``, if any."""
    found = target.find(pid)
    with ExitStack() as undo:
        undo.callback(found.close)
        stand_in = make(found)
        undo.callback(stand_in.close)
        place = place_of(dlv, context, found, stand_in)
        delve = Delve(place, undo)
        delve.make_directory()
        undo.callback(shutil.rmtree, delve.directory)
        standing = Standing(place.context, lambda: delve.prepare(0), delve.keep)
        standing.until_ready()
        delve.stands_as(standing.pid)
        if log is not None:
            undo.enter_context(_strace(standing.pid, log))
        standing.begin()
        _lead(standing.pid, delve, Conversation(runs=not found.before.stopped))
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
    """The failed calls in what ``strace -f -o`` wrote, from the execve on: name (with its request) and errno."""
    found: Failed = Counter()
    deaths: Failed = Counter()
    latest: dict[str, str] = {}
    for line in text.splitlines():
        trapped = TRAPPED.search(line)
        if trapped:
            found[latest.get(line.split()[0], trapped[1]), "SIGSYS"] += 1
            continue
        call = CALL.match(line)
        if call:
            latest[call[1]] = f"{call[2]}({call[3]})" if call[3] else call[2]
        killed = KILLED.search(line)
        if killed:
            deaths[latest[killed[1]], "SIGSYS"] += 1
        ended = LINE.match(line)
        if ended and ended[5]:
            name = latest.get(ended[1], ended[2])
            if comparable(ended[2], ended[5]):
                found[name, ended[5]] += 1
    return found if any(error == "SIGSYS" for _, error in found) else found + deaths

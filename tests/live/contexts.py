"""What the tests of contexts share."""

from __future__ import annotations

import ast
import errno
import os
import select
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safedlv.probe import runner
from safedlv.runtimes.sandbox import Running, Sandbox, start
from safedlv.seccomp.program import Refuse, assemble
from tests.live.sandboxes import ARCH, NOBODY, PTRACE_ATTACH, SECONDS, forever, libc

PROGRAMS = Path(__file__).parent / "programs"
Outcome = tuple[tuple[str, str | None], ...]


def refuse(syscall: str | int, request: int | None = None, **rest: Any) -> bytes:
    return assemble([Refuse(syscall, arg=None if request is None else (0, request), **rest)], ARCH)


ATTACH = refuse("ptrace", PTRACE_ATTACH, errno=errno.EXDEV)
READ = refuse("process_vm_readv", errno=errno.ENOSYS)
PID = frozenset({"pid", "mount"})
NOBODYS: dict[str, Any] = {"uid": NOBODY, "gid": NOBODY, "groups": ()}
THIRD: dict[str, Any] = {"uid": 1000, "gid": 1000, "groups": ()}


def outcome(attempt: runner.RawAttempt) -> Outcome:
    steps, needs, _, _ = attempt
    return tuple((name, failure) for name, failure, _ in steps + needs)


class Told:
    """A workload that does something, tells what came of it, and stays."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def workload(self, tell: Callable[[], object]) -> Callable[[], bytes]:
        def run() -> bytes:
            os.write(self.writer, repr(tell()).encode())
            return forever()

        return run

    def answer(self) -> Any:
        assert select.select([self.reader], [], [], SECONDS)[0], "the workload tells nothing"
        return ast.literal_eval(os.read(self.reader, 65536).decode())

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


def vfork_parent() -> bytes:
    """It cannot stop before its child execs or exits."""
    if libc.vfork() == 0:
        libc.sleep(60)
        libc._exit(0)
    return b""


@contextmanager
def counting(shared: Path, **spec: Any) -> Iterator[Running]:
    """The program that counts its signals, ready, in a sandbox."""
    reader, writer = os.pipe()
    words = [sys.executable, str(PROGRAMS / "counter.py"), str(shared), "--sigcont"]
    try:
        with start(Sandbox(**spec), words, stdout=writer) as running:
            assert select.select([reader], [], [], SECONDS)[0]
            assert os.read(reader, 5) == b"ready"
            yield running
    finally:
        os.close(reader)
        os.close(writer)


def zero_counts(path: Path) -> Path:
    """A file for the program that counts its signals."""
    path.write_bytes(bytes(16))
    return path


def counts(path: Path) -> tuple[int, int]:
    return struct.unpack("QQ", path.read_bytes())


@contextmanager
def sending(pid: int, shared: Path) -> Iterator[None]:
    """A thousand signals a second, and at the end of the block the count that shows that none was lost or added."""
    words = [sys.executable, str(PROGRAMS / "sender.py"), str(pid), str(shared)]
    sender = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield
        out, err = sender.communicate(timeout=30)
        assert sender.returncode == 0, err
        assert counts(shared) == (int(out), 0)
        assert int(out) > 10
    finally:
        sender.kill()
        sender.communicate()

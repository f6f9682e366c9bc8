"""What the tests of contexts share."""

from __future__ import annotations

import ast
import errno
import os
import select
from collections.abc import Callable
from typing import Any

from safedlv.probe import runner
from safedlv.seccomp.program import Refuse, assemble
from tests.live.sandboxes import ARCH, NOBODY, PTRACE_ATTACH, SECONDS, forever, libc

Outcome = tuple[tuple[str, str | None], ...]


def refuse(syscall: str, request: int | None = None, **rest: Any) -> bytes:
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

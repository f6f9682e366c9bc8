"""A session in a copy of a container, for an editor: ``safedlv attach --headless --via clone`` as a child of ours.

Theory of operation: the child makes the copy, attaches to its program, serves one client, and undoes it all when that
goes or when it is told to leave; it has keepers and a record of its own. We read from its standard output where it
listens. It is sent SIGTERM when we are killed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress

from safedlv.errors import SafedlvError, printable
from safedlv.linux.descriptors import keep_open
from safedlv.linux.tracing import die_signal
from safedlv.session.launch import LEAVING, Delve, release_signals

WORDS = ["--headless", "--via=clone"]
LINES = 20
"""Of what the child has said: those that are shown when it fails."""


class CopysSession(Delve):
    """The child, in the place of a dlv. What the copy has and what was undone it says on our stderr, at its end."""

    called = "the session in a copy"

    def __init__(self, words: list[str]) -> None:
        self.said = os.memfd_create("said", os.MFD_CLOEXEC)
        log, out = os.pipe()
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            _become(parent, [*WORDS, *words], out, self.said)
        os.close(out)
        ours, theirs = socket.socketpair()  # it has no keeper that we could speak to
        theirs.close()
        super().__init__(pid, "", False, log, 0, ours)

    def leave(self) -> None:
        """Have it undo all that it did."""
        if not self.leaving and self.code is None:
            self.leaving = True
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)

    def show_keeper(self, connection: socket.socket, first_byte: bytes) -> None:
        """It has its own."""

    def tell_keeper(self, words: bytes) -> None:
        """It has its own."""

    def reap(self) -> int:
        if self.code is None:
            left = self.leaving
            super().reap()
            self.code = 0 if left and self.code == 128 + signal.SIGTERM else self.code  # it had done nothing yet
        return self.code or 0

    def end(self) -> list[str]:
        self.leave()
        self.reap()
        return []

    def last_words(self) -> str:
        lines = os.pread(self.said, 1 << 20, 0).decode("utf-8", "backslashreplace").splitlines()
        return "\n".join(printable(line.removeprefix("safedlv: "), 1000) for line in lines[-LINES:])

    def close(self) -> None:
        self.end()
        sys.stderr.write(os.pread(self.said, 1 << 20, 0).decode("utf-8", "backslashreplace"))
        os.close(self.said)
        os.close(self.log)
        super().close()


def _become(parent: int, words: list[str], out: int, said: int) -> None:
    """In the child: what the words ask for, as the program itself would do it."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in LEAVING:
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(said, 2)
        keep_open(0, 1, 2)
        os.setsid()  # Ctrl-C is for us
        die_signal(signal.SIGTERM)
        release_signals()
        if os.getppid() == parent:
            code = _attach(words)
    finally:
        os._exit(code)


def _attach(words: list[str]) -> int:
    from safedlv.attach import attach

    try:
        return attach(words)
    except SafedlvError as error:
        sys.stderr.write(f"{error.sentence}\n" + (f"{error.hint}\n" if error.hint else ""))
    except Exception as error:  # noqa: BLE001  there is nobody above who would say it
        sys.stderr.write(f"internal error of safedlv: {type(error).__name__}: {error}\n")
    finally:
        sys.stderr.flush()
    return 1

"""dlv's terminal in a pseudo-terminal, without its line editor: it reads whole lines, and echoes nothing.

dlv edits lines itself (go-delve/liner) but on a terminal that it takes for a poor one; it leaves colours out on one
that is called ``dumb`` only (pkg/terminal/terminal.go: New). ``cons25`` is poor and not dumb. Editors and pagers that
dlv starts are given the user's own TERM back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shlex
import signal
import struct
import termios

CHUNK = 65536
POOR = "cons25"
READ_SYSCALL = b"0 0x0 " if os.uname().machine == "x86_64" else b"63 0x0 "  # read(0, ...) in /proc/PID/syscall
INTERRUPT = b"\x03"


class Inner:
    """``dlv connect`` with these words, started in a pseudo-terminal. ``directory``: for what its children need."""

    def __init__(self, words: list[str], directory: str, size: tuple[int, int]) -> None:
        environment = {**os.environ, "TERM": POOR, **_for_children(directory)}
        self.pid, self.fd = os.forkpty()
        if self.pid == 0:
            try:
                _set_size(0, size)
                _set_echo(0, on=False)
                os.execve(words[0], words, environment)
            finally:
                os._exit(127)
        self.size = size
        self.code: int | None = None

    def read(self) -> bytes:
        """What it has written; empty when it has ended."""
        try:
            return os.read(self.fd, CHUNK)
        except OSError:  # EIO: nobody has the other side any more (pty(7))
            return b""

    def has_more(self, seconds: float = 0.0) -> bool:
        """Whether there is something to read, or comes within so many seconds."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def type(self, data: bytes) -> None:
        """Keys for it. It may have ended."""
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self.fd, data) :]

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.type(INTERRUPT)

    def echo(self, *, on: bool) -> None:
        """Whether what it is typed shows in what it writes."""
        with contextlib.suppress(termios.error):
            _set_echo(self.fd, on=on)

    def resize(self, size: tuple[int, int]) -> None:
        """Tell it the window's size (lines, columns), where that is another one now."""
        if size != self.size:
            self.size = size
            with contextlib.suppress(OSError):
                _set_size(self.fd, size)

    def waits_for_a_line(self) -> bool:
        """Whether it reads from its terminal at this moment (proc_pid_syscall(5)); False where that cannot be seen."""
        with contextlib.suppress(OSError):
            for tid in os.listdir(f"/proc/{self.pid}/task"):
                with open(f"/proc/{self.pid}/task/{tid}/syscall", "rb") as file:
                    if file.read(16).startswith(READ_SYSCALL):
                        return True
        return False

    def has_child(self) -> bool:
        """Whether a pager or an editor that it has started runs on its terminal: in its process group, as its
        telemetry is not (proc_tid_children(5)).
        """
        with contextlib.suppress(OSError, ValueError):
            for tid in os.listdir(f"/proc/{self.pid}/task"):
                with open(f"/proc/{self.pid}/task/{tid}/children", "rb") as file:
                    if any(os.getpgid(int(child)) == self.pid for child in file.read().split()):
                        return True
        return False

    def end(self) -> int:
        """Have it end, if it has not; its exit code as a shell would give it."""
        if self.code is None:
            with contextlib.suppress(OSError):
                os.close(self.fd)  # SIGHUP for it
            pidfd = os.pidfd_open(self.pid)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(1000):
                os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            code = os.waitstatus_to_exitcode(status)
            self.code = code if code >= 0 else 128 - code
        return self.code


def _for_children(directory: str) -> dict[str, str]:
    """Programs for dlv to start in the place of the user's editor and pager: the same ones, on the user's TERM."""
    if os.statvfs(directory).f_flag & os.ST_NOEXEC:
        return {}
    found = {}
    for name, otherwise in (("EDITOR", ""), ("PAGER", "more")):
        program = os.environ.get(f"DELVE_{name}") or os.environ.get(name) or otherwise
        if program:
            path = os.path.join(directory, name.lower())
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(
                    f'#!/bin/sh\nTERM={shlex.quote(os.environ.get("TERM", ""))} exec {shlex.quote(program)} "$@"\n'
                )
            os.chmod(path, 0o700)
            found[f"DELVE_{name}"] = path
    return found


def _set_size(fd: int, size: tuple[int, int]) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))


def _set_echo(fd: int, *, on: bool) -> None:
    modes = termios.tcgetattr(fd)
    modes[3] = modes[3] | termios.ECHO if on else modes[3] & ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSANOW, modes)

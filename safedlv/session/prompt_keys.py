"""The user's terminal: its modes, its size, what is typed ahead, and a line that comes and goes."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import termios
import tty

from safedlv.session.channel import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 65536
CTRL_C = b"\x03"
_CLEAR = b"\r\x1b[K"
_AS_FOUND = b"\x1b[?2004l\x1b[?25h\x1b[0m"
"""No bracketed paste, a cursor, no colours."""


class Screen:
    """The terminal at descriptors 0 and 1, in raw mode until ``restore``."""

    def __init__(self) -> None:
        self.before = termios.tcgetattr(0)
        self.ahead = b""
        """Keys that came too early."""
        self.line = ""
        """The passing line that stands at the cursor."""
        tty.setraw(0)

    def restore(self) -> None:
        """As it was found."""
        write_all(1, _AS_FOUND)
        with contextlib.suppress(termios.error):  # it may be gone
            termios.tcsetattr(0, termios.TCSADRAIN, self.before)

    @staticmethod
    def size() -> tuple[int, int]:
        """Lines and columns."""
        try:
            size = os.get_terminal_size(0)
        except OSError:
            return 24, 80
        return size.lines or 24, size.columns or 80

    @staticmethod
    def keys() -> bytes:
        """What was typed; empty when the terminal is gone."""
        try:
            return os.read(0, CHUNK)
        except OSError:
            return b""

    def write(self, data: bytes) -> None:
        """Show it, in the place of a passing line."""
        if data:
            self.pass_by("")
            write_all(1, data)

    def say(self, text: str) -> None:
        """Lines of ours."""
        self.write(text.replace("\n", "\r\n").encode("utf-8", "replace") + b"\r\n")

    def pass_by(self, text: str) -> None:
        """Show a line that goes when anything else is shown; empty: that it goes now. Only where a line begins."""
        if text != self.line:
            shown = b"\x1b[7m" + text.encode("utf-8", "replace") + b"\x1b[0m\r" if text else b""
            write_all(1, _CLEAR + shown)
            self.line = text

    def run(self, words: list[str]) -> None:
        """Run a program that only writes, until it ends or a key is pressed."""
        with self._lines_as_usual():
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
            pidfd = os.pidfd_open(process.pid)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.register(0, select.POLLIN)
            ready = [fd for fd, _ in poll.poll()]
            if pidfd not in ready:
                self.keys()
                process.terminate()
            process.wait()
            os.close(pidfd)

    @contextlib.contextmanager
    def _lines_as_usual(self) -> Iterator[None]:
        """Lines that end as other programs end them, and still no signals from keys: they would end the session."""
        modes = termios.tcgetattr(0)
        usual = [*modes]
        usual[1] = self.before[1]
        termios.tcsetattr(0, termios.TCSADRAIN, usual)
        try:
            yield
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, modes)

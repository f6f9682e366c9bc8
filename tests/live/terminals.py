"""A real terminal, tmux, with a program in it: keys are typed, the screen is read."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from tests.live.survival import Worker, changed_text
from tests.live.test_session import assert_left_nothing
from tests.support import ROOT, SAFEDLV, Server, require, wait_until

PROMPT = "(dlv)"


class Terminal:
    """One window of a tmux server of its own."""

    def __init__(self, words: list[str], *, size: tuple[int, int] = (120, 40), environment: dict[str, str]) -> None:
        self.name = f"safedlv-test-{os.getpid()}-{os.urandom(4).hex()}"
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
        script = f"cd {shlex.quote(str(ROOT))}; {given} {shlex.join(words)}; echo ended with $?; exec cat"
        self._tmux("-f", os.devnull, "new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), "sh", "-c", script)
        self.pid = int(self._tmux("display-message", "-p", "#{pane_pid}"))

    def keys(self, *names: str) -> None:
        """Press keys: tmux's names of them, or text."""
        self._tmux("send-keys", *names)

    def line(self, text: str) -> None:
        """Type a line."""
        self._tmux("send-keys", "-l", text)
        self.keys("Enter")

    def command(self, text: str, answer: str) -> None:
        """Type a line at the prompt, and wait for its answer and the next prompt."""
        self.shows(PROMPT, last=True)
        self.keys("C-l")
        self.line(text)
        self.shows(answer)
        self.shows(PROMPT, last=True)

    def paste(self, text: str) -> None:
        """As a terminal does it, in brackets where the program wants that."""
        self._tmux("set-buffer", text)
        self._tmux("paste-buffer", "-p", "-r")

    def resize(self, columns: int, lines: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def screen(self, *, colours: bool = False) -> str:
        return self._tmux("capture-pane", "-p", "-J", *(["-e"] if colours else []))

    def shows(self, text: str, *, last: bool = False, within: float = 20.0) -> str:
        """Wait for a text on the screen; ``last``: at the beginning of the last line above the status line."""

        def found() -> str:
            screen = self.screen()
            lines = [line for line in screen.splitlines() if line.strip()]
            if last:
                return screen if len(lines) > 1 and lines[-2].rstrip() == text and "guard" in lines[-1] else ""
            return screen if text in screen else ""

        try:
            return wait_until(found, f"{text!r} in the terminal", within)
        except BaseException:
            print(self.screen())
            raise

    def close(self) -> None:
        self._tmux("kill-server")

    def _tmux(self, *words: str) -> str:
        return subprocess.run(["tmux", "-L", self.name, *words], check=True, capture_output=True, text=True).stdout


@contextmanager
def attached(server: Server, state: Path, *flags: str, **environment: str) -> Iterator[Terminal]:
    """``safedlv attach`` in a terminal, ``state`` being its XDG_STATE_HOME."""
    require(shutil.which("tmux"), "needs tmux")
    given = {"XDG_STATE_HOME": str(state), "TMPDIR": os.environ["TMPDIR"]}
    given.update({name: os.environ[name] for name in ("SAFEDLV_DLV", "CI") if name in os.environ})
    terminal = Terminal([*SAFEDLV, "attach", *flags, str(server.pid)], environment={**given, **environment})
    try:
        yield terminal
    finally:
        terminal.close()


def assert_as_before(server: Server) -> None:
    """It serves, untraced, not stopped, its text is the file's, and nothing is left of the session."""
    assert_left_nothing(server.pid)
    target = SimpleNamespace(pid=server.pid, program=Path(os.readlink(f"/proc/{server.pid}/exe")))
    assert not changed_text(cast("Worker", target))
    assert "hello" in server.get()

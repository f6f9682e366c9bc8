"""The terminal of a session: safedlv's (prompt.py), or dlv's own (``--plain``), which is here.

That is ``dlv connect`` in a pseudo-terminal, led to the user's, key by key and byte by byte. It reaches dlv through the
relay, like any client, so that a terminal that is closed or killed in the middle of a command ends the session in
order.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import termios
import time
import tty

import pexpect

from safedlv.session.channel import write_all
from safedlv.session.listen import listen
from safedlv.session.relay import Relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from safedlv.command_line import CommandLine
    from safedlv.session.launch import Delve

CHUNK = 65536
GREETINGS = (b"Type 'help'", b"(dlv)")
POOR_TERMINALS = ("", "dumb")
LAST_WORDS_WITHIN = 2.0  # seconds for the terminal to end after its dlv has


def run_terminal(
    dlv: str, delve: Delve, line: CommandLine, log: int, look_after: Callable[[Relay, CommandLine], None]
) -> int:
    """Give the user a terminal; returns the exit code that ``dlv attach`` would have had.

    It is dlv's own with ``--plain``, and where nothing can be drawn. ``look_after``: has the relay see to the target.
    """
    if line.on("accept-multiclient"):
        write_all(2, b"Warning accept-multi: ignored\n")
    unix = isinstance(delve.address, str)  # a dlv that listens on unix sockets can connect to them too
    front = listen(f"unix:{delve.directory}/front" if unix else "127.0.0.1:0")
    relay = Relay(front, delve, multi=False, check_user=True, log=log)
    look_after(relay, line)
    argv = [dlv, "connect", *_connect_flags(line, delve), f"unix:{front.shown}" if unix else front.shown]
    if not all(os.isatty(fd) for fd in (0, 1, 2)):
        return _run_plain(relay, argv)
    if line.on("plain") or os.environ.get("TERM", "") in POOR_TERMINALS:
        return Terminal(relay, argv).run()
    from safedlv.session.prompt import Session, run_prompt

    session = Session(argv[:-1], delve.directory, delve.attached_to, delve.pid)
    return run_prompt(relay, session, show_log=log == 2)


def _connect_flags(line: CommandLine, delve: Delve) -> list[str]:
    if line.text("init") or not delve.first_commands:
        return [f"--init={line.text('init')}"] if line.text("init") else []
    path = os.path.join(delve.directory, "init")
    with open(path, "w", encoding="utf-8") as file:
        file.write(delve.first_commands)
    return [f"--init={path}"]


def _run_plain(relay: Relay, argv: list[str]) -> int:
    """Without a terminal (--allow-non-terminal-interactive): dlv connect on our own streams."""
    client = subprocess.Popen(argv)
    failed = relay.run()
    return client.wait() or failed


class Terminal:
    """The pseudo-terminal of ``dlv connect`` and the user's own terminal, joined in the relay's loop."""

    def __init__(self, relay: Relay, argv: list[str]) -> None:
        self.relay = relay
        self.inner = pexpect.spawn(argv[0], argv[1:], dimensions=_size(), timeout=None)
        self.held: bytes | None = b""
        """What the terminal said before dlv had attached; None once it is known that it has."""

    def run(self) -> int:
        """Copy both ways until dlv ends. A dlv that failed to attach has spoken for itself, on stderr."""
        with _raw(), _resizing(self.inner):
            self.relay.watch(self.inner.child_fd, selectors.EVENT_READ, lambda _: self._screen())
            self.relay.watch(0, selectors.EVENT_READ, lambda _: self._keys())
            failed = self.relay.run()
            self._last_words()
        self.inner.close(force=True)
        if self.held is not None and failed:
            return failed
        if self.relay.signalled:
            return 128 + self.relay.signalled
        return int(self.inner.exitstatus) if self.inner.exitstatus is not None else 128 + int(self.inner.signalstatus)

    def _screen(self) -> bytes:
        data = _read(self.inner.child_fd)
        if not data:
            self.relay.unwatch(self.inner.child_fd)
        if self.held is not None:
            self.held += data
            if not any(greeting in self.held for greeting in GREETINGS):
                return data
            data, self.held = self.held, None
        write_all(1, data)
        return data

    def _keys(self) -> None:
        data = _read(0)
        if not data:  # the user's terminal is gone
            self.relay.unwatch(0)
            self.inner.kill(signal.SIGHUP)
        write_all(self.inner.child_fd, data)

    def _last_words(self) -> None:
        deadline = time.monotonic() + LAST_WORDS_WITHIN
        with selectors.DefaultSelector() as selector:
            selector.register(self.inner.child_fd, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())) and self._screen():
                pass


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, CHUNK)
    except OSError:  # EIO: the other side of the pseudo-terminal is closed (pty(7))
        return b""


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """The user's terminal in raw mode, so that Ctrl-C and every other key reach dlv's own terminal."""
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # it may be gone
            termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resizing(terminal: pexpect.spawn) -> Iterator[None]:
    """Pass on changes of the window's size."""
    before = signal.signal(signal.SIGWINCH, lambda _signum, _frame: terminal.setwinsize(*_size()))
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _size() -> tuple[int, int]:
    size = os.get_terminal_size(0)
    return size.lines or 24, size.columns or 80

"""dlv's own terminal: ``dlv connect`` in a pseudo-terminal, led to the user's, key by key and byte by byte."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
import termios
import tty

import pexpect

from safedlv.errors import SafedlvError
from safedlv.session.launch import LEAVING, release_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from safedlv.command_line import CommandLine
    from safedlv.session.launch import Delve

CHUNK = 65536
FIRST_WORDS_WITHIN = 1.0  # seconds for dlv's end to become known once its terminal has spoken


def run_terminal(dlv: str, delve: Delve, line: CommandLine, log: int) -> int:
    """Give the user dlv's terminal; returns the exit code that ``dlv attach`` would have had."""
    for sign in LEAVING:
        signal.signal(sign, _leave)
    release_signals()
    if line.on("accept-multiclient"):
        sys.stderr.write("Warning accept-multi: ignored\n")
    if not _wait_until_listening(delve, log):
        return delve.reap()
    argv = ["connect", *_connect_flags(line), _address(delve)]
    if not all(os.isatty(fd) for fd in (0, 1, 2)):
        return _plain(dlv, argv, delve)
    terminal = pexpect.spawn(dlv, argv, dimensions=_size(), timeout=None, echo=True)
    try:
        return _interact(terminal, delve, log)
    finally:
        terminal.close(force=True)


def _connect_flags(line: CommandLine) -> list[str]:
    return [f"--init={line.text('init')}"] if line.text("init") else []


def _address(delve: Delve) -> str:
    if isinstance(delve.address, str):
        return f"unix:{delve.address}"
    assert delve.address is not None  # _wait_until_listening saw it
    return f"{delve.address[0]}:{delve.address[1]}"


def _plain(dlv: str, argv: list[str], delve: Delve) -> int:
    """Without a terminal (--allow-non-terminal-interactive): dlv connect on our own streams."""
    import subprocess

    code = subprocess.run([dlv, *argv], check=False).returncode
    return delve.reap() or code if code else code


def _wait_until_listening(delve: Delve, log: int) -> bool:
    """Read dlv's log until it says where it listens; False when it ended before."""
    rest = b""
    while not delve.listening:
        data = os.read(delve.log, CHUNK)
        if not data:
            return False
        rest += data
        while not delve.listening and b"\n" in rest:
            text, _, rest = rest.partition(b"\n")
            if not delve.heard(text):
                os.write(log, text + b"\n")
    if rest:
        os.write(log, rest)
    return True


def _interact(terminal: pexpect.spawn, delve: Delve, log: int) -> int:
    """Copy both ways until the terminal's dlv ends. A dlv that failed to attach speaks for itself, on stderr."""
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ, "keys")
    selector.register(terminal.child_fd, selectors.EVENT_READ, "screen")
    selector.register(delve.log, selectors.EVENT_READ, "log")
    spoken = False
    with _raw(), _resizing(terminal):
        while True:
            for key, _ in selector.select():
                data = _read(key.fd)
                if key.data == "screen":
                    if not spoken and _failed_to_attach(delve, data):
                        return delve.reap()
                    spoken = True
                    if not data:
                        return _exit_code(terminal)
                    os.write(1, data)
                elif not data:
                    selector.unregister(key.fd)
                    if key.data == "keys":
                        terminal.sendeof()
                elif key.data == "keys":
                    _send(terminal.child_fd, data)
                else:
                    os.write(log, data.replace(b"\n", b"\r\n") if log == 2 else data)


def _failed_to_attach(delve: Delve, first_words: bytes) -> bool:
    """The terminal's first words are a greeting, or a complaint that its server has gone."""
    if first_words.startswith((b"Type 'help'", b"\x1b")):
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(delve.pidfd, selectors.EVENT_READ)
        return bool(selector.select(FIRST_WORDS_WITHIN)) and delve.reap() != 0


def _exit_code(terminal: pexpect.spawn) -> int:
    terminal.wait()
    return int(terminal.exitstatus) if terminal.exitstatus is not None else 128 + int(terminal.signalstatus or 0)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, CHUNK)
    except OSError:  # EIO: the other side of the pseudo-terminal is closed (pty(7))
        return b""


def _send(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """The user's terminal in raw mode, so that Ctrl-C and every other key reach dlv's own terminal."""
    try:
        before = termios.tcgetattr(0)
        tty.setraw(0)
    except termios.error as error:
        raise SafedlvError(f"standard input is no terminal: {error.args[-1]}") from error
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSAFLUSH, before)


@contextlib.contextmanager
def _resizing(terminal: pexpect.spawn) -> Iterator[None]:
    """Pass on changes of the window's size."""

    def resized(_signum: int, _frame: object) -> None:
        terminal.setwinsize(*_size())

    before = signal.signal(signal.SIGWINCH, resized)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _leave(signum: int, _frame: object) -> None:
    """End the session in order: what stands above closes dlv's terminal, and dlv detaches."""
    raise SystemExit(128 + signum)


def _size() -> tuple[int, int]:
    size = os.get_terminal_size(0)
    return size.lines or 24, size.columns or 80

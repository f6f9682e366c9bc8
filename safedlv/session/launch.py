"""Start dlv for a session: a private directory, the keeper, and dlv listening where only we can reach it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys

from safedlv.errors import SafedlvError, printable
from safedlv.linux.tracing import name_tracer
from safedlv.session import guard, keeper, parting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.command_line import CommandLine
    from safedlv.session.listen import Listener
    from safedlv.target import Found

UNIX_SINCE = (1, 23)  # the first dlv that listens on unix sockets (cmd/dlv/cmds/commands.go: netListen)
# What we say ourselves to our dlv, whatever the user said to us.
OURS = ("listen", "log-dest", "headless", "waitfor", "waitfor-interval", "waitfor-duration", "continue")
LEAVING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a session in order. Held back (``hold_signals``) until somebody is there to act on them."""
LISTENING = b"API server listening at: "


class Delve:
    """A dlv of ours: its process, its log pipe, and the private address that it listens on."""

    first_commands = ""
    """What its terminal is told before the user comes, a line each."""
    called = "dlv"
    """What it is, for people."""
    attached_to = 0
    """The process that it attaches to; 0 when it starts one itself."""
    found: parting.Parting | None = None
    """How that process was before; None when nothing is to be said of how it is left."""

    def __init__(
        self, pid: int, directory: str, unix: bool, log: int, keeper_pid: int, lifeline: socket.socket
    ) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.directory = directory
        self.address: str | tuple[str, int] | None = os.path.join(directory, "dlv") if unix else None
        self.listening = False
        self.log = log
        self.keeper_pid = keeper_pid
        self.lifeline = lifeline
        self.code: int | None = None
        self.leaving = False
        """We have asked for the end, and dlv has not come to one before."""
        self.words: list[str] | None = None
        self.guards_said: list[bytes] = []
        """What came of that while something else was waited for."""
        self.awaits_guard = False
        """The keeper was told of a target: from then on the guard is to be heard of."""

    def heard(self, line: bytes) -> bool:
        """Take the line that tells where dlv listens; False for every other line of its log."""
        if self.listening or not line.startswith(LISTENING):
            return False
        self.listening = True
        if self.address is None:
            host, _, port = line[len(LISTENING) :].decode().strip().rpartition(":")
            self.address = (host, int(port))
        return True

    def connect(self) -> socket.socket:
        """A connection to it. Raises OSError when it has ended, or has the one client that it takes."""
        assert self.address is not None  # nobody connects before it has said where it listens
        connection = socket.socket(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET)
        try:
            connection.connect(self.address)
        except OSError:
            connection.close()
            raise
        return connection

    def last_words(self) -> str:
        """What it said when it ended, where that did not go to the user's stderr."""
        return ""

    def leave(self) -> None:
        """Ask for an orderly end: the keeper makes dlv let go of the target as soon as that is safe. Does not wait."""
        self.leaving = self.leaving or self.code is None
        with contextlib.suppress(OSError):
            self.lifeline.shutdown(socket.SHUT_WR)  # not closed: what was said last would get lost with unread words

    def show_keeper(self, connection: socket.socket, first_byte: bytes) -> None:
        """Give the keeper a copy of a connection to dlv, by which it can end the session in order."""
        if not self.leaving:
            socket.send_fds(self.lifeline, [keeper.CONNECTION + first_byte], [connection.fileno()])

    def tell_keeper(self, words: bytes) -> None:
        """Say something on the keeper's lifeline (keeper.py), if there is still time for it."""
        of_target = words.startswith((keeper.TARGET, keeper.UNGUARDED))
        if of_target:
            pid, stopped = (int(word) for word in words[1:].split())
            self.found = parting.look(pid, stopped=bool(stopped)) if pid else None
        elif words == keeper.INTERRUPT:
            self.found = None  # it is to end, and not to be as it was
        if not self.leaving:
            with contextlib.suppress(OSError):  # it was killed
                self.lifeline.send(words)
                if of_target:
                    said = guard.until_looked(self.lifeline)
                    self.guards_said += said
                    self.awaits_guard = not any(word.startswith(guard.OFF) for word in said)

    def until_guarded(self) -> str:
        """Wait until dlv is guarded, or it is known that it will not be: nobody may set a breakpoint before that.

        What is to be said where neither came in time; it is guarded as soon as it has attached.
        """
        settled = True
        if self.awaits_guard:
            self.awaits_guard = False
            settled, said = guard.until_settled(self.lifeline, self.pidfd)
            self.guards_said += said
        return "" if settled else "dlv is not guarded yet"

    def reap(self) -> int:
        """Wait for dlv to end; its exit code (128 + signal when it was killed)."""
        if self.code is None:
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)
            if self.leaving and self.code == -signal.SIGKILL:
                self.code = 0  # by the keeper, which is in order
            if self.code < 0:
                self.code = 128 - self.code
        return self.code

    def end(self) -> list[str]:
        """dlv detached and ended, the directory gone, the keeper gone; what its guard has to say then, and how the
        target was left, in sentences. A second call says again what is not as it should be.
        """
        if self.words is not None:
            return self.words
        self.leave()
        self.reap()
        os.waitpid(self.keeper_pid, 0)
        self.words = guard.told(self.lifeline, self.guards_said, asked=self.leaving)
        well, line = self.found.told() if self.found is not None else (True, "")
        if not well:
            self.words.append(line)
        has_failed = self.code == 1  # to attach, and said so: that the target was not touched is no news
        return [*self.words, line] if well and line and not has_failed else self.words

    def close(self) -> None:
        """The end of the session."""
        for line in self.end():
            sys.stderr.write(f"safedlv: {line}\n")
        self.lifeline.close()
        os.close(self.pidfd)


def hold_signals() -> None:
    """Keep the signals that end a session pending, from before dlv starts until the session can act on them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, LEAVING)


def release_signals() -> None:
    """Let them come."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEAVING)


def start(dlv: str, version: str | None, line: CommandLine, found: Found, listener: Listener | None) -> Delve:
    """Start ``dlv attach`` headless on a private address; ``listener``: where clients come in, None for a terminal.

    Raises SafedlvError when that is impossible.
    """
    pid, terminal = found.pid, listener is None
    directory = private_directory()
    unix = listens_on_unix(version)  # TCP works with every dlv
    path = listener.unix_path if listener is not None and listener.unix_path.startswith("/") else ""
    keeper_pid, lifeline = start_keeper(directory, found, socket_path=path, guarded=is_guarded(line))
    log_read, log_write = os.pipe()
    try:
        os.mkdir(directory, 0o700)
    except OSError as error:
        lifeline.close()
        os.waitpid(keeper_pid, 0)
        raise no_directory(directory, error) from error
    argv = arguments(dlv, line, pid, f"unix:{directory}/dlv" if unix else "127.0.0.1:0", log_write, terminal=terminal)
    child = os.fork()
    if child == 0:
        _become(argv, lifeline, log_write, keeper_pid)
    os.close(log_write)
    delve = Delve(child, directory, unix, log_read, keeper_pid, lifeline)
    delve.attached_to, delve.awaits_guard = pid, True
    delve.found = parting.look(pid, stopped=found.before.stopped)  # dlv takes longer than that until it attaches
    return delve


def start_keeper(directory: str, found: Found, *, guarded: bool, socket_path: str = "") -> tuple[int, socket.socket]:
    """Start the keeper of a session with a process; one that is stopped by job control now is so again at the end.

    It answers when dlv may be started (guard.until_looked).
    """
    keeper_pid, lifeline = keeper.start(directory, socket_path=socket_path, guarded=guarded)
    lifeline.send(keeper.TARGET + b"%d %d" % (found.pid, found.before.stopped))
    return keeper_pid, lifeline


def is_guarded(line: CommandLine) -> bool:
    """What ``--guard`` says. Raises SafedlvError for a word that it does not know."""
    word = line.text("guard", "on")
    if word not in ("on", "off"):
        raise SafedlvError(f"--guard is on or off, not {printable(word)}")
    return word == "on"


def arguments(dlv: str, line: CommandLine, pid: int, address: str, log: int, *, terminal: bool) -> list[str]:
    """The command line of our dlv: the user's flags, and ours in place of those that are ours to say."""
    ours = [*OURS, "accept-multiclient", "init"] if terminal else list(OURS)
    flags = line.handed_on(ours)
    if terminal and "api-version" not in line.flags:
        flags.append("--api-version=2")  # what dlv connect speaks; the default was 1 before dlv 1.24
    if line.on("continue"):
        flags.append("--continue=true")
    return [
        dlv,
        "attach",
        *flags,
        "--headless=true",
        f"--listen={address}",
        f"--log-dest={log}",
        str(pid),
        *line.args[1:],
    ]


def _become(argv: list[str], lifeline: socket.socket, log: int, keeper_pid: int) -> None:
    """In the child: become dlv. A session of its own keeps Ctrl-C from it."""
    try:
        os.setsid()
        os.set_inheritable(log, True)
        guard.until_looked(lifeline)
        become_dlv(argv, lifeline, keeper_pid)
    finally:
        os._exit(1)


def become_dlv(argv: list[str], lifeline: socket.socket, keeper_pid: int) -> None:
    """In the child that is to be dlv: tell the keeper who we are, and execute it. Returns only when that fails."""
    try:
        name_tracer(keeper_pid)  # the guard is a child of the keeper's
        lifeline.send(keeper.DLV + b"%d" % os.getpid())
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec keeps that
            signal.signal(ignored, signal.SIG_DFL)
        release_signals()
        os.execv(argv[0], argv)
    except BrokenPipeError:  # the keeper has gone: safedlv was told to leave before dlv was there
        os._exit(0)
    except OSError as error:
        os.write(2, b"safedlv: cannot start %s: %s\n" % (os.fsencode(argv[0]), os.fsencode(error.strerror or "")))


def no_directory(directory: str, error: OSError) -> SafedlvError:
    """The sentence for a session's directory that cannot be made."""
    return SafedlvError(
        f"cannot make the session's directory {directory}: {error.strerror}",
        "set TMPDIR to a directory that you may write to",
    )


def private_directory() -> str:
    """The name of a session's directory, which is not there yet: short enough for a socket in it."""
    base = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  made 0700 below
    if not os.access(base, os.W_OK | os.X_OK) or len(base) > 60:  # sun_path holds 108 bytes (unix(7))
        base = "/tmp"  # noqa: S108
    return os.path.join(base, f"safedlv-{os.getpid()}-{os.urandom(6).hex()}")


def listens_on_unix(version: str | None) -> bool:
    """Whether a dlv of that version can listen on a unix socket; not known counts as no."""
    return version is not None and number_of(version) >= UNIX_SINCE


def number_of(version: str) -> tuple[int, int]:
    """The first two parts of a version; (0, 0) for what is none."""
    parts = version.split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (ValueError, IndexError):
        return (0, 0)

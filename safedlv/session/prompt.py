"""The terminal that people like: dlv's prompt, commands and output, in an editor of ours.

    the user's terminal - prompt - dlv connect - wire - relay - dlv
                          (one process of its own)     (safedlv)

dlv's own terminal carries the commands out (prompt_inner.py); what it writes is shown as it comes. Lines are edited
here (prompt_editor.py). The process of the prompt is to the relay what any client is: when it ends, however it does,
the session is ended in order; and the relay is never kept waiting by it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import termios
import time

from safedlv.linux.descriptors import keep_open
from safedlv.linux.tracing import die_signal
from safedlv.session.channel import write_all
from safedlv.session.launch import LEAVING, release_signals
from safedlv.session.prompt_text import LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.session.prompt_keys import Screen
    from safedlv.session.relay import Relay

LIMIT_AFTER = 0.5  # seconds


class Session:
    """What a prompt is about. ``words``: dlv's terminal, without the address that it is to connect to."""

    def __init__(self, words: list[str], directory: str, target: int, dlv: int) -> None:
        self.words, self.directory = words, directory
        self.target, self.dlv = target, dlv


class Limit:
    """A duty of the relay's (duties.py): tell the prompt how long the target may stand, once that is known."""

    def __init__(self, relay: Relay, channel: socket.socket) -> None:
        self.relay, self.channel = relay, channel
        self.next = time.monotonic() + LIMIT_AFTER
        self.told: float | None = None

    def due(self) -> float:
        return self.next - time.monotonic()

    def tick(self) -> None:
        """Tell it where it has changed."""
        from safedlv.session.patience import Patience

        self.next = time.monotonic() + LIMIT_AFTER
        limit = next((d.clock.limits.max_pause for d in self.relay.loop.duties.all if isinstance(d, Patience)), None)
        if limit != self.told:
            self.told = limit
            write_all(self.channel.fileno(), LIMIT + str(limit or "").encode())


def run_prompt(relay: Relay, session: Session, *, show_log: bool) -> int:
    """Give the user the prompt; returns the exit code of the session. ``show_log``: the relay's log is for people."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    modes = termios.tcgetattr(0)
    safedlv, pid = os.getpid(), os.fork()
    if pid == 0:
        _be_the_prompt(relay, session, theirs, safedlv)
    theirs.close()
    if show_log:
        relay.log = ours.fileno()
    pidfd = os.pidfd_open(pid)
    relay.watch(pidfd, select.EPOLLIN, lambda _: _gone(relay, pidfd))
    relay.loop.duties.all.append(Limit(relay, ours))
    failed = relay.run()
    ours.shutdown(socket.SHUT_WR)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(pidfd)
    if code < 0:  # killed, it has not given the terminal back
        termios.tcsetattr(0, termios.TCSADRAIN, modes)
    if relay.signalled:
        return 128 + relay.signalled
    return failed or (code if code >= 0 else 128 - code)


def _gone(relay: Relay, pidfd: int) -> None:
    """The prompt has ended: so does the session, also where it had not connected yet."""
    relay.unwatch(pidfd)
    relay.dlv.leave()


def _be_the_prompt(relay: Relay, session: Session, channel: socket.socket, safedlv: int) -> None:
    """In the child: the whole life of the prompt's process."""
    code = 1
    try:
        unix = relay.listener.unix_path
        front = unix or relay.listener.sock.getsockname()
        keep_open(0, 1, 2, channel.fileno())
        from safedlv.session.prompt_keys import Screen
        from safedlv.session.prompt_loop import Prompt

        screen = Screen()
        _act_on_signals(screen, safedlv)
        try:
            code = Prompt(session, screen, channel, lambda: _dial(front), unix=bool(unix)).run()
        finally:
            screen.restore()
    except Exception as error:  # noqa: BLE001  the edge of this process
        if "--debug" in sys.argv:
            sys.excepthook(type(error), error, error.__traceback__)
        sys.stderr.write(f"safedlv: internal error: {type(error).__name__}: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def _act_on_signals(screen: Screen, safedlv: int) -> None:
    """Give the terminal back when the session's process ends before us, or the terminal does."""

    def leave(number: int, _frame: object) -> None:
        screen.restore()
        os._exit(128 + number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # keys send none here; a kill(1) is the relay's to act on
    for sign in LEAVING:
        if sign != signal.SIGINT:
            signal.signal(sign, leave)
    release_signals()
    die_signal(signal.SIGTERM)
    if os.getppid() != safedlv:
        leave(signal.SIGTERM, None)


def _dial(address: str | tuple[str, int]) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection

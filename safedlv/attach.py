"""The path of one attach, from the words typed to dlv's exit code.

    words -> target -> probe -> (refused: diagnosis, report)  or  (passed: dlv, relay or terminal)

Every attach waits for what this file imports before dlv starts, so it imports little; what is needed only when
something is wrong (facts, diagnosis, reports, attrs) is imported where it is used.
"""

from __future__ import annotations

import importlib
import os
import sys

from safedlv import command_line, delegate, target
from safedlv.errors import SafedlvError, UsageError, printable
from safedlv.probe import runner

DIRECT = "direct"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.command_line import CommandLine
    from safedlv.session.launch import Delve
    from safedlv.session.listen import Listener
    from safedlv.target import Found


def attach(words: list[str]) -> int:
    """``safedlv attach``: the exit code of the session, 1 when the attach is refused. Raises SafedlvError."""
    dlv = delegate.find()
    line = command_line.parse(words, lambda: delegate.flags_of(dlv))
    if line.on("help"):
        return delegate.help_of(dlv)
    if delegate.would_refuse(line):
        return delegate.become(dlv, command_line.words_for_dlv(words))

    log = _open_log(line)  # first of all: a descriptor that the user names must not become one of ours
    listener = None
    if line.text("waitfor"):  # dlv listens, and says so, before it waits
        listener = _listener(line)
        _announce(line, listener, log)
    found = _the_go_process(_the_target(line), line)
    if _way(line) != DIRECT:
        return _beside(dlv, line, found, listener, log)
    attempt, listener = _probe(found, line, listener)
    if attempt is None or runner.refused(attempt):
        if listener is not None:
            listener.close()
        return _explain(dlv, line, found, attempt)
    if line.on("no-proxy"):
        return delegate.become(dlv, [*line.handed_on(()), str(found.pid), *line.args[1:]])
    return _session(dlv, line, found, listener, log)


def _probe(
    found: Found, line: CommandLine, listener: Listener | None
) -> tuple[runner.RawAttempt | None, Listener | None]:
    """Probe the target; meanwhile get ready for the session. No attempt when the target could not be left as it was."""
    if not runner.way_back_is_open(found.pid, found.before):
        return None, listener
    probe = runner.start(found.pid, found.procdir, found.before, line.number("probe-timeout", runner.STOP_WITHIN))
    try:
        listener = listener or _listener(line)  # before dlv is started: the address may be taken
        importlib.import_module("safedlv.session.launch")  # needed next; the probe takes as long as this
    finally:
        attempt = probe.result()
    return attempt, listener


# ------------------------------------------------------------ the target


def _way(line: CommandLine) -> str:
    """What ``--via`` says. Raises SafedlvError for a way that there is not."""
    via = line.text("via", DIRECT)
    if via not in (DIRECT, "sidecar"):
        hint = "--via direct, or --via sidecar; for a copy: safedlv relaunch --debuggable TARGET"
        raise SafedlvError(f"there is no way called {printable(via)}", hint)
    return via


def _the_target(line: CommandLine) -> Found:
    if line.text("waitfor"):
        from safedlv.waitfor import wait_for

        return target.find(
            wait_for(line.text("waitfor"), line.number("waitfor-interval", 1), line.number("waitfor-duration", 0))
        )
    try:
        return target.resolve(line.args[0])
    except UsageError as error:
        raise SafedlvError(error.sentence, error.hint) from error  # with exit code 1, as dlv's


def _the_go_process(found: Found, line: CommandLine) -> Found:
    """The target, or, where it is a wrapper and a person at a terminal says so, the Go process behind it."""
    from safedlv.wrappers import is_wrapper, offer_go_child

    if not is_wrapper(found.procdir):
        return found
    beside = _way(line) != DIRECT
    return offer_go_child(found, ask=delegate.on_terminal() and not line.on("headless"), take_single=beside)


# ------------------------------------------------------------ what follows


def _explain(dlv: str, line: CommandLine, found: Found, attempt: runner.RawAttempt | None) -> int:
    """The probe failed: say at which step, with which errno, and what the facts say; and what other ways there are.

    On a terminal the user may choose one of them; else none is taken, and dlv is not started.
    """
    from safedlv.doctor import wants_colour
    from safedlv.judgement import judge_attempt
    from safedlv.report.text import report
    from safedlv.sibling.ways import SIDECAR, ways

    diagnosis = judge_attempt(found, attempt)
    sys.stderr.write(report(diagnosis, colour=wants_colour(sys.stderr)))
    others = ways(diagnosis)
    if not others:
        return 1
    from safedlv.sibling.choice import choose, listed

    sys.stderr.write(listed(others))
    if delegate.on_terminal() and not line.on("headless") and choose(tuple(w for w in others if w.via == SIDECAR)):
        return _beside(dlv, line, found, None, 2)
    return 1


def _beside(dlv: str, line: CommandLine, found: Found, listener: Listener | None, log: int) -> int:
    """The session from a container of its own beside the target."""
    from safedlv.session import launch
    from safedlv.sibling import sidecar

    prepared = sidecar.prepare(found, dlv, line)
    launch.hold_signals()
    delve, listener = sidecar.start(prepared, found, lambda: listener or _listener(line))
    return _serve(delve, dlv, line, listener, log)


def _session(dlv: str, line: CommandLine, found: Found, listener: Listener | None, log: int) -> int:
    from safedlv.session import launch

    launch.hold_signals()
    return _serve(launch.start(dlv, delegate.version_of(dlv), line, found, listener), dlv, line, listener, log)


def _serve(delve: Delve, dlv: str, line: CommandLine, listener: Listener | None, log: int) -> int:
    """Lead clients, or the user's terminal, to a dlv that was started, until it ends; its exit code."""
    try:
        if listener is None:
            from safedlv.session.terminal import run_terminal

            return run_terminal(dlv, delve, line, log)
        if not line.text("waitfor"):
            _announce(line, listener, log)
        from safedlv.session.relay import Relay

        relay = Relay(
            listener,
            delve,
            multi=line.on("accept-multiclient"),
            check_user=line.on("only-same-user", default=True),
            log=log,
        )
        return relay.run()
    finally:
        delve.close()


# ------------------------------------------------------------ words and streams


def _listener(line: CommandLine) -> Listener | None:
    """Where clients come in; None when the user gets a terminal."""
    if not line.on("headless") or line.on("no-proxy"):
        return None
    from safedlv.session.listen import listen

    return listen(line.text("listen", "127.0.0.1:0"))


def _announce(line: CommandLine, listener: Listener | None, log: int) -> None:
    """The line that clients wait for, where dlv would write it (pkg/logflags: writeListeningMessage)."""
    if listener is None:
        return
    _write_line(log if line.text("log-dest") else 1, f"API server listening at: {listener.shown}")
    if not listener.loopback:
        _write_line(log, "Listening for remote connections (connections are not authenticated nor encrypted)")


def _open_log(line: CommandLine) -> int:
    """Where dlv's log goes: a descriptor, a file made anew, or stderr."""
    dest = line.text("log-dest")
    if not dest:
        return 2
    if dest.lstrip("-").isdigit():
        return int(dest) if _is_open(int(dest)) else os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    return os.open(dest, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        return False
    return True


def _write_line(fd: int, text: str) -> None:
    try:
        os.write(fd, text.encode("utf-8", "surrogateescape") + b"\n")
    except OSError as error:
        raise SafedlvError(f"cannot write to descriptor {fd}: {error.strerror}") from error

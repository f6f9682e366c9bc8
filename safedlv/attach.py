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
from safedlv.command_line import CLONE, DIRECT, SIDECAR
from safedlv.errors import SafedlvError, UsageError, printable
from safedlv.probe import runner
from safedlv.session.duties import Later

LOOK_AFTER = 0.2
"""Seconds after a session's start in which dlv shall have the machine for itself."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.command_line import CommandLine
    from safedlv.session.launch import Delve
    from safedlv.session.listen import Listener
    from safedlv.session.pauses import Limits
    from safedlv.session.relay import Relay
    from safedlv.target import Found


def attach(words: list[str]) -> int:
    """``safedlv attach``: the exit code of the session, 1 when the attach is refused. Raises SafedlvError."""
    dlv = delegate.find()
    line = command_line.parse(words, lambda: delegate.flags_of(dlv))
    if line.on("help"):
        return delegate.help_of(dlv)
    if delegate.would_refuse(line):
        return delegate.become(dlv, command_line.words_for_dlv(words))

    _check_own(line)
    log = open_log(line)  # first of all: a descriptor that the user names must not become one of ours
    listener = None
    if line.text("waitfor"):  # dlv listens, and says so, before it waits
        listener = listener_of(line)
        _announce(line, listener, log)
    way, found = _way(line), _the_target(line)
    if way == CLONE:  # its Go process is another one
        return _in_a_copy(dlv, line, found, log)
    found = _the_go_process(found, line)
    if way == SIDECAR:
        return _beside(dlv, line, found, listener, log)
    attempt, listener = _probe(found, line, listener)
    if attempt is None or runner.refused(attempt):
        if listener is not None:
            listener.close()
        return _explain(dlv, line, found, attempt)
    return _session(dlv, line, found, listener, log)


def _probe(
    found: Found, line: CommandLine, listener: Listener | None
) -> tuple[runner.RawAttempt | None, Listener | None]:
    """Probe the target; meanwhile get ready for the session. No attempt when the target could not be left as it was."""
    if not runner.way_back_is_open(found.pid, found.before):
        return None, listener
    probe = runner.start(found.pid, found.procdir, found.before, line.number("probe-timeout", runner.STOP_WITHIN))
    try:
        listener = listener or listener_of(line)  # before dlv is started: the address may be taken
        importlib.import_module("safedlv.session.launch")  # needed next; the probe takes as long as this
    finally:
        attempt = probe.result()
    return attempt, listener


# ------------------------------------------------------------ the target


def _way(line: CommandLine) -> str:
    """What ``--via`` says. Raises SafedlvError for a way that there is not."""
    via = line.text("via", DIRECT)
    if via not in (DIRECT, SIDECAR, CLONE):
        raise SafedlvError(f"there is no way called {printable(via)}", "--via direct, --via sidecar or --via clone")
    return via


def _check_own(line: CommandLine) -> None:
    """Refuse what flags of ours say and cannot be had. Raises SafedlvError."""
    several = line.on("headless") and line.on("accept-multiclient")
    if line.on("observers") and not several:
        raise SafedlvError("--observers is for several clients", "add --headless --accept-multiclient")
    if "on-disconnect" in line.flags and line.text("on-disconnect") != "detach" and not several:
        raise SafedlvError(
            "a session of one client ends when that is gone, and the target is let go of: --on-disconnect=detach",
            "for one that can be come back to, add --headless --accept-multiclient",
        )
    for name in ("observers", "max-pause", "on-disconnect"):
        if name in line.flags and line.on("no-proxy"):
            raise SafedlvError(f"--{name} cannot be had with --no-proxy: plain dlv knows none")
    if "max-pause" in line.flags or "on-disconnect" in line.flags:
        _limits(line)


def _limits(line: CommandLine) -> Limits:
    from safedlv.session.pauses import limits_in

    return limits_in(line.flags.get("max-pause"), line.flags.get("on-disconnect"))


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
    from safedlv.sibling.ways import ways

    diagnosis = judge_attempt(found, attempt)
    sys.stderr.write(report(diagnosis, colour=wants_colour(sys.stderr)))
    others = ways(diagnosis)
    if not others:
        return 1
    from safedlv.sibling.choice import choose, listed

    sys.stderr.write(listed(others))
    if not delegate.on_terminal() or line.on("headless"):
        return 1
    chosen = choose(others)
    if chosen == SIDECAR:
        return _beside(dlv, line, found, None, 2)
    return _in_a_copy(dlv, line, found, 2) if chosen == CLONE else 1


def _beside(dlv: str, line: CommandLine, found: Found, listener: Listener | None, log: int) -> int:
    """The session from a container of its own beside the target."""
    from safedlv.session import launch
    from safedlv.sibling import sidecar

    prepared = sidecar.prepare(found, dlv, line)
    launch.hold_signals()
    delve, listener = sidecar.start(prepared, found, lambda: listener or listener_of(line))
    return serve(delve, dlv, line, listener, log)


def _in_a_copy(dlv: str, line: CommandLine, found: Found, log: int) -> int:
    """The session in a copy of the target's container, which goes at its end; the original is left alone."""
    if found.container is None:
        raise SafedlvError("a copy is made of a container", "name the target as docker:NAME")
    if line.on("no-proxy"):
        raise SafedlvError("--no-proxy cannot be had with a copy: safedlv removes it at the end")
    from safedlv.copying import in_a_copy

    found.close()
    return in_a_copy(found.container, lambda copy: attach_inside(dlv, line, copy, log))


def attach_inside(dlv: str, line: CommandLine, container: str, log: int) -> int:
    """The session with the Go program in a container as soon as that runs: directly, else by a sidecar.

    Signals that end a session are held back when it is called. Raises SafedlvError, EndedError as wait_for_program.
    """
    from safedlv.sibling.clone_program import wait_for_program

    found = wait_for_program(container)
    attempt, listener = _probe(found, line, None)
    if attempt is not None and not runner.refused(attempt):
        return _session(dlv, line, found, listener, log)
    if listener is not None:
        listener.close()
    return _beside(dlv, line, found, None, log)


def _session(dlv: str, line: CommandLine, found: Found, listener: Listener | None, log: int) -> int:
    if line.on("no-proxy"):
        delegate.become(dlv, [*line.handed_on(()), str(found.pid), *line.args[1:]])
    from safedlv.session import launch

    if line.on("check-go-version", default=True) and (why := unsupported_go(dlv, found)):
        # dlv attach itself forgets to check, and scripts rely on that: refused only for who asks for it
        if "check-go-version" in line.flags:
            if listener is not None:
                listener.close()
            raise why
        sys.stderr.write(f"safedlv: {why.sentence}\n")
    launch.hold_signals()
    return serve(launch.start(dlv, delegate.version_of(dlv), line, found, listener), dlv, line, listener, log)


def unsupported_go(dlv: str, found: Found) -> SafedlvError | None:
    """Why a dlv does not support the target's Go, being too old for it or too new; None when it does.

    A dlv whose file does not tell is not asked, since that takes half a second: then it is None too.
    """
    from safedlv.facts.go_range import surely_unsupported
    from safedlv.wrappers import build_info

    try:
        info = build_info(found.procdir)
    except OSError:  # not ours to read: dlv sees to the rest
        return None
    if info is None or not surely_unsupported(dlv, info.go_version):
        return None
    from safedlv.sibling.needs import require_supported_go

    try:
        require_supported_go(dlv, found)
    except SafedlvError as error:
        return error
    return None


def serve(delve: Delve, dlv: str, line: CommandLine, listener: Listener | None, log: int) -> int:
    """Lead clients, or the user's terminal, to a dlv that was started, until it ends; its exit code."""
    try:
        if listener is None:
            from safedlv.session.terminal import run_terminal

            return run_terminal(dlv, delve, line, log, look_after)
        if not line.text("waitfor"):
            _announce(line, listener, log)
        from safedlv.session import relay as relays

        relay = relays.Relay(
            listener,
            delve,
            multi=line.on("accept-multiclient"),
            check_user=line.on("only-same-user", default=True),
            log=log,
            observers=line.on("observers"),
        )
        look_after(relay, line)
        return relay.run()
    finally:
        delve.close()


def look_after(relay: Relay, line: CommandLine) -> None:
    """Have the relay see to the target's pauses and watch what happens around it, as soon as the session stands:
    nothing of that is on its way there.
    """

    def begin() -> None:
        from safedlv.session.relay_care import care_for

        care_for(relay, _limits(line), ask_health="max-pause" not in line.flags)

    if relay.dlv.attached_to:
        relay.loop.duties.all.append(Later(LOOK_AFTER, begin))


# ------------------------------------------------------------ words and streams


def listener_of(line: CommandLine) -> Listener | None:
    """Where clients come in; None when the user gets a terminal."""
    if not line.on("headless") or line.on("no-proxy"):
        return None
    from safedlv.session.listen import listen

    return listen(line.text("listen", "127.0.0.1:0"))


def _announce(line: CommandLine, listener: Listener | None, log: int) -> None:
    """The line that clients wait for, where dlv would write it (pkg/logflags: writeListeningMessage)."""
    if listener is None:
        return
    write_line(log if line.text("log-dest") else 1, f"API server listening at: {listener.shown}")
    if not listener.loopback:
        write_line(log, "Listening for remote connections (connections are not authenticated nor encrypted)")


def open_log(line: CommandLine) -> int:
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


def write_line(fd: int, text: str) -> None:
    """Write a line at once. Raises SafedlvError when nobody can read it."""
    try:
        os.write(fd, text.encode("utf-8", "surrogateescape") + b"\n")
    except OSError as error:
        raise SafedlvError(f"cannot write to descriptor {fd}: {error.strerror}") from error

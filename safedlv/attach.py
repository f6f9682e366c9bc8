"""The path of one attach, from the words typed to dlv's exit code.

    words -> target -> probe -> (refused: diagnosis, report)  or  (passed: dlv, relay or terminal)

Every attach waits for what this file imports before dlv starts, so it imports little; what is needed only when
something is wrong (facts, diagnosis, reports, attrs) is imported where it is used.
"""

from __future__ import annotations

import importlib
import os
import sys

from safedlv import command_line, target
from safedlv.errors import SafedlvError, UsageError
from safedlv.probe import runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.command_line import CommandLine
    from safedlv.session.listen import Listener
    from safedlv.target import Found

STOP_WITHIN = 2.0
"""Seconds for the target to stop when it is probed, before it is given up (--probe-timeout)."""


def attach(words: list[str]) -> int:
    """``safedlv attach``: the exit code of the session, 1 when the attach is refused. Raises SafedlvError."""
    dlv = _delve()
    line = command_line.parse(words, lambda: _flags_of(dlv))
    if line.on("help"):
        return _help(dlv)
    if _is_for_dlv_to_refuse(line):
        return _replaced_by(dlv, words)

    listener = _listener(line) if line.text("waitfor") else None  # dlv listens, and says so, before it waits
    found = _the_target(line)
    attempt, listener = _probe(found, line, listener)
    if attempt is None or runner.refused(attempt):
        return _explain(found, attempt, listener)
    found = _the_go_process(found, line)
    if line.on("no-proxy"):
        return _replaced_by(dlv, _own_words(words, found.pid))
    return _session(dlv, line, found, listener)


def _probe(
    found: Found, line: CommandLine, listener: Listener | None
) -> tuple[runner.RawAttempt | None, Listener | None]:
    """Probe the target; meanwhile open the listener, so that dlv is not started for an address that is taken."""
    if not runner.way_back_is_open(found.pid, found.before):
        return None, listener
    probe = runner.start(found.pid, found.procdir, found.before, line.number("probe-timeout", STOP_WITHIN))
    try:
        listener = listener or _listener(line)
        importlib.import_module("safedlv.session.launch")  # needed next; the probe takes as long as this
    finally:
        attempt = probe.result()
    return attempt, listener


# ------------------------------------------------------------ the target


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
    return offer_go_child(found, ask=_on_terminal() and not line.on("headless"))


# ------------------------------------------------------------ what follows


def _explain(found: Found, attempt: runner.RawAttempt | None, listener: Listener | None) -> int:
    """The probe failed: say at which step, with which errno, and what the facts say. dlv is not started."""
    from safedlv.doctor import diagnose_attempt
    from safedlv.report.text import report

    if listener is not None:
        listener.close()
    sys.stderr.write(report(diagnose_attempt(found, attempt), colour=sys.stderr.isatty()))
    return 1


def _session(dlv: str, line: CommandLine, found: Found, listener: Listener | None) -> int:
    from safedlv.facts.delve_path import delve_version_from_binary
    from safedlv.session import launch

    version = delve_version_from_binary(dlv) or _version_as_it_says(dlv)
    close = [found.procdir] if listener is None else [found.procdir, listener.sock.fileno()]
    log = _open_log(line)
    launch.hold_signals()
    delve = launch.start(dlv, version, line, found.pid, terminal=listener is None, close=close)
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

    listener = listen(line.text("listen", "127.0.0.1:0"))
    if line.text("waitfor"):
        _announce(line, listener, _open_log(line))
    return listener


def _announce(line: CommandLine, listener: Listener, log: int) -> None:
    """The line that clients wait for, where dlv would write it (pkg/logflags: writeListeningMessage)."""
    _write_line(log if line.text("log-dest") else 1, f"API server listening at: {listener.shown}")
    if not listener.loopback:
        _write_line(log, "Listening for remote connections (connections are not authenticated nor encrypted)")


def _replaced_by(dlv: str, words: list[str]) -> int:
    """Become dlv, with these words."""
    sys.stdout.flush()
    os.execv(dlv, [dlv, "attach", *words])
    raise AssertionError  # never reached


def _own_words(words: list[str], pid: int) -> list[str]:
    """The words for dlv itself: without our flags, and with the PID in place of our name for it."""
    line = command_line.parse(words)
    return [*line.handed_on(()), str(pid), *line.args[1:]]


def _help(dlv: str) -> int:
    """dlv's help, and after it what safedlv adds."""
    import subprocess

    code = subprocess.run([dlv, "attach", "--help"], check=False).returncode
    sys.stdout.write(
        "\nsafedlv adds:\n"
        "      --no-proxy               Probe first, then become dlv itself: nothing stands in between\n"
        "      --probe-timeout float    Seconds for the target to stop when it is probed (default 2)\n"
        "      --debug                  Show tracebacks of safedlv's own failures\n"
        "A target is a PID, name:PATTERN, docker:NAME or docker:NAME/PID.\n"
    )
    return code


def _flags_of(dlv: str | None) -> dict[str, str]:
    """The kinds of dlv's flags, from its own help: asked only when a flag comes up that we do not know."""
    import subprocess

    if dlv is None:
        return {}
    done = subprocess.run([dlv, "help", "attach"], capture_output=True, text=True, timeout=10, check=False)
    return command_line.flag_kinds(done.stdout)


def _delve() -> str:
    """The path of the dlv to use: $SAFEDLV_DLV, else the first on the PATH. Raises SafedlvError."""
    from safedlv.facts.delve_path import find_delve

    named = os.environ.get("SAFEDLV_DLV")
    dlv = find_delve(os.environ.get("PATH"), named)
    if dlv is None:
        raise SafedlvError(
            f"SAFEDLV_DLV names {named}, which is no program" if named else "there is no dlv on the PATH",
            "go install github.com/go-delve/delve/cmd/dlv@latest, or name one with SAFEDLV_DLV=/path/to/dlv",
        )
    return dlv


def _version_as_it_says(dlv: str) -> str | None:
    """The version of a dlv that was built without module information, as the distributions build it."""
    from safedlv.facts.delve_asked import ask_version

    version = ask_version(dlv, 5.0)
    return version if isinstance(version, str) else None


def _is_for_dlv_to_refuse(line: CommandLine) -> bool:
    """Whether dlv would refuse these words, or these streams, before it touches a process: then its words are best."""
    terminal = line.on("headless") or line.on("allow-non-terminal-interactive") or _on_terminal()
    return bool(line.refused) or not terminal or _log_dest_fails(line)


def _on_terminal() -> bool:
    return all(os.isatty(fd) for fd in (0, 1, 2))


def _log_dest_fails(line: CommandLine) -> bool:
    """dlv refuses --log-output without --log, and a log file that it cannot make (pkg/logflags: Setup)."""
    if line.text("log-output") and not line.on("log"):
        return True
    dest = line.text("log-dest")
    if not dest or dest.lstrip("-").isdigit():
        return False
    directory = os.path.dirname(dest) or "."
    return not os.access(dest if os.path.exists(dest) else directory, os.W_OK)


def _open_log(line: CommandLine) -> int:
    """Where dlv's log goes: a descriptor, a file made anew, or stderr."""
    dest = line.text("log-dest")
    if not dest:
        return 2
    if dest.lstrip("-").isdigit():
        return int(dest)
    return os.open(dest, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)


def _write_line(fd: int, text: str) -> None:
    try:
        os.write(fd, text.encode("utf-8", "surrogateescape") + b"\n")
    except OSError as error:
        raise SafedlvError(f"cannot write to descriptor {fd}: {error.strerror}") from error

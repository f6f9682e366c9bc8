"""The sessions that ``relaunch`` ends in: with a program that dlv starts in the copy, or attaches to there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from attrs import frozen

from safedlv import attach, command_line, delegate, target
from safedlv.copying import Work, carry_out, say
from safedlv.errors import SafedlvError, UsageError, printable
from safedlv.runtimes.engine import unix_socket
from safedlv.session import keeper
from safedlv.session.launch import listens_on_unix, number_of, private_directory
from safedlv.sibling import checkout, needs
from safedlv.sibling.clone_delve import CopysDelve, Place, flags_of
from safedlv.sibling.clone_exec import Debugger, debugger_of
from safedlv.sibling.clone_program import require_own_program
from safedlv.sibling.toolbox import toolbox_of
from safedlv.values import Value

if TYPE_CHECKING:
    from safedlv.command_line import CommandLine
    from safedlv.runtimes.docker import Engine
    from safedlv.sibling.clone import Document

STDERR = 2


def dlv_and_line(words: list[str], *, to_ask: bool) -> tuple[str, CommandLine]:
    """The dlv, and the words for its session as ``attach`` reads them.

    ``to_ask``: there is to be a session, so there must be a terminal for one that is not headless. Raises UsageError,
    SafedlvError.
    """
    line = command_line.parse([*words, "1"])  # a target stands at the end of dlv's words
    if line.refused:
        raise UsageError(line.refused)
    if to_ask and not line.on("headless") and not delegate.on_terminal():
        raise UsageError("nobody is at a terminal here for the session", "--headless serves clients")
    return delegate.find(), line


def attached(dlv: str, line: CommandLine, copy: str) -> int:
    """The session with the Go program of a copy that was started, as soon as it runs."""
    say([f"waiting for a Go program in {copy}; Ctrl-C ends it and puts everything back"])
    return attach.attach_inside(dlv, line, copy, STDERR)


@frozen(eq=False, repr=False)
class UnderDlv(Value):
    """All that is known of a session before the copy is made."""

    dlv: str
    line: CommandLine
    debugger: Debugger
    first_commands: str


def under_dlv(container: Document, dlv: str, line: CommandLine) -> UnderDlv:
    """Work out the dlv that is to start a container's program. Raises SafedlvError with why it cannot."""
    name, version = container["Name"].lstrip("/"), delegate.version_of(dlv)
    if unix_socket() is None:
        raise SafedlvError(
            "the Docker Engine is reached over a network: dlv's socket would lie on its machine", "run safedlv there"
        )
    if not listens_on_unix(version):
        raise SafedlvError(
            f"dlv {version or 'of unknown version'} does not listen on unix sockets, and there is no other way to it",
            "dlv can since 1.23: go install github.com/go-delve/delve/cmd/dlv@latest",
        )
    found = target.resolve(f"docker:{name}")
    try:
        require_own_program(container, found)
        if os.geteuid() != 0 and needs.user_inside(found.pid, found.pid) != (os.geteuid(), os.getegid()):
            raise SafedlvError(
                f"dlv would run as the user of container {printable(name)}, and its socket would be that one's alone",
                "run it as root, or take --waitfor",
            )
        if line.on("check-go-version", default=True):
            needs.require_supported_go(dlv, found)
        commands = "" if line.on("headless") else checkout.commands(found.procdir, number_of(version or ""))
    finally:
        found.close()
    inside = os.path.join(private_directory(), keeper.INSIDE)
    return UnderDlv(dlv, line, debugger_of(toolbox_of(dlv), flags_of(line), inside), commands)


def started(engine: Engine, work: Work, under: UnderDlv) -> int:
    """Make the copy, and have the session with its program, which dlv starts; the session's exit code.

    Raises SafedlvError, EngineError, with everything undone.
    """
    place = Place(under.debugger.directory, under.line)
    try:
        return carry_out(engine, work, lambda _: _session(engine, work.copy, place, under))
    finally:
        place.close()


def _session(engine: Engine, copy: str, place: Place, under: UnderDlv) -> int:
    delve = CopysDelve(engine, copy, place, under.first_commands)
    try:
        listener = attach.listener_of(under.line)
    except BaseException:
        delve.close()
        raise
    say([f"dlv starts the program of {copy}; what that prints: docker logs --follow {copy}"])
    return attach.serve(delve, under.dlv, under.line, listener, STDERR)

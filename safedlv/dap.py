"""``safedlv dap``: what an editor starts in the place of ``dlv dap``.

    words -> the line that the editor waits for -> dlv, proxy -> attach: decided in dap_attach.py -> dlv's exit code

An editor that has started a debug adapter waits for one line, and then only looks at the connection: an exit would go
unnoticed for half a minute. So the line is written before anything that may fail, and a failure is kept until the
client asks to attach, and is told in the answer to that.
"""

from __future__ import annotations

import importlib

from safedlv import command_line, delegate
from safedlv.attach import open_log, write_line
from safedlv.errors import SafedlvError, printable
from safedlv.session import dap_server, launch
from safedlv.session.door import Door, ListeningDoor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safedlv.command_line import CommandLine
    from safedlv.session.dap_server import DapServer

ADDED_HELP = """
safedlv adds:
      --stdio                  Speak DAP on stdin and stdout, to whoever started this
      --probe-timeout float    Seconds for the target to stop when it is probed (default 0.5)
      --debug                  Show tracebacks of safedlv's own failures
In an attach request, processId may also be "name:PATTERN", "docker:NAME" or "docker:NAME/PID", and
"safedlv": {"via": "never, ask, sidecar or clone"} says how else to reach a target to which a plain attach is refused.
"""


def dap(words: list[str]) -> int:
    """``safedlv dap``: the exit code of dlv. Raises SafedlvError for words that dlv is not asked about."""
    dlv, failure = _find()
    line = command_line.parse(words, (lambda: delegate.flags_of(dlv, "dap")) if dlv else None, command_line.DAP)
    if line.refused and failure:
        raise SafedlvError(failure)
    if line.on("help"):
        return delegate.help_of(dlv, "dap", ADDED_HELP)
    if line.refused or (dlv and delegate.log_fails(line)):
        return delegate.become(dlv, command_line.words_for_dlv(words, command_line.DAP), "dap")

    log = open_log(line)  # first of all: a descriptor that the user names must not become one of ours
    launch.hold_signals()
    door = _door(line, log)
    if door is None:  # the client that dlv is to dial is not there: dlv has its own words for that
        launch.release_signals()
        return delegate.become(dlv, command_line.words_for_dlv(words, command_line.DAP), "dap")
    server, failure = _start(dlv, line, log, door) if dlv else (None, failure)
    from safedlv.session.dap import Proxy

    for needed in ("json", "safedlv.dap_attach"):  # while dlv starts and the client comes
        importlib.import_module(needed)

    def decide(arguments: dict[str, Any], console: Any) -> Any:
        from safedlv.dap_attach import Attaching

        return Attaching(dlv, line, arguments, console).decide()

    return Proxy(door, server, failure, decide, log).run()


def _find() -> tuple[str, str]:
    """The path of dlv, or why there is none."""
    try:
        return delegate.find(), ""
    except SafedlvError as error:
        return "", _with_hint(error)


def _start(dlv: str, line: CommandLine, log: int, door: Door) -> tuple[DapServer | None, str]:
    """dlv, on its way; or why it is not."""
    without = ("listen", "client-addr", "log-dest")
    close = [door.listener.sock.fileno()] if isinstance(door, ListeningDoor) else []
    try:
        flags = [*line.handed_on(without), *line.args]
        return dap_server.start(dlv, delegate.version_of(dlv), flags, log, close, quiet=line.on("stdio")), ""
    except SafedlvError as error:
        return None, _with_hint(error)
    except OSError as error:
        return None, f"dlv cannot be started: {printable(str(error))}"


def _with_hint(error: SafedlvError) -> str:
    return f"{error.sentence}\n{error.hint}" if error.hint else error.sentence


def _door(line: CommandLine, log: int) -> Door | None:
    """Where the client comes in; None when the client is to be dialed, and is not there."""
    from safedlv.session.channel import Channel

    if line.on("stdio"):
        return Door(Channel.of_pipes(0, 1))
    if line.text("client-addr"):
        from safedlv.session.dial import dial

        try:
            return Door(Channel.of_socket(dial(line.text("client-addr"))))
        except OSError:
            return None
    from safedlv.session.listen import listen

    listener = listen(line.text("listen", "127.0.0.1:0"))
    write_line(log if line.text("log-dest") else 1, f"DAP server listening at: {listener.shown}")
    if not listener.loopback:
        write_line(log, "Listening for remote connections (connections are not authenticated nor encrypted)")
    return ListeningDoor(listener, check_user=line.on("only-same-user", default=True))

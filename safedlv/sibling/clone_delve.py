"""The dlv that is the first process of a copy: led to us as any other, and ended together with the copy.

Theory of operation: the session's directory is there before the copy is made, since it is mounted into it. The keeper
removes it when we are gone; it knows nothing of dlv, which holds no process but the copy's. The copy itself is the
record's to remove (clone_record.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import Any

from safedlv.command_line import CommandLine
from safedlv.errors import SafedlvError, printable
from safedlv.runtimes.docker import Engine
from safedlv.runtimes.engine import EngineError
from safedlv.session import keeper
from safedlv.session.bystander import ended
from safedlv.session.launch import OURS, Delve
from safedlv.session.listen import UNIX
from safedlv.sibling.directory import make


def flags_of(line: CommandLine) -> tuple[str, ...]:
    """The user's flags for ``dlv exec``, without those that are ours to say."""
    terminal = not line.on("headless")
    flags = line.handed_on([*OURS, "accept-multiclient", "init"] if terminal else OURS)
    if "api-version" not in line.flags:
        flags.append("--api-version=2")  # what dlv connect speaks; the default was 1 before dlv 1.24
    return (*flags, *(["--continue=true"] if line.on("continue") else []))


class Place:
    """The session's directory, made; and its keeper, which removes it when this is closed, or we are killed."""

    def __init__(self, inside: str, line: CommandLine) -> None:
        """Raises SafedlvError, with nothing left behind."""
        self.directory = os.path.dirname(inside)
        self.keeper_pid, self.lifeline = keeper.start(self.directory)
        self.closed = False
        try:
            address = line.text("listen")
            path = os.path.abspath(address.removeprefix(UNIX)) if address.startswith(UNIX) else ""
            if path and not os.path.lexists(path):
                self.lifeline.send(keeper.SOCKET + os.fsencode(path))
            self.log = make(inside, {})
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Have it removed; a second call does nothing."""
        if not self.closed:
            self.closed = True
            self.lifeline.close()
            os.waitpid(self.keeper_pid, 0)


class CopysDelve(Delve):
    """A dlv that ends when its container does."""

    def __init__(self, engine: Engine, name: str, place: Place, first_commands: str) -> None:
        """``name``: the copy, which was started. Raises SafedlvError when it has ended already."""
        self.engine, self.name, self.place, self.first_commands = engine, name, place, first_commands
        self.left = False
        pid = int(self._state()["Pid"])
        try:
            super().__init__(pid, place.directory, True, place.log, place.keeper_pid, place.lifeline)
        except (OSError, OverflowError) as error:  # EINVAL: PID 0; ESRCH
            said = self._last_words() or "it said nothing"
            raise SafedlvError(f"dlv ended at once in the copy {printable(name)}: {said}") from error
        self.address = os.path.join(place.directory, keeper.INSIDE, "dlv")

    def leave(self) -> None:
        """End dlv and the copy's program with it."""
        self.left = True
        with contextlib.suppress(EngineError, SafedlvError):  # it may have ended; the record's way back removes it
            self.engine.ask("end the copy", lambda: self.engine.api.kill(self.name))

    def show_keeper(self, connection: socket.socket, first_byte: bytes) -> None:
        """Nothing of the copy is the keeper's to end."""

    def reap(self) -> int:
        """Wait for dlv to end; its exit code, and its last words on stderr when that is not 0. 0 when it was told."""
        if self.code is None:
            while not ended(self.pidfd, 60.0):
                pass
            self.code = 0 if self.left else self._exit_code()
        return self.code

    def _exit_code(self) -> int:
        try:
            waited: Any = self.engine.ask("wait for the copy's end", lambda: self.engine.api.wait(self.name))
            code = int(waited["StatusCode"])
            if self._state().get("OOMKilled"):
                sys.stderr.write("safedlv: the copy came to its limit of memory: --change limit:memory gives it more\n")
            if code and (said := self._last_words()):
                sys.stderr.write(f"{said}\n")
        except EngineError:
            return 0  # somebody has removed it
        return code

    def close(self) -> None:
        """The end of the session."""
        self.leave()
        self.reap()
        self.place.close()
        os.close(self.pidfd)

    def _state(self) -> dict[str, Any]:
        document: dict[str, Any] = self.engine.ask("look at it", lambda: self.engine.api.inspect_container(self.name))
        state: dict[str, Any] = document["State"]
        return state

    def _last_words(self) -> str:
        said: Any = self.engine.ask("tell what dlv said", lambda: self.engine.api.logs(self.name, tail=5))
        lines = said.decode("utf-8", "backslashreplace").strip().splitlines()
        return "\n".join(printable(line, 1000) for line in lines)

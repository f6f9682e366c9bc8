"""What dlv is told once it takes clients, so that the session ends in order. Pure: bytes in, bytes out (JSON-RPC).

A target of our own is continued and halted once, since much of what dlv needs it needs only for that. A real one is
not: a refused tgkill(2) would kill it. The replies are not anybody's: what failed is seen in dlv's calls.
"""

from __future__ import annotations

import json
from typing import Final

CONTINUE: Final = b'{"method":"RPCServer.Command","params":[{"name":"continue"}],"id":1}\n'
HALT: Final = b'{"method":"RPCServer.Command","params":[{"name":"halt"}],"id":2}\n'
DETACH: Final = b'{"method":"RPCServer.Detach","params":[{"Kill":false}],"id":3}\n'
RUNS_FOR: Final = 0.2
"""Seconds for which a continued target runs, before it is halted."""
PATIENCE: Final = 5.0
"""Seconds for dlv to do what it was told, before it is told the next."""


class Conversation:
    """One session. ``runs``: the target is continued, too."""

    def __init__(self, *, runs: bool) -> None:
        self.runs = runs
        self.told: list[bytes] = []
        self.answered: set[int] = set()
        self.rest = b""

    def begin(self) -> bytes:
        """What to say first."""
        return self._say(CONTINUE if self.runs else DETACH)

    def heard(self, data: bytes) -> bytes:
        """Take what dlv said; what to say to that (perhaps nothing)."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.answered |= {number for line in lines if (number := _id_of(line)) is not None}
        return self._say(DETACH) if 1 in self.answered and DETACH not in self.told else b""

    def waited(self) -> bytes:
        """The time is up (:attr:`patience`): what to say next."""
        if HALT not in self.told and DETACH not in self.told:
            return self._say(HALT)
        return self._say(DETACH) if DETACH not in self.told else b""

    @property
    def patience(self) -> float | None:
        """Seconds until :meth:`waited`; None when all has been said."""
        if not self.told or DETACH in self.told:
            return None
        return RUNS_FOR if HALT not in self.told else PATIENCE

    def _say(self, words: bytes) -> bytes:
        self.told.append(words)
        return words


def _id_of(line: bytes) -> int | None:
    try:
        message = json.loads(line)
        return int(message["id"])
    except (ValueError, KeyError, TypeError):
        return None

"""``safedlv dap`` and plain ``dlv dap``, started as editors start them."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.clients import Dap
from tests.support import ROOT, SAFEDLV, our_directories, our_processes, wait_until

SOURCE = str(ROOT / "examples" / "server" / "main.go")
LINE = next(i for i, text in enumerate(Path(SOURCE).read_text().splitlines(), 1) if "text := fmt.Sprintf" in text)
SAYS = "DAP server listening at: "


class Adapter:
    """One debug adapter that listens. ``under``: all the words that start it, where they are others."""

    def __init__(self, *words: str, plain: str = "", under: Sequence[str] = (), **options: Any) -> None:
        command = [*under] or ([plain] if plain else SAFEDLV)
        options = {"stderr": subprocess.PIPE, "cwd": ROOT, **options}
        words = words if under else ("dap", *words)
        self.process = subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True, **options)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(SAYS), line + self.process.communicate()[1]
        self.address = line.removeprefix(SAYS).strip()

    def client(self) -> Dap:
        """A client that has introduced itself."""
        client = Dap(self.address)
        client.initialize()
        return client

    def end(self, within: float = 20) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=within)
        return self.process.returncode, out, err


def attach(client: Dap, processid: object, **arguments: Any) -> None:
    """Attach, as far as the configuration."""
    client.request("attach", mode="local", processId=processid, **arguments)
    client.event("initialized")


def leave(client: Dap, **arguments: Any) -> None:
    client.request("disconnect", **arguments)
    client.event("terminated")
    client.close()


@contextlib.contextmanager
def adapters() -> Iterator[Callable[..., Adapter]]:
    """Starts adapters; at the end none is left, nor anything of theirs."""
    started: list[Adapter] = []

    def start(*words: str, **options: Any) -> Adapter:
        started.append(Adapter(*words, **options))
        return started[-1]

    try:
        yield start
    finally:
        for one in started:
            if one.process.poll() is None:
                one.process.kill()
            one.process.communicate()
    wait_until(lambda: not our_processes(), "no process of ours is left")
    wait_until(lambda: not our_directories(), "no directory of ours is left")


def flags_for(dlv: str) -> list[str]:
    """What lets the oldest dlv debug a program of today's Go."""
    old = "1.20" in subprocess.check_output([dlv, "version"], text=True)
    return ["--check-go-version=false"] if old else []

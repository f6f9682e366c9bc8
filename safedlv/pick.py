"""``safedlv pick``: what can be debugged here, for people and editors to choose from.

Go processes by PID, and those in containers by the container's name where a Docker Engine is reachable, silently
without. Verdicts are the survey's: no process is touched.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any, Final

from attrs import frozen

from safedlv.errors import SafedlvError, UsageError, printable
from safedlv.facts.procfs import ProcDir
from safedlv.facts.reading import read
from safedlv.facts.status import read_status
from safedlv.model import ListedProcess, Unknown
from safedlv.options import SWITCH, read_words
from safedlv.runtimes.engine import EngineError, list_containers, unix_socket
from safedlv.runtimes.health import CONTAINER_ID
from safedlv.survey import list_go_processes
from safedlv.values import Value

HELP = """\
usage: safedlv pick [--json | --separator TEXT]

What can be debugged here: Go processes, and the containers with one in them. Each line begins with what to type as
TARGET, or in an editor as processId or safedlv.target. No process is touched.

  --json             one JSON object on stdout (schema safedlv.targets/1)
  --separator TEXT   lines of TARGET, command line and verdict with TEXT between them, for an editor's input
  --debug            show tracebacks of safedlv's own failures
"""
FLAGS = {"json": SWITCH, "separator": "TEXT", "debug": SWITCH}
SCHEMA: Final = "safedlv.targets/1"
ENGINE_SECONDS: Final = 1.0
"""How long the engine may take: whoever waits for a list would rather have one without names of containers."""
LISTED_AT_MOST: Final = 20
COMMAND_WIDTH: Final = 100
_ORDER: Final = {"ok": 0, "degraded": 1, "undetermined": 2, "blocked": 3}


@frozen(eq=False, repr=False)
class Choice(Value):
    """One thing that can be debugged, or could but for what its verdict says."""

    target: str
    """What to type."""
    container: str | None
    """The name of its container, where that is known."""
    process: ListedProcess

    @property
    def verdict(self) -> str:
        """For people: the verdict, and the first cause."""
        causes = self.process.causes
        return self.process.verdict + (f" ({causes[0]})" if causes else "")

    @property
    def command(self) -> str:
        return printable(self.process.command, COMMAND_WIDTH)


def pick(words: list[str]) -> int:
    """The command; its exit code."""
    given, _ = read_words(words, FLAGS, most=0)
    if "help" in given:
        sys.stdout.write(HELP)
        return 0
    separator = given.get("separator")
    if separator is not None and ("json" in given or not separator or not separator.isprintable()):
        raise UsageError("--separator is a printable text, and goes without --json")
    found = choices()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may hold what this terminal's encoding has not
    if "json" in given:
        sys.stdout.write(json.dumps({"schema": SCHEMA, "targets": [as_dict(choice) for choice in found]}, indent=2))
        sys.stdout.write("\n")
    else:
        lines = _table(found) if separator is None else tuple(_fields(choice, separator) for choice in found)
        sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def listed() -> tuple[str, ...]:
    """The choices as lines for an error text: what to type, verdict, command line; () where none can be listed."""
    try:
        found = choices()
    except SafedlvError:
        return ()
    more = len(found) - LISTED_AT_MOST
    return (*_table(found[:LISTED_AT_MOST]), *((f"and {more} more: safedlv pick lists them",) if more > 0 else ()))


def choices() -> tuple[Choice, ...]:
    """What can be debugged: what works first, then by target, the newest process first.

    Raises SafedlvError where processes cannot be listed.
    """
    names = container_names()
    found = [_choice(process, names) for process in list_go_processes().processes]
    return tuple(sorted(found, key=lambda c: (_ORDER[c.process.verdict], c.container or "~", -c.process.pid)))


def as_dict(choice: Choice) -> dict[str, Any]:
    """A choice as plain values. What is unknown is null."""
    process = choice.process
    return {
        "target": choice.target,
        "pid": process.pid,
        "container": choice.container,
        "verdict": process.verdict,
        "causes": list(process.causes),
        "go_version": None if isinstance(process.go_version, Unknown) else process.go_version,
        "command": process.command,
    }


def container_names() -> dict[bytes, str]:
    """The names of the containers that run, by id; {} where no engine answers, for whatever reason."""
    path = unix_socket()
    if path is None:
        return {}
    try:
        found = list_containers(path, ENGINE_SECONDS)
        return {os.fsencode(one["Id"]): str(one["Names"][0]).removeprefix("/") for one in found}
    except (EngineError, OSError, ValueError, LookupError, TypeError):
        return {}


def _choice(process: ListedProcess, names: dict[bytes, str]) -> Choice:
    """By the name of its container, where its PID in there shows; else by its PID."""
    container, inner = (place(process.pid, names)) if names else (None, None)
    if container is None or inner is None:
        return Choice(str(process.pid), container, process)
    return Choice(f"docker:{container}" + (f"/{inner}" if inner != 1 else ""), container, process)


def place(pid: int, names: dict[bytes, str]) -> tuple[str | None, int | None]:
    """The container that a process is in, and its PID there; None for what does not show (the host's PID namespace)."""
    try:
        procdir = ProcDir(pid)
    except OSError:  # it has ended since
        return None, None
    with procdir:
        membership, numbers = read(procdir, "cgroup"), read_status(procdir).ns_pid
    ids = [] if isinstance(membership, Unknown) else CONTAINER_ID.findall(membership)
    container = next((names[one] for one in ids if one in names), None)
    nested = not isinstance(numbers, Unknown) and len(numbers) > 1
    return container, numbers[-1] if nested and not isinstance(numbers, Unknown) else None


def _table(found: tuple[Choice, ...]) -> tuple[str, ...]:
    """Columns as wide as their widest cell."""
    target = max((len(choice.target) for choice in found), default=0)
    verdict = max((len(choice.verdict) for choice in found), default=0)
    return tuple(f"{one.target:<{target}}  {one.verdict:<{verdict}}  {one.command}" for one in found)


def _fields(choice: Choice, separator: str) -> str:
    """As editors take them: the value, the label, the description. Other processes choose the texts."""
    texts = (choice.command, f"{choice.target}, {choice.verdict}")
    return separator.join((choice.target, *(text.replace(separator, " ") for text in texts)))

"""What dlv, gdb and strace say of a refused attach, beside what safedlv says: rows from many tests, one table.

A test that has such a scene calls :func:`record`, in whatever process of the run; the end of the run prints the table
and writes it to .cache/comparison.md (tests/conftest.py). Judging is generous: whoever lets fall one word that belongs
to a true cause has named it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import asdict, field, frozen

FILE: Final = "SAFEDLV_TEST_COMPARISON"
"""The variable that names the file with the rows of this run."""
TOOLS: Final = ("dlv", "gdb", "strace")
SHOWN: Final = 110  # columns of a tool's words
SECONDS: Final = {"dlv": "1.5", "gdb": "2.5", "strace": "0.8"}  # for one that attaches, or hangs
KILLED: Final = "[hung, or was killed]"

KEYWORDS: Final[dict[str, str]] = {
    "no-such-process": r"no such process|no process|does not exist",
    "zombie": r"zombie|already terminated|defunct|has exited",
    "kernel-thread": r"kernel (thread|process)|kthread",
    "self-attach": r"itself|myself|\bself\b|Dave",  # strace's joke
    "already-traced": r"already (being )?(traced|debugged)|traced by|TracerPid",
    "credentials": r"\bu?id\b|\bgid\b|\buser\b|owner|\bown\b|\broot\b|permission of",
    "not-dumpable": r"dumpable",
    "capability-excess": r"capabilit|\bCAP_",
    "user-namespace": r"user.?namespace|userns",
    "seccomp": r"seccomp|\bfilter|sandbox",
    "yama": r"yama|ptrace_scope|kernel security setting",
    "apparmor": r"apparmor|\blsm\b|security module|mandatory access",
    "selinux": r"selinux|\blsm\b|security module|mandatory access",
    "smack": r"smack|\blsm\b|security module|mandatory access",
    "landlock": r"landlock|\blsm\b|security module",
    "frozen": r"frozen|freez|paused",
    "uninterruptible": r"uninterruptible|vfork|disk sleep|state D\b",
    "pid-namespace": r"pid.?namespace",
    "hidepid": r"hidepid",
    "ptrace-unsupported": r"unsupported|not supported|not implemented|emulat",
    "proc-access": r"auxv|/proc/(\d+|PID)/(mem|maps|exe)",
    "signal-access": r"signal|tgkill|CAP_KILL",
    "thread-limit": r"new OS thread|pids\.max|too many (threads|processes)|resource temporarily unavailable|ulimit",
    "memory-limit": r"(out of|not enough|allocate) memory|memory limit|\boom\b",
    "delve-missing": r"no such file|not found",
    "not-go": r"not a go\b|no go\b",
    "wrong-process": r"wrapper|child process",
    "no-debug-info": r"debug info|debugging symbols|debug_info|stripped",
    "optimized": r"optimi[sz]",
    "delve-version": r"version of (go|delve)|too (old|new)",
}
"""What a sentence must contain, upper or lower case, to have named a cause."""
# What is said on the way to a success (threads, frames, source lines), and of the tool's own files.
NOISE: Final = re.compile(
    r"API server listening|debuginfod|index cache|warning: (could|unable|the current)|config(uration)? (dir|file)"
    r"|^\s*$|^timeout: |Type .dlv help|\$HOME is not defined"
    r"|auto-load|To enable execution|To completely disable|line to your config|For more information about this security"
    r"|^\[(New LWP|Thread debugging|Inferior)|^Using host libthread_db|^[\w./]+ \(.*\)|^ *(at|in) |^\d+\s",
    re.IGNORECASE,
)


def _sorted(causes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(causes))


@frozen
class Row:
    """One scene. What a tool said is None where it was not asked."""

    where: str
    scene: str
    truth: tuple[str, ...] = field(converter=_sorted)
    dlv: str | None
    gdb: str | None
    strace: str | None
    safedlv: tuple[str, ...] = field(converter=_sorted)


# ---------------------------------------------------------------- judging, purely


def named(text: str) -> frozenset[str]:
    """The causes that a text lets fall a word of."""
    said = "\n".join(_meant(text))
    return frozenset(cause for cause, words in KEYWORDS.items() if re.search(words, said, re.IGNORECASE))


def _meant(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if not NOISE.search(line)]


def mark(named_causes: Iterable[str], truth: Iterable[str]) -> str:
    """``all`` of the true causes, ``some``, only ``wrong`` ones, or ``none``."""
    said, true = frozenset(named_causes), frozenset(truth)
    if true and true <= said:
        return "all"
    return "some" if true & said else "wrong" if said else "none"


def marks(row: Row) -> dict[str, str]:
    """The mark of everybody who was asked. safedlv is held to more: a cause too many makes it ``wrong``."""
    said = {tool: getattr(row, tool) for tool in TOOLS}
    found = {tool: mark(named(text), row.truth) for tool, text in said.items() if text is not None}
    extra = frozenset(row.safedlv) - frozenset(row.truth)
    return {**found, "safedlv": "wrong" if extra else mark(row.safedlv, row.truth)}


def shortened(text: str, limit: int = SHOWN) -> str:
    """The lines that say something, as one line."""
    whole = "".join(c if c.isprintable() else "?" for c in "; ".join(_meant(text))) or "(nothing)"
    return whole if len(whole) <= limit else whole[: limit - 3] + "..."


def totals(rows: Sequence[Row]) -> list[str]:
    """A line for everybody: in how many scenes the right cause was named, and in how many every one."""
    lines = []
    for tool in (*TOOLS, "safedlv"):
        found = [given[tool] for given in map(marks, rows) if tool in given]
        right = sum(word in ("all", "some") for word in found)
        every = found.count("all")
        wrong = found.count("wrong")
        lines.append(
            f"{tool} named the right cause in {right} of {len(found)} scenes, every cause in {every}; "
            f"only wrong ones in {wrong}"
        )
    return lines


def plain(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    lines = []
    for row in rows:
        given = marks(row)
        lines.append(f"{row.where}: {row.scene} [{', '.join(row.truth)}]")
        for tool in TOOLS:
            if tool in given:
                lines.append(f"    {tool:8}{given[tool]:6}{shortened(getattr(row, tool))}")
        lines.append(f"    {'safedlv':8}{given['safedlv']:6}{', '.join(row.safedlv) or '(no cause)'}")
    return "\n".join([*lines, *totals(rows)])


def markdown(rows: Sequence[Row]) -> str:
    """The table for a page."""
    head = ["where", "scene", "true causes", *TOOLS, "safedlv"]
    lines = ["# What is said of a refused attach", "", *(f"- {line}" for line in totals(rows)), "", _cells(head)]
    lines.append(_cells("---" for _ in head))
    for row in rows:
        given = marks(row)
        words = [
            f"**{given[tool]}**: {shortened(getattr(row, tool))}" if tool in given else "not asked" for tool in TOOLS
        ]
        ours = f"**{given['safedlv']}**: {', '.join(row.safedlv) or '(no cause)'}"
        lines.append(_cells([row.where, row.scene, ", ".join(row.truth), *words, ours]))
    return "\n".join(lines) + "\n"


def _cells(words: Iterable[str]) -> str:
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"


# ---------------------------------------------------------------- collecting


def record(
    where: str,
    scene: str,
    truth: Iterable[str],
    dlv: str | None,
    gdb: str | None,
    strace: str | None,
    safedlv: Iterable[str],
) -> None:
    """Add one row: the scene's true causes, what each tool said (all of it), and the causes that safedlv named."""
    row = Row(where, scene, tuple(truth), dlv, gdb, strace, tuple(safedlv))
    with Path(os.environ[FILE]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def recorded(path: Path) -> list[Row]:
    """The rows of a file, as they came."""
    return [Row(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def chosen(scenes: dict[str, Any], causes_of: Callable[[Any], frozenset[str]]) -> frozenset[str]:
    """The scenes to be compared: the refused ones, in a short run only the first of each kind."""
    kinds: dict[frozenset[str], str] = {}
    for name, scene in scenes.items():
        if causes_of(scene):
            kinds.setdefault(causes_of(scene), name)
    if os.environ.get("SAFEDLV_LONG"):
        return frozenset(name for name, scene in scenes.items() if causes_of(scene))
    return frozenset(kinds.values())


# ---------------------------------------------------------------- asking the others


def command(tool: str, dlv: str, pid: int, under: Sequence[str] = ()) -> list[str]:
    """What asks a tool to attach, and makes one that succeeds let go again: SIGTERM, on which all three detach.

    ``under``: an emulator that runs the tool.
    """
    path = "/usr/bin/" if under else ""  # an emulator looks nothing up
    words = {
        "dlv": [dlv, "attach", str(pid), "--headless", "--api-version=2", "--listen=127.0.0.1:0"],
        "gdb": [f"{path}gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-p", str(pid)],
        "strace": [f"{path}strace", "-o", "/dev/null", "-p", str(pid)],
    }[tool]
    return ["timeout", "--kill-after=1", SECONDS[tool], *under, *words]


def told(output: str, code: int) -> str:
    """What a tool said, and what came of it where it said nothing of that itself."""
    ended = {0: "[ended well]", 1: "", 124: "[attached, or waited, until it was told to end]", 137: KILLED, -9: KILLED}
    return f"{output}\n{ended.get(code, f'[ended with {code}]')}"

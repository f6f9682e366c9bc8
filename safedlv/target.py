"""Whom the user meant: ``1234``, ``name:PATTERN``, ``docker:NAME[/PID]`` -> a process, held by its open /proc/PID."""

from __future__ import annotations

import os

from safedlv.command_line import is_pid
from safedlv.errors import SafedlvError, UsageError, printable
from safedlv.probe.runner import Before


class NoSuchProcessError(SafedlvError):
    """There is no process with this PID (or it is hidden: ``hidden``)."""

    def __init__(self, pid: int, *, hidden: bool = False) -> None:
        super().__init__(f"there is no process {pid}" if not hidden else f"process {pid} exists but /proc hides it")
        self.pid = pid
        self.hidden = hidden


class Found:
    """A process: its PID, its open /proc/PID (which pins its identity), and how it was before anyone touched it."""

    def __init__(self, pid: int, procdir: int, before: Before, container: str | None = None) -> None:
        self.pid = pid
        self.procdir = procdir
        self.before = before
        self.container = container

    def close(self) -> None:
        os.close(self.procdir)


def resolve(text: str) -> Found:
    """The process that ``text`` names. Raises UsageError, NoSuchProcessError, SafedlvError."""
    kind, colon, rest = text.partition(":")
    if colon and kind == "name":
        return find(_by_name(rest))
    if colon and kind == "docker":
        from safedlv.runtimes.docker import container_process

        return find(container_process(rest), container=rest.partition("/")[0])
    if not is_pid(text):
        raise UsageError(
            f'"{printable(text)}" is no target', "write a PID, name:PATTERN, docker:NAME or docker:NAME/PID"
        )
    return find(int(text))


def find(pid: int, container: str | None = None) -> Found:
    """Open process ``pid``. Raises NoSuchProcessError; SafedlvError when the number is a thread's."""
    if pid <= 0:
        raise UsageError(f"{pid} is no process: PIDs begin at 1", "ps -e lists the processes")
    try:
        procdir = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NoSuchProcessError(pid, hidden=_answers(pid)) from error
    try:
        before = Before.of(procdir)
    except OSError as error:
        os.close(procdir)
        raise NoSuchProcessError(pid, hidden=_answers(pid)) from error
    if before.tgid != pid:
        os.close(procdir)
        raise UsageError(f"{pid} is a thread of process {before.tgid}, not a process", f"use {before.tgid}")
    return Found(pid, procdir, before, container)


def _answers(pid: int) -> bool:
    """Whether kill(2) knows the process although /proc does not show it (hidepid, proc(5))."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _by_name(pattern: str) -> int:
    """The one process whose command line matches the regular expression ``pattern``."""
    import re

    from safedlv.facts.process import process_tree

    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"name:{printable(pattern)} is no pattern: {error}") from error
    tree = process_tree()
    ourselves = _ourselves(tree)
    matches = [pid for pid in tree if pid not in ourselves and wanted.search(command_line_of(pid))]
    if not matches:
        raise SafedlvError(f"no process has a command line that matches {printable(pattern)!r}", code=2)
    if len(matches) > 1:
        listed = "\n".join(f"  {pid:>7}  {printable(command_line_of(pid), 100)}" for pid in matches[:20])
        raise UsageError(f"{len(matches)} processes match {printable(pattern)!r}:\n{listed}", "name one by its PID")
    return matches[0]


def command_line_of(pid: int) -> str:
    """The command line of a process, its words joined by spaces; empty for kernel threads and processes that ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read(65536).rstrip(b"\0").replace(b"\0", b" "))
    except OSError:
        return ""


def _ourselves(tree: dict[int, int]) -> set[int]:
    """This process and its ancestors: their command lines hold the pattern too."""
    line: set[int] = set()
    pid = os.getpid()
    while pid in tree and pid not in line:
        line.add(pid)
        pid = tree[pid]
    return line

"""Wrappers: ``go run``, sh, tini and the like, whose Go child is what the user means to debug."""

from __future__ import annotations

import os
import sys

from safedlv import target
from safedlv.errors import printable
from safedlv.facts.buildinfo import read_buildinfo
from safedlv.facts.elf import MalformedElf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.facts.buildinfo import BuildInfo
    from safedlv.target import Found

GO_COMMAND = "cmd/go"  # the main package of the go command itself: `go run` waits for a child that it built


def main_package(procdir: int) -> str | None:
    """The main package of the Go program that a process runs, "" when it is none, None when that cannot be read."""
    try:
        info = build_info(procdir)
    except OSError:
        return None
    return "" if info is None else info.main_path or "main"


def build_info(procdir: int) -> BuildInfo | None:
    """What Go's linker wrote into the program that a process runs; None when it is no Go program.

    Raises OSError when the program cannot be opened.
    """
    fd = os.open("exe", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=procdir)
    try:
        return read_buildinfo(fd)
    except (OSError, MalformedElf):
        return None
    finally:
        os.close(fd)


def is_wrapper(procdir: int) -> bool:
    """Whether a process is surely not the program to debug: no Go program, or the go command itself."""
    return main_package(procdir) in ("", GO_COMMAND)


def go_children(pid: int) -> list[int]:
    """The Go programs below ``pid``, nearest first."""
    from safedlv.facts.process import descendants, process_tree

    return [child for child in descendants(process_tree(), pid) if _is_go_program(child)]


def _is_go_program(pid: int) -> bool:
    try:
        procdir = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return main_package(procdir) not in (None, "", GO_COMMAND)
    finally:
        os.close(procdir)


def offer_go_child(found: Found, *, ask: bool, take_single: bool = False) -> Found:
    """The Go child of a wrapper, if the user at the terminal wants it; else the wrapper, with a line that says so.

    ``take_single``: where nobody can be asked, the child is taken if there is just one.
    """
    children = go_children(found.pid)
    if not children:
        return found
    named = ", ".join(f"{pid} ({printable(target.command_line_of(pid), 60)})" for pid in children[:5])
    sys.stderr.write(f"safedlv: process {found.pid} is a wrapper, no Go program of yours; behind it runs {named}\n")
    if not ask and take_single and len(children) == 1:
        sys.stderr.write(f"  process {children[0]} is what will be debugged\n")
        return _instead(found, children[0])
    if not ask:
        sys.stderr.write(f"  to debug that: safedlv attach {children[0]}\n")
        return found
    sys.stderr.write(f"Attach to {children[0]} instead? [Y/n] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("", "y", "yes"):
        return found
    return _instead(found, children[0])


def _instead(found: Found, child: int) -> Found:
    found.close()
    return target.find(child, found.container)

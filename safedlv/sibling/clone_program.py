"""The Go program of a container: whether its command is one, and the process of it as soon as that runs."""

from __future__ import annotations

import os
import signal
from typing import Any, Final

from safedlv import target
from safedlv.errors import SafedlvError, printable
from safedlv.runtimes.docker import inspect
from safedlv.session.launch import LEAVING
from safedlv.target import Found
from safedlv.wrappers import GO_COMMAND, go_children, main_package

LOOK_SECONDS: Final = 0.005
"""Between two looks for a program that does not run yet."""
RUNTIMES_OWN: Final = "runc:["
"""How runc's own process is called until it becomes the container's program; it is a Go program, too
(runc libcontainer/nsenter/nsexec.c: prctl(PR_SET_NAME, "runc:[2:INIT]"))."""


class EndedError(Exception):
    """The user has asked for the end."""


def require_own_program(container: dict[str, Any], found: Found) -> None:
    """That the container's command is a Go program and no wrapper of one, as far as that can be seen.

    ``found`` is its first process. Raises SafedlvError with what would help.
    """
    command = [str(container["Path"]), *map(str, container.get("Args") or ())]
    name, instead = printable(container["Name"].lstrip("/")), "--waitfor attaches as soon as the Go program runs"
    pid = _below_init(container, found.pid)
    words = target.command_line_of(pid)
    package = _main_package(pid)
    if package is None and words in ("", " ".join(command)):  # another user's: dlv itself will see
        return
    if package in ("", GO_COMMAND):
        behind = [printable(target.command_line_of(child), 60) for child in go_children(pid)[:3]]
        runs = f"; behind it runs {', '.join(behind)}" if behind else ""
        raise SafedlvError(
            f"the command of container {name}, {printable(command[0])}, is no Go program, which dlv could start{runs}",
            instead if behind else f"safedlv doctor docker:{name} says more",
        )
    if words != " ".join(command):
        raise SafedlvError(
            f"the command of container {name} was {printable(' '.join(command), 60)} and has become "
            f"{printable(words, 60)}: what dlv would start is not the Go program",
            instead,
        )


def _below_init(container: dict[str, Any], pid: int) -> int:
    """The container's own first process; the engine's init stands before it where there is one (docker run --init)."""
    from safedlv.facts.process import descendants, process_tree

    if not container["HostConfig"].get("Init"):
        return pid
    return next(iter(descendants(process_tree(), pid)), pid)


def wait_for_container(name: str) -> int:
    """The PID of a container's first process, once it is the container's own. Raises SafedlvError, EndedError."""
    while True:
        state = inspect(name)["State"]
        pid = int(state.get("Pid") or 0)
        if pid == 0:
            raise SafedlvError(f"container {printable(name)} has ended, with exit code {state.get('ExitCode')}")
        if not _is_the_runtimes(pid):
            return pid
        _pause()


def wait_for_program(name: str) -> Found:
    """The Go program in a container as soon as it runs there, however long that takes.

    Raises SafedlvError when the container ends before; EndedError when one of the signals came that end a session,
    which are to be held back.
    """
    while True:
        first = wait_for_container(name)
        package = _main_package(first)
        if package not in (None, "", GO_COMMAND) or (package is None and os.geteuid() != 0):
            children = [first]  # of one whose file we may not read nothing more can be known
        else:
            children = go_children(first)
        for pid in children:
            if not _is_the_runtimes(pid):
                try:
                    return target.find(pid, container=name)
                except target.NoSuchProcessError:
                    pass
        _pause()


def _pause() -> None:
    if signal.sigtimedwait(LEAVING, LOOK_SECONDS) is not None:
        raise EndedError


def _is_the_runtimes(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as file:
            return file.read().startswith(RUNTIMES_OWN)
    except OSError:
        return False


def _main_package(pid: int) -> str | None:
    """Of the program that a process runs; None when that cannot be read."""
    try:
        procdir = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return main_package(procdir)
    finally:
        os.close(procdir)

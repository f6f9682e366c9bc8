"""A real session of dlv in the control group, with a Go program that is at hand wherever dlv is: dlv itself."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from typing import Final

from safedlv.controlled.group import Cast, Group
from safedlv.controlled.ingredients import Setup
from safedlv.controlled.parts import Told, debugger
from safedlv.errors import printable
from safedlv.facts.cgroup import read_cgroup
from safedlv.facts.procfs import ProcDir
from safedlv.facts.status import read_status
from safedlv.runtimes.sandbox import Running, WorkloadFailed

SECONDS: Final = 60.0
"""For dlv to read the debug information, which takes it about one second, on a slow and loaded machine."""
COMMANDS: Final = b"threads\nquit\nn\n"
"""What is typed into dlv's terminal: list the threads, leave, and do not kill the program."""
LISTED: Final = b"* Thread "
_CHATTER: Final = ("Type 'help'", "(dlv)")


def session(group: Group, setup: Setup, dlv: str) -> str:
    """Attach ``dlv``, list the threads, let go; empty when it all went well, else what did not, in a sentence.

    Raises OSError, TimeoutError.
    """
    with ExitStack() as undo:
        program = _opened(dlv, undo)
        try:
            cast = group.cast(setup, undo, program)
            return _played(group, setup, cast, program, undo) or _as_before(cast.target.pid)
        except WorkloadFailed as error:
            return not_tried(error)


def session_with(group: Group, setup: Setup, dlv: str, binary: int) -> str:
    """The same with somebody's own program, open as ``binary``, which is held before its first instruction."""
    with ExitStack() as undo:
        try:
            return _played(group, setup, group.held(setup, undo, binary), _opened(dlv, undo), undo)
        except WorkloadFailed as error:
            return not_tried(error)


def not_tried(error: WorkloadFailed) -> str:
    """In a sentence: a process of the group did not come to be what it should."""
    return f"not tried: {printable(str(error).strip().splitlines()[-1])}"


def _opened(path: str, undo: ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    undo.callback(os.close, fd)
    return fd


def _played(group: Group, setup: Setup, cast: Cast, program: int, undo: ExitStack) -> str:
    with tempfile.TemporaryFile() as output:
        code = _start(group, setup, cast, program, output.fileno(), undo).wait(SECONDS)
        output.seek(0)
        return told(output.read(), code)


def _start(group: Group, setup: Setup, cast: Cast, program: int, output: int, undo: ExitStack) -> Running:
    stdin, typed = os.pipe()
    undo.callback(os.close, stdin)
    os.write(typed, COMMANDS)
    os.close(typed)
    go, say_go = os.pipe()
    undo.callback(os.close, go)
    undo.callback(os.close, say_go)
    ready = Told(undo)
    words = ["dlv", "attach", "--allow-non-terminal-interactive=true", str(cast.inner_pid)]
    work = debugger(cast.debugger, program, words, stdin, ready, go)
    running = undo.enter_context(group.box.run(work, stdout=output, stderr=output))
    ready.answer(running)
    undo.callback(group.lift_limits)
    _limit(group, setup, cast.target.pid)
    os.write(say_go, b"g")
    return running


def _limit(group: Group, setup: Setup, member: int) -> None:
    """Leave as much room as the setup says, beside what the group itself takes up; dlv's process is there already."""
    if group.box.tree is None or (setup.pids_left, setup.memory_left) == (None, None):
        return
    with ProcDir(member) as procdir:
        used = read_cgroup(procdir)
    if setup.pids_left is not None and isinstance(used.pids_current, int):
        group.box.tree.limit("pids", used.pids_current - 1 + setup.pids_left)
    if setup.memory_left is not None and isinstance(used.memory_current, int):
        group.box.tree.limit("memory", used.memory_current + setup.memory_left)


def told(output: bytes, code: int) -> str:
    """What dlv's words and its exit code come to; empty for a session that went well. Pure."""
    if code == 0 and LISTED in output:
        return ""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    said = next((line for line in lines if line and not line.startswith(_CHATTER)), "")
    ended = f"dlv was killed by signal {-code}" if code < 0 else f"dlv ended with {code}"
    return f"{ended}: {printable(said, 160)}" if said else ended


def _as_before(pid: int) -> str:
    """Whether the program that was let go lives, runs and is traced by nobody."""
    with ProcDir(pid) as procdir:
        status = read_status(procdir)
    well = status.tracer_pid == 0 and isinstance(status.state, str) and status.state not in "TtZX"
    return "" if well else f"the program was left in state {status.state}, traced by {status.tracer_pid}"

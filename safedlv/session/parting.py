"""How a session leaves its target: looked at before and afterwards, and told in a line what is not as it was found.

Afterwards it must be untraced, stopped only if it was before, with no stop or trap waiting for it, and with the code
that it had: byte by byte what is in its file, but for what was otherwise before (another debugger's breakpoints,
uprobes). What the kernel is still doing then is waited for.
"""

from __future__ import annotations

import os
import signal
import time

from safedlv.errors import printable
from safedlv.facts.procfs import ProcDir, parse_stat, read_path
from safedlv.session.text import Unlike, differing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

SETTLES_WITHIN: Final = 0.5
SAMPLE: Final = 0.002
"""Seconds for it to be as before, and between two looks."""
UNWANTED: Final = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTRAP)
"""Signals that stop a program, and the one that debuggers send: a program dies of it."""
_EXIT_CODE: Final = 52 - 3
"""Where in the fields of proc_pid_stat(5), which begin with the third, it stands."""


class Parting:
    """A target as it was before anybody attached to it."""

    def __init__(self, pid: int, *, stopped: bool) -> None:
        """``stopped``: by job control. Raises OSError when the process has ended."""
        self.pid, self.stopped = pid, stopped
        self.procdir = ProcDir(pid)
        self.code = _code(self.procdir)
        if self._traced():  # too late: what the debugger has written is in it
            self.code = None

    def told(self) -> tuple[bool, str]:
        """Whether it is as it was found, and the line that says so, or what is not. Once: lets go of the process."""
        try:
            return self._told()
        finally:
            self.procdir.close()

    def _told(self) -> tuple[bool, str]:
        deadline = time.monotonic() + SETTLES_WITHIN
        while True:
            state = self._field(b"State")[:1]
            if state in (b"", b"Z", b"X"):
                return False, f"process {self.pid} has ended{self._how()}"
            wrong = list(self._wrong())
            if not wrong or time.monotonic() > deadline:
                break
            time.sleep(SAMPLE)
        code = self._compare()
        if wrong or code.startswith("its code has"):
            return False, f"process {self.pid} is not as it was found: {'; '.join([*wrong, code])}"
        stands = "stopped as before" if self.stopped else "running"
        return True, f"left process {self.pid} as it was found: untraced, {stands}, {code}"

    def _wrong(self) -> Iterator[str]:
        """What is wrong with its threads, a sentence each; of many threads one will do."""
        seen = set()
        for tid in self._threads():
            for kind, sentence in self._wrong_with(tid):
                if kind not in seen:
                    seen.add(kind)
                    yield sentence

    def _wrong_with(self, tid: str) -> Iterator[tuple[str, str]]:
        fields = self._fields(f"task/{tid}/status")
        tracer, state = int(fields.get(b"TracerPid", b"0")), fields.get(b"State", b"")[:1]
        if tracer:
            yield "traced", f"thread {tid} is traced by {_name(tracer)}"
        elif state and (state == b"T") != self.stopped:
            yield "state", "it is not stopped any more" if self.stopped else "it is stopped"
        pending = _mask(fields, b"SigPnd") | _mask(fields, b"ShdPnd")
        for number in UNWANTED:
            if pending & ~_mask(fields, b"SigBlk") & 1 << (number - 1):
                yield number.name, f"a {number.name} waits for it"

    def _compare(self) -> str:
        now = _code(self.procdir)
        if now is None or self.code is None or now.unseen - self.code.unseen:
            return "its code not compared with its file"
        changed = {at for at, _ in now.bytes.items() ^ self.code.bytes.items()}
        if changed:
            return f"its code has {len(changed)} bytes that are not as they were, at {min(changed):#x}"
        return "its code as in its file" if not now.bytes else "its code as before"

    def _how(self) -> str:
        """How it ended, where its parent has not asked yet (proc_pid_stat(5))."""
        try:
            _, fields = parse_stat(self.procdir.read("stat"))
            code = int(fields[_EXIT_CODE])
            return f", by {signal.Signals(code & 0x7F).name}" if code & 0x7F else ""
        except (OSError, ValueError, IndexError):
            return ""

    # ------------------------------------------------------------ what the kernel shows

    def _traced(self) -> bool:
        return self._field(b"TracerPid") not in (b"", b"0")

    def _field(self, key: bytes) -> bytes:
        return self._fields("status").get(key, b"")

    def _fields(self, name: str) -> dict[bytes, bytes]:
        try:
            lines = self.procdir.read(name).splitlines()
        except OSError:
            return {}
        return {key: value.strip() for key, _, value in (line.partition(b":") for line in lines)}

    def _threads(self) -> list[str]:
        try:
            return self.procdir.listdir("task")
        except OSError:
            return []


def look(pid: int, *, stopped: bool) -> Parting | None:
    """Look at a target before anybody attaches; None when it is not there."""
    try:
        return Parting(pid, stopped=stopped)
    except OSError:
        return None


def _code(procdir: ProcDir) -> Unlike | None:
    """Where its code is not its file's; None where that cannot be told, or only by reading very much."""
    try:
        return differing(procdir.fileno())
    except (OSError, OverflowError):
        return None


def _mask(fields: dict[bytes, bytes], key: bytes) -> int:
    return int(fields.get(key, b"0"), 16)


def _name(tid: int) -> str:
    try:
        name = os.fsdecode(read_path(f"/proc/{tid}/comm").strip())
    except OSError:
        return f"thread {tid}"
    return f"{printable(name, 40)} (thread {tid})"

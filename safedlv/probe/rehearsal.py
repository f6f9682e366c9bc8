"""A run of the probe's sequence before the one that counts, with calls that do nothing."""

from __future__ import annotations

import os

from safedlv.linux import tracing
from safedlv.linux.tracing import SI_KERNEL, SI_TKILL, SIGSTOP
from safedlv.probe.sequence import Progress, Sequence


class Rehearsal:
    """Stand-in calls that succeed and touch nothing: a run of the sequence before the one that counts.

    After a fork the first use of every object copies its page. Without a rehearsal the target waits for those
    copies, which is five times as long as the calls themselves take.
    """

    def __init__(self) -> None:
        self.code = SI_KERNEL

    def ptrace(self, request: int, tid: int, addr: int = 0, data: int = 0) -> None:
        """Nothing."""

    def peek(self, tid: int, addr: int) -> int:
        return 0

    def signal_info(self, tid: int) -> tuple[int, int] | None:
        return self.code, 0

    def get_registers(self, tid: int) -> int:
        return 0

    def tgkill(self, tgid: int, tid: int, signal: int) -> None:
        self.code = SI_TKILL

    def wait_stopped(self, tid: int) -> int | None:
        tracing.warm()
        return SIGSTOP

    def process_vm_readv(self, pid: int, addr: int, size: int) -> bytes:
        return b""


def rehearse(proc: int | None = None) -> None:
    """Run the sequence with calls that do nothing (see :class:`Rehearsal`). ``proc``: a /proc of its own, open."""
    procdir = os.open("/proc/self" if proc is None else "self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    rehearsal = Sequence(
        os.getpid(), procdir, stopped=False, deadline=0, progress=Progress(bytearray(8)), calls=Rehearsal()
    )
    rehearsal.run()
    rehearsal.one_thread(os.getpid())
    os.close(procdir)

"""What an unprivileged tracer can still find out: the same calls where only a filter can refuse them.

proofs: kernel/ptrace.c looks the PID up before anything else (ESRCH), and __ptrace_may_access lets a process trace a
child with its own credentials; Yama counts a child as a descendant.
"""

from __future__ import annotations

import errno
import os

from safedlv import target
from safedlv.linux.tracing import PTRACE_ATTACH, ptrace
from safedlv.probe import runner

IMPOSSIBLE_PID = (1 << 22) + 1  # PID_MAX_LIMIT of linux/threads.h is 1 << 22


def attach_nobody() -> str:
    """What PTRACE_ATTACH of a PID that cannot exist gives: the errno's name, or SIGSYS when a filter kills for it."""
    child = os.fork()
    if child == 0:
        code = 0
        try:
            ptrace(PTRACE_ATTACH, IMPOSSIBLE_PID)
        except OSError as error:
            code = error.errno or 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "SIGSYS" if os.WTERMSIG(status) == runner.SIGSYS else "KILLED"
    return errno.errorcode.get(os.WEXITSTATUS(status), "0")


def attempt_on_own_child(timeout: float = runner.STOP_WITHIN) -> runner.RawAttempt:
    """The probe on a child that does nothing and is gone afterwards."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    try:
        found = target.find(child)
        try:
            return runner.start(child, found.procdir, found.before, timeout).result()
        finally:
            found.close()
    finally:
        os.close(write_end)
        os.waitpid(child, 0)

"""What the kernel's log says about one process that was refused something: a security module's or a filter's record.

Audit records come to the log when no audit daemon takes them (kernel/audit.c, kauditd_hold_skb). Reading the log
needs CAP_SYSLOG, or kernel.dmesg_restrict=0 and a /dev/kmsg, which containers mostly have not. PIDs in it are those
of the first PID namespace, so a reader elsewhere finds nothing under its own numbers, or another's: only records that
name the calls of a debugger are taken.
"""

from __future__ import annotations

import os
import re
from typing import Final

from safedlv.facts.reading import unknown
from safedlv.model import Unknown

LOG: Final = "/dev/kmsg"
_RECORD: Final = 8192  # the longest record (kernel/printk/printk.c, PRINTK_MESSAGE_MAX is 2048)
_MOST: Final = 100_000
_APPARMOR: Final = re.compile(r'apparmor="DENIED" operation="(ptrace|signal)"')
_SECCOMP: Final = re.compile(r"type=1326 .*\bsyscall=(\d+)")


def refusals_of(pids: set[int]) -> tuple[str, ...] | Unknown:
    """The records of the log that name one of these processes as the one refused, oldest first, as text.

    Never waits: the log is read to its end. Unknown when it may not be read.
    """
    try:
        fd = os.open(LOG, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return unknown(error, LOG)
    try:
        return tuple(text for text in _records(fd) if is_refusal(text, pids))
    finally:
        os.close(fd)


def _records(fd: int) -> list[str]:
    found = []
    for _ in range(_MOST):
        try:
            found.append(message(os.read(fd, _RECORD)))
        except BlockingIOError:  # the end
            break
        except BrokenPipeError:  # overwritten meanwhile; the next read goes on (Documentation/ABI/testing/dev-kmsg)
            continue
        except OSError:
            break
    return found


def message(record: bytes) -> str:
    """The text of a record: after the prefix up to the semicolon, and without the lines of its dictionary."""
    return record.partition(b";")[2].partition(b"\n")[0].decode("utf-8", "backslashreplace")


def is_refusal(text: str, pids: set[int]) -> bool:
    """Whether a record tells of ptrace or a signal that AppArmor refused one of them, or a call that seccomp did."""
    pid = re.search(r"\bpid=(\d+)", text)
    known = pid is not None and int(pid[1]) in pids
    return known and bool(_APPARMOR.search(text) or _SECCOMP.search(text))

"""What a filter answers, in the kernel's terms and in words. Pure.

Sources: include/uapi/linux/seccomp.h (SECCOMP_RET_*), kernel/seccomp.c (``__seccomp_filter``, ``seccomp_run_filters``).
"""

from __future__ import annotations

import errno
from typing import Final, Literal

ACTION: Final = 0xFFFF0000
DATA: Final = 0xFFFF
KILL_PROCESS: Final = 0x80000000
KILL_THREAD: Final = 0x00000000
TRAP: Final = 0x00030000
ERRNO: Final = 0x00050000
USER_NOTIF: Final = 0x7FC00000
TRACE: Final = 0x7FF00000
LOG: Final = 0x7FFC0000
ALLOW: Final = 0x7FFF0000
MAX_ERRNO: Final = 4095

Outcome = Literal["allowed", "logged", "refused", "killed", "trapped", "traced", "asked"]
"""In one word. A call that is logged is made; one that is traced or asked about is somebody else's decision."""

_OUTCOMES: Final[dict[int, Outcome]] = {
    ALLOW: "allowed",
    LOG: "logged",
    ERRNO: "refused",
    TRAP: "trapped",
    TRACE: "traced",
    USER_NOTIF: "asked",
}
_WORDS: Final = {
    ALLOW: "allowed",
    LOG: "allowed and logged",
    TRAP: "SIGSYS to the thread",
    TRACE: "left to a tracer (ENOSYS without one)",
    USER_NOTIF: "left to a supervisor (ENOSYS without one)",
    KILL_THREAD: "the thread is killed",
}
_PROFILE_WORDS: Final = {
    ALLOW: "SCMP_ACT_ALLOW",
    LOG: "SCMP_ACT_LOG",
    TRAP: "SCMP_ACT_TRAP",
    TRACE: "SCMP_ACT_TRACE",
    USER_NOTIF: "SCMP_ACT_NOTIFY",
    ERRNO: "SCMP_ACT_ERRNO",
    KILL_THREAD: "SCMP_ACT_KILL_THREAD",
    KILL_PROCESS: "SCMP_ACT_KILL_PROCESS",
}


def outcome(value: int) -> Outcome:
    """What becomes of the call. An action that the kernel does not know kills."""
    return _OUTCOMES.get(value & ACTION, "killed")


def passes(value: int) -> bool:
    """Whether the call is made."""
    return value & ACTION in (ALLOW, LOG)


def errno_of(value: int) -> int | None:
    """The errno of a call that is refused with one."""
    return min(value & DATA, MAX_ERRNO) if value & ACTION == ERRNO else None


def answer_word(value: int) -> str:
    """An answer as a filter's author would write it, for example ``ERRNO(EPERM)``."""
    action, number = value & ACTION, errno_of(value)
    if number is not None:
        return f"ERRNO({errno_name(number)})"
    known = _PROFILE_WORDS.get(action)
    data = f"({value & DATA})" if value & DATA else ""
    return known.removeprefix("SCMP_ACT_") + data if known else f"KILL_PROCESS (by {value:#x}, no action)"


def in_words(value: int) -> str:
    """An answer for people."""
    number = errno_of(value)
    if number is not None:
        return f"refused with {errno_name(number)}" if number else "answered with 0, and not made"
    return _WORDS.get(value & ACTION, "the process is killed")


def errno_name(number: int) -> str:
    return errno.errorcode.get(number, f"errno {number}")


def profile_action(value: int) -> tuple[str, int | None]:
    """action and errnoRet of an OCI profile."""
    action = _PROFILE_WORDS.get(value & ACTION, "SCMP_ACT_KILL_PROCESS")
    data = value & DATA
    return action, data if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE") else None


def rank(value: int) -> int:
    """Where an action stands: of several filters' answers the lowest counts (ACTION_ONLY, a signed number)."""
    action = value & ACTION
    return action - (1 << 32) if action & KILL_PROCESS else action

"""Which calls a filter is asked about: those that somebody writes, and those that dlv makes. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from safedlv.seccomp.profile import CALLS_TO_START, DLV_CALLS, OTHER_NAMES, PTRACE_REQUESTS, TO_START

_WRITTEN: Final = re.compile(r"(\w+)(?:\((.*)\))?", re.ASCII)
_UNKNOWN: Final = ("", "?", "_")
_NUMBERS: Final = {f"PTRACE_{name}": number for name, number in (PTRACE_REQUESTS | TO_START | OTHER_NAMES).items()}
_GO_THREAD: Final = 0x50F00
"""CLONE_VM | FS | FILES | SIGHAND | SYSVSEM | THREAD: how Go's runtime starts a thread (runtime/os_linux.go)."""
_SOCKETS: Final = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
_ADDR_NO_RANDOMIZE: Final = 0x0040000
MOST_ARGUMENTS: Final = 6


class Question(NamedTuple):
    """A call of which the arguments may be unknown."""

    call: str
    """A name, or a number."""
    arguments: tuple[int | None, ...]
    words: str
    """For people."""
    needed: bool
    """Whether dlv's attach needs it; False: only a dlv that starts its target."""


def asked(text: str) -> Question:
    """What ``SYSCALL``, ``SYSCALL(ARG, ?)`` or ``ptrace(PTRACE_ATTACH)`` says; what is not given is as unknown as ?.

    Raises ValueError for anything else.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise ValueError("a call is a name or a number, and its arguments in brackets: ptrace(16), clone(?, 0)")
    words = [] if found[2] is None else [word.strip() for word in found[2].split(",")]
    if len(words) > MOST_ARGUMENTS:
        raise ValueError(f"a system call has at most {MOST_ARGUMENTS} arguments")
    return Question(found[1], tuple(map(_argument, words)), text.strip(), True)


def _argument(word: str) -> int | None:
    if word in _UNKNOWN:
        return None
    if word in _NUMBERS or word in _SOCKETS:
        return _NUMBERS.get(word, _SOCKETS.get(word))
    try:
        number = int(word, 0)
    except ValueError:
        raise ValueError(f"an argument is a number, PTRACE_ and a request's name, or ?, not {word}") from None
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError(f"an argument has 64 bits, and {word} has more")
    return number & (1 << 64) - 1


def of_dlv() -> tuple[Question, ...]:
    """All that dlv needs to attach, ptrace request by request; then what only a dlv needs that starts its target."""
    made: list[Question] = []
    for call in DLV_CALLS:
        if call == "ptrace":
            made += [_request(name, number, True) for name, number in PTRACE_REQUESTS.items()]
        elif call == "socket":
            made += [Question(call, (family,), f"socket({name})", True) for name, family in _SOCKETS.items()]
        elif call == "clone":
            made.append(Question(call, (_GO_THREAD,), "clone(a thread)", True))
        else:
            made.append(Question(call, (), call, True))
    made += [_request(name, number, False) for name, number in TO_START.items()]
    made += [Question(call, (), call, False) for call in CALLS_TO_START]
    made.append(Question("personality", (_ADDR_NO_RANDOMIZE,), "personality(ADDR_NO_RANDOMIZE)", False))
    return tuple(made)


def _request(name: str, number: int, needed: bool) -> Question:
    return Question("ptrace", (number,), f"ptrace(PTRACE_{name})", needed)

"""``safedlv seccomp resolve``: numbers and names of system calls on every architecture that libseccomp knows."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

from attrs import frozen

from safedlv.errors import UsageError, printable
from safedlv.linux.libseccomp import Libseccomp

SCHEMA: Final = "safedlv.syscalls/1"
NOT_FOUND: Final = 1
_SYMBOL: Final = re.compile(r"^\S+ (\w) __(?:x64|arm64|riscv|s390x)_sys_(\w+)", re.MULTILINE)
_KALLSYMS: Final = "/proc/kallsyms"
_WEAK: Final = "W"
"""The kernel's stand-in for a call that it was built without (kernel/sys_ni.c, COND_SYSCALL)."""
_OTHER_NAMES: Final = {"umount2": "umount"}
"""Calls of x86_64 whose function is called otherwise, and is not there under the call's name too (syscall_64.tbl)."""
_ENOUGH: Final = 300
"""A kernel that shows its symbols shows more of them than this, so one that is not among them is not there."""


@frozen
class Resolved:
    """One call on one architecture."""

    asked: str
    arch: str
    name: str | None
    number: int | None
    """None: there is no such call; negative: only other architectures have it."""


def resolve(words: list[str]) -> int:
    """The command; its exit code: 1 where something is no call on any architecture asked about."""
    options = _options(words)
    library = Libseccomp()
    if options.arch is not None and options.arch not in library.tokens:
        raise UsageError(
            f"libseccomp knows no architecture {printable(options.arch)}", f"it is one of {', '.join(library.tokens)}"
        )
    arches = list(library.tokens) if options.arch is None else [options.arch]
    found = [_resolved(library, word, arch) for word in options.calls for arch in arches]
    lacking = Lacking() if library.native in arches else None
    if options.json:
        rows = [_row(one, library.native, lacking) for one in found]
        sys.stdout.write(json.dumps({"schema": SCHEMA, "calls": rows}, indent=2) + "\n")
    elif options.arch is None:
        sys.stdout.write("".join(f"{line}\n" for line in _table(found, library.native, lacking)))
    else:
        sys.stdout.write("".join(f"{_answer(one)}\n" for one in found))
        notes = ((one.asked, _note(one, library.native, lacking)) for one in found)
        sys.stderr.write("".join(f"{printable(asked)}: {note}\n" for asked, note in notes if note))
    known = {one.asked for one in found if _exists(one)}
    return 0 if known.issuperset(options.calls) else NOT_FOUND


def _options(words: list[str]) -> argparse.Namespace:
    about = "Numbers and names of system calls, as libseccomp has them."
    parser = argparse.ArgumentParser(prog="safedlv seccomp resolve", description=about)
    parser.add_argument("calls", metavar="NAME|NUMBER", nargs="+", help="a call's name, or its number")
    parser.add_argument("--arch", help="for this architecture only, and nothing but the answer on stdout")
    parser.add_argument("--json", action="store_true", help=f"one JSON object on stdout (schema {SCHEMA})")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of safedlv's own failures")
    return parser.parse_args(words)


def _resolved(library: Libseccomp, word: str, arch: str) -> Resolved:
    if re.fullmatch(r"-?[0-9]+", word, re.ASCII) is None:
        return Resolved(word, arch, word, library.number(arch, word))
    number = int(word)
    if not -(1 << 31) <= number < 1 << 31:
        raise UsageError(f"{printable(word)} is no number of a system call")
    return Resolved(word, arch, library.name(arch, number), number)


def _exists(one: Resolved) -> bool:
    return one.name is not None and one.number is not None and one.number >= 0


def _answer(one: Resolved) -> str:
    """What was not asked: the number of a name, the name of a number, as scmp_sys_resolver prints it."""
    by_name = one.asked == one.name
    if by_name:
        return str(-1 if one.number is None else one.number)
    return one.name or "UNKNOWN"


# ---------------------------------------------------------------- what this kernel lacks


class Lacking:
    """Which calls this kernel was built without, or is too old for: by its symbols' names, which everybody may read.

    Nothing is tried: what ENOSYS answers to, another call might do.
    """

    def __init__(self) -> None:
        try:
            with open(_KALLSYMS, encoding="ascii", errors="replace") as file:
                symbols = dict(reversed(found) for found in _SYMBOL.findall(file.read()))
        except OSError:
            symbols = {}
        self._symbols: dict[str, str] = symbols

    def of(self, name: str) -> bool | None:
        """Whether this kernel lacks a call; None where its symbols do not tell."""
        kind = self._symbols.get(_OTHER_NAMES.get(name, name))
        if kind is None and len(self._symbols) >= _ENOUGH and os.uname().machine == "x86_64":
            return True
        return None if kind is None else kind == _WEAK


def _note(one: Resolved, native: str, lacking: Lacking | None) -> str:
    if one.arch != native or lacking is None or not _exists(one):
        return ""
    kernel = f"this kernel ({os.uname().release})"
    return f"{kernel} lacks it" if one.name is not None and lacking.of(one.name) else ""


def _table(found: list[Resolved], native: str, lacking: Lacking | None) -> Iterator[str]:
    for asked in dict.fromkeys(one.asked for one in found):
        yield printable(asked)
        rows = [one for one in found if one.asked == asked]
        for one in rows:
            if _exists(one):
                yield f"  {one.arch:<14} {_answer(one):<24} {_note(one, native, lacking)}".rstrip()
        without = [one.arch for one in rows if not _exists(one)]
        if without:
            yield f"  not on {', '.join(without)}"


def _row(one: Resolved, native: str, lacking: Lacking | None) -> dict[str, Any]:
    ours = one.arch == native and lacking is not None and one.name is not None and _exists(one)
    return {
        "asked": one.asked,
        "architecture": one.arch,
        "name": one.name if _exists(one) else None,
        "number": one.number if _exists(one) else None,
        "lacking": lacking.of(one.name) if ours and lacking is not None and one.name is not None else None,
    }

"""``safedlv shim``: where shims/dlv is, the dlv that an editor starts; or one made for this Python."""

from __future__ import annotations

import os
import sys

from safedlv.errors import SafedlvError
from safedlv.options import SWITCH, read_words

HELP = """\
usage: safedlv shim [DIRECTORY]

Without DIRECTORY: prints the path of the dlv that an editor is to start ("go.alternateTools": {"dlv": PATH} in VS
Code). With it: writes one there that runs in this Python, not in /usr/bin/python3.

  --debug  show tracebacks of safedlv's own failures
"""
LONGEST_FIRST_LINE = 127
"""Bytes that every kernel reads of a script's first line (execve(2): before 5.1)."""


def shim(words: list[str]) -> int:
    """The command; its exit code."""
    given, others = read_words(words, {"debug": SWITCH}, most=1)
    if "help" in given:
        sys.stdout.write(HELP)
        return 0
    sys.stdout.write(f"{write(others[0]) if others else path()}\n")
    return 0


def path() -> str:
    """The shim's path: in the package, or beside it in a checkout. Raises SafedlvError."""
    package = os.path.dirname(os.path.abspath(__file__))
    for directory in (package, os.path.dirname(package)):
        found = f"{directory}/shims/dlv"
        if os.path.isfile(found):
            return found
    raise SafedlvError("this installation has no shims/dlv", "install safedlv again")


def write(directory: str) -> str:
    """Write a shim for this Python into a directory, and return its path. Raises SafedlvError."""
    first = f"#!{sys.executable} -ISXutf8"
    if " " in sys.executable or len(os.fsencode(first)) > LONGEST_FIRST_LINE:
        raise SafedlvError(f"{sys.executable} cannot stand in a script's first line: it holds a space or is too long")
    written = os.path.join(os.path.abspath(directory), "dlv")
    try:
        with open(path(), encoding="utf-8") as file:
            rest = file.read().partition("\n")[2]
        with open(written, "x", encoding="utf-8") as file:
            file.write(f"{first}\n{rest}")
            os.fchmod(file.fileno(), 0o755)
    except FileExistsError as error:
        raise SafedlvError(f"{written} is there already", "name another directory, or remove it") from error
    except OSError as error:
        raise SafedlvError(f"cannot write {written}: {error.strerror}") from error
    return written

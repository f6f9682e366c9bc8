"""Arguments, help and exit codes: the only place that exits. Commands load what they need when they are called."""

from __future__ import annotations

import gc
import importlib
import os
import sys

from safedlv import __version__
from safedlv.errors import InDlvsWordsError, SafedlvError

HELP = """\
safedlv: a drop-in for `dlv attach` that explains a refused attach and never harms the target

usage:
  safedlv attach [dlv attach's own flags] TARGET [EXECUTABLE]   attach, as dlv attach does
  safedlv dap [dlv dap's own flags] [--stdio]                   what an editor starts, in the place of dlv dap
  safedlv doctor [TARGET] [--json|--markdown] [--tracer WHO]    can a debugger attach, and if not, why
  safedlv doctor --all [--json] [--probe]                       the same of every Go process, in a line each
  safedlv relaunch --debuggable NAME [--swap]                   a copy of a container that can be debugged
  safedlv observe TARGET                                        dlv's attach, and every call of it that failed
  safedlv control [TARGET]                                      the smallest container in which a debugger works
  safedlv compare A B                                           two processes side by side, differences first
  safedlv watch TARGET                                          what happens around a process: limits, pressure, tracers
  safedlv seccomp show|explain|resolve|generate|lint            filters: what is loaded, what it refuses, what dlv needs
  safedlv pick [--json | --separator TEXT]                      what can be debugged here, to choose from
  safedlv shim [DIRECTORY]                                      the dlv for an editor to start: its path
  safedlv clean [--dry-run]                                     remove what killed sessions left behind
  safedlv version

A TARGET is a PID, name:PATTERN (the one process whose command line matches), docker:NAME or docker:NAME/PID.
`safedlv attach --help` lists the flags.
"""
OTHERS = {
    "dap": "safedlv.dap.dap",
    "relaunch": "safedlv.relaunch.relaunch",
    "seccomp": "safedlv.seccomp_command.seccomp",
    "observe": "safedlv.observe.observe",
    "control": "safedlv.control.control",
    "compare": "safedlv.compare.compare_command",
    "watch": "safedlv.watch.watch",
    "clean": "safedlv.clean.clean",
    "pick": "safedlv.pick.pick",
    "shim": "safedlv.shim.shim",
}
"""Commands that take their words, and where they are."""
TRACEBACKS = "--debug"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main(words: list[str] | None = None) -> int:
    """Run one command and return its exit code. Without ``words``, as the program itself: it does not return then."""
    if words is None:
        _leave(_with_sentences(sys.argv[1:]))
    return _with_sentences(words)


def _leave(code: int) -> NoReturn:
    """End at once: taking the interpreter apart first would cost a command that is done as much as starting it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # None: the descriptor was closed before we came
                stream.flush()
        except OSError:  # nobody reads it, or the disk is full
            code = code or 1
    os._exit(code)


def _with_sentences(words: list[str]) -> int:
    """Run it; every failure becomes a sentence and an exit code."""
    try:
        return _run(words)
    except InDlvsWordsError as error:
        sys.stdout.write(f"{error.sentence}\n")
        return error.code
    except SafedlvError as error:
        if TRACEBACKS in words:
            raise
        sys.stderr.write(f"safedlv: {error.sentence}\n" + (f"  {error.hint}\n" if error.hint else ""))
        return error.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        if TRACEBACKS in words:
            raise
        sys.stderr.write(f"safedlv: internal error: {type(error).__name__}: {error}\n  --debug shows where\n")
        return 1


def _run(words: list[str]) -> int:
    command, rest = _command(words)
    if command == "attach":
        from safedlv.attach import attach

        return attach(rest)
    if command == "doctor":
        gc.disable()  # what doctor loads and makes it keeps until it ends
        from safedlv.doctor import doctor

        return doctor(rest)
    if command in OTHERS:
        module, _, name = OTHERS[command].rpartition(".")
        return int(getattr(importlib.import_module(module), name)(rest))
    if command in ("version", "--version"):
        sys.stdout.write(f"safedlv {__version__}\n")
        return 0
    if command in ("help", "--help", "-h", ""):
        sys.stdout.write(HELP)
        return 0
    raise SafedlvError(f"there is no command {command!r}", "safedlv help lists the commands", code=2)


def _command(words: list[str]) -> tuple[str, list[str]]:
    """The command and its words. dlv takes its flags before the command too: ``--headless attach 1234``."""
    if words and words[0].startswith("-") and words[0] not in ("--version", "--help", "-h") and "attach" in words:
        at = words.index("attach")
        return "attach", words[:at] + words[at + 1 :]
    return (words[0], words[1:]) if words else ("", [])

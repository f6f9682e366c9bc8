"""What can follow in a command line of dlv's terminal, and which words fit what was typed. Pure.

The commands are those of dlv 1.20 to 1.27 (pkg/terminal/command.go: DebugCommands) that an attached program has.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

COMMAND, LOCATION, EXPRESSION, BREAKPOINT, GOROUTINE, FRAME, THREAD, FUNCTION, FILE, CONFIG, NOTHING = (
    "command", "location", "expression", "breakpoint", "goroutine", "frame", "thread", "function", "file", "config", "",
)  # fmt: skip
"""What a word may be."""
ARGUMENTS: Final = {
    "args": NOTHING,
    "break": LOCATION,
    "breakpoints": NOTHING,
    "call": EXPRESSION,
    "clear": BREAKPOINT,
    "clearall": LOCATION,
    "condition": BREAKPOINT,
    "config": CONFIG,
    "continue": LOCATION,
    "deferred": NOTHING,
    "disassemble": LOCATION,
    "display": EXPRESSION,
    "down": NOTHING,
    "dump": FILE,
    "edit": LOCATION,
    "examinemem": EXPRESSION,
    "exit": NOTHING,
    "frame": FRAME,
    "funcs": FUNCTION,
    "goroutine": GOROUTINE,
    "goroutines": NOTHING,
    "help": COMMAND,
    "libraries": NOTHING,
    "list": LOCATION,
    "locals": NOTHING,
    "next": NOTHING,
    "next-instruction": NOTHING,
    "on": BREAKPOINT,
    "packages": NOTHING,
    "print": EXPRESSION,
    "regs": NOTHING,
    "set": EXPRESSION,
    "source": FILE,
    "sources": NOTHING,
    "stack": NOTHING,
    "step": NOTHING,
    "step-instruction": NOTHING,
    "stepout": NOTHING,
    "target": NOTHING,
    "thread": THREAD,
    "threads": NOTHING,
    "toggle": BREAKPOINT,
    "trace": LOCATION,
    "transcript": FILE,
    "types": NOTHING,
    "up": NOTHING,
    "vars": NOTHING,
    "watch": EXPRESSION,
    "whatis": EXPRESSION,
}
ALIASES: Final = {
    "b": "break", "bp": "breakpoints", "bt": "stack", "c": "continue", "cond": "condition", "disass": "disassemble",
    "ed": "edit", "gr": "goroutine", "grs": "goroutines", "h": "help", "l": "list", "ls": "list", "n": "next",
    "nexti": "next-instruction", "ni": "next-instruction", "p": "print", "q": "exit", "quit": "exit", "s": "step",
    "si": "step-instruction", "so": "stepout", "stepi": "step-instruction", "t": "trace", "tr": "thread",
    "x": "examinemem",
}  # fmt: skip
OWN: Final = {
    ":doctor": "what safedlv doctor says of the program",
    ":help": "what safedlv adds to dlv's terminal",
    ":watch": "what happens around the program, until a key is pressed",
}
CONFIGS: Final = (
    "-list", "-save", "alias", "debug-info-directories", "disassemble-flavor", "max-array-values", "max-string-len",
    "max-variable-recurse", "prompt", "prompt-color", "show-location-expr", "show-raw-strings",
    "source-list-line-color", "source-list-line-count", "substitute-path", "tab", "trace-show-timestamp",
)  # fmt: skip
_WITH_NUMBER: Final = ("on", "deferred", "goroutine", "frame")
"""A number, and then a command for that breakpoint, call, goroutine or frame."""
_NAME: Final = re.compile(r"[^\W\d][\w.]*$")
_FLAG: Final = re.compile(r"-\S*$")
MOST: Final = 500
"""Words that are offered at a time."""


def wanted(line: str) -> tuple[str, str]:
    """What the word at the end of ``line`` may be, and as much of it as is typed."""
    command, space, rest = line.lstrip().partition(" ")
    if not space:
        return COMMAND, command
    command, rest = ALIASES.get(command, command), rest.lstrip()
    number, space, inner = rest.partition(" ")
    if command in _WITH_NUMBER and space:
        return wanted(inner) if number.isdigit() else (NOTHING, "")
    if command == "condition" and space:
        return _expression(inner)
    kind = ARGUMENTS.get(command, NOTHING)
    if kind == EXPRESSION or (kind == LOCATION and " if " in f" {rest}"):
        return _expression(rest)
    if kind == NOTHING or (kind in (BREAKPOINT, GOROUTINE, FRAME, THREAD, CONFIG) and space):
        return NOTHING, ""
    return kind, rest.rpartition(" ")[2]


def _expression(text: str) -> tuple[str, str]:
    if text.count('"') % 2 or (_FLAG.search(text) and not text.endswith("->")):
        return NOTHING, ""
    found = _NAME.search(text)
    if found is None:
        return (NOTHING, "") if text and (text[-1].isalnum() or text[-1] in ".)]") else (EXPRESSION, "")
    before = text[: found.start()]
    return (NOTHING, "") if before and (before[-1].isdigit() or before[-1] in ".)]") else (EXPRESSION, found.group())


def command_words(typed: str) -> list[tuple[str, str]]:
    """Commands that begin so, each with a word about it. An alias that is typed in full is offered its command."""
    own = [(word, about) for word, about in OWN.items() if word.startswith(typed)] if typed.startswith(":") else []
    full = [ALIASES[typed]] if typed in ALIASES else []
    return [(word, "") for word in [*sorted(w for w in ARGUMENTS if w.startswith(typed)), *full]] + own


def fitting(words: Iterable[str], typed: str) -> list[str]:
    """The words that fit: those that begin so, then those with a part that does, then those with that anywhere."""
    small = typed.lower()
    found: list[tuple[int, int, str]] = []
    for word in words:
        if word.startswith(typed):
            rank = 0
        elif small in word.lower():
            rank = 1 if _starts_a_part(word.lower(), small) else 2
        else:
            continue
        found.append((rank, 0 if word.startswith("main.") else 1, word))
    return [word for _, _, word in sorted(found)[:MOST]]


def _starts_a_part(word: str, typed: str) -> bool:
    at = word.find(typed)
    while at > 0:
        if word[at - 1] in "./(*)_":
            return True
        at = word.find(typed, at + 1)
    return False


def files_fitting(sources: Iterable[str], typed: str) -> list[str]:
    """Files for ``FILE:LINE``, written as short as dlv can tell them apart: their names, or the path that was begun."""
    if not typed or ":" in typed:
        return []
    found = set()
    for path in sources:
        if "/" in typed:
            at = 0 if path.startswith(typed) else path.rfind(f"/{typed}") + 1
            if path.startswith(typed) or at:
                found.add(f"{path[at:]}:")
        elif (name := path.rpartition("/")[2]).startswith(typed):
            found.add(f"{name}:")
    return sorted(found)[:MOST]


def base_of(name: str) -> str:
    """What the last part of a name is a field of: ``v.Header`` of ``v.Header.Ho``; empty when of nothing."""
    return name.rpartition(".")[0]

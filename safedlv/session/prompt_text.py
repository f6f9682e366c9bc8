"""What dlv's terminal writes, taken apart; and the words that are safedlv's to answer. Pure.

dlv is run so that it reads whole lines and echoes nothing (prompt_inner.py). Then all that it writes is output, and
what it waits for stands in the last line, which has no end: its prompt, or a question in the middle of a command.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

PROMPT: Final = b"(dlv) "
GREETINGS: Final = (b"Type 'help'", PROMPT)
"""What dlv's terminal says when it has a dlv that has attached."""
LIMIT: Final = b"\0limit "
"""How a message of the relay's begins that is not for people: then the seconds that a pause may take, or nothing."""
LEAVING: Final = ("exit", "quit", "q")
KILL: Final = "kill"
LONGEST: Final = 4094
"""Bytes of a line: dlv reads it from a terminal, which keeps no more (N_TTY_BUF_SIZE), and would take two for more."""
_ESCAPES: Final = re.compile(rb"\x1b\[[0-9;]*m")
_COLOURS_LAST: Final = re.compile(rb"(\x1b\[[0-9;]*m)+$")
_QUESTION: Final = re.compile(rb"(\?|\]|>>>|\.\.\.) *$")
_KILLS: Final = b"Would you like to kill the process? [Y/n] "
_KILLS_INSTANCE: Final = b"Would you like to kill the headless instance? [Y/n] "


class Output:
    """Cuts what dlv's terminal writes: whole lines are to be shown, the line without an end may be its prompt."""

    def __init__(self) -> None:
        self.tail = b""
        """The last line, which has no end yet."""
        self.shown = 0
        """How much of it has been shown."""

    def feed(self, data: bytes) -> bytes:
        """What is to be shown now."""
        text = self.tail + data
        end = text.rfind(b"\n") + 1
        shown, self.tail = text[self.shown : end], text[end:]
        if end:
            self.shown = 0
        return shown

    def rest(self) -> bytes:
        """What of the last line has not been shown: to be shown now, since no prompt comes of it."""
        text, self.shown = self.tail[self.shown :], len(self.tail)
        return text

    def is_prompt(self) -> bool:
        """Whether the last line is dlv's own prompt, or ends with it: some commands leave their last line open."""
        return without_colours(self.tail).endswith(PROMPT)

    def may_become_prompt(self) -> bool:
        """Whether the last line is the beginning of dlv's own prompt."""
        return PROMPT.startswith(without_colours(self.tail))

    def take_prompt(self) -> tuple[bytes, bytes]:
        """What is to be shown before the prompt, and the prompt, with its colours."""
        tail, start = self.tail, max(self.tail.rfind(PROMPT), 0) if self.is_prompt() else 0
        colours = _COLOURS_LAST.search(tail[:start])
        start = colours.start() if colours else start
        before, self.tail = tail[self.shown : start], b""
        self.shown = 0
        return before + b"\r\n" if start else before, tail[start:]

    def is_question(self) -> bool:
        """Whether the last line asks for an answer. A prompt that the user has configured does not look so."""
        return bool(_QUESTION.search(without_colours(self.tail)))


def safe_answer(question: bytes) -> str:
    """The answer to dlv's own question whether to kill, where a script says ``exit``; empty for any other question."""
    return "n" if question.endswith(_KILLS) else "y" if question.endswith(_KILLS_INSTANCE) else ""


def without_colours(text: bytes) -> bytes:
    return _ESCAPES.sub(b"", text)


def lines_of(text: str) -> list[str]:
    """The commands in what was typed or pasted: a line each, without what a terminal would take for a key.

    An empty line repeats the last command; one among others does not, as in a file of commands.
    """
    cleaned = "".join(c if c.isprintable() or c == "\n" else " " if c == "\t" else "" for c in text)
    return [line for line in cleaned.split("\n") if line.strip()] or [""]


def leaves(line: str) -> bool:
    """Whether a line asks for the end of the session."""
    return line.split()[:1] in [[word] for word in LEAVING]


def needs_no_program(line: str) -> bool:
    """Whether it is a command that dlv's terminal carries out alone."""
    return line.split()[:1] in (["help"], ["h"], ["config"], ["transcript"])


def takes_the_terminal(line: str) -> bool:
    """Whether it is a command that starts an editor, which may read lines and want them to be seen."""
    return line.split()[:1] in (["edit"], ["ed"])

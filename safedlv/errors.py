"""The one family of errors that reach a user: a sentence that says what failed, on what and why, and what to do."""

from __future__ import annotations


class SafedlvError(Exception):
    """A failure with a sentence, and what the user can do about it.

    ``code`` is the exit code: 2 wrong usage (and, where dlv has a code of its own, dlv's).
    """

    def __init__(self, sentence: str, hint: str = "", code: int = 1) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint
        self.code = code


class UsageError(SafedlvError):
    """The words on the command line do not fit."""

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence, hint, code=2)


class InDlvsWordsError(SafedlvError):
    """A failure that dlv has a sentence for: said as dlv says it, on stdout and without our name."""


def printable(text: str | bytes, limit: int = 200) -> str:
    """Text of another process made safe to show: control characters escaped, length limited.

    Process names, command lines and paths are chosen by whoever started the process; a terminal obeys escape codes.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)

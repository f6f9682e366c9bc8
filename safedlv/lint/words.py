"""The words of a command line in a script or a text, each with its place; and the options of ``docker run``. Pure.

Only what is certain is read: a word with a variable in it is marked so, and nothing is expanded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from attrs import frozen

END_OF_COMMAND: Final = "\n;&|)<>"
_VARIABLE_ALONE: Final = re.compile(r"\$(?:\{[^}]*\}|\w+|[@*]|\([^()]*\))")
_VARIABLE: Final = re.compile(r"\$(?:\{[^}\n]*\}|\w+|[@*#?!-])?")


@frozen
class Word:
    """One word as the shell would see it, but for variables, which stay as they are written."""

    text: str
    start: int
    end: int
    line: int
    known: bool = True
    """Nothing in it has to be expanded first."""


@frozen
class Option:
    """An option, by its long name, and the words it is made of."""

    name: str
    value: str
    words: tuple[Word, ...]

    @property
    def line(self) -> int:
        return self.words[0].line


# ---------------------------------------------------------------- words


def words_at(text: str, start: int, closing: str = "") -> tuple[Word, ...]:
    """The words of the simple command that begins there; it ends where the shell ends it, or at ``closing``."""
    return tuple(_Reader(text, start, closing).words())


class _Reader:
    def __init__(self, text: str, start: int, closing: str) -> None:
        self.text, self.at, self.closing = text, start, closing
        self.line = text.count("\n", 0, start) + 1

    def words(self) -> Iterator[Word]:
        while self._to_word():
            start, line = self.at, self.line
            said, known = self._word()
            if self.at == start:
                return
            yield Word(said, start, self.at, line, known)

    def _to_word(self) -> bool:
        """Skips blanks and continued lines; whether a word follows."""
        while self.at < len(self.text):
            if self.text.startswith(("\\\n", "\\\r\n"), self.at):
                self.at = self.text.index("\n", self.at) + 1
                self.line += 1
            elif self.text[self.at] in " \t\r":
                self.at += 1
            else:
                return self.text[self.at] not in END_OF_COMMAND + "#" + self.closing
        return False

    def _word(self) -> tuple[str, bool]:
        pieces: list[str] = []
        known = True
        while self.at < len(self.text):
            character = self.text[self.at]
            if character in " \t\r" + END_OF_COMMAND + self.closing or self.text.startswith("\\\n", self.at):
                break
            if character == "`" and "`" not in self.text[self.at + 1 :].partition("\n")[0]:
                break  # it closes something that began before
            if character in "'\"`" or self.text.startswith("$(", self.at):
                piece, sure = self._quoted(character)
            elif character == "\\":
                piece, sure = self.text[self.at + 1 : self.at + 2], True
                self.at += 2
            elif match := _VARIABLE.match(self.text, self.at):
                piece, sure = match[0], False
                self.at = match.end()
            else:
                piece, sure = character, True
                self.at += 1
            pieces.append(piece)
            known = known and sure
        return "".join(pieces), known

    def _quoted(self, opening: str) -> tuple[str, bool]:
        """A quoted piece, or a command in the place of one; to the end of the text where nothing closes it."""
        begin = self.at
        self.at += 1
        depth = 0
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == "\\" and opening != "'":
                self.at += 1
            elif opening == "$":
                depth += {"(": 1, ")": -1}.get(character, 0)
                if not depth:
                    break
            elif character == opening:
                break
            self.at += 1
        self.at += 1
        raw = self.text[begin : self.at]
        self.line += raw.count("\n")
        if opening in "$`":
            return raw, False
        inner = raw[1:-1] if raw[-1:] == opening and len(raw) > 1 else raw[1:]
        if opening == "'":
            return inner, True
        return re.sub(r'\\([\\"$`])', r"\1", inner).replace("\\\n", ""), not re.search(
            "[$`]", re.sub(r"\\.", "", inner)
        )


# ---------------------------------------------------------------- options of docker run

SWITCHES: Final = frozenset(
    (
        *("detach", "interactive", "tty", "rm", "privileged", "init", "read-only", "no-healthcheck"),
        *("oom-kill-disable", "publish-all", "sig-proxy", "disable-content-trust", "use-api-socket", "quiet", "help"),
    )
)
"""Options of docker-run(1) that take no value, or only one after ``=``; all others take one."""
SHORT_SWITCHES: Final = "ditPq"
LONG: Final = {"m": "memory", "u": "user", "v": "volume", "e": "env", "p": "publish", "c": "cpu-shares"}
GLOBAL_SWITCHES: Final = frozenset({"--debug", "-D", "--tls", "--tlsverify"})
STARTS: Final = (("run",), ("create",), ("container", "run"), ("container", "create"))


def options_of(words: Sequence[Word], *, image: bool = True) -> tuple[tuple[Option, ...], tuple[Word, ...]]:
    """The options, and the words from the image on; without an ``image``, all words are options' (runArgs)."""
    found: list[Option] = []
    at = 0
    while at < len(words):
        word = words[at]
        if not word.text.startswith("-") or word.text == "-":
            if image and not (_VARIABLE_ALONE.fullmatch(word.text) and not word.known and _has_image(words[at + 1 :])):
                return tuple(found), tuple(words[at:])
            at += 1  # a variable that may hold options
            continue
        name, value, takes_next = _parted(word.text)
        used = words[at : at + 2] if takes_next else words[at : at + 1]
        text = used[1].text if len(used) > 1 else value
        found.append(Option(name, text, tuple(used)))
        at += len(used)
    return tuple(found), ()


def _parted(text: str) -> tuple[str, str, bool]:
    """An option's long name, its value, and whether that is the next word."""
    if text.startswith("--"):
        name, equals, value = text[2:].partition("=")
        return name, value, not equals and name not in SWITCHES
    letters = text[1:].lstrip(SHORT_SWITCHES)
    if not letters:
        return text[1:], "", False
    value = letters[1:].removeprefix("=")
    return LONG.get(letters[0], letters[0]), value, not value


def _has_image(words: Sequence[Word]) -> bool:
    """Whether an image is left where these words follow a variable."""
    return bool(options_of(words)[1])


def after_docker(words: Sequence[Word]) -> tuple[Word, ...]:
    """The words after ``run`` or ``create`` of a docker command; () for other commands."""
    at = 1
    while at < len(words) and words[at].text.startswith("-"):
        at += 1 if words[at].text in GLOBAL_SWITCHES or "=" in words[at].text else 2
    for start in STARTS:
        if tuple(word.text for word in words[at : at + len(start)]) == start:
            return tuple(words[at + len(start) :])
    return ()

"""``docker run`` and ``docker create`` in scripts, Makefiles and texts. Pure. docker-run(1).

A command in a comment, or after echo, is not one. What a variable holds is not known, and not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from attrs import frozen

from safedlv.lint.readers import from_options
from safedlv.lint.values import DOCKER_RUN, Add, Container, Drop, Edit, Put, Setting, Take
from safedlv.lint.words import Option, Word, after_docker, options_of, words_at

_DOCKER: Final = re.compile(r"(?<![\w.$-])docker(?=[ \t\\])")
_NO_COMMAND: Final = re.compile(r"^\s*#|\s#\s|\b(?:echo|printf)\b[^;&|]*$")
_QUOTES: Final = "\"'`"
_APOSTROPHE: Final = re.compile(r"(?<=[A-Za-z])'(?=[a-z])")


@frozen
class Command:
    """One command that starts a container."""

    run: int
    """The offset after its ``run``."""
    line: int
    options: tuple[Option, ...]
    image: tuple[Word, ...]
    """The words from the image on."""


def commands(text: str) -> tuple[Command, ...]:
    """The commands in a text, in order."""
    found: list[Command] = []
    for match in _DOCKER.finditer(text):
        before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        if _NO_COMMAND.search(before):
            continue
        words = words_at(text, match.start(), _open_quote(before))
        rest = after_docker(words)
        options, image = options_of(rest)
        if image:
            begun = words[len(words) - len(rest) - 1]
            found.append(Command(begun.end, begun.line, options, image))
    return tuple(found)


def _open_quote(before: str) -> str:
    """The quote that a line leaves open before a place: what is quoted ends with it."""
    opened = ""
    for character in _APOSTROPHE.sub("", before):
        if character in _QUOTES:
            opened = "" if character == opened else opened or character
    return opened


def containers(text: str) -> tuple[Container, ...]:
    """A container for each command."""
    return tuple(_container(number, command) for number, command in enumerate(commands(text)))


def _container(number: int, command: Command) -> Container:
    def setting(option: Option) -> Setting:
        items = () if option.name == "privileged" else (option.value,)
        return Setting(option.value, option.line, (number, f"--{option.name}"), items)

    entry = [setting(option) for option in command.options if option.name == "entrypoint"][-1:]
    words = [Setting(word.text, word.line, (number,)) for word in command.image[1:]]
    return Container(
        form=DOCKER_RUN,
        name=f"docker run {command.image[0].text}",
        line=command.line,
        at=(number,),
        capabilities=(number, "--cap-add"),
        security=(number, "--security-opt"),
        command=(*entry, *words),
        **from_options(command.options, setting),
    )


# ---------------------------------------------------------------- edits


def changed(text: str, edits: Iterable[Edit]) -> str:
    """The text with the edits made. A path is the command's number and an option."""
    for edit in edits:
        text = _made(text, commands(text)[int(edit.path[0])], edit)
    return text


def _made(text: str, command: Command, edit: Edit) -> str:
    name = str(edit.path[1]).removeprefix("--")
    there = [option for option in command.options if option.name == name]
    match edit:
        case Put() if there:
            words = there[-1].words
            return f"{text[: words[0].start]}--{name}={edit.value}{text[words[-1].end :]}"
        case Put() | Add():
            if any(option.value == edit.value for option in there):
                return text
            return f"{text[: command.run]} --{name}={edit.value}{text[command.run :]}"
        case Take():
            gone = there
        case Drop():
            gone = [option for option in there if option.value in edit.values]
    for option in reversed(gone):
        text = _without(text, option.words[0].start, option.words[-1].end)
    return text


def _without(text: str, start: int, end: int) -> str:
    """Without these words; without their line, where they are alone on a continued one."""
    before = text[text.rfind("\n", 0, start) + 1 : start]
    rest = re.compile(r"[ \t]*\\\r?\n").match(text, end)
    if not before.strip() and rest:
        return text[: start - len(before)] + text[rest.end() :]
    blanks = len(before) - len(before.rstrip())
    return text[: start - blanks] + text[end:] if before.strip() else text[:start] + text[end:].lstrip(" \t")

"""The words of safedlv's own commands (those of ``attach`` are dlv's: command_line.py). Pure.

argparse would do, but takes longer to load than all that a command then does before its first look at the target.
"""

from __future__ import annotations

from safedlv.errors import UsageError, printable

SWITCH = "switch"
"""The kind of a flag that has no value; another kind is the name of its value, for people (``SECONDS``)."""


def read_words(words: list[str], flags: dict[str, str], most: int) -> tuple[dict[str, str], list[str]]:
    """The flags given (name without dashes to value, "" for a switch; the last one counts), and the other words.

    ``flags``: name to kind; ``most``: how many other words there may be. ``--name=value`` and ``--name value`` are the
    same, ``-h`` is ``--help``, and after ``--`` no word is a flag. Raises UsageError for all that is not so.
    """
    given: dict[str, str] = {}
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            others += rest
        elif word == "-h":
            given["help"] = ""
        elif word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            kind = SWITCH if name == "help" else flags.get(name)
            if kind is None:
                raise UsageError(f"there is no flag --{printable(name)}", "--help lists the flags")
            if equals and kind == SWITCH:
                raise UsageError(f"--{name} takes no value")
            given[name] = value if equals or kind == SWITCH else _value(name, kind, next(rest, None))
        elif word.startswith("-") and len(word) > 1:
            raise UsageError(f"there is no flag {printable(word)}", "--help lists the flags")
        else:
            others.append(word)
    if len(others) > most:
        raise UsageError(f"one word too many: {printable(others[most])}", "--help shows the usage")
    return given, others


def _value(name: str, kind: str, word: str | None) -> str:
    if word is None:
        raise UsageError(f"--{name} needs a value: {kind}")
    return word


def seconds(text: str, flag: str, most: float) -> float:
    """A length of time. Raises UsageError for what is no number of seconds above 0 and up to ``most``."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= most:  # false for NaN, too
        raise UsageError(f"--{flag} is in seconds, more than 0 and at most {most:g}")
    return number

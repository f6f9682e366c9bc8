"""The command line of ``dlv attach``, read as dlv reads it (pflag), so that safedlv can stand in its place.

Only what safedlv must know is read. Whatever dlv would refuse before it touches a process is left to dlv itself
(:attr:`CommandLine.refused`): its words and its exit code are then dlv's own.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Every flag of dlv attach from 1.20 to 1.27 (cmd/dlv/cmds/commands.go): its kind, and its shorthand where it has one.
DLV_FLAGS = {
    "accept-multiclient": "bool",
    "allow-non-terminal-interactive": "bool",
    "api-version": "int",
    "backend": "string",
    "build-flags": "string",
    "check-go-version": "bool",
    "continue": "bool",
    "disable-aslr": "bool",
    "headless": "bool",
    "help": "bool",
    "init": "string",
    "listen": "string",
    "log": "bool",
    "log-dest": "string",
    "log-output": "string",
    "only-same-user": "bool",
    "redirect": "string",
    "waitfor": "string",
    "waitfor-duration": "float",
    "waitfor-interval": "float",
    "wd": "string",
}
OWN_FLAGS = {"no-proxy": "bool", "probe-timeout": "float", "debug": "bool"}
SHORTHANDS = {"h": "help", "l": "listen", "r": "redirect"}
TRUE = {"1", "t", "T", "true", "TRUE", "True"}  # strconv.ParseBool
FALSE = {"0", "f", "F", "false", "FALSE", "False"}


class CommandLine:
    """What the words said. ``flags`` holds the last value of each flag as text; ``args`` the words that are none."""

    def __init__(self) -> None:
        self.flags: dict[str, str] = {}
        self.given: list[tuple[str, str]] = []
        """Every flag of dlv's in the order given, for handing on."""
        self.unknown: list[str] = []
        self.args: list[str] = []
        self.refused = ""
        """Why dlv itself would refuse these words; empty when it would not."""

    def on(self, name: str, default: bool = False) -> bool:
        """A flag that is true or false."""
        return self.flags[name] in TRUE if name in self.flags else default

    def text(self, name: str, default: str = "") -> str:
        return self.flags.get(name, default)

    def number(self, name: str, default: float) -> float:
        return float(self.flags[name]) if name in self.flags else default

    def handed_on(self, without: Iterable[str]) -> list[str]:
        """dlv's flags as given, unknown ones included, but for those named."""
        left_out = set(without)
        return [f"--{name}={value}" for name, value in self.given if name not in left_out] + self.unknown


def parse(words: list[str], ask_dlv: Callable[[], dict[str, str]] | None = None) -> CommandLine:
    """Read the words after ``attach``. ``ask_dlv`` gives the kinds of dlv's flags when an unknown one comes up."""
    line = CommandLine()
    rest = iter(words)
    for word in rest:
        if word == "--":
            line.args += rest
        elif word.startswith("--"):
            _long(line, word[2:], rest, ask_dlv)
        elif word.startswith("-") and len(word) > 1:
            _short(line, word[1:], rest)
        else:
            line.args.append(word)
    _what_dlv_refuses(line)
    return line


def _long(
    line: CommandLine, word: str, rest: Iterable[str], ask_dlv: Callable[[], dict[str, str]] | None
) -> None:
    name, equals, value = word.partition("=")
    kind = DLV_FLAGS.get(name) or OWN_FLAGS.get(name)
    if kind is None:
        kind = ask_dlv().get(name) if ask_dlv else None
        value = value if equals or kind in ("bool", None) else next(iter(rest), "")
        line.unknown.append(f"--{name}={value}" if equals or kind not in ("bool", None) else f"--{name}")
        return
    _store(line, name, kind, value if equals else None, rest)


def _short(line: CommandLine, letters: str, rest: Iterable[str]) -> None:
    name = SHORTHANDS.get(letters[0])
    if name is None:
        line.refused = line.refused or f"unknown shorthand flag: '{letters[0]}' in -{letters}"
    elif DLV_FLAGS[name] == "bool":
        _store(line, name, "bool", None, rest)
    else:
        _store(line, name, "string", letters[1:].removeprefix("=") or None, rest)


def _store(line: CommandLine, name: str, kind: str, value: str | None, rest: Iterable[str]) -> None:
    if value is None:
        value = "true" if kind == "bool" else next(iter(rest), None)
    if value is None:
        line.refused = line.refused or f"flag needs an argument: --{name}"
        return
    if not _fits(kind, value):
        line.refused = line.refused or f'invalid argument "{value}" for "--{name}" flag'
        return
    line.flags[name] = value
    if name in DLV_FLAGS:
        line.given.append((name, value))


def _fits(kind: str, value: str) -> bool:
    try:
        if kind == "bool":
            return value in TRUE | FALSE
        if kind == "int":
            int(value, 0)
        if kind == "float":
            float(value)
    except ValueError:
        return False
    return True


def _what_dlv_refuses(line: CommandLine) -> None:
    """The rules of dlv's own checks before it opens a listener (attachCmd and execute in commands.go)."""
    rules = (
        (line.on("help"), "help"),
        (not line.args and not line.text("waitfor"), "you must provide a PID"),
        (line.on("continue") and not line.on("headless"), "--continue only works with --headless"),
        (line.on("continue") and not line.on("accept-multiclient"), "--continue requires --accept-multiclient"),
    )
    line.refused = line.refused or next((why for applies, why in rules if applies), "")


def flag_kinds(help_text: str) -> dict[str, str]:
    """The flags and their kinds as ``dlv help attach`` lists them: ``--name kind   what it does``."""
    kinds = {}
    for text in help_text.splitlines():
        _, dashes, rest = text.partition("--")
        words = rest.split("  ", 1)[0].split()
        if dashes and words:
            kinds[words[0]] = words[1] if len(words) > 1 else "bool"
    return kinds

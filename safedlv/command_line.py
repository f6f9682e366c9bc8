"""The command line of ``dlv attach``, read as dlv reads it (pflag), so that safedlv can stand in its place.

Only what safedlv must know is read. Whatever dlv would refuse before it touches a process is left to dlv itself
(:attr:`CommandLine.refused`): its words and its exit code are then dlv's own.
"""

from __future__ import annotations

from safedlv.errors import SafedlvError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
DIRECT, SIDECAR, CLONE = "direct", "sidecar", "clone"
"""What --via may say."""
OWN_FLAGS = {
    "no-proxy": "bool",
    "probe-timeout": "float",
    "via": "string",
    "toolbox-image": "string",
    "guard": "string",
    "plain": "bool",
    "observers": "bool",
    "max-pause": "string",
    "on-disconnect": "string",
    "debug": "bool",
}
DAP_FLAGS = {
    **{name: kind for name, kind in DLV_FLAGS.items() if name != "continue" and not name.startswith("waitfor")},
    "client-addr": "string",
}
"""Every flag of dlv dap."""
OWN_DAP_FLAGS = {"stdio": "bool", "probe-timeout": "float", "debug": "bool"}
LONGEST_PROBE = 3600  # seconds
KINDS = {"bool": "true or false", "float": "a number", "string": "a word"}
SHORTHANDS = {"h": "help", "l": "listen", "r": "redirect"}
TRUE = {"1", "t", "T", "true", "TRUE", "True"}  # strconv.ParseBool
FALSE = {"0", "f", "F", "false", "FALSE", "False"}


class Grammar:
    """The flags of one command: dlv's and our own, and what says that dlv would refuse a line."""

    def __init__(self, flags: dict[str, str], own: dict[str, str], refuse: Callable[[CommandLine], str]) -> None:
        self.flags, self.own, self.refuse = flags, own, refuse


class CommandLine:
    """What the words said. ``flags`` holds the last value of each flag as text; ``args`` the words that are none."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.flags: dict[str, str] = {}
        self.given: list[tuple[str, str]] = []
        """Every flag of dlv's in the order given, for handing on; those that only this dlv knows included."""
        self.args: list[str] = []
        self.refused = ""
        """Why dlv itself would refuse these words; empty when it would not."""

    def on(self, name: str, default: bool = False) -> bool:
        """A flag that is true or false."""
        return self.flags[name] in TRUE if name in self.flags else default

    def text(self, name: str, default: str = "") -> str:
        return self.flags.get(name, default)

    def number(self, name: str, default: float) -> float:
        return _float(self.flags[name]) if name in self.flags else default

    def handed_on(self, without: Iterable[str]) -> list[str]:
        """dlv's flags as given, but for those named."""
        left_out = set(without)
        return [f"--{name}={value}" for name, value in self.given if name not in left_out]


def parse(
    words: list[str], ask_dlv: Callable[[], dict[str, str]] | None = None, grammar: Grammar | None = None
) -> CommandLine:
    """Read the words after ``attach``, or after the command of ``grammar``.

    ``ask_dlv`` gives the kinds of dlv's flags when an unknown one comes up. Like pflag it stops at the first word that
    it cannot take. Raises SafedlvError for a bad value of a flag of ours.
    """
    line = CommandLine(grammar or ATTACH)
    rest = iter(words)
    for word in rest:
        if line.refused:
            break
        if word == "--":
            line.args += rest
        elif word.startswith("--"):
            _long(line, word[2:], rest, ask_dlv)
        elif word.startswith("-") and len(word) > 1:
            _short(line, word[1:], rest)
        else:
            line.args.append(word)
    if line.refused:
        line.flags.pop("help", None)  # words that cannot be read come before help (cobra: Command.execute)
    else:
        line.refused = line.grammar.refuse(line)
    return line


def _long(line: CommandLine, word: str, rest: Iterator[str], ask_dlv: Callable[[], dict[str, str]] | None) -> None:
    name, equals, value = word.partition("=")
    kind = line.grammar.flags.get(name) or line.grammar.own.get(name)
    if not name or name.startswith("-"):
        line.refused = f"bad flag syntax: --{word}"
        return
    if kind is None:
        kind = ask_dlv().get(name) if ask_dlv else None
    if kind is None:
        line.refused = f"unknown flag: --{name}"
        return
    _store(line, name, kind, value if equals else None, rest)


def _short(line: CommandLine, letters: str, rest: Iterator[str]) -> None:
    """``-l addr``, ``-laddr``, ``-l=addr``, ``-hl addr`` (pflag: parseSingleShortArg)."""
    while letters and not line.refused:
        letter, letters = letters[0], letters[1:]
        name = SHORTHANDS.get(letter)
        if name is None:
            line.refused = f"unknown shorthand flag: {letter!r} in -{letter}{letters}"
        elif letters.startswith("=") and len(letters) > 1:
            _store(line, name, DLV_FLAGS[name], letters[1:], rest)
            return
        elif DLV_FLAGS[name] == "bool":
            _store(line, name, "bool", None, rest)
        else:
            _store(line, name, DLV_FLAGS[name], letters or None, rest)
            return


def _store(line: CommandLine, name: str, kind: str, value: str | None, rest: Iterator[str]) -> None:
    if value is None:
        value = "true" if kind == "bool" else next(rest, None)
    if name in line.grammar.own:
        _check_own(name, line.grammar.own[name], value)
    if value is None:
        line.refused = f"flag needs an argument: --{name}"
    elif not _fits(kind, value):
        line.refused = f'invalid argument "{value}" for "--{name}" flag'
    else:
        line.flags[name] = value
        if name not in line.grammar.own:
            line.given.append((name, value))


def _check_own(name: str, kind: str, value: str | None) -> None:
    """A bad value of a flag that dlv does not know is ours to refuse."""
    if value is None or not _fits(kind, value):
        raise SafedlvError(f"--{name} needs a value that is {KINDS[kind]}", code=1)
    if name == "probe-timeout" and not 0 < _float(value) <= LONGEST_PROBE:
        raise SafedlvError(f"--{name} is in seconds, more than 0 and at most {LONGEST_PROBE}", code=1)


def _fits(kind: str, value: str) -> bool:
    try:
        if kind == "bool":
            return value in TRUE | FALSE
        if kind == "int":
            return -(2**63) <= _int(value) < 2**63
        if kind == "float":
            _float(value)
    except ValueError:
        return False
    return True


def _int(text: str) -> int:
    """strconv.ParseInt with base 0: as Python reads integers, and 017 is octal. Raises ValueError."""
    if not text.isascii() or text != text.strip():
        raise ValueError(text)
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not digits[:1].isdigit():
        raise ValueError(text)
    if digits[0] == "0" and digits[1:2] in tuple("01234567_"):
        digits = "0o" + digits[1:]
    number = int(digits, 0)
    return -number if text.startswith("-") else number


def _float(text: str) -> float:
    """strconv.ParseFloat: as Python reads them, and hexadecimal; no spaces, no underscores. Raises ValueError."""
    if not text.isascii() or text != text.strip() or "_" in text:
        raise ValueError(text)
    if "0x" in text.lower():
        if "p" not in text.lower():  # Go wants the exponent, Python does not
            raise ValueError(text)
        return float.fromhex(text)
    return float(text)


def is_pid(text: str) -> bool:
    """What dlv takes for a PID (strconv.Atoi): ASCII digits with or without a sign, within 64 bits."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    return digits.isascii() and digits.isdigit() and len(digits) < 4000 and -(2**63) <= int(text) < 2**63


def _what_attach_refuses(line: CommandLine) -> str:
    """The rules of dlv's own checks before it opens a listener (attachCmd and execute in commands.go), and what is
    dlv's alone: its other backends.
    """
    target = line.args[0] if line.args else ""
    rules = (
        (line.on("help"), "help"),
        (not line.args and not line.text("waitfor"), "you must provide a PID"),
        (bool(line.args) and ":" not in target and not is_pid(target), f"Invalid pid: {target}"),
        (line.on("continue") and not line.on("headless"), "--continue only works with --headless"),
        (line.on("continue") and not line.on("accept-multiclient"), "--continue requires --accept-multiclient"),
        (_redirected_twice(line), "redirect error"),
        (_int(line.text("api-version", "2")) not in (1, 2), "Unknown API version"),
        (line.text("backend", "default") not in ("default", "native"), "a backend of dlv's alone"),
    )
    return next((why for applies, why in rules if applies), "")


def _what_dap_refuses(line: CommandLine) -> str:
    """``dlv dap`` warns of flags that are not for it, and goes on (commands.go: dapCmd)."""
    return "help" if line.on("help") else ""


def _redirected_twice(line: CommandLine) -> bool:
    """Two values for one of the three streams; one without a name is for stdin (commands.go: parseRedirects)."""
    values = [value for name, value in line.given if name == "redirect"]
    streams = [next((s for s in ("stdout:", "stderr:") if value.startswith(s)), "stdin:") for value in values]
    return len(set(streams)) < len(streams)


ATTACH = Grammar(DLV_FLAGS, OWN_FLAGS, _what_attach_refuses)
DAP = Grammar(DAP_FLAGS, OWN_DAP_FLAGS, _what_dap_refuses)


def words_for_dlv(words: list[str], grammar: Grammar = ATTACH) -> list[str]:
    """The words as they are, without the flags that only safedlv knows: for dlv to say what is wrong with them."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals = SHORTHANDS.get(word[1:], "") if word.startswith("-") else "", ""
        if word.startswith("--"):
            name, equals, _ = word[2:].partition("=")
        taken = [word]
        if word == "--":
            taken += rest
        elif not equals and {**grammar.flags, **grammar.own}.get(name, "bool") != "bool":
            taken += [value for value in [next(rest, None)] if value is not None]
        if name not in grammar.own:
            kept += taken
    return kept


def flag_kinds(help_text: str) -> dict[str, str]:
    """The flags and their kinds as ``dlv help attach`` lists them: ``--name kind   what it does``."""
    kinds = {}
    for text in help_text.splitlines():
        _, dashes, rest = text.partition("--")
        words = rest.split("  ", 1)[0].split()
        if dashes and words:
            kinds[words[0]] = words[1] if len(words) > 1 else "bool"
    return kinds

"""The command line of dlv attach, read as pflag and strconv read it: pure cases, and what holds for all words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedlv import command_line
from safedlv.command_line import DLV_FLAGS, FALSE, OWN_FLAGS, SHORTHANDS, TRUE, CommandLine, flag_kinds, parse
from safedlv.errors import SafedlvError

CAPTURED = Path(__file__).parent / "captured"
OLD_HELP = (CAPTURED / "dlv-1.20.2-help-attach.txt").read_text()
NEW_HELP = (CAPTURED / "dlv-1.27.2-help-attach.txt").read_text()


def accepted(*words: str) -> CommandLine:
    line = parse(list(words))
    assert not line.refused
    return line


def refused(*words: str) -> str:
    why = parse(list(words)).refused
    assert why, words
    return why


# ---------------------------------------------------------------- the two helps


def test_flag_kinds_of_the_oldest_dlv() -> None:
    assert flag_kinds(OLD_HELP) == {
        "continue": "bool",
        "help": "bool",
        "accept-multiclient": "bool",
        "allow-non-terminal-interactive": "bool",
        "api-version": "int",
        "backend": "string",
        "build-flags": "string",
        "check-go-version": "bool",
        "disable-aslr": "bool",
        "headless": "bool",
        "init": "string",
        "listen": "string",
        "log": "bool",
        "log-dest": "string",
        "log-output": "string",
        "only-same-user": "bool",
        "redirect": "stringArray",
        "wd": "string",
    }


def test_flag_kinds_of_the_newest_dlv() -> None:
    kinds = flag_kinds(NEW_HELP)
    assert kinds.keys() - flag_kinds(OLD_HELP).keys() == {"waitfor", "waitfor-duration", "waitfor-interval"}
    assert kinds["waitfor-duration"] == "float"
    assert kinds["listen"] == "string"


@pytest.mark.parametrize("text", [OLD_HELP, NEW_HELP], ids=["1.20", "1.27"])
def test_the_table_holds_every_flag_of_both_with_its_kind(text: str) -> None:
    kinds = {name: kind.replace("stringArray", "string") for name, kind in flag_kinds(text).items()}
    assert {name: DLV_FLAGS.get(name) for name in kinds} == kinds
    shorthands = {line.split()[0][1]: line.split()[1][2:] for line in text.splitlines() if line.startswith("  -")}
    assert shorthands.items() <= SHORTHANDS.items()
    assert not set(OWN_FLAGS) & set(kinds), "a flag of ours clashes with one of dlv's"


# ---------------------------------------------------------------- spellings


@pytest.mark.parametrize(
    "words",
    [
        ["-l", "host:1", "7"],
        ["-lhost:1", "7"],
        ["-l=host:1", "7"],
        ["--listen", "host:1", "7"],
        ["--listen=host:1", "7"],
        ["7", "--listen=host:1"],
        ["--listen=host:1", "--", "7"],
        ["--listen=other", "--listen=host:1", "7"],
    ],
)
def test_one_flag_in_every_spelling(words: list[str]) -> None:
    line = accepted(*words)
    assert line.text("listen") == "host:1"
    assert line.args == ["7"]


@pytest.mark.parametrize("text", sorted(TRUE | FALSE))
def test_bool_values_are_those_of_strconv(text: str) -> None:
    assert accepted(f"--headless={text}", "7").on("headless") is (text in TRUE)


def test_bool_flags_take_no_word() -> None:
    line = accepted("--headless", "7")
    assert line.on("headless")
    assert line.args == ["7"]
    assert accepted("7").on("only-same-user", default=True)
    assert not accepted("--only-same-user=false", "7").on("only-same-user", default=True)


def test_what_follows_two_dashes_is_no_flag() -> None:
    assert accepted("--", "7", "--headless", "-x").args == ["7", "--headless", "-x"]
    assert accepted("7", "-").args == ["7", "-"]


@pytest.mark.parametrize("text", ["2", "+2", "0x2", "0b10", "0o2", "02", "0_2", "1"])
def test_api_versions_as_strconv_reads_integers(text: str) -> None:
    assert accepted(f"--api-version={text}", "7").text("api-version") == text


@pytest.mark.parametrize("text", ["", "x", " 2", "2 ", "2.0", "08", "1__0", "٢", "--2", "0x", "9223372036854775808"])
def test_what_strconv_takes_for_no_integer(text: str) -> None:
    assert "invalid argument" in refused(f"--api-version={text}", "7")


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("1e3", 1000), (".5", 0.5), ("-0", 0), ("0x1p-2", 0.25), ("inf", float("inf"))]
)
def test_floats_as_strconv_reads_them(text: str, value: float) -> None:
    assert accepted("--waitfor=a", f"--waitfor-duration={text}").number("waitfor-duration", 9) == value


@pytest.mark.parametrize("text", ["", "x", "1_0", " 1", "0x1", "٢"])
def test_what_strconv_takes_for_no_float(text: str) -> None:
    assert "invalid argument" in refused("--waitfor=a", f"--waitfor-duration={text}")


@pytest.mark.parametrize("text", ["0", "1", "+1", "007", "4194304", "99999999999", "9223372036854775807"])
def test_pids_as_atoi_reads_them(text: str) -> None:
    assert accepted(text).args == [text]


@pytest.mark.parametrize("text", ["", "abc", "0x10", "1_0", " 1", "1 ", "1.0", "+", "+-1", "٢", "9" * 26, "9" * 5000])
def test_what_atoi_takes_for_no_pid(text: str) -> None:
    assert refused("--", text) == f"Invalid pid: {text}"


@pytest.mark.parametrize("text", ["name:^/srv/app", "docker:web", "docker:web/7", "k8s:a/b/c"])
def test_names_of_targets_are_not_left_to_dlv(text: str) -> None:
    assert accepted(text).args == [text]


# ---------------------------------------------------------------- what dlv refuses


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "you must provide a PID"),
        (["--headless"], "you must provide a PID"),
        (["--waitfor="], "you must provide a PID"),
        (["--nonsense", "7"], "unknown flag: --nonsense"),
        (["-x", "7"], "unknown shorthand flag: 'x' in -x"),
        (["-hx"], "unknown shorthand flag: 'x' in -x"),
        (["--headless=maybe", "7"], 'invalid argument "maybe" for "--headless" flag'),
        (["--headless=", "7"], 'invalid argument "" for "--headless" flag'),
        (["-h=maybe", "7"], 'invalid argument "maybe" for "--help" flag'),
        (["---headless", "7"], "bad flag syntax: ---headless"),
        (["--=x", "7"], "bad flag syntax: --=x"),
        (["7", "--listen"], "flag needs an argument: --listen"),
        (["7", "-l"], "flag needs an argument: --listen"),
        (["--help", "--nonsense"], "unknown flag: --nonsense"),
        (["--help"], "help"),
        (["-h"], "help"),
        (["--continue", "7"], "--continue only works with --headless"),
        (["--continue", "--headless", "7"], "--continue requires --accept-multiclient"),
        (["--api-version=3", "7"], "Unknown API version"),
        (["-r", "a", "-r", "stdin:b", "7"], "redirect error"),
        (["--backend=rr", "7"], "a backend of dlv's alone"),
    ],
)
def test_left_to_dlv(words: list[str], why: str) -> None:
    line = parse(words)
    assert line.refused == why
    assert line.on("help") == (why == "help")


def test_what_looks_refused_and_is_not() -> None:
    accepted("--continue", "--headless", "--accept-multiclient", "7")
    accepted("--waitfor=app")
    accepted("-r", "stdin:a", "-r", "stdout:b", "-r", "stderr:c", "7")
    accepted("--help=false", "7")
    assert accepted("-l=", "7").text("listen") == "=", "pflag wants a character after -l="
    assert refused("-hl", "7") == "help"


def test_reading_stops_at_the_first_word_that_cannot_be_read() -> None:
    line = parse(["--nonsense", "--headless", "7"])
    assert not line.flags
    assert not line.args


# ---------------------------------------------------------------- flags that only this dlv knows, and flags of ours


def test_a_flag_of_a_later_dlv_is_asked_for_once_it_comes_up() -> None:
    asked = []

    def ask() -> dict[str, str]:
        asked.append(1)
        return {"new-switch": "bool", "new-name": "string"}

    assert parse(["--headless", "7"], ask).args == ["7"]
    assert not asked
    line = parse(["--new-switch", "--new-name", "x", "7", "--new-name=y"], ask)
    assert not line.refused
    assert line.args == ["7"]
    assert line.handed_on(()) == ["--new-switch=true", "--new-name=x", "--new-name=y"]
    assert parse(["--newer", "7"], ask).refused == "unknown flag: --newer"
    assert parse(["7", "--new-name"], ask).refused == "flag needs an argument: --new-name"


def test_own_flags_are_read_and_never_handed_on() -> None:
    line = accepted("--no-proxy", "--probe-timeout", "0.5", "--debug", "--headless", "7")
    assert line.on("no-proxy")
    assert line.number("probe-timeout", 2) == 0.5
    assert line.handed_on(()) == ["--headless=true"]
    assert line.handed_on(["headless"]) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--probe-timeout=x"],
        ["--probe-timeout"],
        ["--probe-timeout", "0"],
        ["--probe-timeout=-1"],
        ["--probe-timeout=nan"],
        ["--probe-timeout=inf"],
        ["--no-proxy=maybe"],
        ["--debug="],
    ],
)
def test_bad_values_of_own_flags_are_ours_to_refuse(words: list[str]) -> None:
    with pytest.raises(SafedlvError, match=words[0].partition("=")[0]) as caught:
        parse(["7", *words])
    assert caught.value.code == 1


def test_words_for_dlv_are_all_but_ours() -> None:
    words = ["--debug", "-x", "--probe-timeout", "3", "abc", "--no-proxy=1", "--probe-timeout=4", "--", "--debug"]
    assert command_line.words_for_dlv(words) == ["-x", "abc", "--", "--debug"]
    assert command_line.words_for_dlv(["--probe-timeout"]) == []


# ---------------------------------------------------------------- what holds for all words

FLAG_NAMES = st.sampled_from(sorted({**DLV_FLAGS, **OWN_FLAGS}))
VALUES = st.text(max_size=6) | st.sampled_from(["1", "true", "host:1", "0x2", "-1", ""])
WORDS = st.lists(
    st.text(max_size=8)
    | st.builds("--{}".format, FLAG_NAMES)
    | st.builds("--{}={}".format, FLAG_NAMES, VALUES)
    | st.builds("-{}{}".format, st.sampled_from("hlrx"), VALUES)
    | st.sampled_from(["--", "-", "7", "name:x"]),
    max_size=8,
)


@given(WORDS)
def test_any_words_are_read_or_refused_with_a_sentence(words: list[str]) -> None:
    try:
        line = parse(words, dict)
    except SafedlvError as error:
        assert error.sentence.startswith("--")  # noqa: PT017  either outcome will do
        return
    if line.refused:
        return
    assert line.args or line.text("waitfor")
    for name, kind in {**DLV_FLAGS, **OWN_FLAGS}.items():
        if kind == "float":
            line.number(name, 0.0)
        line.on(name)


@given(WORDS)
def test_what_is_handed_on_is_read_the_same_again(words: list[str]) -> None:
    try:
        line = parse(words)
    except SafedlvError:
        return
    again = parse([*line.handed_on(()), "--", *line.args])
    if not line.refused:
        assert not again.refused
    assert again.given == line.given
    assert {name: value for name, value in line.flags.items() if name in DLV_FLAGS and name != "help"} == {
        name: value for name, value in again.flags.items() if name != "help"
    }


@given(WORDS)
def test_words_for_dlv_read_as_before_but_for_ours(words: list[str]) -> None:
    try:
        line = parse(words)
    except SafedlvError:
        return
    if not line.refused:
        again = parse(command_line.words_for_dlv(words))
        assert (again.given, again.args, again.refused) == (line.given, line.args, "")


@given(st.text(max_size=400))
def test_any_help_text_is_read(text: str) -> None:
    assert all(name and kind for name, kind in flag_kinds(text).items())


@given(st.integers())
def test_every_integer_of_64_bits_is_one_in_go_too(number: int) -> None:
    assert command_line.is_pid(str(number)) == (-(2**63) <= number < 2**63)

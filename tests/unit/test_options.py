"""The words of safedlv's own commands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedlv.doctor import _options
from safedlv.errors import UsageError
from safedlv.options import SWITCH, read_words, seconds

FLAGS = {"json": SWITCH, "tracer": "WHO"}


@pytest.mark.parametrize(
    ("words", "flags", "others"),
    [
        ([], {}, []),
        (["1"], {}, ["1"]),
        (["--json", "1"], {"json": ""}, ["1"]),
        (["1", "--tracer", "pid:2"], {"tracer": "pid:2"}, ["1"]),
        (["--tracer=pid:2"], {"tracer": "pid:2"}, []),
        (["--tracer=", "1"], {"tracer": ""}, ["1"]),
        (["--tracer=a", "--tracer=b"], {"tracer": "b"}, []),
        (["--", "--json"], {}, ["--json"]),
        (["-h"], {"help": ""}, []),
        (["-"], {}, ["-"]),
    ],
)
def test_words(words: list[str], flags: dict[str, str], others: list[str]) -> None:
    assert read_words(words, FLAGS, most=1) == (flags, others)


@pytest.mark.parametrize("words", [["--jso"], ["-x"], ["1", "2"], ["--json=1"], ["--tracer"], ["--"] * 3])
def test_what_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        read_words(words, FLAGS, most=1)


@pytest.mark.parametrize("text", ["x", "", "0", "-1", "nan", "inf", "11"])
def test_no_length_of_time(text: str) -> None:
    with pytest.raises(UsageError):
        seconds(text, "probe-timeout", 10)


@given(st.lists(st.text(max_size=8), max_size=4))
def test_any_words(words: list[str]) -> None:
    try:
        flags, others = read_words(words, FLAGS, most=2)
    except UsageError:
        return
    assert set(flags) <= {*FLAGS, "help"}
    assert len(others) <= 2


@pytest.mark.parametrize(
    "words",
    [
        ["--all", "1"],
        ["--all", "--tracer=self"],
        ["--tracer=self"],
        ["--probe", "1"],
        ["--json", "--markdown", "1"],
        ["--all", "--markdown"],
    ],
)
def test_flags_of_doctor_that_do_not_go_together(words: list[str]) -> None:
    with pytest.raises(UsageError):
        _options(words)

"""The pure parts of the terminal: dlv's output cut at its prompts, the status line, the words that fit."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedlv.session import prompt_text, prompt_words
from safedlv.session.prompt_doctor import doctors_words
from safedlv.session.prompt_status import EXITED, RUNNING, STOPPED, Place, Status, duration, place_in, status_text
from safedlv.session.prompt_text import PROMPT, Output

RED = b"\x1b[31m"


def taken(*pieces: bytes) -> tuple[bytes, bytes]:
    """What is shown of output that comes in these pieces and ends at a prompt, and the prompt."""
    output = Output()
    shown = b"".join(output.feed(piece) for piece in pieces)
    assert output.is_prompt()
    before, prompt = output.take_prompt()
    assert output.feed(b"next\n") == b"next\n"
    return shown + before, prompt


@given(st.lists(st.integers(min_value=0, max_value=40), max_size=6))
def test_output_is_the_same_however_it_comes(cuts: list[int]) -> None:
    text = b"> main.greeting() ./main.go:22\r\n\r\n" + PROMPT
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[a:b] for a, b in pairwise(ends)]
    assert taken(*pieces) == (text.removesuffix(PROMPT), PROMPT)


@pytest.mark.parametrize(
    ("text", "shown", "prompt"),
    [
        (PROMPT, b"", PROMPT),
        (RED + PROMPT, b"", RED + PROMPT),
        (b"an open line" + PROMPT, b"an open line\r\n", PROMPT),
        (b"open " + RED + PROMPT, b"open \r\n", RED + PROMPT),
    ],
)
def test_prompts(text: bytes, shown: bytes, prompt: bytes) -> None:
    assert taken(text) == (shown, prompt)


def test_a_line_without_an_end_is_shown_once() -> None:
    output = Output()
    assert output.feed(b"Downloading: 10%") == b""
    assert output.rest() == b"Downloading: 10%"
    assert output.feed(b" 20%") == b""
    assert output.rest() == b" 20%"
    assert output.feed(b" done\r\n(dl") == b" done\r\n"
    assert output.may_become_prompt()
    assert not output.is_prompt()
    assert output.feed(b"v) ") == b""
    assert output.take_prompt() == (b"", PROMPT)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (b"[c] continue [s] stop here and cancel step, [f] finish step skipping all breakpoints? ", True),
        (b"Set a suspended breakpoint (Delve will try to set this breakpoint when a plugin is loaded) [Y/n]?", True),
        (b">>> ", True),
        (b"... ", True),
        (b"\x1b[1mframe 3> \x1b[0m", False),
        (b"", False),
    ],
)
def test_questions(text: bytes, question: bool) -> None:
    output = Output()
    output.feed(b"a line\r\n" + text)
    assert output.is_question() == question


def test_only_dlvs_own_questions_whether_to_kill_are_answered() -> None:
    assert prompt_text.safe_answer(b"Would you like to kill the process? [Y/n] ") == "n"
    assert prompt_text.safe_answer(b"Would you like to kill the headless instance? [Y/n] ") == "y"
    assert prompt_text.safe_answer(b"stop here? ") == ""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", [""]),
        ("  ", [""]),
        ("print 1", ["print 1"]),
        ("break main.main\r\n\n\tcontinue\n", ["break main.main", " continue"]),
        ("print \x03\x04\x1a1\x7f", ["print 1"]),
        ("print größe", ["print größe"]),
    ],
)
def test_lines_that_are_pasted(text: str, lines: list[str]) -> None:
    assert prompt_text.lines_of(text) == lines


@pytest.mark.parametrize("line", ["exit", "quit", " q ", "exit -c", "exit -d"])
def test_safe_words(line: str) -> None:
    assert prompt_text.leaves(line)


@pytest.mark.parametrize("line", ["", "exits", "print exit", "qq", "kill"])
def test_other_words(line: str) -> None:
    assert not prompt_text.leaves(line)


# ---------------------------------------------------------------- the status line

HERE = Place(18, "/src/a/main.go", 22, "main.greeting")


def test_status_lines() -> None:
    stopped = Status(STOPPED, 7.9, HERE, limit=20.0, throttled=41.6, guard=True)
    everything = " stopped 7 s of 20 s │ goroutine 18 │ main.go:22 │ CPU throttled 42 % │ guard on "
    assert status_text(stopped, 120) == everything
    assert status_text(stopped, 50) == " stopped 7 s of 20 s │ goroutine 18 │ main.go:22 "
    assert status_text(stopped, 10) == " stopped 7"
    assert status_text(Status(RUNNING, 65, HERE, throttled=0.2, guard=False), 80) == (
        " running 1:05 min │ Ctrl-C halts │ guard off "
    )
    assert status_text(Status(STOPPED, 0, Place()), 80) == " stopped 0 s "
    assert "exited" in status_text(Status(EXITED, 1, HERE, guard=True), 80)


@pytest.mark.parametrize(("seconds", "text"), [(59.9, "59 s"), (60, "1:00 min"), (3599, "59:59 min"), (7380, "2:03 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_place_is_the_selected_goroutines() -> None:
    thread = {"goroutineID": 5, "file": "/t.go", "line": 3, "function": {"name": "main.t"}}
    same = {"id": 5, "userCurrentLoc": {"file": "/other.go", "line": 4}}
    other = {"id": 6, "userCurrentLoc": {"file": "/g.go", "line": 9, "function": {"name": "main.g"}}}
    for state, expected in (
        ({"currentThread": thread, "currentGoroutine": same}, (5, "/t.go", 3, "main.t")),
        ({"currentThread": thread, "currentGoroutine": other}, (6, "/g.go", 9, "main.g")),
        ({"currentThread": {**thread, "goroutineID": 0}}, (0, "/t.go", 3, "main.t")),
        ({"currentThread": None, "currentGoroutine": {"id": "x"}}, (0, "", 0, "")),
        (None, (0, "", 0, "")),
    ):
        place = place_in(state)
        assert (place.goroutine, place.file, place.line, place.function) == expected


# ---------------------------------------------------------------- :doctor


def cause(name: str, **detail: object) -> dict[str, object]:
    return {"id": name, "summary": f"it is {name}", "advice": "mend it", "detail": detail}


def test_the_sessions_own_dlv_is_named_and_does_not_count() -> None:
    found = (("a", "warn"), ("b", "pass"), ("tracer", "fail"))
    checks = [{"id": name, "status": how, "summary": "s"} for name, how in found]
    ours = doctors_words({"causes": [cause("already-traced", tracer_pid=6)], "checks": checks}, 5, 7, {6, 7})
    assert ours.splitlines() == [
        "process 5 is held by this session's own dlv (7): nobody else can attach to it now",
        "warn: a: s",
        "nothing else is in the way of a debugger here, or would spoil its session",
    ]
    theirs = doctors_words(
        {"causes": [cause("already-traced", tracer_pid=8), cause("optimized")], "checks": []}, 5, 7, {7}
    )
    assert theirs.splitlines() == [
        "already-traced: it is already-traced", "    mend it", "optimized: it is optimized", "    mend it",
    ]  # fmt: skip
    for no_diagnosis in ({}, None, {"causes": [1], "checks": []}):
        with pytest.raises(ValueError, match="no diagnosis"):
            doctors_words(no_diagnosis, 5, 7, {7})


# ---------------------------------------------------------------- completion


@pytest.mark.parametrize(
    ("line", "kind", "typed"),
    [
        ("", "command", ""),
        ("  bre", "command", "bre"),
        ("b main.g", "location", "main.g"),
        ("break name main.g", "location", "main.g"),
        ("break main.go:3 if v.Co", "expression", "v.Co"),
        ("p v.Pa", "expression", "v.Pa"),
        ("p len(v.Pa", "expression", "v.Pa"),
        ("p *v", "expression", "v"),
        ("p a[i].na", "", ""),
        ("p 0x1f", "", ""),
        ('p v.Path == "yo', "", ""),
        ("p ", "expression", ""),
        ("set v.Number = o", "expression", "o"),
        ("clear ", "breakpoint", ""),
        ("clear 1 ", "", ""),
        ("cond 1 v.Nu", "expression", "v.Nu"),
        ("on 1 pri", "command", "pri"),
        ("on 1 print v", "expression", "v"),
        ("goroutine 5 bt", "command", "bt"),
        ("gr 1", "goroutine", "1"),
        ("frame 2 p te", "expression", "te"),
        ("help br", "command", "br"),
        ("source scr", "file", "scr"),
        ("watch -rw v", "expression", "v"),
        ("locals ", "", ""),
        ("nonsense a", "", ""),
    ],
)
def test_what_may_follow(line: str, kind: str, typed: str) -> None:
    assert prompt_words.wanted(line) == (kind, typed)


@given(st.text())
def test_any_line_can_be_completed(line: str) -> None:
    kind, typed = prompt_words.wanted(line)
    assert line.endswith(typed)
    assert kind in {*prompt_words.ARGUMENTS.values(), prompt_words.COMMAND}


def test_aliases_are_of_commands() -> None:
    assert set(prompt_words.ALIASES.values()) <= set(prompt_words.ARGUMENTS)
    assert [word for word, _ in prompt_words.command_words("bt")] == ["stack"]
    assert [word for word, _ in prompt_words.command_words("brea")] == ["break", "breakpoints"]
    assert [word for word, _ in prompt_words.command_words(":d")] == [":doctor"]


def test_what_begins_so_comes_first() -> None:
    names = ["net/http.(*Server).Serve", "main.serve", "main.main", "main.observe", "serve.it", "runtime.main"]
    assert prompt_words.fitting(names, "serve") == [
        "serve.it", "main.serve", "net/http.(*Server).Serve", "main.observe",
    ]  # fmt: skip
    assert prompt_words.fitting(names, "main.m") == ["main.main"]


def test_files_are_named_as_short_as_they_were_begun() -> None:
    sources = ["/src/app/main.go", "/src/app/make/mall.go", "/go/src/net/main.go"]
    assert prompt_words.files_fitting(sources, "ma") == ["main.go:", "mall.go:"]
    assert prompt_words.files_fitting(sources, "app/ma") == ["app/main.go:", "app/make/mall.go:"]
    assert prompt_words.files_fitting(sources, "/src/app/mai") == ["/src/app/main.go:"]
    assert prompt_words.files_fitting(sources, "") == []
    assert prompt_words.files_fitting(sources, "main.go:2") == []

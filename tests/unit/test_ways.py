"""The ways round a refusal: which are offered, in which order; and what says that a copy cannot be debugged either."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from safedlv.capabilities import capability_mask
from safedlv.command_line import CLONE, SIDECAR
from safedlv.copy_needs import is_refused
from safedlv.errors import UsageError
from safedlv.facts.process import read_process
from safedlv.model import Attempt, Cause, Diagnosis, Step, Target, Tracer, Unknown
from safedlv.relaunch import relaunch
from safedlv.sibling.choice import choose, listed
from safedlv.sibling.ways import HOST, ways

USER = Tracer("self", 1000, 1000, 0)
ROOT = Tracer("self", 0, 0, capability_mask(("sys_ptrace",)))
TARGET = Target(7, 1, "docker", "web", 1)
BARE = Diagnosis(TARGET, None, None, None, USER, None, "blocked", (), ())


def refused(*causes: str, tracer: Tracer = USER, **changes: Any) -> Diagnosis:
    return evolve(BARE, causes=tuple(Cause(cause, "inferred", cause) for cause in causes), tracer=tracer, **changes)


def offered(diagnosis: Diagnosis) -> list[str]:
    return [way.via for way in ways(diagnosis)]


@pytest.mark.parametrize(
    ("diagnosis", "expected"),
    [
        (refused("credentials"), [HOST, SIDECAR, CLONE]),
        (refused("credentials", "seccomp"), [HOST, SIDECAR, CLONE]),
        (refused("seccomp", tracer=ROOT), [HOST, SIDECAR, CLONE]),
        (refused("yama", tracer=ROOT), [SIDECAR, CLONE]),
        (refused("yama", tracer=evolve(ROOT, capabilities=0)), [HOST, SIDECAR, CLONE]),
        (refused("yama", tracer=evolve(ROOT, capabilities=Unknown("EACCES", "x"))), [HOST, SIDECAR, CLONE]),
        (refused("apparmor"), [SIDECAR, CLONE]),
        (refused(), [SIDECAR, CLONE]),
        (refused("already-traced"), []),
        (refused("credentials", verdict="ok"), []),
        (refused("credentials", target=None), []),
        (refused("credentials", target=evolve(TARGET, container=None)), []),
    ],
)
def test_offered(diagnosis: Diagnosis, expected: list[str]) -> None:
    assert offered(diagnosis) == expected


def test_nobody_may_at_all() -> None:
    facts = read_process(1)
    forbidden = evolve(facts, modules=evolve(facts.modules, yama_scope=3))
    assert HOST not in offered(refused("yama", facts=forbidden))


def test_each_says_what_to_type() -> None:
    text = listed(ways(refused("credentials")))
    for command in ("sudo safedlv attach", "safedlv attach --via sidecar", "safedlv attach --via clone"):
        assert f"$ {command} docker:web\n" in text


@pytest.mark.parametrize(
    ("answers", "chosen"), [(["1", "2"], SIDECAR), (["x", "3"], CLONE), (["n"], None), ([""], None), ([], None)]
)
def test_chosen(monkeypatch: pytest.MonkeyPatch, answers: list[str], chosen: str | None) -> None:
    """What must be typed on the host cannot be chosen here; the numbers are the list's all the same."""
    import prompt_toolkit

    given = iter(answers)

    def prompt(question: str) -> str:
        assert question == "Take which way? [2/3/n] "
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(prompt_toolkit, "prompt", prompt)
    assert choose(ways(refused("credentials"))) == chosen


# ---------------------------------------------------------------- a refusal, and what is none


def attempt(errno: str | None) -> Attempt:
    return Attempt((Step("attach", errno, 1),), (), 0, 0, left_as_found=True)


@pytest.mark.parametrize(
    ("diagnosis", "answer"),
    [
        (refused("seccomp"), True),
        (refused(attempt=attempt("EPERM")), True),
        (refused(attempt=attempt("TIMEOUT")), False),
        (refused(), False),
        (refused(verdict="undetermined"), False),
        (refused(verdict="ok", attempt=attempt(None)), False),
    ],
)
def test_what_a_busy_machine_could_not_find_out_is_no_refusal(diagnosis: Diagnosis, answer: bool) -> None:
    assert is_refused(diagnosis) is answer


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--debuggable --exec --waitfor x", "one of them"),
        ("--debuggable --exec --keep x", "--keep ends without a session"),
        ("--debuggable --waitfor --emit=run x", "--emit ends without a session"),
        ("--debuggable --listen :1 x", "it takes --exec or --waitfor"),
        ("--back --exec x", "--back ends without a session"),
    ],
)
def test_words_that_do_not_go_together(words: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        relaunch(words.split())

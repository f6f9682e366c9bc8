"""What is true of a scene in which somebody tries to attach, and holding an answer of doctor's against it.

The truth is the contract's: a cause is a layer that would still block, or spoil the session, if every other layer
were out of the way. It is the same from wherever one asks; what a place cannot know is said with the scene.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from attrs import evolve, field, frozen

DEGRADING = frozenset({"not-go", "wrong-process", "no-debug-info", "optimized", "delve-version"})
EXIT_CODES = {"ok": 0, "blocked": 10, "degraded": 11, "undetermined": 3}
STOPPED_LOOKING = "stopped looking"
ATTEMPTS = 3
ANYTHING = ("*",)
NOT_TRIED = ("thaw", "end-tracer", "delve", "limit:", "outside:", "namespace:user", "reboot")
"""Changes, as they begin an id, of something else than the tracer's context; doctor changes nothing."""
Document = dict[str, Any]


def _causes(words: str | Iterable[str]) -> frozenset[str]:
    return frozenset(words.split() if isinstance(words, str) else words)


@frozen
class Truth:
    """What an answer must say."""

    causes: frozenset[str] = field(default=frozenset(), converter=_causes)
    """All of them, and none besides (but for ``may``)."""
    step: str | None = None
    """The first of the three calls that fails."""
    errno: str | None = None
    fix: tuple[str, ...] = ()
    """The smallest set of changes, as ids; () where none helps, or none is needed."""
    may: frozenset[str] = field(default=frozenset(), converter=_causes)
    """Causes that this place can, but need not, find."""
    inferred: frozenset[str] = field(default=frozenset(), converter=_causes)
    """Causes of which even root can only say what is left over; the others are to be proved."""
    probed: bool = True
    """False: there is nothing to try the calls on, or no way back from them."""
    undetermined: bool = False
    """The verdict may be that what was lacking is said in ``missing``."""

    @property
    def verdict(self) -> str:
        """What follows from the causes."""
        if self.causes - DEGRADING or self.step:
            return "blocked"
        return "degraded" if self.causes else "ok"


def asked(ask: Callable[[], Document]) -> Document:
    """The answer; asked again where it says that it stopped looking, as it does on a machine that is loaded."""
    for _ in range(ATTEMPTS - 1):
        answer = ask()
        if not any(line.startswith(STOPPED_LOOKING) for line in answer.get("missing", ())):
            return answer
    return ask()


def ids(answer: Document) -> frozenset[str]:
    """The causes that an answer names."""
    return frozenset(cause["id"] for cause in answer["causes"])


def judge(answer: Document, truth: Truth, *, from_outside: bool) -> None:
    """Fail unless the answer says what is true. ``from_outside``: root asks, who can prove and find the change."""
    shown = json.dumps({"causes": answer["causes"], "missing": answer["missing"], "probe": answer["probe"]}, indent=1)
    found = ids(answer)
    assert truth.causes <= found <= truth.causes | truth.may, shown
    verdict = evolve(truth, causes=found).verdict
    if truth.undetermined:
        assert answer["verdict"] in ("undetermined", verdict), shown
        assert answer["missing"], "it does not say what it lacked"
    else:
        assert answer["verdict"] == verdict, shown
        assert_probe(answer, truth)
        assert_ladder(answer, truth)
    if from_outside:
        proved = {cause["id"] for cause in answer["causes"] if cause["proof"] in ("experiment", "observed")}
        assert found - truth.inferred - truth.may <= proved, shown
        assert_fix(answer, truth)


def assert_probe(answer: Document, truth: Truth) -> None:
    """The step, its errno, and the target left as it was found."""
    probe = answer["probe"]
    assert (probe is not None) == truth.probed, probe
    if probe is not None:
        assert (probe["failed_step"], probe["errno"]) == (truth.step, truth.errno), probe
        assert probe["left_as_found"] is True


def assert_proposed(answer: Document, truth: Truth) -> None:
    """What can be tried only from outside follows from the causes, too: the same change."""
    assert answer["fix"] is not None
    assert (set(answer["fix"]["ids"]), answer["fix"]["verified"]) == (set(truth.fix), False)


def assert_fix(answer: Document, truth: Truth) -> None:
    """The smallest change, and that it was tried, if it is one of the tracer's own context.

    Where the truth names none there may be one that nobody tried: that is for tests/unit/test_remedies.py.
    """
    fix = answer["fix"] or {"ids": [], "verified": False}
    if truth.fix == ANYTHING or (truth.fix == () and not fix["verified"]):
        return
    tried = not any(change.startswith(NOT_TRIED) for change in truth.fix)
    assert (set(fix["ids"]), fix["verified"]) == (set(truth.fix), tried), (truth.fix, fix)


def assert_ladder(answer: Document, truth: Truth) -> None:
    """The layers that refuse the attach are marked, one of them as the first; an attach that passed has no ladder."""
    marks = {rung["layer"]: rung["mark"] for rung in answer["ladder"]}
    refusing = {layer for layer, mark in marks.items() if mark in ("refused", "refuses too")}
    asked = "ptrace-unsupported" not in truth.causes  # else no layer was
    assert bool(marks) == (truth.step == "attach" and truth.probed and asked)
    assert refusing <= truth.causes | truth.may, marks
    if marks and truth.errno != "TIMEOUT" and truth.causes:
        assert list(marks.values()).count("refused") == 1, marks

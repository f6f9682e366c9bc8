"""The layers in the kernel's order, each with a mark: what a refused attach met, and would meet next. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from safedlv.diagnosis.access_rules import ALLOWS, REFUSES, Ruling
from safedlv.diagnosis.evidence import Evidence
from safedlv.diagnosis.refusals import cleared, refused_by_filter
from safedlv.model import Cause, Rung


def ladder(e: Evidence, causes: tuple[Cause, ...]) -> tuple[Rung, ...]:
    """The rungs for an attach that was refused; none for one that passed: what was measured outranks every rule.

    ``passed``, ``refused`` (the first, which answered), ``refuses too`` (it would answer next), ``not reached`` (it
    would let the call pass) and ``unknown``.
    """
    failed = e.attempt.failed if e.attempt else None
    if failed is None or failed.step != "attach":
        return ()
    proved = {cause.id: cause.summary for cause in causes}
    if "ptrace-unsupported" in proved:
        return ()  # no layer was asked
    rungs: list[Rung] = []
    reached = True
    for ruling in e.rulings:
        if ruling.stops_attach:
            answer = _answer(e, ruling, proved)
            why = proved.get(ruling.id, ruling.told) if answer != ALLOWS else ""
            rungs.append(Rung(ruling.id, _mark(answer, reached=reached), why))
            reached = reached and answer != REFUSES
    return tuple(rungs)


def _answer(e: Evidence, ruling: Ruling, proved: Mapping[str, str]) -> str:
    """The rule's answer, or what an experiment found out about that layer."""
    if ruling.id == "seccomp":
        return REFUSES if "attach" in dict(refused_by_filter(e)) else ALLOWS if _filters_are_known(e) else ruling.answer
    if ruling.id in proved:
        return REFUSES
    return ALLOWS if ruling.id in cleared(e) else ruling.answer


def _filters_are_known(e: Evidence) -> bool:
    return e.filtered is False or bool(e.nobody) or e.only_filters is not None


def _mark(answer: str, *, reached: bool) -> str:
    if answer == REFUSES:
        return "refused" if reached else "refuses too"
    if answer == ALLOWS:
        return "passed" if reached else "not reached"
    return "unknown"

"""What a run of the control group found, for people and as JSON (schema ``safedlv.control/1``)."""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen

from safedlv.controlled.run import FAILS, UNTRIED, WORKS, Findings, Outcome, Row
from safedlv.errors import printable
from safedlv.model import Cause
from safedlv.report.side_by_side import paragraph, table
from safedlv.report.text import CALLS
from safedlv.values import Value

SCHEMA = "safedlv.control/1"
HEADINGS = ("INGREDIENT", "CONTROL", "REAL", "WITH IT", "ALONE")
HOW = "Each ingredient was added to those above it that work; in the last column it was the only one."
SHORT = {"attach": "ATTACH", "setoptions": "SETOPTIONS", "cont": "CONT"}


@frozen(eq=False, repr=False)
class Answer(Value):
    """All that the command has to say."""

    target: int | None
    """The real target's PID; None: the question was this machine alone."""
    who: str | None
    """Whose place the debugger's was."""
    namespaces: tuple[str, ...]
    cgroup: bool
    left_out: tuple[str, ...]
    """What the group could not have, a sentence each."""
    dlv: str | None
    findings: Findings
    not_copied: tuple[str, ...]
    causes: tuple[Cause, ...]
    """Where the group itself fails: what doctor says of this place."""


def document(answer: Answer) -> str:
    """The answer as JSON text."""
    found = answer.findings
    return json.dumps(
        {
            "schema": SCHEMA,
            "target": answer.target,
            "tracer": answer.who,
            "verdict": found.verdict,
            "named": list(found.named),
            "group": {
                "namespaces": list(answer.namespaces),
                "cgroup": answer.cgroup,
                "left_out": list(answer.left_out),
            },
            "control": {
                "probe": _outcome(found.control),
                "dlv": _outcome(found.control_dlv),
                "path": answer.dlv,
                "own_program": _maybe(found.own_program),
            },
            "ingredients": [
                {
                    "id": row.ingredient.id,
                    "control": row.ingredient.control,
                    "real": row.ingredient.real,
                    "added": _outcome(row.added),
                    "alone": _outcome(row.alone),
                }
                for row in found.rows
            ],
            "together": {"probe": _maybe(found.together), "dlv": _maybe(found.together_dlv)},
            "not_copied": list(answer.not_copied),
            "causes": [{"id": cause.id, "summary": cause.summary} for cause in answer.causes],
        },
        indent=2,
    )


def _maybe(outcome: Outcome | None) -> dict[str, Any] | None:
    return None if outcome is None else _outcome(outcome)


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {"result": outcome.result, "step": outcome.step, "errno": outcome.errno, "why": outcome.why or None}


# ---------------------------------------------------------------- for people


def report(answer: Answer) -> str:
    """The answer as text of 80 columns, ending in a newline: the verdict first, then the group, then the table."""
    return "\n".join([*paragraph(headline(answer)), *body(answer)]) + "\n"


def body(answer: Answer) -> list[str]:
    """What comes below the headline: the group, the table, and what is not in it."""
    found = answer.findings
    lines = ["", *_group(answer)]
    lines += [line for cause in answer.causes for line in paragraph(f"{cause.id}: {cause.summary}", "  ")]
    if found.rows:
        lines += ["", *table(HEADINGS, [_cells(row) for row in found.rows])]
        lines += ["", *paragraph(HOW)]
    if found.together is not None:
        dlv = f"; dlv: {words(found.together_dlv)}" if found.together_dlv else ""
        lines += ["", *paragraph(f"All of them together: probe: {words(found.together)}{dlv}.")]
    why = [f"{row.ingredient.id} was not tried: {row.added.why}" for row in found.rows if row.added.result == UNTRIED]
    notes = [*why, *(f"not in the table: {line}" for line in answer.not_copied)]
    lines += ["", *(line for note in notes for line in paragraph(printable(note, 400)))] if notes else []
    return lines


def headline(answer: Answer) -> str:
    """The verdict and what it rests on, in a sentence."""
    found = answer.findings
    if FAILS in (found.control.result, found.control_dlv.result):
        which = "the probe" if found.control.result == FAILS else "dlv"
        return (
            f"fails: {which} fails in the control group itself, so no ingredient of a target is to blame: it is this "
            "kernel, this dlv, or what safedlv itself runs under"
        )
    if found.control.result == UNTRIED:
        return f"{found.verdict}: the probe could not be made in the control group: {found.control.why}"
    return f"{found.verdict}: {_of_this_machine(found) if answer.target is None else _of_the_target(answer)}"


def _of_this_machine(found: Findings) -> str:
    if found.control_dlv.result == WORKS:
        return "this kernel and this dlv can debug: in the control group everything passed"
    return f"this kernel can debug: in the control group the probe passed; dlv was not tried: {found.control_dlv.why}"


def _of_the_target(answer: Answer) -> str:
    found = answer.findings
    if found.named:
        return f"the control group works, and fails with the real {' and with the real '.join(found.named)}"
    if found.own_program is not None and found.own_program.result == FAILS:
        return "dlv fails with the target's own program, in the control group, too"
    if found.verdict == FAILS:
        return "each ingredient passes the probe, and all of them together fail"
    if found.verdict == WORKS:
        return f"with all that could be copied from process {answer.target} and its debugger, too"
    return "nothing that was tried fails, but not everything could be tried"


def _group(answer: Answer) -> list[str]:
    made = [f"namespaces ({', '.join(answer.namespaces)})"] if answer.namespaces else []
    made += ["a cgroup"] if answer.cgroup else []
    where = f" in {' and '.join(made)} of their own" if made else ""
    lines = paragraph(f"The control group: two processes{where}, alike and without privilege.")
    lines += [line for sentence in answer.left_out for line in paragraph(f"it has {printable(sentence)}", "  ")]
    lines += [f"  probe: {words(answer.findings.control)}"]
    lines += paragraph(f"dlv:   {words(answer.findings.control_dlv)}", "  ", "         ")
    own = answer.findings.own_program
    what = "" if own is None else f"dlv with the target's own program, none of which is run: {words(own)}"
    return lines + (paragraph(what, "  ", "         ") if what else [])


def _cells(row: Row) -> tuple[str, ...]:
    ingredient = row.ingredient
    return ingredient.id, ingredient.control, printable(ingredient.real), words(row.added), words(row.alone)


def words(outcome: Outcome) -> str:
    """One outcome in a few words."""
    if outcome.result == FAILS:
        step = outcome.step or ""
        call = "" if step == "dlv" else f"{SHORT.get(step, CALLS.get(step, step))}: "
        return f"FAILS: {call}{outcome.errno}"
    return outcome.result

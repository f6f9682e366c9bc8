"""A refused attach in three or four lines, for an editor's dialog: what was refused, by what, how known, what to do."""

from __future__ import annotations

from safedlv.diagnosis.advice import advice
from safedlv.errors import printable
from safedlv.model import Cause, Diagnosis
from safedlv.report.text import CALLS, WORDS

SHOWN = 2
"""Causes that are named; of more it is said how many there are."""
LINE = 400
PROOFS = {
    "experiment": "an experiment shows it",
    "observed": "the kernel states it",
    "inferred": "inferred: all else was excluded",
}


def dialog(diagnosis: Diagnosis, hint: str = "") -> str:
    """The text, without a newline at its end. ``hint``: a further line on what can be done from here."""
    lines = [_what(diagnosis), *(_by(cause) for cause in diagnosis.reasons[:SHOWN])]
    if not diagnosis.reasons:
        lines.append("no cause is proved; the Debug Console has what is known")
    if len(diagnosis.reasons) > SHOWN:
        lines[-1] += f" (and {len(diagnosis.reasons) - SHOWN} more: see the Debug Console)"
    lines += [f"to do: {todo}" for todo in [_todo(diagnosis)] if todo]
    lines += [hint] if hint else []
    return "\n".join(printable(line, LINE) for line in lines)


def _what(d: Diagnosis) -> str:
    name = d.facts.status.name if d.facts else ""
    who = f"process {d.target.pid}" if d.target else "the process"
    who += f" ({name})" if isinstance(name, str) and name else ""
    failed = d.attempt and (d.attempt.failed or d.attempt.failed_need)
    if not failed:
        return f"{who} cannot be debugged"
    word = WORDS.get(failed.errno or "", "refused")
    return f"{who}: {CALLS.get(failed.step, failed.step)} was refused with {failed.errno} ({word})"


def _by(cause: Cause) -> str:
    return f"{cause.id}: {cause.summary} ({PROOFS.get(cause.proof, cause.proof)})"


def _todo(d: Diagnosis) -> str:
    if d.fix is not None:
        return "; ".join(d.fix.changes)
    return "; ".join(dict.fromkeys(text for text in map(advice, d.causes) if text))

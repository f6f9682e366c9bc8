"""A comparison for people and as JSON (schema ``safedlv.comparison/1``). Pure."""

from __future__ import annotations

import json
from typing import Any

from safedlv.controlled.differences import Compared, Row, Seen
from safedlv.errors import printable
from safedlv.model import Unknown
from safedlv.report.side_by_side import paragraph, table

SCHEMA = "safedlv.comparison/1"
LONGEST = 400
"""Characters of one cell."""


def document(found: Compared) -> str:
    """The comparison as JSON text; ``same`` is null where it is unknown."""
    return json.dumps(
        {
            "schema": SCHEMA,
            "a": _side(found.one),
            "b": _side(found.other),
            "rows": [_row(row) for row in found.rows],
            "matters": [{"cause": cause, "rows": list(rows)} for cause, rows in found.matters],
            "summary": summary(found),
        },
        indent=2,
    )


def _side(seen: Seen) -> dict[str, Any]:
    judged = seen.diagnosis
    return {
        "named": seen.text,
        "pid": seen.facts.pid,
        "verdict": judged.verdict if judged else None,
        "causes": [cause.id for cause in judged.causes] if judged else [],
        "tracer": judged.tracer.who if judged else None,
    }


def _row(row: Row) -> dict[str, Any]:
    unknown = row.same if isinstance(row.same, Unknown) else None
    return {
        "id": row.id,
        "a": row.one,
        "b": row.other,
        "same": None if unknown is not None else row.same,
        "why": None if unknown is None else f"{unknown.source}: {unknown.errno}",
    }


# ---------------------------------------------------------------- for people


def report(found: Compared, *, everything: bool) -> str:
    """The differences, what is unknown, with ``everything`` what is equal; the line on what matters is the last."""
    headings = ("", _heading("A", found.one), _heading("B", found.other))
    differ = [row for row in found.rows if row.same is False]
    unknown = [row for row in found.rows if isinstance(row.same, Unknown)]
    alike = [row for row in found.rows if row.same is True]
    lines = [*table(headings, [])] if not differ else [*table(headings, [_cells(row) for row in differ])]
    if not differ:
        lines += ["", "Nothing that was read differs."]
    if unknown:
        lines += ["", "Unknown, of one or both:", *table(("", "A", "B"), [_cells(row) for row in unknown])]
    if everything and alike:
        lines += ["", "The same:", *table(("", "BOTH"), [(row.id, printable(row.one, LONGEST)) for row in alike])]
    elif alike:
        lines += ["", f"The same: {len(alike)} more rows (--all shows them)."]
    return "\n".join([*lines, "", *paragraph(summary(found))]) + "\n"


def _heading(letter: str, seen: Seen) -> str:
    name = seen.facts.status.name
    shown = f" ({printable(name)})" if isinstance(name, str) else ""
    pid = "" if seen.text == str(seen.facts.pid) else f", process {seen.facts.pid}"
    return f"{letter}: {printable(seen.text)}{pid}{shown}"


def _cells(row: Row) -> tuple[str, str, str]:
    return row.id, printable(row.one, LONGEST), printable(row.other, LONGEST)


def summary(found: Compared) -> str:
    """What doctor says of each, and which of the differences that is about."""
    said = "; ".join(_said(letter, seen) for letter, seen in (("A", found.one), ("B", found.other)) if seen.diagnosis)
    if not found.deciding and found.judged_alike is False:
        return (
            f"What matters to a debugger: doctor says {said}, and has proved no cause; safedlv control tries the "
            "ingredients of each one by one."
        )
    if not found.deciding:
        return f"What matters to a debugger: none of the differences; doctor says {said}."
    about = "; ".join(f"{cause} is about {_rows(rows)}" for cause, rows in found.matters)
    return f"What matters to a debugger: doctor says {said}. Of the rows that differ or are unknown, {about}."


def _said(letter: str, seen: Seen) -> str:
    assert seen.diagnosis is not None
    causes = ", ".join(cause.id for cause in seen.diagnosis.causes)
    return f"{letter} is {seen.diagnosis.verdict}{f' by {causes}' if causes else ''} (from {seen.diagnosis.tracer.who})"


def _rows(rows: tuple[str, ...]) -> str:
    return " and ".join(rows) or "none"

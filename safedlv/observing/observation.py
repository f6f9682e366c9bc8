"""What an observed session comes to: the first call that matters, as text for people and as JSON. Pure.

JSON: schema ``safedlv.observation/1``. Fields may be added; a field that is here keeps its meaning.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final

from attrs import frozen

from safedlv.errors import printable
from safedlv.observing.calls import BREAKS, HARMLESS, POORER, Call, Meaning, first_that_matters, meaning
from safedlv.values import Value

SCHEMA: Final = "safedlv.observation/1"
WORKS, FAILS, SPOILT, HIDDEN = "works", "fails", "spoilt", "hidden"
"""The attach works; it fails; it works and something is refused; the target cannot be named from there."""
EXIT_CODES: Final = {WORKS: 0, FAILS: 10, SPOILT: 11, HIDDEN: 10}
_LINES: Final = 12
"""Of what dlv said itself."""


@frozen(eq=False, repr=False)
class Observation(Value):
    """A session that was observed."""

    pid: int
    inner: int
    """The target's PID as dlv names it; 0: it cannot."""
    container: str | None
    who: str
    place: str
    """Whose that is, for people."""
    real: bool
    attached: bool
    how: str
    code: int | None
    """dlv's exit code, or minus the signal that it died of."""
    made: int
    calls: tuple[Call, ...]
    said: tuple[str, ...]
    """The lines of dlv's stderr."""
    out: tuple[str, ...]
    lacks: tuple[str, ...]
    """In what dlv did not stand as it should, and the stand-in is not as the target; a sentence each."""
    home: str

    @property
    def judged(self) -> list[tuple[Call, Meaning]]:
        """Each call, and what it did."""
        return [(call, meaning(call, self.inner)) for call in self.calls]

    @property
    def verdict(self) -> str:
        """What it comes to, in a word."""
        if self.inner <= 0:
            return HIDDEN
        if not self.attached or self.code != 0 or self.how != "ended":
            return FAILS
        return SPOILT if any(what.level in (POORER, BREAKS) for _, what in self.judged) else WORKS


# ---------------------------------------------------------------- JSON


def document(seen: Observation) -> str:
    """The observation as JSON text."""
    return json.dumps(as_dict(seen), indent=2)


def as_dict(seen: Observation) -> dict[str, Any]:
    """The observation as plain values."""
    judged = seen.judged
    first = first_that_matters(judged, failed=seen.verdict == FAILS)
    return {
        "schema": SCHEMA,
        "target": {"pid": seen.pid, "container": seen.container},
        "tracer": {"who": seen.who, "place": seen.place},
        "on": "real" if seen.real else "stand-in",
        "verdict": seen.verdict,
        "dlv": {
            "target_pid": seen.inner if seen.inner > 0 else None,  # the stand-in's, where there is one
            "attached": seen.attached,
            "end": seen.how,
            "exit_code": seen.code,
            "stdout": list(seen.out),
            "stderr": list(seen.said),
        },
        "calls_made": seen.made,
        "calls": [_call(call, what) for call, what in judged],
        "harmless": sum(what.level == HARMLESS for _, what in judged),
        "first": first,
        "lacks": list(seen.lacks),
        "brought_home": seen.home or None,
    }


def _call(call: Call, what: Meaning) -> dict[str, Any]:
    return {
        "call": call.name,
        "request": call.request,
        "text": call.text,
        "errno": call.errno,
        "thread": call.tid,
        "ms": call.ms,
        "phase": call.phase,
        "level": what.level,
        "effect": what.effect,
    }


# ---------------------------------------------------------------- text


def report(seen: Observation, target: str, *, everything: bool) -> str:
    """For people; ``target`` is how the user named it, ``everything``: the harmless calls too."""
    shown = [(call, what) for call, what in seen.judged if everything or what.level != HARMLESS]
    hidden = len(seen.calls) - len(shown)
    lines = [f"{seen.verdict}: {_outcome(seen)}", f"  dlv stood {_where(seen)}; {_whom(seen)}"]
    lines += [f"  it may be otherwise: {printable(line)}" for line in seen.lacks]
    lines += ["", *_table(shown)] if shown else []
    count = f"{seen.made} calls, {len(seen.calls)} failed"
    lines += ["", f"{count}; {hidden} of them harmless (--all shows them)" if hidden else count]
    lines += ["", "dlv said:", *(f"  {line}" for line in seen.said[:_LINES])] if seen.said else []
    lines += [f"the target was brought home: {seen.home}"] if seen.home else []
    return "\n".join([*lines, *_conclusion(seen, target)]) + "\n"


def _where(seen: Observation) -> str:
    return "where safedlv stands" if seen.who == "self" else f"in the place of {printable(seen.place)}"


def _whom(seen: Observation) -> str:
    if seen.real:
        return f"its target was process {seen.pid} itself"
    return f"its target was a stand-in for process {seen.pid}, which was not touched"


def _outcome(seen: Observation) -> str:
    if seen.inner <= 0:
        return "the target has no PID where dlv stands, so it cannot be named there"
    end = f"code {seen.code}" if (seen.code or 0) >= 0 else f"signal {-(seen.code or 0)}"
    if seen.how != "ended":
        return f"dlv {'attached, and ' if seen.attached else ''}did not come to its end by itself ({seen.how}; {end})"
    if not seen.attached:
        return f"dlv did not attach, and ended with {end}"
    return f"dlv attached, and ended with {end}"


def _table(shown: list[tuple[Call, Meaning]]) -> list[str]:
    lines = []
    for call, what in shown:
        lines.append(f"{call.ms:10.3f} ms  thread {call.tid}  {call.text} = {_result(call)}")
        lines.append(f"                {what.effect}")
    return lines


def _result(call: Call) -> str:
    return "killed or trapped by a filter (SIGSYS)" if call.errno == "SIGSYS" else f"-1 {call.errno}"


def _conclusion(seen: Observation, target: str) -> list[str]:
    judged = seen.judged
    at = first_that_matters(judged, failed=seen.verdict == FAILS)
    if at is None:
        if seen.verdict == WORKS:
            return []
        said = ["No call that failed explains it."] if seen.verdict != HIDDEN else []
        return ["", *said, _hint(seen, target)]
    call, what = judged[at]
    named = f"{call.name}({call.request})" if call.request else call.name
    return ["", f"The first that matters: {named} fails with {call.errno}: {what.effect}.", _hint(seen, target)]


def _hint(seen: Observation, target: str) -> str:
    from_there = "" if seen.who == "self" else f" --tracer {printable(seen.who)}"
    return f"What refuses it, and what would mend it: safedlv doctor {printable(target)}{from_there}"


def lines_of(data: bytes) -> tuple[str, ...]:
    """What dlv said, safe to show."""
    return tuple(printable(line.expandtabs(4)) for line in data.splitlines() if line.strip())


def code_of(status: int | None) -> int | None:
    """A status of waitpid(2) as an exit code, minus the signal for a death; None: it was not seen."""
    return None if status is None else os.waitstatus_to_exitcode(status)

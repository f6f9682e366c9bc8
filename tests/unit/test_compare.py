"""Two processes side by side: what is equal, different or unknown, and which of it matters. Pure."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from safedlv.controlled.differences import Compared, Row, Seen, compare
from safedlv.controlled.differences_text import report, summary
from safedlv.facts.process import read_process
from safedlv.model import Attempt, CapabilitySets, Cause, Diagnosis, GoBinary, Ids, Step, Tracer, Unknown

NOT_GO = Unknown("NOT_GO", "exe")
SETS = CapabilitySets(0, 0b111, 0b111, 0b111, 0)
PASSED = Attempt((Step("attach", None, 1),), (), 1, 0, True)


def seen(*causes: str, verdict: str = "ok", **status: Any) -> Seen:
    """A process that nobody has read, but for its ids and capabilities."""
    facts = read_process(0)
    known: dict[str, Any] = {"uid": Ids(1, 1, 1, 1), "gid": Ids(1, 1, 1, 1), "capabilities": SETS, **status}
    facts = evolve(facts, status=evolve(facts.status, **known))
    binary = GoBinary("/x", False, NOT_GO, NOT_GO, NOT_GO, NOT_GO, NOT_GO, False, False)
    found = tuple(Cause(cause, "inferred", cause) for cause in causes)
    judged = Diagnosis(None, facts, binary, None, Tracer("self", 0, 0, 0), PASSED, verdict, found, ())
    return Seen("1", facts, binary, (), judged)


def rows(found: Compared) -> dict[str, Row]:
    return {row.id: row for row in found.rows}


def test_unknown_is_neither_equal_nor_different() -> None:
    found = rows(compare(seen(), seen()))
    assert isinstance(found["dumpable"].same, Unknown)
    assert found["dumpable"].one.startswith("unknown (")
    assert found["uid"].same is True
    assert found["Go version"].same is True, "what only a Go program has, another one has not"


def test_what_one_holds_alone_is_seen() -> None:
    found = rows(compare(seen(), seen(capabilities=CapabilitySets(0, 0b011, 0b1000, 0, 0))))
    assert (found["permitted"].one, found["permitted"].other) == (
        "2 that both hold, and dac_read_search",
        "2 that both hold",
    )
    assert (found["effective"].one, found["effective"].other) == ("chown, dac_override, dac_read_search", "fowner")


def test_a_cause_of_both_decides_nothing() -> None:
    found = compare(seen("not-go", verdict="degraded"), seen("not-go", verdict="degraded", uid=Ids(2, 2, 2, 2)))
    assert found.matters == ()
    assert "none of the differences" in summary(found)


def test_a_cause_of_one_is_about_the_rows_that_differ() -> None:
    found = compare(seen("not-go"), seen("not-go", "credentials", verdict="blocked", uid=Ids(2, 2, 2, 2)))
    assert found.matters == (("credentials", ("uid",)),)
    assert summary(found).endswith("credentials is about uid.")
    assert report(found, everything=False).endswith(summary(found)[-20:] + "\n")


def test_a_verdict_without_a_cause_is_not_explained_away() -> None:
    found = compare(seen(), seen(verdict="blocked", uid=Ids(2, 2, 2, 2)))
    assert "none of the differences" not in summary(found)
    assert "no cause" in summary(found)


def test_of_one_alone_every_cause_counts() -> None:
    alone = evolve(seen(), diagnosis=None)
    found = compare(seen("credentials", uid=Ids(2, 2, 2, 2)), alone)
    assert found.matters == (("credentials", ("uid",)),)

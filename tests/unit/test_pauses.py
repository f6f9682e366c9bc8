"""When a pause ends, who is warned, and what a health check allows."""

from __future__ import annotations

import pytest

from safedlv.errors import SafedlvError
from safedlv.session.ears import Answers
from safedlv.session.pauses import Clock, Limits, read_on_disconnect, read_pause, until_unhealthy

SECOND = 10**9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20s", 20.0), ("500ms", 0.5), ("2m", 120.0), ("1.5m", 90.0), ("24h", 86400.0), ("7", 7.0), ("off", None)],
)
def test_times(text: str, seconds: float | None) -> None:
    assert read_pause(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "1e3", "nan", "inf", "20 s", "0", "9999999999", "25h", "1d", "\x1b[1m"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(SafedlvError, match="no time for a pause") as refused:
        read_pause(text)
    assert "\x1b" not in refused.value.sentence


@pytest.mark.parametrize(
    ("text", "found"),
    [("continue", ("continue", 30.0)), ("detach:10s", ("detach", 10.0)), ("wait", ("wait", 30.0))],
)
def test_on_disconnect(text: str, found: tuple[str, float]) -> None:
    assert read_on_disconnect(text) == found


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        (None, None),
        ({}, None),
        ({"Test": ["NONE"]}, None),
        ({"Test": ["CMD", "true"]}, 60.0),
        ({"Test": ["CMD-SHELL", "curl"], "Interval": 5 * SECOND, "Retries": 4}, 15.0),
        ({"Test": ["CMD"], "Interval": 10 * SECOND, "Timeout": 3 * SECOND, "Retries": 1}, 3.0),
        ({"Test": ["CMD"], "Interval": 2 * SECOND, "Timeout": 60 * SECOND, "Retries": 1}, 2.0),
        ({"Test": ["CMD"], "Retries": "three"}, None),
        ("nonsense", None),
    ],
)
def test_a_health_check(config: object, seconds: float | None) -> None:
    found = until_unhealthy(config)
    assert (found and found[0]) == seconds


def acts(clock: Clock, *looks: tuple[float, bool, bool]) -> list[str]:
    return [clock.looked(now, stands=stands, clients=clients) for now, stands, clients in looks]


def test_the_pause_is_counted_from_its_beginning_and_warned_of() -> None:
    clock = Clock(Limits(20.0, "x"))
    looks = [(float(now), True, True) for now in range(42)]
    told = {now: what for (now, _, _), what in zip(looks, acts(clock, *looks), strict=True) if what}
    assert told == {10.0: "warn", 15.0: "warn", 20.0: "continue", 31.0: "warn", 36.0: "warn", 41.0: "continue"}


def test_a_target_that_ran_meanwhile_begins_anew() -> None:
    clock = Clock(Limits(4.0, "x"))
    assert acts(clock, (0, True, True), (3, True, True), (3.5, False, True), (4, True, True), (7, True, True)) == [
        "",
        "warn",
        "",
        "",
        "warn",
    ]
    assert clock.left(7) == 1.0


@pytest.mark.parametrize("what", ["continue", "detach"])
def test_alone(what: str) -> None:
    """The time counts from when the last client left; once it is over, every stop is ended at once."""
    clock = Clock(Limits(on_disconnect=what, grace=5.0))
    told = acts(clock, (0, True, True), (9, True, True), (10, False, False), (13, True, False), (15, True, False))
    assert told == ["", "", "", "", what]
    assert acts(clock, (16, False, False), (17, True, False), (18, True, True), (60, True, True)) == ["", what, "", ""]


def test_who_waits_waits() -> None:
    assert set(acts(Clock(Limits()), *((float(now), True, False) for now in range(0, 1000, 10)))) == {""}


OURS = b'{"id":1099511628776,"result":{"State":{}},"error":null}\n'
THEIRS = [b'{"id":1,"result":{"a":"{\\"id\\":1099511628776,"},"error":null}\n', b'{"id":10,"result":{},"error":null}\n']


@pytest.mark.parametrize("at", range(len(OURS) + 1))
def test_answers_to_us_are_left_out_wherever_they_are_torn(at: int) -> None:
    text = THEIRS[0] + OURS + THEIRS[1]
    answers = Answers()
    cut = len(THEIRS[0]) + at
    assert answers.inward(text[:cut]) + answers.inward(text[cut:]) + answers.inward(b"") == THEIRS[0] + THEIRS[1]


def test_answers_to_us_byte_by_byte() -> None:
    answers = Answers()
    text = OURS + THEIRS[1] + OURS + OURS + THEIRS[0]
    heard = b"".join(answers.inward(text[i : i + 1]) for i in range(len(text)))
    assert heard + answers.inward(b"") == THEIRS[1] + THEIRS[0]

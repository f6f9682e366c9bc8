"""Every cause comes with something to do."""

from __future__ import annotations

from safedlv.diagnosis.access_rules import RULES
from safedlv.diagnosis.advice import ADVICE, advice
from safedlv.diagnosis.causes import BLOCKED_IDS, BLOCKING, DEGRADING, REFUSALS
from safedlv.model import Cause


def test_every_cause_has_advice() -> None:
    rows = {row.__name__.replace("_", "-").removesuffix("-cgroup") for row in (*BLOCKING, *REFUSALS, *DEGRADING)}
    rows -= {"security-module"}  # one row for three causes, which have rules
    assert not (rows | BLOCKED_IDS | {rule.id for rule in RULES}) - set(ADVICE)


def test_advice_names_what_was_found() -> None:
    cause = Cause("wrong-process", "observed", "a wrapper", detail=(("go_pid", 4711),))
    assert advice(cause).endswith("safedlv attach 4711")


def test_security_is_never_to_be_switched_off() -> None:
    text = " ".join(ADVICE.values()).lower()
    assert "--privileged" not in text
    assert "unconfined" not in text

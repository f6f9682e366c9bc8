"""``doctor --json``: one object in the shape of the contract, schema ``safedlv.diagnosis/1``."""

from __future__ import annotations

import json
from typing import Any

from safedlv.capabilities import capability_names
from safedlv.diagnosis.advice import advice
from safedlv.model import Attempt, Cause, Diagnosis, Fix, Step, Unknown

SCHEMA = "safedlv.diagnosis/1"


def document(diagnosis: Diagnosis) -> str:
    """The diagnosis as JSON text. What is unknown is null."""
    return json.dumps(as_dict(diagnosis), indent=2)


def as_dict(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as plain values."""
    return {
        "schema": SCHEMA,
        "target": _target(diagnosis),
        "tracer": _tracer(diagnosis),
        "verdict": diagnosis.verdict,
        "probe": None if diagnosis.attempt is None else _probe(diagnosis.attempt),
        "causes": [_cause(cause) for cause in diagnosis.causes],
        "checks": [{"id": c.id, "status": c.status, "summary": c.summary} for c in diagnosis.checks],
        "fix": None if diagnosis.fix is None else _fix(diagnosis.fix),
        "ladder": [{"layer": r.id, "mark": r.mark, "why": r.why} for r in diagnosis.ladder],
        "missing": list(diagnosis.missing),
        "held_us": diagnosis.held_us,
    }


def _target(d: Diagnosis) -> dict[str, Any] | None:
    if d.target is None:
        return None
    status = d.facts.status if d.facts else None
    uid, gid = (status.uid, status.gid) if status else (None, None)
    return {
        "pid": d.target.pid,
        "runtime": d.target.runtime,
        "container": d.target.container,
        "inner_pid": _value(d.target.inner_pid),
        "exe": _value(d.binary.path) if d.binary else None,
        "comm": _value(status.name) if status else None,
        "uid": None if uid is None or isinstance(uid, Unknown) else uid.real,
        "gid": None if gid is None or isinstance(gid, Unknown) else gid.real,
    }


def _tracer(d: Diagnosis) -> dict[str, Any]:
    mask = d.tracer.capabilities
    return {
        "who": d.tracer.who,
        "uid": d.tracer.uid,
        "gid": d.tracer.gid,
        "caps": None if isinstance(mask, Unknown) else list(capability_names(mask)),
    }


def _probe(attempt: Attempt) -> dict[str, Any]:
    failed = attempt.failed
    return {
        "failed_step": failed.step if failed else None,
        "errno": failed.errno if failed else None,
        "steps": [_step(step) for step in attempt.steps],
        "needs": [_step(step) for step in attempt.needs],
        "access": [_step(step) for step in attempt.access],
        "stopped_us": attempt.stopped_us,
        "threads_stopped_us": attempt.threads_stopped_us,
        "left_as_found": attempt.left_as_found,
    }


def _step(step: Step) -> dict[str, Any]:
    return {"step": step.step, "ok": step.ok, "errno": step.errno, "us": step.us}


def _cause(cause: Cause) -> dict[str, Any]:
    return {
        "id": cause.id,
        "proof": cause.proof,
        "advice": advice(cause),
        "summary": cause.summary,
        "evidence": list(cause.evidence),
        "detail": dict(cause.detail),
    }


def _fix(fix: Fix) -> dict[str, Any]:
    return {
        "changes": list(fix.changes),
        "ids": list(fix.ids),
        "risk": fix.risk,
        "risk_why": fix.risk_why,
        "not_needed": list(fix.not_needed),
        "verified": fix.verified,
        "commands": dict(fix.commands),
    }


def _value(fact: object) -> object:
    return None if isinstance(fact, Unknown) else fact

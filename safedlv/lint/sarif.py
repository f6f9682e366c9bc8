"""Findings as SARIF, which code hosts show beside the lines. Pure. SARIF 2.1.0 (OASIS)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from typing import Any, Final
from urllib.parse import quote

from safedlv import __version__
from safedlv.lint.documents import Document
from safedlv.lint.report import Linted, Unread
from safedlv.lint.rules import RULES
from safedlv.lint.values import Finding, Patch

SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
Json = dict[str, Any]


def as_dict(linted: Iterable[Linted], unread: Iterable[Unread]) -> Json:
    """A log with one run."""
    places = {rule.id: place for place, rule in enumerate(RULES)}
    driver = {
        "name": "safedlv seccomp lint",
        "version": __version__,
        "rules": [
            {"id": rule.id, "shortDescription": {"text": rule.words}, "defaultConfiguration": {"level": rule.level}}
            for rule in RULES
        ],
    }
    results = [_result(one.document, finding, places) for one in linted for finding in one.findings]
    failures = [_failure(one) for one in unread]
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "invocations": [{"executionSuccessful": not failures, "toolExecutionNotifications": failures}],
                "results": results,
            }
        ],
    }


def _result(document: Document, finding: Finding, places: dict[str, int]) -> Json:
    advice = f" Fix: {finding.advice}." if finding.advice else ""
    result: Json = {
        "ruleId": finding.rule,
        "ruleIndex": places[finding.rule],
        "level": finding.level,
        "message": {"text": f"{finding.subject}: {finding.what}. How it is known: {finding.how}.{advice}"},
        "locations": [_location(document.name, finding.line)],
    }
    if finding.patch is not None and not finding.patch.files:  # a fix of SARIF's changes files, and makes none
        result["fixes"] = [_fix(document, finding.patch, finding.advice)]
    return result


def _location(name: str, line: int | None) -> Json:
    region = {"region": {"startLine": line}} if line else {}
    return {"physicalLocation": {"artifactLocation": {"uri": quote(name)}, **region}}


def _fix(document: Document, patch: Patch, advice: str) -> Json:
    change = {
        "artifactLocation": {"uri": quote(document.name)},
        "replacements": list(_replacements(document.text, document.changed(patch.edits))),
    }
    return {"description": {"text": advice}, "artifactChanges": [change]}


def _replacements(before: str, after: str) -> Iterator[Json]:
    """Whole lines; a region ends where the line after the last one begins."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    for what, start, end, new_start, new_end in SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if what != "equal":
            region = {"startLine": start + 1, "startColumn": 1, "endLine": end + 1, "endColumn": 1}
            yield {"deletedRegion": region, "insertedContent": {"text": "".join(new[new_start:new_end])}}


def _failure(unread: Unread) -> Json:
    return {
        "level": "error",
        "message": {"text": f"{unread.name}: {unread.sentence}"},
        "locations": [_location(unread.name, unread.line)],
    }

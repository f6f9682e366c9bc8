"""What lint says: for people, and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from attrs import frozen

from safedlv.errors import printable
from safedlv.lint.documents import ALLOWED, REFUSED, UNKNOWN, Document, difference
from safedlv.lint.values import ERROR, NOTE, WARNING, Container, Finding

SCHEMA: Final = "safedlv.lint/1"
NOT_IN_A_FILE: Final = (
    "no file says what the host does: kernel.yama.ptrace_scope, its kernel and security modules (safedlv doctor does)"
)
WORDS: Final = {
    ALLOWED: "a debugger can attach",
    REFUSED: "a debugger cannot attach",
    UNKNOWN: "whether a debugger can attach, the file alone does not say",
}
SHOWN_AT_MOST: Final = 12
"""Lines of a patch."""


@frozen
class Linted:
    """One file and what was found."""

    document: Document
    findings: tuple[Finding, ...]
    verdicts: tuple[tuple[Container, str], ...]


@frozen
class Unread:
    """One file that could not be."""

    name: str
    line: int | None
    sentence: str
    hint: str = ""


def is_bad(linted: Iterable[Linted], *, fixed: bool) -> bool:
    """Whether there is something that CI should stop at: notes are not, nor what was ``fixed`` meanwhile."""
    found = [finding for one in linted for finding in one.findings if finding.level != NOTE]
    return any(finding.patch is None or not fixed for finding in found)


# ---------------------------------------------------------------- for people


def text(linted: Iterable[Linted], unread: Iterable[Unread]) -> str:
    """Findings as compilers write them, each with its reason and its patch; then what holds of each container."""
    lines = [line for one in linted for line in _of_file(one)]
    for one in unread:
        place = f":{one.line}" if one.line else ""
        lines.append(f"{printable(one.name)}{place}: not read: {one.sentence}")
        lines += [f"    {one.hint}"] if one.hint else []
    return "".join(f"{line}\n" for line in [*lines, *_end(list(linted))])


def _of_file(linted: Linted) -> Iterable[str]:
    name = printable(linted.document.name)
    for finding in linted.findings:
        yield f"{name}:{finding.line}: {finding.level}: {printable(finding.subject)}: {finding.what} [{finding.rule}]"
        yield f"    how it is known: {finding.how}"
        if finding.advice:
            yield f"    fix: {finding.advice}"
        if finding.patch is not None:
            changes = difference(linted.document, finding.patch)
            yield from (f"      {printable(line.expandtabs(4))}" for line in changes[:SHOWN_AT_MOST])
            if len(changes) > SHOWN_AT_MOST:
                yield f"      and {len(changes) - SHOWN_AT_MOST} lines more"
    for container, verdict in linted.verdicts:
        yield f"{name}:{container.line}: {printable(container.name)}: {WORDS[verdict]}"


def _end(linted: list[Linted]) -> list[str]:
    found = [finding.level for one in linted for finding in one.findings]
    counts = ", ".join(
        f"{found.count(level)} {level}{'s' * (found.count(level) != 1)}" for level in (ERROR, WARNING, NOTE)
    )
    return [counts, NOT_IN_A_FILE] if linted else []


# ---------------------------------------------------------------- as JSON


def as_dict(linted: Iterable[Linted], unread: Iterable[Unread]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "files": [_file_as_dict(one) for one in linted],
        "unread": [{"file": one.name, "line": one.line, "reason": one.sentence} for one in unread],
    }


def _file_as_dict(linted: Linted) -> dict[str, Any]:
    return {
        "file": linted.document.name,
        "kind": linted.document.form,
        "containers": [
            {"name": container.name, "line": container.line, "attach": verdict}
            for container, verdict in linted.verdicts
        ],
        "findings": [_finding_as_dict(linted.document, finding) for finding in linted.findings],
    }


def _finding_as_dict(document: Document, finding: Finding) -> dict[str, Any]:
    patch = finding.patch
    return {
        "rule": finding.rule,
        "level": finding.level,
        "line": finding.line,
        "subject": finding.subject,
        "message": finding.what,
        "how": finding.how,
        "fix": finding.advice,
        "patch": None if patch is None else list(difference(document, patch)),
        "files": [] if patch is None else [file.name for file in patch.files],
    }

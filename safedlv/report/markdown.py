"""``doctor --markdown``: a diagnosis to paste into an issue. Pure.

What leaves the machine with it: what was tried and what refused, PIDs, ids, labels, the target's name and executable,
versions. What does not: host names, environment values, command lines of other processes, paths other than the
target's executable and those of /proc and /sys, the user's names for containers and services.

Everything in it that a process chose (names, labels, paths) may try to be Markdown, HTML or a mention: :func:`prose`
takes the effect from it (CommonMark 0.31 for the syntax, GitHub's additions for mentions and references).
"""

from __future__ import annotations

import re

from safedlv.errors import printable
from safedlv.model import Attempt, Cause, Diagnosis, Fix, Unknown
from safedlv.report.text import CALLS

LANGUAGES = {
    "docker": "sh",
    "compose": "yaml",
    "devcontainer": "jsonc",
    "podman": "sh",
    "kubectl-debug": "sh",
    "kubernetes": "yaml",
    "systemd": "ini",
    "host": "sh",
    "apparmor": "",
}
_ACTIVE = re.compile(r"[\\`*_\[\]<>|~&$]")
_AT_START = re.compile(r"^(\d*)([.)](?=\s|$)|(?<!\d)[-+=#])")  # of a list, a heading or a rule
_REFERENCES = re.compile(r"(@|#|:(?=//)|\bwww(?=\.)|\bGH(?=-))", re.IGNORECASE)
_NOTHING = "&#8203;"  # a zero-width space keeps GitHub from reading @name, #1 or a URL
_PATH = re.compile(r"(?<![\w./~-])~?/[^\s'\",;:()|]+")
_KERNELS_OWN = re.compile(r"/(proc|sys)(/|$)")
_RESTATED = {
    "already-traced": "the target is being traced by process {tracer_pid}",
    "wrong-process": "the target is a wrapper; the Go program behind it is process {go_pid}",
}
"""Causes whose summary shows another process's command line."""


def document(d: Diagnosis, kernel: str) -> str:
    """The diagnosis as GitHub-flavoured Markdown, ending in a newline. ``kernel``: its release."""
    parts = [f"## safedlv doctor: {d.verdict}", _target(d)]
    if d.attempt is not None:
        parts.append(_steps(d.attempt))
    parts += _section("Causes", [_cause(d, cause) for cause in d.causes])
    parts += _section("Layers, in the kernel's order", [_ladder(d)] if d.ladder else [])
    if d.fix is not None:
        parts += _section("Fix", [_fix(d, d.fix)])
    parts += _section("Not taken on", ["\n".join(f"- {prose(d, line)}" for line in d.missing)] if d.missing else [])
    parts += _section("Versions", [_versions(d, kernel)])
    return "\n\n".join(parts) + "\n"


def _section(title: str, blocks: list[str]) -> list[str]:
    return [f"### {title}", *blocks] if blocks else []


def _target(d: Diagnosis) -> str:
    if d.target is None:
        return "A process of safedlv's own, in this context."
    name = d.facts.status.name if d.facts else ""
    path = d.binary.path if d.binary else ""
    named = f" ({prose(d, name)})" if isinstance(name, str) and name else ""
    where = f", executable {prose(d, path)}" if isinstance(path, str) and path else ""
    runtime = f", in a {d.target.runtime} container" if d.target.runtime else ""
    return f"Process {d.target.pid}{named}{where}{runtime}; tried from: {prose(d, d.tracer.who)}, uid {d.tracer.uid}."


def _steps(attempt: Attempt) -> str:
    rows = ["| step | result | us |", "|---|---|---:|"]
    for step in (*attempt.steps, *attempt.needs):
        rows.append(f"| {escaped(CALLS.get(step.step, step.step))} | {step.errno or 'ok'} | {step.us} |")
    held = f"The target was held for {attempt.stopped_us} us, its other threads for {attempt.threads_stopped_us} us."
    left = "It was left as it was found." if attempt.left_as_found else "It was **not** left as it was found."
    return "\n".join([*rows, "", f"{held} {left}"])


def _cause(d: Diagnosis, cause: Cause) -> str:
    restated = _RESTATED.get(cause.id)
    summary = restated.format(**dict(cause.detail)) if restated and cause.detail else cause.summary
    lines = [f"- **{cause.id}** ({cause.proof}): {prose(d, summary)}"]
    return "\n".join([*lines, *(f"  - {prose(d, line)}" for line in cause.evidence)])


def _ladder(d: Diagnosis) -> str:
    rows = [f"| {rung.id} | {rung.mark} | {prose(d, rung.why)} |" for rung in d.ladder]
    return "\n".join(["| layer | | why |", "|---|---|---|", *rows])


def _fix(d: Diagnosis, fix: Fix) -> str:
    tried = "the probe passed with just these" if fix.verified else "these follow from the causes; they were not tried"
    lines = [f"Changes ({tried}):", "", *(f"- {prose(d, change)}" for change in fix.changes), ""]
    lines.append(f"Risk: {fix.risk}: {prose(d, fix.risk_why)}.")
    if fix.not_needed:
        lines += ["", f"Not needed: {', '.join(f'`{words}`' for words in fix.not_needed)}."]
    for runtime, text in fix.shareable:
        lines += ["", f"{runtime}:", "", fenced(text, LANGUAGES.get(runtime, ""))]
    return "\n".join(lines)


def _versions(d: Diagnosis, kernel: str) -> str:
    delve = d.delve.version if d.delve else "none"
    go = d.binary.go_version if d.binary else None
    lines = [f"- dlv: {_version(d, delve)}", f"- Go of the target: {_version(d, go)}", f"- kernel: {prose(d, kernel)}"]
    return "\n".join(lines)


def _version(d: Diagnosis, fact: str | Unknown | None) -> str:
    return "unknown" if fact is None or isinstance(fact, Unknown) else prose(d, fact)


# ---------------------------------------------------------------- text of others


def prose(d: Diagnosis, text: str) -> str:
    """Text as words of a paragraph or a table's cell: nothing private in it, and nothing that does anything."""
    return escaped(scrubbed(d, text))


def scrubbed(d: Diagnosis, text: str) -> str:
    """The text without what stays on the machine: see the module."""
    path = d.binary.path if d.binary else None
    own = path if isinstance(path, str) else None
    for private, word in _private(d):
        text = text.replace(private, word) if private != own else text
    if d.target is not None and d.target.container:
        text = re.sub(rf"(?<![\w.-]){re.escape(d.target.container)}(?![\w-])", "NAME", text)
    pieces = text.split(printable(own)) if own else [text]
    return (printable(own) if own else "").join(_PATH.sub(_hidden, piece) for piece in pieces)


def _hidden(match: re.Match[str]) -> str:
    return match[0] if _KERNELS_OWN.match(match[0]) else "PATH"


def _private(d: Diagnosis) -> list[tuple[str, str]]:
    """Known strings, the longest first: what a pattern for paths would not see whole."""
    cgroup = d.facts.cgroup if d.facts else None
    found = [(cgroup.path, "PATH"), (cgroup.frozen_by, "PATH")] if cgroup else []
    found += [(d.delve.path, "dlv")] if d.delve else []
    strings = [(text, word) for text, word in found if isinstance(text, str) and len(text) > 1]
    return sorted({pair for text, word in strings for pair in ((text, word), (printable(text), word))}, key=_longest)


def _longest(pair: tuple[str, str]) -> int:
    return -len(pair[0])


def escaped(text: str) -> str:
    """Text that Markdown and HTML show as it is; control characters as printable() shows them."""
    shown = _ACTIVE.sub(r"\\\g<0>", printable(text, 1000).strip())
    return _REFERENCES.sub(rf"\g<0>{_NOTHING}", _AT_START.sub(r"\1\\\2", shown))


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    lines = [printable(line, 1000) for line in text.splitlines()]
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence + language, *lines, fence])

"""The report for people: the answer first, then the steps, the causes with their proof, and what each layer states."""

from __future__ import annotations

import textwrap
from itertools import groupby

from safedlv.diagnosis import refusals
from safedlv.diagnosis.advice import advice
from safedlv.errors import printable
from safedlv.model import Attempt, Diagnosis, Fix, Step

WIDTH = 80
SHOWN = 2
"""Runtimes that the report has commands for."""
LONGEST_COMMAND = 1000
MARKS = {"pass": "ok  ", "fail": "FAIL", "warn": "note", "skip": "?   "}
COLOURS = {"ok": "32", "degraded": "33", "blocked": "31", "undetermined": "33", "fail": "31", "warn": "33"}
CALLS = {
    **refusals.CALLS,
    "tgkill": "tgkill of a thread",
    "threads": "attaching to every thread",
    "auxv": "opening /proc/PID/auxv",
    "maps": "opening /proc/PID/maps",
    "exe": "opening /proc/PID/exe",
    "mem": "reading /proc/PID/mem",
}
NEEDS = (
    ("registers", {"getregset"}),
    ("memory", {"peekdata", "pokedata", "process_vm_readv", "mem"}),
    ("files", {"auxv", "maps", "exe"}),
    ("threads", {"tgkill", "threads"}),
)
"""What the probe tries besides the three calls, by the names that it gives them."""
WORDS = {
    "TIMEOUT": "the call was accepted, but the target did not stop",
    "SIGSYS": "a seccomp filter killed the caller",
    "KILLED": "the probe's process was killed",
    "EPERM": "Operation not permitted",
    "EACCES": "Permission denied",
    "ESRCH": "No such process",
    "ENOSYS": "Function not implemented",
}


def report(diagnosis: Diagnosis, *, colour: bool) -> str:
    """The whole report, ending in a newline; at most 80 columns but for words that are longer."""
    lines = [_paint(_answer(diagnosis), diagnosis.verdict, colour)]
    if diagnosis.attempt is not None:
        lines += ["", *_steps(diagnosis.attempt)]
    for cause in diagnosis.causes:
        lines += ["", *_wrap(f"{cause.id} ({cause.proof}): {cause.summary}", "")]
        lines += [line for proof in cause.evidence for line in _wrap(proof, "    ")]
        lines += _wrap(f"to do: {advice(cause)}", "    ") if advice(cause) and not diagnosis.fix else []
    lines += _ladder(diagnosis)
    if diagnosis.fix is not None:
        lines += ["", *_fix(diagnosis.fix)]
    if diagnosis.missing:
        lines += ["", "What of that context could not be taken on:"]
        lines += [line for sentence in diagnosis.missing for line in _wrap(printable(sentence), "  ")]
    lines += ["", "What the layers state:", *_checks(diagnosis, colour=colour)]
    return "\n".join(lines) + "\n"


def _checks(d: Diagnosis, *, colour: bool) -> list[str]:
    """A line for each; of a refused attach one line for all that are well, so that the rest is seen on one screen."""
    lines = []
    together = d.verdict == "blocked"
    well = [check.id for check in d.checks if check.status == "pass"] if together else []
    if well:
        lines += _wrap(f"  {MARKS['pass']}  {', '.join(well)}", "", hang="        ")
    for check in d.checks:
        if check.status == "pass" and together:
            continue
        mark = _paint(MARKS[check.status], check.status, colour)
        first, *more = _wrap(f"{check.id}: {check.summary}", "        ")
        lines += [f"  {mark}  {first.strip()}", *more]
    return lines


def _answer(d: Diagnosis) -> str:
    who = _who(d)
    failed = d.attempt and (d.attempt.failed or d.attempt.failed_need)
    if d.verdict == "ok":
        return "\n".join(_wrap(f"ok: a debugger can attach to {who}", ""))
    if d.verdict == "degraded":
        return "\n".join(_wrap(f"degraded: a debugger can attach to {who}, but {summaries(d)}", ""))
    if d.verdict == "undetermined":
        return "\n".join(_wrap(f"undetermined: {who} was not probed", ""))
    if failed:
        why = summaries(d) or "the layers below are what is known; none of them is proved to be the cause"
        at = f"blocked at {CALLS.get(failed.step, failed.step)} with {failed.errno} ({_words(failed)})"
        return "\n".join(_wrap(f"{at}: {why}", ""))
    return "\n".join(_wrap(f"blocked: {summaries(d)}", ""))


def _ladder(d: Diagnosis) -> list[str]:
    if not d.ladder:
        return []
    lines = ["", "The layers that the kernel asks, in its order:"]
    for (mark, says_why), rungs in groupby(d.ladder, key=lambda rung: (rung.mark, bool(rung.why))):
        group = list(rungs)
        whys = [f"{rung.id}: {printable(rung.why)}" for rung in group]
        told = whys if says_why else [", ".join(rung.id for rung in group)]
        lines += [line for text in told for line in _rung(mark, text)]
    return lines


def _rung(mark: str, text: str) -> list[str]:
    return _wrap(f"  {mark:<11}  {text}", "", hang=" " * 17)


def _fix(fix: Fix) -> list[str]:
    """The changes, and what to type for the runtime that fits best, as it is: a command that is wrapped is none."""
    proved = "The smallest change with which the probe passed:"
    lines = [proved if fix.verified else "The smallest change that answers these causes (not tried):"]
    lines += [line for change in fix.changes for line in _wrap(change, "  ")]
    lines += _wrap(f"risk: {fix.risk}: {fix.risk_why}", "  ")
    lines += _wrap(f"not needed: {', '.join(fix.not_needed)}", "  ") if fix.not_needed else []
    for runtime, text in fix.commands[:SHOWN]:
        lines += [f"  {runtime}:", *(f"    {printable(line, LONGEST_COMMAND)}" for line in text.splitlines())]
    others = [runtime for runtime, _ in fix.commands[SHOWN:]]
    lines += _wrap(f"for {', '.join(others)}: see --json or --markdown", "  ") if others else []
    return lines


def _who(d: Diagnosis) -> str:
    if d.target is None:
        return "a process of ours in this context"
    name = d.facts.status.name if d.facts else ""
    return f"process {d.target.pid}" + (f" ({printable(name)})" if isinstance(name, str) and name else "")


def summaries(d: Diagnosis) -> str:
    """What the verdict comes from, in one line."""
    return "; ".join(cause.summary for cause in d.reasons)


def _steps(attempt: Attempt) -> list[str]:
    lines = ["What was tried:"]
    for step in attempt.steps:
        lines += _step_lines(step)
    failed = [step for step in attempt.needs if not step.ok]
    lines += [line for step in failed for line in _step_lines(step)]
    if attempt.needs and not failed:
        named = {step.step for step in attempt.needs}
        tried = ", ".join(what for what, steps in NEEDS if named & steps)
        what = "that were tried" if attempt.failed else "that dlv needs"
        lines += _wrap(f"  ok    all {len(attempt.needs)} other things {what} ({tried})", "", hang="        ")
    held = f"  The target was held for {attempt.stopped_us} us"
    if attempt.threads_stopped_us:
        held += f", its other threads, one at a time, for {attempt.threads_stopped_us} us in all"
    lines += _wrap(held + ("; it was left as it was found." if attempt.left_as_found else "."), "  ")
    if not attempt.left_as_found:
        lines.append("  NOT left as it was found: look at its State and TracerPid in /proc/PID/status.")
    return lines


def _step_lines(step: Step) -> list[str]:
    mark, call = "ok  " if step.ok else "FAIL", CALLS.get(step.step, step.step)
    outcome = f" ({step.us} us)" if step.ok else f": {step.errno} ({_words(step)})"
    return _wrap(f"  {mark}  {call}{outcome}", "", hang="        ")


def _words(step: Step) -> str:
    if step.step == "process_vm_readv":
        return "dlv reads with PEEKDATA instead, which is slower"
    return WORDS.get(step.errno or "", "refused")


def _wrap(text: str, indent: str, hang: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=hang or indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    ) or [indent]


def _paint(text: str, kind: str, colour: bool) -> str:
    code = COLOURS.get(kind)
    return f"\x1b[{code}m{text}\x1b[0m" if colour and code else text

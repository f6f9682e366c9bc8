"""``doctor --steps``: the five steps by which a refused attach is understood, with what was found at each. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from safedlv.capabilities import capabilities_in_words
from safedlv.errors import printable
from safedlv.model import Cgroup, Diagnosis, Fix, Step, Unknown
from safedlv.report.side_by_side import paragraph
from safedlv.report.text import CALLS, WORDS, summaries

CGROUP_CAUSES = ("frozen", "thread-limit", "memory-limit")
LONGEST_COMMAND = 1000
BESIDE_THE_POINT = ("would be satisfied by", "rule:")
"""How evidence begins that is no observation: the change is told in step five."""
VERSIONS = {"v1": "version 1", "v2": "version 2", "hybrid": "both versions (hybrid)"}


def story(d: Diagnosis, filtered: Iterable[str], control: Iterable[str]) -> str:
    """The whole text, ending in a newline.

    ``filtered``: what the debugger's filter refuses, a sentence each; ``control``: the lines about the control group.
    """
    who = "the target" if d.target is None else f"process {d.target.pid}"
    lines = paragraph(f"{d.verdict}: {summaries(d) or f'a debugger can attach to {who}'}")
    steps = (
        ("The cgroup, and whether it matters", _cgroup(d)),
        (
            "The seccomp filter that the debugger is under",
            [line for text in filtered for line in paragraph(text, "   ")],
        ),
        ("The refused call, caught in its context", _caught(d)),
        ("The control group beside it", list(control)),
        ("The change that mends it", _change(d)),
    )
    for number, (title, found) in enumerate(steps, 1):
        lines += ["", f"{number}. {title}", *found]
    lines += ["", *_to_keep(d)]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- one: the cgroup


def _cgroup(d: Diagnosis) -> list[str]:
    """No controller of any version knows ptrace: only being frozen and the limits concern a debugger (cgroups(7))."""
    cgroup = d.facts.cgroup if d.facts else None
    found = [cause.summary for cause in d.causes if cause.id in CGROUP_CAUSES]
    told = [] if cgroup is None else [_where(cgroup)]
    if found:
        told += [f"It matters: {'; '.join(found)}."]
    elif cgroup is not None and isinstance(cgroup.frozen, Unknown):
        told += [f"Whether it is frozen is unknown ({cgroup.frozen.errno}); else it would not matter."]
    else:
        told += ["It does not matter: no cgroup controller knows ptrace, it is not frozen, and no limit is in the way."]
    return [line for text in told for line in paragraph(text, "   ", "   ")]


def _where(cgroup: Cgroup) -> str:
    version = f"unknown ({cgroup.version.errno})" if isinstance(cgroup.version, Unknown) else VERSIONS[cgroup.version]
    path = f"unknown ({cgroup.path.errno})" if isinstance(cgroup.path, Unknown) else printable(cgroup.path)
    return f"Mounted here: {version}; the target's cgroup is {path}."


# ---------------------------------------------------------------- three: the refused call


def _caught(d: Diagnosis) -> list[str]:
    mask = d.tracer.capabilities
    held = "unknown" if isinstance(mask, Unknown) else capabilities_in_words(mask)
    context = f"From {printable(d.tracer.who)}, as {d.tracer.uid}:{d.tracer.gid}, with the capabilities: {held}."
    if d.attempt is None:
        return paragraph(
            "Nothing was tried: the probe could not be made, or not be left without a trace.", "   ", "   "
        )
    failed = d.attempt.failed or d.attempt.failed_need
    lines = paragraph(context, "   ", "   ")
    tried = d.attempt.steps if failed is None or failed in d.attempt.steps else (*d.attempt.steps, failed)
    lines += [line for step in tried for line in paragraph(_tried(step), "   ", "      ")]
    if failed is None:
        lines += paragraph(
            f"None is refused; neither are {len(d.attempt.needs)} other things that dlv needs.", "   ", "   "
        )
    proofs = [proof for cause in d.causes for proof in cause.evidence if not proof.startswith(BESIDE_THE_POINT)]
    return lines + [line for proof in proofs for line in paragraph(f"- {printable(proof, 400)}", "   ", "     ")]


def _tried(step: Step) -> str:
    call = CALLS.get(step.step, step.step)
    return f"{call}: passed" if step.ok else f"{call}: {step.errno} ({WORDS.get(step.errno or '', 'refused')})"


# ---------------------------------------------------------------- five: the change


def _change(d: Diagnosis) -> list[str]:
    if d.fix is None:
        text = "None is needed." if d.verdict in ("ok", "degraded") else "None was found that could be made from here."
        return paragraph(text, "   ", "   ")
    lines = [line for change in d.fix.changes for line in paragraph(change, "   ", "     ")]
    tried = (
        "It was applied in the experiment, nothing else was changed, and the probe passed."
        if d.fix.verified
        else "It follows from the causes; it could not be tried from here."
    )
    lines += paragraph(tried, "   ", "   ")
    lines += paragraph(f"Risk: {d.fix.risk}: {d.fix.risk_why}", "   ", "   ")
    return lines + (paragraph(f"Not needed: {', '.join(d.fix.not_needed)}", "   ", "   ") if d.fix.not_needed else [])


def _to_keep(d: Diagnosis) -> list[str]:
    """The command for the runtime that fits best, as it is: one that is wrapped is none."""
    if d.fix is not None and d.fix.commands:
        return ["To keep:", *_command(d.fix)]
    if d.verdict in ("ok", "degraded") and d.target is not None:
        named = f"docker:{d.target.container}" if d.target.container else str(d.target.pid)
        return ["To keep:", f"  safedlv attach {printable(named)}"]
    return ["To keep: nothing; safedlv doctor says what is known of each layer."]


def _command(fix: Fix) -> list[str]:
    runtime, text = fix.commands[0]
    return [f"  {runtime}:", *(f"    {printable(line, LONGEST_COMMAND)}" for line in text.splitlines())]

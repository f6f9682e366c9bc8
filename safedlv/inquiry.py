"""The path of one diagnosis: the target, the place to try from, the attempts; then what they mean (judgement.py).

What judges takes long to load, so it is imported while the attempts are under way.
"""

from __future__ import annotations

import os
from importlib import import_module

from safedlv import target
from safedlv.errors import SafedlvError, UsageError
from safedlv.model import CapabilitySets
from safedlv.probe import runner
from safedlv.probe.changes import HELD_AT_MOST_US, Investigation
from safedlv.probe.context import Context, NamespaceLink
from safedlv.standpoint import context_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.model import Diagnosis, ProcessFacts

UNDETERMINED = 3
FOR_THE_JUDGEMENT = (
    "safedlv.facts.sides",
    "safedlv.diagnosis.causes",
    "safedlv.diagnosis.remedies",
    "safedlv.judgement",
    "safedlv.report.json",
)
"""What is loaded while attempts are under way, each in about the time of one."""


def diagnose(
    text: str,
    timeout: float = runner.STOP_WITHIN,
    who: str | None = None,
    hold_limit_us: float = HELD_AT_MOST_US,
) -> Diagnosis:
    """Look at the process that ``text`` names, probe it from the place of ``who``, and say what it means.

    Without ``who``: for a container and as root from what ``docker exec`` would start there, else from here.
    Raises UsageError; SafedlvError with the exit code of "undetermined" when a name cannot be looked up.
    """
    try:
        found = target.resolve(text)
    except target.NoSuchProcessError as error:
        from safedlv.judgement import judge_nothing

        return judge_nothing(error.pid, hidden=error.hidden)
    except UsageError:
        raise
    except SafedlvError as error:
        raise SafedlvError(error.sentence, error.hint, error.code if error.code == 2 else UNDETERMINED) from error
    who = who or ("container" if found.container and os.geteuid() == 0 else "self")
    context = context_of(who, found)
    if context is None:
        return probe_from_here(timeout, found)
    with context:
        if not runner.way_back_is_open(found.pid, found.before):
            return _judged_attempt(found, None)
        return diagnose_from(context, who, found, timeout, hold_limit_us)


def probe_from_here(timeout: float, found: target.Found) -> Diagnosis:
    """Probe from our own place, unless it is ourselves or could not be left without a trace; and what it means."""
    if found.pid == os.getpid() or not runner.way_back_is_open(found.pid, found.before):
        return _judged_attempt(found, None)
    running = runner.start(found.pid, found.procdir, found.before, timeout)
    return _judged_attempt(found, running)


def _judged_attempt(found: target.Found, running: runner.Running | None) -> Diagnosis:
    from safedlv.judgement import judge_attempt

    return judge_attempt(found, running.result(), running.child) if running else judge_attempt(found, None)


def diagnose_from(context: Context, who: str, found: target.Found, timeout: float, hold_limit_us: float) -> Diagnosis:
    """The question from another's place: the attempts from there, and the smallest change that lets them pass."""
    from safedlv.facts.process import read_process
    from safedlv.probe.sources import root_of

    root = root_of(context.source) if who.startswith("container") else None
    facts = read_process(found.pid)  # before our own probe is its tracer
    capabilities = facts.status.capabilities
    permitted = capabilities.permitted if isinstance(capabilities, CapabilitySets) else 0
    meanwhile = map(import_module, FOR_THE_JUDGEMENT)
    investigation = Investigation(context, found.pid, timeout, root, hold_limit_us, meanwhile)
    findings = investigation.run(facts.status.uid, facts.status.gid, permitted, _user_namespace(facts))
    from safedlv.judgement import judge_findings

    return judge_findings(found, facts, context, who, findings)


def _user_namespace(facts: ProcessFacts) -> NamespaceLink | None:
    """The target's user namespace; its descriptor is not open, -1 stands for "not ours"."""
    for link in facts.namespaces:
        if link.kind == "user" and isinstance(link.inode, int) and isinstance(link.same, bool):
            return NamespaceLink("user", link.inode, None if link.same else -1)
    return None


def diagnose_context() -> Diagnosis:
    """Could a debugger work here at all? The probe on a child of our own, which nothing but this context can refuse."""
    from safedlv.judgement import judge_context
    from safedlv.probe.experiments import attempt_on_own_child

    return judge_context(attempt_on_own_child())

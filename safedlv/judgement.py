"""What the attempts mean: the facts read, the experiments made, and the tables of safedlv.diagnosis asked."""

from __future__ import annotations

import os

from attrs import evolve

from safedlv import target, wrappers
from safedlv.diagnosis.access_rules import Ruling, rulings, supposing_no_power, supposing_same_user_namespace
from safedlv.diagnosis.causes import causes, verdict
from safedlv.diagnosis.checks import checks
from safedlv.diagnosis.evidence import Evidence
from safedlv.diagnosis.ladder import ladder
from safedlv.diagnosis.refusals import is_beyond_our_namespace
from safedlv.diagnosis.sides import Side, World
from safedlv.facts import credentials
from safedlv.facts.cgroup import cgroup_of
from safedlv.facts.delve import read_delve, supports
from safedlv.facts.delve_path import find_delve
from safedlv.facts.go_binary import read_go_binary
from safedlv.facts.landlock import MAX_LAYERS, free_layers
from safedlv.facts.policy import selinux_allows, smack_allows
from safedlv.facts.process import read_process
from safedlv.facts.reading import read_system
from safedlv.facts.seccomp import MODE_FILTER
from safedlv.facts.sides import read_side, read_world
from safedlv.facts.surroundings import compose_service, surroundings
from safedlv.model import (
    Attempt,
    CapabilitySets,
    Delve,
    Diagnosis,
    Fix,
    Ids,
    ProcessFacts,
    Step,
    Target,
    Tracer,
    Unknown,
)
from safedlv.probe import experiments, runner
from safedlv.probe.changes import Findings, without_power
from safedlv.probe.context import Context
from safedlv.probe.sequence import LOOKED

NOBODY = -1
ZOMBIE = "Z"


def judge_nothing(pid: int, *, hidden: bool) -> Diagnosis:
    """There is no such process, or /proc hides it."""
    return _diagnosis(Evidence(pid, None, None, None, _delve(), hidden=hidden), None)


def judge_attempt(found: target.Found, raw: runner.RawAttempt | None, prober: int = 0) -> Diagnosis:
    """What an attempt that was made (None: none was) by process ``prober``, and the facts, mean."""
    facts = read_process(found.pid)
    attempt = attempt_of(raw) if raw else None
    evidence = _evidence(found, attempt, facts, tracer=os.getpid())
    if _has_ended(found):  # what was read of it last is of no process any more
        return judge_nothing(found.pid, hidden=False)
    if raw is not None and facts.status.state != ZOMBIE and read_process(found.pid).status.state == ZOMBIE:
        return judge_attempt(found, None, prober)  # it ended while it was looked at, and nobody has collected it
    if attempt is None or attempt.failed or attempt.failed_need:
        evidence = _asked_further(evidence, found, facts, prober)
    held = attempt.stopped_us + attempt.threads_stopped_us if attempt else 0
    diagnosis = _diagnosis(evidence, found)
    inside, runtime = surroundings()
    return evolve(diagnosis, held_us=held, fix=_fix(diagnosis, (), inside=inside, runtime=runtime))


def _has_ended(found: target.Found) -> bool:
    """Its directory in /proc is dead: the process was collected by its parent (a zombie's is not)."""
    try:
        os.stat("stat", dir_fd=found.procdir)
    except (FileNotFoundError, ProcessLookupError):
        return True
    return False


def judge_findings(
    found: target.Found, facts: ProcessFacts, context: Context, who: str, findings: Findings
) -> Diagnosis:
    """What the attempts from another's place, the smallest change among them, and the facts, mean."""
    plain = attempt_of(findings.plain.attempt)
    other, world = read_side(facts), read_world(facts.modules)
    tracer = _side_of(context, other)
    evidence = evolve(
        _evidence(found, plain if plain.steps else None, facts, tracer=context.source),
        filtered=bool(context.filters),
        only_filters=_maybe(findings.only_filters),
        only_labels=tuple((module, label, attempt_of(raw)) for module, label, raw in findings.only_labels),
        only_standing=_maybe(findings.only_standing),
        unrestricted=_maybe(findings.unrestricted),
        freed_by=findings.freed_by,
        as_owner=_maybe(findings.as_owner),
        rulings_as_owner=_rulings(_owned(tracer, other, facts), other, world),
        prober_past_landlock=bool(plain.failed) and (findings.fix is not None or free_layers() == MAX_LAYERS),
        same_filesystem_ids=_same_filesystem_ids(tracer),
        outside=findings.plain.inner_pid is None,
        rulings=_rulings(tracer, other, world),
    )
    diagnosis = evolve(
        _diagnosis(evidence, found),
        tracer=Tracer(who, context.uid.real, context.gid.real, context.capabilities.effective),
    )
    proved = tuple(change.id for change in findings.fix or ())
    return evolve(
        diagnosis,
        fix=_fix(diagnosis, proved, inside=who.startswith("container") or context.namespace("pid") is not None),
        missing=_missing(findings),
        held_us=findings.held_us,
    )


def judge_context(raw: runner.RawAttempt) -> Diagnosis:
    """What an attempt on a child of our own says of this machine and this context."""
    attempt = attempt_of(raw)
    delve = _delve()
    facts = read_process(os.getpid())
    evidence = Evidence(
        os.getpid(),
        facts,
        attempt,
        None,
        delve,
        filtered=_filtered(facts),
        nobody=experiments.ask_nobody(),
        own_child=attempt,
    )
    here = ("delve-missing", "seccomp", "ptrace-unsupported")
    missing = tuple(cause for cause in causes(evidence) if cause.id in here)
    lines = tuple(check for check in checks(evidence) if check.id in ("yama", "security-modules", "limits", "delve"))
    return Diagnosis(
        None, facts, None, delve, credentials.own_tracer(), attempt, verdict(missing, attempt), missing, lines
    )


def attempt_of(raw: runner.RawAttempt) -> Attempt:
    """The plain tuples that came out of the probe's child, as a value."""
    steps, needs, (held, held_threads), left_as_found = raw
    return Attempt(
        steps=tuple(Step(*step) for step in steps),
        needs=tuple(Step(*step) for step in needs if not step[0].startswith(LOOKED)),
        stopped_us=held,
        threads_stopped_us=held_threads,
        left_as_found=left_as_found,
        access=tuple(
            Step(name.removeprefix(LOOKED), failure, us) for name, failure, us in needs if name.startswith(LOOKED)
        ),
    )


# ---------------------------------------------------------------- the evidence


def _evidence(found: target.Found, attempt: Attempt | None, facts: ProcessFacts, *, tracer: int) -> Evidence:
    """What is known without asking further; ``tracer``: the PID of whom the debugger would run beside."""
    binary = read_go_binary(found.procdir)
    delve = _delve()
    tracer_pid = facts.status.tracer_pid
    return Evidence(
        pid=found.pid,
        facts=facts,
        attempt=attempt,
        binary=binary,
        delve=delve,
        delve_supports=_supports(delve, binary.go_version),
        room=cgroup_of(tracer),
        self_pid=os.getpid(),
        go_children=_go_children(found),
        tracer_name=target.command_line_of(tracer_pid) if isinstance(tracer_pid, int) and tracer_pid else "",
    )


def _go_children(found: target.Found) -> tuple[tuple[int, str], ...]:
    if not wrappers.is_wrapper(found.procdir):
        return ()
    return tuple((pid, target.command_line_of(pid)) for pid in wrappers.go_children(found.pid))


def _delve() -> Delve | None:
    path = find_delve(os.environ.get("PATH"), os.environ.get("SAFEDLV_DLV"))
    return read_delve(path) if path else None


def _supports(delve: Delve | None, go_version: str | Unknown | None) -> bool | Unknown:
    if delve is None or not isinstance(go_version, str):
        return Unknown("ENODATA", "the Go version of the target")
    return supports(delve, go_version)


def _asked_further(evidence: Evidence, found: target.Found, facts: ProcessFacts, prober: int) -> Evidence:
    """The evidence, and what experiments and access rules add to it, for an attempt that failed or was not made."""
    if found.pid == os.getpid():
        return evidence
    attempt = evidence.attempt
    if attempt is not None and attempt.failed and not attempt.access:  # a filter killed the one who was to look
        looked = tuple(Step(name, failure, 0) for name, failure in experiments.look(found))
        attempt = evolve(attempt, access=looked)
    own = read_process(os.getpid(), count_landlock_layers=True)
    tracer, other, world = _child_of(read_side(own)), read_side(facts), read_world(facts.modules)
    evidence = evolve(
        evidence,
        attempt=attempt,
        filtered=_filtered(own),
        nobody=experiments.ask_nobody(),
        own_child=attempt_of(experiments.attempt_on_own_child()),
        stranger=experiments.open_stranger() if own.modules.yama_scope not in (None, 0) else None,
        kernel_log=_logged(prober),
        rulings=_rulings(tracer, other, world),
        same_filesystem_ids=_same_filesystem_ids(tracer),
    )
    if is_beyond_our_namespace(evidence, tracer, _maps_ids_otherwise(found.pid)):
        return evolve(evidence, rulings=_rulings(tracer, other, world, beyond=True))
    return evidence


def _maps_ids_otherwise(pid: int) -> bool:
    """Another uid_map than ours, which anybody may read (user_namespaces(7)): another user namespace."""
    theirs, ours = read_system(f"/proc/{pid}/uid_map"), read_system("/proc/self/uid_map")
    return isinstance(theirs, bytes) and isinstance(ours, bytes) and theirs.split() != ours.split()


def _logged(prober: int) -> tuple[str, ...]:
    from safedlv.facts.kernel_log import refusals_of

    records = refusals_of({prober})
    return () if isinstance(records, Unknown) else records


def _filtered(own: ProcessFacts) -> bool | Unknown:
    mode = own.status.seccomp
    return mode if isinstance(mode, Unknown) else mode == MODE_FILTER


# ---------------------------------------------------------------- the access rules


def _rulings(tracer: Side, target: Side, world: World, *, beyond: bool = False) -> tuple[Ruling, ...]:
    """``beyond``: the target is known to be in a user namespace over which the tracer has no power."""
    if target.selinux is not None or target.smack is not None:
        selinux, smack = selinux_allows(tracer.selinux, target.selinux), smack_allows(tracer.smack, target.smack)
        world = evolve(world, selinux_allows=selinux, smack_allows=smack)
    supposed = supposing_no_power(target) if beyond else supposing_same_user_namespace(tracer, target)
    return rulings(tracer, supposed, world)


def _owned(tracer: Side, target: Side, facts: ProcessFacts) -> Side:
    """The tracer as the target's user, in its user namespace, and with its capabilities too (but CAP_SYS_PTRACE)."""
    uid, gid, theirs, ours = facts.status.uid, facts.status.gid, facts.status.capabilities, tracer.capabilities
    user_ns = target.user_ns
    owner = evolve(tracer, uid=uid, gid=gid, user_ns=user_ns)
    if isinstance(uid, Ids) and isinstance(gid, Ids):
        owner = evolve(owner, uid=Ids(*[uid.real] * 4), gid=Ids(*[gid.real] * 4))
    if isinstance(theirs, CapabilitySets) and isinstance(ours, CapabilitySets):
        own = ours.permitted if user_ns == tracer.user_ns else without_power(ours.permitted)
        held = own | without_power(theirs.permitted)
        owner = evolve(owner, capabilities=evolve(ours, permitted=held, effective=held))
    return owner


def _child_of(side: Side) -> Side:
    """A process that this one starts: the probe's, or dlv. It is nobody's ancestor yet, which Yama asks for."""
    above, own = side.ancestors, side.tgid
    known = (own, *above) if isinstance(above, tuple) and isinstance(own, int) else side.ancestors
    return evolve(side, pid=NOBODY, tgid=NOBODY, ancestors=known)


def _same_filesystem_ids(tracer: Side) -> bool:
    return all(isinstance(ids, Ids) and ids.real == ids.filesystem for ids in (tracer.uid, tracer.gid))


def _side_of(context: Context, target: Side) -> Side:
    """The tracer as the access rules see it: the process whose context it is, with the context's ids and sets."""
    base = target if context.source == target.pid else read_side(read_process(context.source))
    # It is a new process there: not the source, which may be the target itself.
    return evolve(base, pid=NOBODY, tgid=NOBODY, uid=context.uid, gid=context.gid, capabilities=context.capabilities)


# ---------------------------------------------------------------- the diagnosis


def _diagnosis(evidence: Evidence, found: target.Found | None) -> Diagnosis:
    listed = causes(evidence)
    return Diagnosis(
        target=_target(evidence.pid, evidence.facts, found.container if found else None),
        facts=evidence.facts,
        binary=evidence.binary,
        delve=evidence.delve,
        tracer=credentials.own_tracer(),
        attempt=evidence.attempt,
        verdict=verdict(listed, evidence.attempt),
        causes=listed,
        checks=checks(evidence),
        ladder=ladder(evidence, listed),
    )


def _target(pid: int, facts: ProcessFacts | None, container: str | None) -> Target:
    if facts is None:
        return Target(pid, Unknown("ESRCH", f"/proc/{pid}/stat"))
    inner = facts.status.ns_pid
    return Target(
        pid,
        facts.status.start_time,
        "docker" if container else None,
        container,
        inner if isinstance(inner, Unknown) else inner[-1],
    )


def _fix(d: Diagnosis, proved: tuple[str, ...], *, inside: bool, runtime: str | None = None) -> Fix | None:
    """``inside``, ``runtime``: where the tracer stands."""
    if d.target is None or d.verdict != "blocked":
        return None
    from safedlv.diagnosis.place import place_of
    from safedlv.diagnosis.remedies import mended

    # Where a process stands that goes by its PID, no option of the target's container concerns it.
    beside = evolve(d.target, container=None) if d.tracer.who.startswith("pid:") else d.target
    service = compose_service(beside.container) if beside.container else None
    return mended(d, proved, place_of(beside, d.facts, d.tracer, inside=inside, runtime=runtime, service=service))


def _missing(findings: Findings) -> tuple[str, ...]:
    """What the experiments could not take on or did not get to."""
    gave_up = f"stopped looking for the smallest change: the target had been held for {findings.held_us} us in all"
    return (*findings.plain.missing, *([gave_up] if findings.gave_up else []))


def _maybe(raw: runner.RawAttempt | None) -> Attempt | None:
    return attempt_of(raw) if raw is not None else None

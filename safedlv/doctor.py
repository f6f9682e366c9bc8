"""``safedlv doctor``: facts, one probe, and what they mean. Changes nothing."""

from __future__ import annotations

import io
import os
import sys
from functools import partial
from typing import TextIO

from attrs import evolve, frozen

from safedlv import target, wrappers
from safedlv.command_line import LONGEST_PROBE
from safedlv.diagnosis.access_rules import Ruling, rulings, supposing_same_user_namespace
from safedlv.diagnosis.causes import causes, verdict
from safedlv.diagnosis.checks import checks
from safedlv.diagnosis.evidence import Evidence
from safedlv.diagnosis.ladder import ladder
from safedlv.diagnosis.sides import Side
from safedlv.errors import SafedlvError, UsageError
from safedlv.facts import credentials
from safedlv.facts.delve import read_delve, supports
from safedlv.facts.delve_path import find_delve
from safedlv.facts.go_binary import read_go_binary
from safedlv.facts.policy import selinux_allows, smack_allows
from safedlv.facts.process import read_process
from safedlv.facts.sides import read_side, read_world
from safedlv.facts.surroundings import compose_service, surroundings
from safedlv.model import Attempt, Delve, Diagnosis, Fix, Ids, ProcessFacts, Step, Target, Tracer, Unknown
from safedlv.options import SWITCH, read_words, seconds
from safedlv.probe import experiments, runner
from safedlv.probe.changes import HELD_AT_MOST_US, Findings, Investigation
from safedlv.probe.context import Context
from safedlv.probe.sources import root_of
from safedlv.standpoint import FORMS, context_of

UNDETERMINED = 3
NOBODY = -1
SECCOMP_MODE_FILTER = 2  # include/uapi/linux/seccomp.h
HELP = f"""\
usage: safedlv doctor [TARGET] [flags]

Can a debugger attach to TARGET, and if not, why? Changes nothing. Without TARGET: this machine and this context.
TARGET is a PID, name:PATTERN, docker:NAME or docker:NAME/PID.

  --tracer WHO             whose place to try from: {FORMS}
  --json                   one JSON object on stdout (schema safedlv.diagnosis/1)
  --markdown               to paste into an issue: without host names, paths and names of your own
  --all                    list every Go process with its verdict; nothing is probed
  --probe                  with --all: probe each of them, which stops it briefly
  --probe-timeout SECONDS  for one stop: 2
  --hold-limit SECONDS     for which all attempts together may hold the target, before no more are made: 0.008
  --debug                  show tracebacks of safedlv's own failures
"""
FLAGS = {
    "tracer": "WHO",
    "json": SWITCH,
    "markdown": SWITCH,
    "all": SWITCH,
    "probe": SWITCH,
    "probe-timeout": "SECONDS",
    "hold-limit": "SECONDS",
    "debug": SWITCH,
}
EXIT_CODES = {"ok": 0, "blocked": 10, "degraded": 11, "undetermined": UNDETERMINED}


def doctor(words: list[str]) -> int:
    """The command; returns the exit code of contract (0 works, 10 blocked, 11 degraded, 3 undetermined)."""
    options = _options(words)
    if options.on("help"):
        sys.stdout.write(HELP)
        return 0
    timeout = options.probe_timeout
    if options.on("all"):
        from safedlv.survey import survey

        return survey(partial(probe_from_here, timeout) if options.on("probe") else None, as_json=options.on("json"))
    diagnosis = (
        diagnose_context()
        if options.target is None
        else diagnose(options.target, timeout, options.flags.get("tracer"), options.hold_limit_us)
    )
    if options.on("json"):
        from safedlv.report.json import document

        sys.stdout.write(document(diagnosis) + "\n")
    elif options.on("markdown"):
        from safedlv.report import markdown

        sys.stdout.buffer.write(markdown.document(diagnosis, os.uname().release).encode("utf-8", "backslashreplace"))
    else:
        from safedlv.report.text import report

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names may hold what this terminal's encoding has not
        sys.stdout.write(report(diagnosis, colour=wants_colour(sys.stdout)))
    return EXIT_CODES[diagnosis.verdict]


def wants_colour(stream: TextIO) -> bool:
    """Colours are for a terminal, and for those who have not said NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


@frozen
class Options:
    """What the words after ``doctor`` ask for."""

    target: str | None
    flags: dict[str, str]

    def on(self, name: str) -> bool:
        return name in self.flags

    @property
    def probe_timeout(self) -> float:
        """Seconds for one stop."""
        text = self.flags.get("probe-timeout")
        return runner.STOP_WITHIN if text is None else seconds(text, "probe-timeout", LONGEST_PROBE)

    @property
    def hold_limit_us(self) -> float:
        """Microseconds for which all attempts together may hold the target before no more are made."""
        text = self.flags.get("hold-limit")
        return HELD_AT_MOST_US if text is None else seconds(text, "hold-limit", LONGEST_PROBE) * 1e6


def _options(words: list[str]) -> Options:
    flags, others = read_words(words, FLAGS, most=1)
    options = Options(others[0] if others else None, flags)
    if options.on("all") and (options.target is not None or options.on("tracer")):
        raise UsageError("--all lists every Go process, as seen from here: it takes no TARGET and no --tracer")
    if options.on("markdown") and (options.on("json") or options.on("all")):
        raise UsageError("--markdown is the report on one target: it goes with neither --json nor --all")
    if options.on("probe") and not options.on("all"):
        raise UsageError("--probe belongs to --all", "safedlv doctor TARGET probes in any case")
    return options


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
        return _diagnosis(Evidence(error.pid, None, None, None, _delve(), hidden=error.hidden), None)
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
            return diagnose_attempt(found, None)
        return diagnose_from(context, who, found, timeout, hold_limit_us)


def probe_from_here(timeout: float, found: target.Found) -> Diagnosis:
    """Probe from our own place, unless it is ourselves or could not be left without a trace; and what it means."""
    if found.pid == os.getpid() or not runner.way_back_is_open(found.pid, found.before):
        return diagnose_attempt(found, None)
    running = runner.start(found.pid, found.procdir, found.before, timeout)
    return diagnose_attempt(found, running.result(), running.child)


def diagnose_from(context: Context, who: str, found: target.Found, timeout: float, hold_limit_us: float) -> Diagnosis:
    """The question from another's place: the attempts from there, and the smallest change that lets them pass."""
    facts = read_process(found.pid)
    root = root_of(context.source) if who.startswith("container") else None
    investigation = Investigation(context, found.pid, timeout, root, hold_limit_us)
    findings = investigation.run(facts.status.uid, facts.status.gid)
    plain = attempt_of(findings.plain.attempt)
    tracer = _side_of(context)
    evidence = evolve(
        _evidence(found, plain if plain.steps else None, facts),
        filtered=bool(context.filters),
        only_filters=_maybe(findings.only_filters),
        only_labels=tuple((module, label, attempt_of(raw)) for module, label, raw in findings.only_labels),
        only_standing=_maybe(findings.only_standing),
        unrestricted=_maybe(findings.unrestricted),
        freed_by=findings.freed_by,
        as_owner=_maybe(findings.as_owner),
        rulings_as_owner=_rulings(_owned(tracer, facts), facts),
        same_filesystem_ids=_same_filesystem_ids(tracer),
        outside=findings.plain.inner_pid is None,
        rulings=_rulings(tracer, facts),
    )
    diagnosis = evolve(
        _diagnosis(evidence, found),
        tracer=Tracer(who, context.uid.real, context.gid.real, context.capabilities.effective),
    )
    proved = tuple(change.id for change in findings.fix or ())
    return evolve(
        diagnosis,
        fix=_fix(diagnosis, proved, inside=root is not None or context.namespace("pid") is not None),
        missing=_missing(findings, plain),
        held_us=findings.held_us,
    )


def _rulings(tracer: Side, facts: ProcessFacts) -> tuple[Ruling, ...]:
    target = read_side(facts)
    world = read_world(facts.modules)
    if target.selinux is not None or target.smack is not None:
        selinux, smack = selinux_allows(tracer.selinux, target.selinux), smack_allows(tracer.smack, target.smack)
        world = evolve(world, selinux_allows=selinux, smack_allows=smack)
    return rulings(tracer, supposing_same_user_namespace(tracer, target), world)


def _owned(tracer: Side, facts: ProcessFacts) -> Side:
    """The tracer with the target's real ids."""
    uid, gid = facts.status.uid, facts.status.gid
    if isinstance(uid, Unknown) or isinstance(gid, Unknown):
        return evolve(tracer, uid=uid, gid=gid)
    return evolve(tracer, uid=Ids(*[uid.real] * 4), gid=Ids(*[gid.real] * 4))


def _same_filesystem_ids(tracer: Side) -> bool:
    return all(isinstance(ids, Ids) and ids.real == ids.filesystem for ids in (tracer.uid, tracer.gid))


def _side_of(context: Context) -> Side:
    """The tracer as the access rules see it: the process whose context it is, with the context's ids and sets."""
    base = read_side(read_process(context.source))
    # It is a new process there: not the source, which may be the target itself.
    return evolve(base, pid=NOBODY, tgid=NOBODY, uid=context.uid, gid=context.gid, capabilities=context.capabilities)


def _missing(findings: Findings, plain: Attempt) -> tuple[str, ...]:
    """What the experiments could not take on or did not get to; Landlock matters only where something was refused."""
    gave_up = f"stopped looking for the smallest change: the target had been held for {findings.held_us} us in all"
    lines = (line for line in findings.plain.missing if not line.startswith("landlock:") or plain.failed)
    return (*lines, *([gave_up] if findings.gave_up else []))


def _maybe(raw: runner.RawAttempt | None) -> Attempt | None:
    return attempt_of(raw) if raw is not None else None


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


def diagnose_attempt(found: target.Found, raw: runner.RawAttempt | None, prober: int = 0) -> Diagnosis:
    """What an attempt that was made (None: none was) by process ``prober``, and the facts, mean."""
    facts = read_process(found.pid)
    attempt = attempt_of(raw) if raw else None
    evidence = _evidence(found, attempt, facts)
    if attempt is not None and (attempt.failed or attempt.failed_need):
        evidence = evolve(_asked_further(evidence, facts), kernel_log=_logged(prober))
    held = attempt.stopped_us + attempt.threads_stopped_us if attempt else 0
    diagnosis = _diagnosis(evidence, found)
    inside, runtime = surroundings()
    return evolve(diagnosis, held_us=held, fix=_fix(diagnosis, (), inside=inside, runtime=runtime))


def _evidence(found: target.Found, attempt: Attempt | None, facts: ProcessFacts) -> Evidence:
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
        self_pid=os.getpid(),
        go_children=_go_children(found),
        tracer_name=target.command_line_of(tracer_pid) if isinstance(tracer_pid, int) and tracer_pid else "",
    )


def _asked_further(evidence: Evidence, facts: ProcessFacts) -> Evidence:
    """The evidence, and what the experiments and the access rules add to it: for an attempt that failed."""
    own = read_process(os.getpid(), count_landlock_layers=True)
    tracer = read_side(own)
    return evolve(
        evidence,
        filtered=_filtered(own),
        nobody=experiments.attach_nobody(),
        own_child=attempt_of(experiments.attempt_on_own_child()),
        stranger=experiments.attach_stranger() if own.modules.yama_scope not in (None, 0) else None,
        rulings=_rulings(tracer, facts),
        same_filesystem_ids=_same_filesystem_ids(tracer),
    )


def _logged(prober: int) -> tuple[str, ...]:
    from safedlv.facts.kernel_log import refusals_of

    records = refusals_of({prober})
    return () if isinstance(records, Unknown) else records


def _filtered(own: ProcessFacts) -> bool | Unknown:
    mode = own.status.seccomp
    return mode if isinstance(mode, Unknown) else mode == SECCOMP_MODE_FILTER


def diagnose_context() -> Diagnosis:
    """Could a debugger work here at all? The probe on a child of our own, which nothing but this context can refuse."""
    attempt = attempt_of(experiments.attempt_on_own_child())
    delve = _delve()
    facts = read_process(os.getpid())
    evidence = Evidence(
        os.getpid(),
        facts,
        attempt,
        None,
        delve,
        filtered=_filtered(facts),
        nobody=experiments.attach_nobody(),
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
    others = tuple(Step(*step) for step in needs)
    refused = any(failure for _, failure, _ in steps)
    return Attempt(
        steps=tuple(Step(*step) for step in steps),
        needs=() if refused else others,
        stopped_us=held,
        threads_stopped_us=held_threads,
        left_as_found=left_as_found,
        access=others if refused else (),
    )


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


def _delve() -> Delve | None:
    path = find_delve(os.environ.get("PATH"), os.environ.get("SAFEDLV_DLV"))
    return read_delve(path) if path else None


def _supports(delve: Delve | None, go_version: str | Unknown | None) -> bool | Unknown:
    if delve is None or not isinstance(go_version, str):
        return Unknown("ENODATA", "the Go version of the target")
    return supports(delve, go_version)


def _go_children(found: target.Found) -> tuple[tuple[int, str], ...]:
    if not wrappers.is_wrapper(found.procdir):
        return ()
    return tuple((pid, target.command_line_of(pid)) for pid in wrappers.go_children(found.pid))

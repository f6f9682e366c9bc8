"""Who refused: told apart by what the same tracer may do elsewhere, without any privilege. Pure.

Two experiments beside the probe itself (probe/experiments.py) separate a seccomp filter from everything else: the
kernel answers ESRCH to an attach on a PID that cannot exist, and it lets a process trace its own child. Whatever is
refused there is refused by a filter, since no other layer knows the call. What is refused only on the target is left
to the access rules, whose answer is ``inferred``.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from safedlv.diagnosis.access_rules import ALLOWS, REFUSES
from safedlv.diagnosis.evidence import Evidence
from safedlv.errors import printable
from safedlv.model import Attempt, Cause, Step

CALLS = {
    "attach": "PTRACE_ATTACH",
    "setoptions": "PTRACE_SETOPTIONS",
    "cont": "PTRACE_CONT",
    "getregset": "PTRACE_GETREGSET",
    "peekdata": "PTRACE_PEEKDATA",
    "pokedata": "PTRACE_POKEDATA",
    "tgkill": "tgkill",
}
"""Steps of the probe that a filter can refuse; process_vm_readv is not among them, since dlv can do without it."""
FILES = ("auxv", "maps", "exe", "mem")
MODULES = {"apparmor": "AppArmor", "selinux": "SELinux", "smack": "Smack"}
"""The security modules that answer EACCES, and that know a process by a label."""
DENIALS = ("EPERM", "EACCES")
RULED_OTHERWISE = {"seccomp", "kernel-thread", "self-attach", "zombie", "already-traced", "hidepid"}
"""Rulings that a row of their own, with better proof, speaks for."""


def ptrace_unsupported(e: Evidence) -> Cause | None:
    """ENOSYS without a filter: user-mode emulation, or a sandbox kernel without ptrace."""
    if e.nobody != "ENOSYS" or e.filtered is not False:
        return None
    seen = ("PTRACE_ATTACH gives ENOSYS, and no seccomp filter is loaded (Seccomp: 0)",)
    return Cause("ptrace-unsupported", "experiment", "there is no ptrace here: an emulated or sandboxed kernel", seen)


def seccomp(e: Evidence) -> Cause | None:
    """A filter on the tracer refuses a call that no other layer could have refused there."""
    refused = dict(_refused_by_filter(e))
    if not refused or e.filtered is False:
        return None
    names = ", ".join(f"{CALLS[step]} ({_how(errno)})" for step, errno in refused.items())
    return Cause(
        "seccomp",
        "experiment",
        f"a seccomp filter on the tracer refuses {names}",
        tuple(_proof(e, step, errno) for step, errno in refused.items()),
        (("calls", [CALLS[step] for step in refused]), ("errno", next(iter(refused.values())))),
    )


def security_module(e: Evidence) -> Cause | None:
    """The tracer's label under AppArmor, SELinux or Smack, in place alone: what is refused then is that module's."""
    for module, label, attempt in e.only_labels:
        failed = attempt.failed
        if failed is not None and failed.step in _passes(e.unrestricted):
            seen = (
                f"{CALLS[failed.step]} from there under its label and with no other layer in place: {failed.errno}",
                "the same without the label: passes",
            )
            return Cause(module, "experiment", _module_words(module, label), seen, (("label", printable(label)),))
    return None


def security_module_by_errno(e: Evidence) -> Cause | None:
    """EACCES on the target alone: no other layer answers so, and just one module that could is at work."""
    failed = e.attempt.failed if e.attempt else None
    if failed is None or (failed.step, failed.errno) != ("attach", "EACCES") or e.nobody != "ESRCH" or e.only_labels:
        return None
    possible = [ruling for ruling in e.rulings if ruling.id in MODULES and ruling.answer != ALLOWS]
    if len(possible) != 1:
        return None
    module = possible[0].id
    seen = (
        "PTRACE_ATTACH of the target: EACCES, which of all layers only AppArmor, SELinux and Smack answer",
        "PTRACE_ATTACH of a PID that cannot exist: ESRCH, so no seccomp filter answers so",
        f"of the three only {MODULES[module]} is at work here",
    )
    return Cause(module, "inferred", f"{MODULES[module]} refuses it", seen)


def proc_access(e: Evidence) -> Cause | None:
    """The three calls pass, and files of /proc/PID that dlv opens do not open."""
    closed = {step.step: step for step in _failed_needs(e) if step.step in FILES}
    if not closed or _is_gone(e):
        return None
    names = ", ".join(f"/proc/{e.pid}/{name}" for name in closed)
    seen = tuple(f"opening /proc/{e.pid}/{name}: {step.errno}" for name, step in closed.items())
    return Cause("proc-access", "observed", f"ptrace works, but {names} cannot be opened, which dlv needs", seen)


def signal_access(e: Evidence) -> Cause | None:
    """The three calls pass, and the target's threads may not be signalled, though a child of our own may."""
    own = {step.step: step for step in e.own_child.needs} if e.own_child else {}
    refused = [step for step in _failed_needs(e) if step.step == "tgkill" and step.errno in DENIALS]
    if not refused or ("tgkill" in own and not own["tgkill"].ok) or "tgkill" in dict(_refused_by_filter(e)):
        return None
    seen = [f"tgkill of a thread of {e.pid}: {refused[0].errno}"]
    seen += ["tgkill of a thread of a child of our own: allowed"] if "tgkill" in own else []
    what = "ptrace works, but the target's threads may not be signalled, which dlv needs to stop them"
    return Cause("signal-access", "experiment" if "tgkill" in own else "observed", what, tuple(seen))


def what_the_rules_say(e: Evidence, known: Set[str]) -> list[Cause]:
    """The access rules that refuse the attach, where it was refused on the target by more than a filter."""
    tried = e.only_standing or e.attempt  # what a filter or a label refuses says nothing about the other rules
    failed = tried.failed if tried else None
    if failed is None or failed.step != "attach" or failed.errno not in (*DENIALS, "SIGSYS", "ENOSYS"):
        return []
    tests = _freed(e, failed)
    return [
        Cause(
            ruling.id,
            "inferred" if not tests else "experiment",
            ruling.why,
            (*tests, f"rule: {ruling.source}", *(f"would be satisfied by {way}" for way in ruling.satisfied_by)),
        )
        for ruling in e.rulings
        if ruling.answer == REFUSES and ruling.stops_attach and ruling.id not in RULED_OTHERWISE | known | cleared(e)
    ]


def cleared(e: Evidence) -> frozenset[str]:
    """Layers that were in place in an attempt that passed: they do not refuse, whatever the rules say."""
    return frozenset(module for module, _, attempt in e.only_labels if attempt.passed)


def pid_namespace(e: Evidence) -> Cause | None:
    """The tracer cannot name the target: it has no PID in the tracer's PID namespace (pid_namespaces(7))."""
    if not e.outside:
        return None
    what = f"process {e.pid} has no PID in the tracer's PID namespace: it cannot be named from there"
    return Cause("pid-namespace", "experiment", what, ("looked up in a /proc of that namespace",))


def _freed(e: Evidence, failed: Step) -> tuple[str, ...]:
    """The experiment that convicts the access rules: the same attach, given the capabilities that satisfy them."""
    if e.unrestricted is None or e.unrestricted.failed is not None:
        return ()
    return (
        f"PTRACE_ATTACH from there without any filter: {failed.errno}",
        "the same with CAP_SYS_PTRACE besides: passes",
    )


def _refused_by_filter(e: Evidence) -> Iterator[tuple[str, str]]:
    if e.only_filters is not None:
        for step in (*e.only_filters.steps, *e.only_filters.needs):
            if not step.ok and step.step in CALLS and step.step in _passes(e.unrestricted):
                yield step.step, str(step.errno)
    if e.nobody not in (None, "ESRCH"):
        yield "attach", str(e.nobody)
    for step in (*e.own_child.steps, *e.own_child.needs) if e.own_child else ():
        if step.errno not in (None, "TIMEOUT", "ESRCH") and step.step in CALLS and step.step != "attach":
            yield step.step, str(step.errno)


def _failed_needs(e: Evidence) -> Iterator[Step]:
    """What else dlv needs and did not get, plainly or where filters and other layers were out of the way."""
    for attempt in (e.attempt, e.only_standing, *(attempt for _, _, attempt in e.only_labels)):
        yield from (step for step in attempt.needs if not step.ok) if attempt else ()


def _passes(attempt: Attempt | None) -> set[str]:
    return {step.step for step in (*attempt.steps, *attempt.needs) if step.ok} if attempt else set()


def _module_words(module: str, label: str) -> str:
    return f"{MODULES[module]} keeps {printable(label)} from tracing the target"


def _how(errno: str) -> str:
    return "it kills the caller" if errno == "SIGSYS" else errno


def _proof(e: Evidence, step: str, errno: str) -> str:
    if e.only_filters is not None:
        return f"{CALLS[step]} from there with the filters: {errno}; without them, all else the same: passes"
    if step == "attach":
        return f"PTRACE_ATTACH of a PID that cannot exist: {errno}, where the kernel itself says ESRCH"
    return f"{CALLS[step]} on a child of our own: {errno}, where no other layer has a say"


def _is_gone(e: Evidence) -> bool:
    return e.attempt is not None and any(step.errno in ("ESRCH", "ENOENT") for step in e.attempt.needs)

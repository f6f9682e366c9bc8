"""Who refused: told apart by what the same tracer may do elsewhere, without any privilege. Pure.

Two experiments beside the probe itself (probe/experiments.py) separate a seccomp filter from everything else: the
kernel answers ESRCH to an attach on a PID that cannot exist, and it lets a process trace its own child. Whatever is
refused there is refused by a filter, since no other layer knows the call. What is refused only on the target is left
to the access rules, whose answer is ``inferred``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

from safedlv.diagnosis.access_rules import ALLOWS, REFUSES, Ruling
from safedlv.diagnosis.evidence import Evidence
from safedlv.diagnosis.sides import INITIAL_USER_NAMESPACE, NAMED, Side, effective
from safedlv.errors import printable
from safedlv.model import Attempt, Cause, Step, Unknown

CALLS = {
    "attach": "PTRACE_ATTACH",
    "setoptions": "PTRACE_SETOPTIONS",
    "cont": "PTRACE_CONT",
    "getregset": "PTRACE_GETREGSET",
    "peekdata": "PTRACE_PEEKDATA",
    "pokedata": "PTRACE_POKEDATA",
    "tgkill": "tgkill",
    "wait4": "wait4",
}
"""Steps of the probe that a filter can refuse; process_vm_readv is not among them, since dlv can do without it."""
FILES = ("auxv", "maps", "exe", "mem")
MODULES = {"apparmor": "AppArmor", "selinux": "SELinux", "smack": "Smack"}
"""The security modules that answer EACCES, and that know a process by a label."""
DENIALS = ("EPERM", "EACCES")
READING = ("exe",)
ATTACHING = ("mem",)
"""Files of /proc/PID that open only for a caller whom the access rules let read, or attach (PTRACE_MODE_...). Not maps
and auxv: since Linux 6.13 they open for CAP_PERFMON too (kernel/fork.c, may_access_mm)."""
STANDING = frozenset({"credentials", "not-dumpable", "user-namespace", "capability-excess", "landlock"})
"""Layers that PTRACE_MODE_READ asks as well as PTRACE_MODE_ATTACH (kernel/ptrace.c, security/landlock/task.c)."""
OTHERS_LET_IT = "every other layer that answers {errno} is known to let it pass"
NOT_SHOWN = "unless the target named this tracer with PR_SET_PTRACER, which is shown to nobody"
NOT_TRIED = Step("attach", None, 0)
"""In place of the attach that failed, where there was no way back from one and nothing was tried."""
RULED_OTHERWISE = {"seccomp", "kernel-thread", "self-attach", "zombie", "already-traced", "hidepid"}
"""Rulings that a row of their own, with better proof, speaks for."""


def ptrace_unsupported(e: Evidence) -> Cause | None:
    """ENOSYS without a filter: user-mode emulation, or a sandbox kernel without ptrace."""
    if ("attach", "ENOSYS") not in e.nobody or e.filtered is not False:
        return None
    seen = ("PTRACE_ATTACH gives ENOSYS, and no seccomp filter is loaded (Seccomp: 0)",)
    return Cause("ptrace-unsupported", "experiment", "there is no ptrace here: an emulated or sandboxed kernel", seen)


def seccomp(e: Evidence) -> Cause | None:
    """A filter on the tracer refuses a call that no other layer could have refused there."""
    refused = dict(refused_by_filter(e))
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
                f"{CALLS[failed.step]} under that label and with no other layer in place: {failed.errno}",
                f"{e.freed_by}: passes",
            )
            return Cause(module, "experiment", _module_words(module, label), seen, (("label", printable(label)),))
    return None


def proc_access(e: Evidence) -> Cause | None:
    """ptrace would do, and files of /proc/PID that dlv opens do not open."""
    closed = {step.step: step for step in _failed_needs(e) if step.step in FILES}
    if not closed or _is_gone(e):
        return None
    names = ", ".join(f"/proc/{e.pid}/{name}" for name in closed)
    seen = tuple(f"opening /proc/{e.pid}/{name}: {step.errno}" for name, step in closed.items())
    return Cause("proc-access", "observed", f"ptrace would do, but {names} cannot be opened, which dlv needs", seen)


def signal_access(e: Evidence) -> Cause | None:
    """ptrace would do, and the target's threads may not be signalled, though a child of our own may."""
    own = {step.step: step for step in e.own_child.needs} if e.own_child else {}
    failed = [step for step in _failed_needs(e) if step.errno in DENIALS]
    filtered = "tgkill" in dict(refused_by_filter(e))
    refused = [step for step in failed if step.step == "kill" or (step.step == "tgkill" and not filtered)]
    if not refused:
        return None
    seen = [f"{refused[0].step} of a thread of {e.pid}: {refused[0].errno}"]
    seen += [f"{refused[0].step} of a child of our own: allowed"] if "tgkill" in own and own["tgkill"].ok else []
    what = "ptrace would do, but the target's threads may not be signalled, which dlv needs to stop them"
    return Cause("signal-access", "experiment" if len(seen) > 1 else "observed", what, tuple(seen))


def traced_from_outside(e: Evidence) -> Cause | None:
    """A tracer that has no PID in the reader's namespace: TracerPid shows 0 for it (fs/proc/array.c, task_state).

    ptrace_attach asks for a tracer last (task->ptrace). Whoever may open mem is let through by everything before that
    but a filter, and a filter was asked elsewhere.
    """
    failed = e.attempt.failed if e.attempt else None
    if failed is None or (failed.step, failed.errno) != ("attach", "EPERM") or not e.attempt:
        return None
    own_child_passes = e.own_child is not None and e.own_child.passed
    if not (e.attempt.may(*ATTACHING) and e.attach_reaches_the_kernel and own_child_passes):
        return None
    if any(r.answer != ALLOWS for r in e.rulings if r.id in ("kernel-thread", "self-attach", "zombie")):
        return None
    seen = (
        f"/proc/{e.pid}/mem opens, so ids, capabilities and security modules let the tracer attach",
        "PTRACE_ATTACH of a child of our own passes, so no filter refuses it",
        "what the kernel asks besides is whether it has a tracer; TracerPid shows none of another PID namespace",
    )
    return Cause("already-traced", "inferred", f"process {e.pid} is being traced from outside of this container", seen)


def what_the_rules_say(e: Evidence, known: Set[str]) -> list[Cause]:
    """The access rules that refuse the attach, where it was refused on the target by more than a filter or a label.

    What refuses as the target's own user as well is a cause besides the ids.
    """
    found = _what_refused(e, e.only_standing or e.attempt, e.rulings, known)
    known = known | {cause.id for cause in found}
    return found + (_what_refused(e, e.as_owner, e.rulings_as_owner, known) if e.as_owner else [])


def _what_refused(e: Evidence, tried: Attempt | None, rulings: Iterable[Ruling], known: Set[str]) -> list[Cause]:
    failed = tried.failed if tried else NOT_TRIED
    if failed is None or failed.step != "attach" or failed.errno not in (*DENIALS, "SIGSYS", "ENOSYS", None):
        return []
    open_still = [r for r in rulings if r.stops_attach and r.answer != ALLOWS]
    not_asked = {"landlock"} if e.prober_past_landlock else set()  # of the child that tried it from there
    open_still = [r for r in open_still if r.id not in RULED_OTHERWISE | cleared(e) | not_asked]
    refusing = [r for r in open_still if r.answer == REFUSES or _refuses_but_for_a_name(e, r)]
    answering = [r for r in open_still if r.errno == failed.errno]
    if not refusing and len(answering) == 1 and not _a_filter_may_have(e):
        refusing = answering
    if tried is not None and not tried.may(*READING):
        refusing += [r for r in _keeps_from_reading(open_still) if r not in refusing]
    alone = len(answering) == 1
    return [_by_rule(e, ruling, failed, alone=alone) for ruling in refusing if ruling.id not in known]


def _keeps_from_reading(open_still: list[Ruling]) -> list[Ruling]:
    """The one layer that may keep the tracer from reading the target: neither Yama nor a filter on ptrace(2) can."""
    found = [ruling for ruling in open_still if ruling.id in STANDING | set(MODULES)]
    return found if len(found) == 1 and found[0].id in STANDING else []


def _by_rule(e: Evidence, ruling: Ruling, failed: Step, *, alone: bool) -> Cause:
    """``experiment`` where the attach passed with this layer out of the way, or Yama was met where nothing else is."""
    tests = _freed(e, failed) + (_yama_tests(e) if ruling.id == "yama" else ())
    rest: tuple[str, ...] = ()
    if ruling.answer != REFUSES:
        rest = (OTHERS_LET_IT.format(errno=failed.errno),) if alone else (NOT_SHOWN,)
    logged = tuple(f"the kernel's log: {printable(text, 300)}" for text in e.kernel_log if f'{ruling.id}="' in text)
    proof = "experiment" if tests and NOT_SHOWN not in rest else "observed" if logged else "inferred"
    ways = tuple(f"would be satisfied by {way}" for way in ruling.satisfied_by)
    return Cause(ruling.id, proof, ruling.why, (*tests, *logged, *rest, f"rule: {ruling.source}", *ways))


def _refuses_but_for_a_name(e: Evidence, ruling: Ruling) -> bool:
    """Yama's rule, of which only PR_SET_PTRACER is unknown, where a process of our own met it and was refused."""
    return ruling.id == "yama" and ruling.lacks is not None and ruling.lacks.source == NAMED and bool(_yama_tests(e))


def _yama_tests(e: Evidence) -> tuple[str, ...]:
    """What showed that Yama refuses this tracer: on a process of its own, which no other layer protects from it."""
    if e.stranger is None or e.stranger[0] is None:
        return ()
    met = f"opening /proc/PID/mem of a process of our own that is no descendant of the tracer: {e.stranger[0]}"
    if e.stranger[1] is None:
        return met, "the same after it named any tracer with PR_SET_PTRACER, which only Yama looks at: passes"
    return (met,)


def _a_filter_may_have(e: Evidence) -> bool:
    """Whether it is open that a filter, and no rule, refused the attach."""
    return e.only_standing is None and not e.attach_reaches_the_kernel


def cleared(e: Evidence) -> frozenset[str]:
    """Layers that were seen to let the tracer pass: they do not refuse, whatever the rules say."""
    found = {module for module, _, attempt in e.only_labels if attempt.passed}
    for attempt in filter(None, (e.attempt, e.only_standing)):
        if attempt.may(*READING, *ATTACHING):
            found |= STANDING if e.same_filesystem_ids else STANDING - {"credentials"}
        if attempt.may(*ATTACHING):
            found |= {"yama", *MODULES} if attempt is e.attempt else {"yama"}
    if e.as_owner is not None:  # ids, capabilities and user namespace are others there
        found |= {"not-dumpable"} if e.as_owner.passed or e.as_owner.may(*READING, *ATTACHING) else set()
        found |= {"yama"} if e.as_owner.passed or e.as_owner.may(*ATTACHING) else set()
    return frozenset(found)


def is_beyond_our_namespace(e: Evidence, tracer: Side, maps_ids_otherwise: bool) -> bool:
    """Whether an attach that was refused shows that the tracer has no power over the target's user namespace.

    With CAP_SYS_PTRACE in effect (or over a child namespace of its own) ids, dumpable and capabilities are not asked:
    what refuses then is a filter, a module, or that the capability does not reach the target.
    """
    failed = e.attempt.failed if e.attempt else None
    if failed is None or (failed.step, failed.errno) != ("attach", "EPERM") or not e.attach_reaches_the_kernel:
        return False
    if e.attempt is None or e.attempt.may(*READING, *ATTACHING) or isinstance(tracer.user_ns, Unknown):
        return False
    others = ("landlock", "kernel-thread", "self-attach", "zombie", "already-traced")
    if any(ruling.answer != ALLOWS for ruling in e.rulings if ruling.id in others):
        return False
    if any("reboot" in ruling.satisfied_by for ruling in e.rulings if ruling.id == "yama"):
        return False  # Yama's other scopes let pass whoever has the power
    nested = tracer.user_ns[0].inode != INITIAL_USER_NAMESPACE
    return maps_ids_otherwise or (nested and effective(tracer, "sys_ptrace") is True)


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
    return (f"PTRACE_ATTACH from there without filters and labels: {failed.errno}", f"{e.freed_by}: passes")


def refused_by_filter(e: Evidence) -> Iterator[tuple[str, str]]:
    """(step, errno's name) of what a filter refuses: nothing else knows the call where it was tried."""
    if e.only_filters is not None:
        for step in (*e.only_filters.steps, *e.only_filters.needs):
            if not step.ok and step.step in CALLS and step.step in _passes(e.unrestricted):
                yield step.step, str(step.errno)
    if e.filtered is False:
        return
    yield from ((step, answer) for step, answer in e.nobody if answer != "ESRCH")
    heard = {step for step, answer in e.nobody if answer == "ESRCH"}
    for step in (*e.own_child.steps, *e.own_child.needs) if e.own_child else ():
        if step.ok or step.errno == "TIMEOUT" or step.step not in CALLS:
            continue
        if step.errno == "ESRCH" or step.step not in heard:  # the child lives: ESRCH is a filter's word, too
            yield step.step, str(step.errno)


def _failed_needs(e: Evidence) -> Iterator[Step]:
    """What else dlv needs and did not get, plainly or where filters and other layers were out of the way.

    What did not open after a refused call counts only where the ids and the like are no reason for it: the one who
    attaches as the target's own user, when nothing else stands in the way, may open and signal it as well.
    """
    for attempt in (e.attempt, e.only_standing, *(attempt for _, _, attempt in e.only_labels)):
        yield from (step for step in attempt.needs if not step.ok) if attempt else ()
    looked = e.only_standing or e.attempt
    for step in looked.access if looked is not None else ():
        # mem asks what an attach asks: Yama or a module may keep it shut, and then the attach is what they refuse
        if not step.ok and step.step not in ATTACHING and _has_the_power(e, step.step):
            yield step


def _has_the_power(e: Evidence, to: str) -> bool:
    """No rule about what the target is, ids, namespaces, dumpable or capabilities refuses or may refuse.

    kill(2) asks neither whether the target is dumpable nor for its capabilities (kernel/signal.c, kill_ok_by_cred).
    """
    asked = {"pid-namespace", "kernel-thread", "zombie", "credentials", "user-namespace"}
    asked |= STANDING if to != "kill" else set()
    known = cleared(e) | ({"landlock"} if e.prober_past_landlock else set())
    return bool(e.rulings) and all(r.answer == ALLOWS or r.id in known for r in e.rulings if r.id in asked)


def _passes(attempt: Attempt | None) -> set[str]:
    return {step.step for step in (*attempt.steps, *attempt.needs) if step.ok} if attempt else set()


def _module_words(module: str, label: str) -> str:
    return f"{MODULES[module]} keeps {printable(label)} from tracing the target"


def _how(errno: str) -> str:
    return "it kills the caller" if errno == "SIGSYS" else errno


def _proof(e: Evidence, step: str, errno: str) -> str:
    if e.only_filters is not None:
        return f"{CALLS[step]} with those filters and no other layer in place: {errno}; {e.freed_by}: passes"
    if (step, errno) in e.nobody:
        return f"{CALLS[step]} of a PID that cannot exist: {errno}, where the kernel itself says ESRCH"
    return f"{CALLS[step]} on a child of our own: {errno}, where no other layer has a say"


def _is_gone(e: Evidence) -> bool:
    return e.attempt is not None and any(step.errno in ("ESRCH", "ENOENT") for step in e.attempt.needs)

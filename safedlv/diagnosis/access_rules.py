"""May this process trace that one? The kernel's rules for PTRACE_ATTACH as a table, in the kernel's order. Pure.

Every row looks at facts of both sides and answers ALLOWS, REFUSES or UNKNOWN, says why, and what would satisfy it.
Theory of operation: ptrace(2) meets, in this order, the caller's seccomp filters; the look-up of the PID; three
checks of ptrace_attach; __ptrace_may_access with ids, then dumpable, then the security modules (``capability`` first,
the others as they were listed at boot); and last whether the task is exiting or has a tracer. The first that refuses
answers, so :func:`expected_errno` is what the kernel would say, and :func:`rulings` is what else would refuse after
that one is out of the way.

The logic has three values: a refusal is never built on a fact that is unknown, nor is a permission; but a fact that
cannot matter (which ids, for one who has CAP_SYS_PTRACE) need not be known.

Functions are cited by file and name, of Linux 6.x; they did not change their decisions since 4.10 (mm->user_ns).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from attrs import evolve, frozen

from safedlv.diagnosis.access_modules import SYS_PTRACE, apparmor, landlock, selinux, smack, yama
from safedlv.diagnosis.sides import (
    DOCKER_DEFAULT,
    INITIAL_USER_NAMESPACE,
    NAMELESS,
    PTRACER_ANY,
    AppArmorProfile,
    Finding,
    Maybe,
    Side,
    UserNamespace,
    World,
    all_of,
    any_of,
    can_name,
    capable_over,
    negated,
    same,
)
from safedlv.model import Ids, Unknown
from safedlv.values import Value

__all__ = [
    "ALLOWS",
    "DOCKER_DEFAULT",
    "PTRACER_ANY",
    "REFUSES",
    "RULES",
    "UNKNOWN",
    "Answer",
    "AppArmorProfile",
    "Rule",
    "Ruling",
    "Side",
    "UserNamespace",
    "World",
    "capable_over",
    "expected_errno",
    "filter_answer",
    "first_refusal",
    "rulings",
    "supposing_no_power",
    "supposing_same_user_namespace",
    "verdict",
]

Answer = Literal["allows", "refuses", "unknown"]
ALLOWS: Answer = "allows"
REFUSES: Answer = "refuses"
UNKNOWN: Answer = "unknown"

PTRACE_ATTACH = 16
DEAD = ("Z", "X")


@frozen(eq=False, repr=False)
class Ruling(Value):
    """The answer of one row."""

    id: str
    """The layer: a cause's name in the contract."""
    answer: Answer
    errno: str | None
    """What the call would fail with if this row refuses; None: not known (a filter may choose any)."""
    why: str
    satisfied_by: tuple[str, ...]
    """Each of these by itself would satisfy the row: ``cap:NAME``, ``exec-as:UID:GID``, ``yama:0``, ...; () if none."""
    source: str
    stops_attach: bool
    """False: ptrace itself does not ask this; what dlv needs besides is refused."""
    lacks: Unknown | None = None
    """The unknown fact that an UNKNOWN hangs on (the first of several)."""

    @property
    def told(self) -> str:
        """Why it refuses, with the reservation of an answer that lacks a fact."""
        if self.lacks is None:
            return self.why
        return f"perhaps {self.why} (not known: {self.lacks.source}, {self.lacks.errno})"


@frozen(eq=False, repr=False)
class Rule(Value):
    """One row."""

    id: str
    errno: str | None
    source: str
    find: Callable[[Side, Side, World], Finding]
    module: str | None = None
    """The security module that asks this."""
    stops_attach: bool = True

    def ruling(self, tracer: Side, target: Side, world: World) -> Ruling:
        """Apply the row to two sides."""
        found = self.find(tracer, target, world)
        permits = found.permits
        if isinstance(permits, Unknown) and self.module and _not_loaded(world, self.module):
            permits = True
        if permits is True:
            return Ruling(self.id, ALLOWS, self.errno, "it does not refuse", (), self.source, self.stops_attach)
        lacks = permits if isinstance(permits, Unknown) else None
        return Ruling(
            id=self.id,
            answer=REFUSES if lacks is None else UNKNOWN,
            errno=found.errno or self.errno,
            why=found.why,
            satisfied_by=found.satisfied_by,
            source=self.source,
            stops_attach=self.stops_attach,
            lacks=lacks,
        )


def _not_loaded(world: World, module: str) -> bool:
    return not isinstance(world.modules, Unknown) and module not in world.modules


# ---------------------------------------------------------------- what is asked


def rulings(tracer: Side, target: Side, world: World) -> tuple[Ruling, ...]:
    """The answer of every row, in the order in which this kernel asks them."""
    return tuple(rule.ruling(tracer, target, world) for rule in _in_order(world))


def first_refusal(tracer: Side, target: Side, world: World) -> Ruling | None:
    """The first row that is known to refuse the attach; rows before it may be unknown."""
    found = (ruling for ruling in rulings(tracer, target, world) if ruling.stops_attach)
    return next((ruling for ruling in found if ruling.answer == REFUSES), None)


def expected_errno(tracer: Side, target: Side, world: World) -> str | None:
    """What PTRACE_ATTACH would fail with; None where it would pass or where that is not known (see :func:`verdict`).

    An unknown row before the first refusal does not matter when it would fail with the same errno.
    """
    possible: set[str | None] = set()
    for ruling in rulings(tracer, target, world):
        if ruling.stops_attach and ruling.answer != ALLOWS:
            possible.add(ruling.errno)
            if ruling.answer == REFUSES:
                return possible.pop() if len(possible) == 1 else None
    return None


def verdict(tracer: Side, target: Side, world: World) -> Answer:
    """Whether PTRACE_ATTACH would pass, all rows together."""
    answers = {ruling.answer for ruling in rulings(tracer, target, world) if ruling.stops_attach}
    if REFUSES in answers:
        return REFUSES
    return UNKNOWN if UNKNOWN in answers else ALLOWS


def supposing_same_user_namespace(tracer: Side, target: Side) -> Side:
    """The target as it most likely is where its user namespace could not be read: in the tracer's own.

    Without the right to trace a process its namespaces are unreadable, so for the commonest refusal (another user's
    process, no capability) the table can only say UNKNOWN. What follows from this supposition is ``inferred``.
    """
    user_ns = tracer.user_ns if isinstance(target.user_ns, Unknown) else target.user_ns
    mm_user_ns = user_ns if isinstance(target.mm_user_ns, Unknown) else target.mm_user_ns
    return evolve(target, user_ns=user_ns, mm_user_ns=mm_user_ns)


def supposing_no_power(target: Side) -> Side:
    """The target in a user namespace of its own, owned by nobody, below the first: nobody but there has power over it.

    For a tracer that was refused although it holds CAP_SYS_PTRACE in its own namespace, or whose ids are mapped
    otherwise: had it power over the target's namespace, neither ids nor capabilities would have been asked.
    """
    elsewhere = (UserNamespace(-1, -1), UserNamespace(INITIAL_USER_NAMESPACE))
    return evolve(target, user_ns=elsewhere, mm_user_ns=elsewhere)


def filter_answer(tracer: Side, request: int) -> str | Unknown | None:
    """What the tracer's filters answer to a ptrace request: None lets it through, else the errno's name or SIGSYS."""
    filters = tracer.seccomp
    if filters is None or isinstance(filters, Unknown):
        return filters
    return dict(filters).get(request, Unknown("ENODATA", f"what the seccomp filters answer to request {request:#x}"))


def _in_order(world: World) -> tuple[Rule, ...]:
    """The table, its security modules (after ``capability``) in the order of /sys/kernel/security/lsm if known.

    security/security.c, security_ptrace_access_check: the first hook that does not return 0 answers.
    """
    if isinstance(world.modules, Unknown):
        return RULES
    rank = {module: place for place, module in enumerate(world.modules)}
    places = [place for place, rule in enumerate(RULES) if rule.module]
    modules = sorted((RULES[place] for place in places), key=lambda rule: rank.get(rule.module or "", len(rank)))
    return (*RULES[: places[0]], *modules, *RULES[places[-1] + 1 :])


# ---------------------------------------------------------------- before the rules about access


def seccomp(tracer: Side, target: Side, world: World) -> Finding:
    """kernel/seccomp.c, __seccomp_filter, at the entry of the call; the arguments are seen too. Any errno, SIGSYS."""
    answer = filter_answer(tracer, PTRACE_ATTACH)
    permits = answer if isinstance(answer, Unknown) else answer is None
    errno = answer if isinstance(answer, str) else None
    why = f"a seccomp filter answers PTRACE_ATTACH with {errno or 'an error'}"
    return Finding(permits, why, ("seccomp:ptrace",), errno)


def pid_namespace(tracer: Side, target: Side, world: World) -> Finding:
    """kernel/ptrace.c, SYSCALL_DEFINE4(ptrace): find_get_task_by_vpid looks in the caller's PID namespace."""
    return Finding(can_name(tracer, target), "the target has no PID in the tracer's PID namespace", ("join:pid",))


def hidepid(tracer: Side, target: Side, world: World) -> Finding:
    """fs/proc/base.c, has_pid_permissions: hides /proc/PID; ptrace looks the PID up by itself and never asks this."""
    permits = any_of([same(world.hidepid, 0), target.visible])
    errno = "EPERM" if world.hidepid == 1 else None
    why = f"/proc is mounted with hidepid={world.hidepid}" if isinstance(world.hidepid, int) else "/proc hides it"
    return Finding(permits, f"{why} and shows nothing of the target to the tracer", ("hidepid:0", SYS_PTRACE), errno)


def kernel_thread(tracer: Side, target: Side, world: World) -> Finding:
    """kernel/ptrace.c, ptrace_attach: PF_KTHREAD."""
    return Finding(negated(target.kernel_thread), "the target is a thread of the kernel")


def self_attach(tracer: Side, target: Side, world: World) -> Finding:
    """kernel/ptrace.c, ptrace_attach: same_thread_group."""
    return Finding(negated(same(tracer.tgid, target.tgid)), "the target is the tracer itself", ("another-process",))


# ---------------------------------------------------------------- __ptrace_may_access


def credentials(tracer: Side, target: Side, world: World) -> Finding:
    """kernel/ptrace.c, __ptrace_may_access with PTRACE_MODE_REALCREDS.

    The tracer's *real* uid is compared with the target's real, effective and saved uid, and the same for gid;
    filesystem ids and supplementary groups do not count. Otherwise ptrace_has_cap over the target's user namespace.
    """
    equal = all_of([_ids_match(tracer.uid, target.uid), _ids_match(tracer.gid, target.gid)])
    permits = any_of([equal, capable_over(tracer, target.user_ns, "sys_ptrace")])
    why = f"the tracer ({_real(tracer)}) is not the target's user and group ({_all(target)}) and lacks CAP_SYS_PTRACE"
    return Finding(permits, f"{why} over it", (SYS_PTRACE, *_exec_as(target)))


def not_dumpable(tracer: Side, target: Side, world: World) -> Finding:
    """kernel/ptrace.c, __ptrace_may_access: get_dumpable(mm), else the capability over mm->user_ns.

    Equal ids do not help. mm->user_ns is the target's user namespace or an ancestor of it (fs/exec.c, would_dump):
    where it is unknown, no power over the first is no power over any of them.
    """
    power = capable_over(tracer, target.mm_user_ns, "sys_ptrace")
    if isinstance(power, Unknown) and capable_over(tracer, target.user_ns, "sys_ptrace") is False:
        power = False
    # A dead task has no memory; kernels before 7.1 do not ask then, later ones remember (both end in EPERM).
    permits = any_of([target.dumpable, _is_dead(target), power])
    why = "the target's memory is not dumpable and the tracer lacks CAP_SYS_PTRACE over it"
    return Finding(permits, why, (SYS_PTRACE,))


def user_namespace(tracer: Side, target: Side, world: World) -> Finding:
    """security/commoncap.c, cap_ptrace_access_check: another user namespace takes CAP_SYS_PTRACE over that one."""
    permits = any_of([_same_user_namespace(tracer, target), capable_over(tracer, target.user_ns, "sys_ptrace")])
    why = "the target is in another user namespace, over which the tracer lacks CAP_SYS_PTRACE"
    return Finding(permits, why, ("join:user", "parent-user-namespace+cap:sys_ptrace"))


def capability_excess(tracer: Side, target: Side, world: World) -> Finding:
    """security/commoncap.c, cap_ptrace_access_check: in one user namespace the *permitted* sets are compared.

    The tracer's permitted set, not its effective one (that is for PTRACE_MODE_FSCREDS, as /proc uses it).
    """
    ours, theirs = tracer.capabilities, target.capabilities
    within: Maybe
    if isinstance(ours, Unknown):
        within = True if not isinstance(theirs, Unknown) and theirs.permitted == 0 else ours
    elif isinstance(theirs, Unknown):
        within = theirs
    else:
        within = theirs.permitted & ~ours.permitted == 0
    other = negated(_same_user_namespace(tracer, target))  # then the row before this one decides
    permits = any_of([within, other, capable_over(tracer, target.user_ns, "sys_ptrace")])
    return Finding(permits, "the target may use capabilities that the tracer has not", (SYS_PTRACE, "caps:target"))


# ---------------------------------------------------------------- after the rules about access


def zombie(tracer: Side, target: Side, world: World) -> Finding:
    """kernel/ptrace.c, ptrace_attach: exit_state. Asked after all of __ptrace_may_access."""
    return Finding(negated(_is_dead(target)), "the target has ended")


def already_traced(tracer: Side, target: Side, world: World) -> Finding:
    """kernel/ptrace.c, ptrace_attach: task->ptrace. The last question, so TracerPid tells it whatever the rest says."""
    return Finding(same(target.tracer_pid, 0), f"the target is traced by {target.tracer_pid}", ("end-of-tracer",))


# ---------------------------------------------------------------- small questions


def _is_dead(side: Side) -> Maybe:
    return side.state if isinstance(side.state, Unknown) else side.state in DEAD


def _ids_match(ours: Ids | Unknown, theirs: Ids | Unknown) -> Maybe:
    if isinstance(ours, Unknown):
        return ours
    if isinstance(theirs, Unknown):
        return theirs
    numbers = {theirs.real, theirs.effective, theirs.saved}
    if ours.real == NAMELESS and NAMELESS in numbers:
        return Unknown("EOVERFLOW", "two ids without a number in this user namespace")
    return numbers == {ours.real}


def _same_user_namespace(tracer: Side, target: Side) -> Maybe:
    if isinstance(tracer.user_ns, Unknown):
        return tracer.user_ns
    return target.user_ns if isinstance(target.user_ns, Unknown) else tracer.user_ns[0].inode == target.user_ns[0].inode


# ---------------------------------------------------------------- words


def _exec_as(target: Side) -> tuple[str, ...]:
    """The ids that a tracer would need; none will do for a target whose own ids differ (a set-id program)."""
    uid, gid = target.uid, target.gid
    if isinstance(uid, Unknown) or isinstance(gid, Unknown):
        return ("same-uid",)
    one_user = uid.real == uid.effective == uid.saved and gid.real == gid.effective == gid.saved
    return (f"exec-as:{uid.real}:{gid.real}", "same-uid") if one_user else ()


def _real(side: Side) -> str:
    uid = "unknown" if isinstance(side.uid, Unknown) else _number(side.uid.real)
    gid = "unknown" if isinstance(side.gid, Unknown) else _number(side.gid.real)
    return f"uid {uid}, gid {gid}"


def _all(side: Side) -> str:
    words = []
    for name, ids in (("uid", side.uid), ("gid", side.gid)):
        numbers = () if isinstance(ids, Unknown) else (ids.real, ids.effective, ids.saved)
        shown = "/".join(map(_number, numbers)) or "unknown"
        words.append(f"{name} {shown}")
    return ", ".join(words)


def _number(number: int) -> str:
    return "without a number here" if number == NAMELESS else str(number)


MAY_ACCESS = "kernel/ptrace.c __ptrace_may_access"
ATTACH = "kernel/ptrace.c ptrace_attach"
CAPABILITY = "security/commoncap.c cap_ptrace_access_check"

RULES: tuple[Rule, ...] = (
    Rule("seccomp", None, "kernel/seccomp.c __seccomp_filter", seccomp),
    Rule("pid-namespace", "ESRCH", "kernel/ptrace.c ptrace, find_get_task_by_vpid", pid_namespace),
    Rule("hidepid", "ENOENT", "fs/proc/base.c has_pid_permissions", hidepid, stops_attach=False),
    Rule("kernel-thread", "EPERM", f"{ATTACH}, PF_KTHREAD", kernel_thread),
    Rule("self-attach", "EPERM", f"{ATTACH}, same_thread_group", self_attach),
    Rule("credentials", "EPERM", f"{MAY_ACCESS}, PTRACE_MODE_REALCREDS", credentials),
    Rule("not-dumpable", "EPERM", f"{MAY_ACCESS}, get_dumpable", not_dumpable),
    Rule("user-namespace", "EPERM", CAPABILITY, user_namespace),
    Rule("capability-excess", "EPERM", CAPABILITY, capability_excess),
    Rule("landlock", "EPERM", "security/landlock/task.c hook_ptrace_access_check", landlock, "landlock"),
    Rule("yama", "EPERM", "security/yama/yama_lsm.c yama_ptrace_access_check", yama, "yama"),
    Rule("selinux", "EACCES", "security/selinux/hooks.c selinux_ptrace_access_check", selinux, "selinux"),
    Rule("smack", "EACCES", "security/smack/smack_lsm.c smack_ptrace_access_check", smack, "smack"),
    Rule("apparmor", "EACCES", "security/apparmor/task.c aa_may_ptrace", apparmor, "apparmor"),
    Rule("zombie", "EPERM", f"{ATTACH}, exit_state", zombie),
    Rule("already-traced", "EPERM", f"{ATTACH}, task->ptrace", already_traced),
)
"""In the kernel's order; security modules in that of Debian and Ubuntu (``lsm=`` may change it: see _in_order)."""

"""The rows of the access table (:mod:`safedlv.diagnosis.access_rules`) that belong to security modules. Pure."""

from __future__ import annotations

from safedlv.diagnosis.sides import (
    PTRACER_ANY,
    AppArmorProfile,
    Finding,
    Maybe,
    Side,
    World,
    all_of,
    any_of,
    capable_over,
    effective,
    negated,
    same,
)
from safedlv.errors import printable
from safedlv.model import Unknown

SYS_PTRACE = "cap:sys_ptrace"


def landlock(tracer: Side, target: Side, world: World) -> Finding:
    """security/landlock/task.c, domain_scope_le: the target in the tracer's own domain or one below it."""
    ours, theirs = tracer.landlock, target.landlock
    permits: Maybe
    if isinstance(ours, Unknown):
        permits = ours
    elif isinstance(theirs, Unknown):
        permits = theirs if ours else True
    else:
        permits = theirs[: len(ours)] == ours
    return Finding(permits, "the tracer is in a Landlock domain that the target is not in", ("landlock:none",))


def yama(tracer: Side, target: Side, world: World) -> Finding:
    """security/yama/yama_lsm.c, yama_ptrace_access_check. Scope 3 holds until the next boot."""
    scope = world.yama_scope
    if isinstance(scope, Unknown):
        return Finding(scope, "kernel.yama.ptrace_scope refuses", ("yama:0",))
    why = f"kernel.yama.ptrace_scope is {scope}"
    if not scope:
        return Finding(True, why)
    if scope >= 3:
        return Finding(False, f"{why}: nobody may attach until the next boot", ("reboot",))
    power = capable_over(tracer, target.user_ns, "sys_ptrace")
    if scope == 2:
        return Finding(power, f"{why} and the tracer lacks CAP_SYS_PTRACE", (SYS_PTRACE, "yama:0"))
    permits = any_of([power, _descends(target, tracer), _is_named(tracer, target), _traces_it_already(tracer, target)])
    why += " and the target is no descendant of the tracer, did not name it, and the tracer lacks CAP_SYS_PTRACE"
    return Finding(permits, why, (SYS_PTRACE, "yama:0", "ptracer", "descendant"))


def _descends(target: Side, tracer: Side) -> Maybe:
    """yama_lsm.c, task_is_descendant: by real_parent and thread group; a process counts as its own descendant."""
    if isinstance(tracer.tgid, Unknown):
        return tracer.tgid
    is_it = same(target.tgid, tracer.tgid)
    above: Maybe = target.ancestors if isinstance(target.ancestors, Unknown) else tracer.tgid in target.ancestors
    return any_of([is_it, above])


def _is_named(tracer: Side, target: Side) -> Maybe:
    """yama_lsm.c, ptracer_exception_found: the process named with PR_SET_PTRACER and its descendants."""
    named = target.ptracer
    if named is None:
        return False
    if isinstance(named, Unknown) or named == PTRACER_ANY:
        return named if isinstance(named, Unknown) else True
    above: Maybe = tracer.ancestors if isinstance(tracer.ancestors, Unknown) else named in tracer.ancestors
    return any_of([same(tracer.tgid, named), above])


def _traces_it_already(tracer: Side, target: Side) -> Maybe:
    """yama_lsm.c, ptracer_exception_found: its tracer's thread group may (and is refused further on)."""
    return any_of([same(target.tracer_pid, tracer.pid), same(target.tracer_pid, tracer.tgid)])


def selinux(tracer: Side, target: Side, world: World) -> Finding:
    """security/selinux/hooks.c, selinux_ptrace_access_check: process:ptrace between the two contexts, when enforcing.

    The boolean deny_ptrace takes that permission away from nearly every domain, but the policy's answer decides.
    """
    if tracer.selinux is None or target.selinux is None:
        return Finding(True, "")
    permits = any_of([negated(world.selinux_enforcing), world.selinux_allows])
    by = ("selinux:permissive", "selinux:allow-ptrace")
    if world.selinux_deny_ptrace is True:
        return Finding(permits, "SELinux refuses (its boolean deny_ptrace is on)", ("selinux:deny_ptrace=off", *by))
    return Finding(permits, f"SELinux keeps {_text(tracer.selinux)} from tracing {_text(target.selinux)}", by)


def smack(tracer: Side, target: Side, world: World) -> Finding:
    """security/smack/smack_lsm.c, smk_ptrace_rule_check: read and write access, which a label always has to itself."""
    if tracer.smack is None or target.smack is None:
        return Finding(True, "")
    override: Maybe = effective(tracer, "mac_override")
    if override is True:  # smack_privileged: in the first user namespace, and unless smackfs' onlycap has a list
        override = Unknown("ENODATA", "/sys/fs/smackfs/onlycap")
    permits = any_of([same(tracer.smack, target.smack), world.smack_allows, override])
    why = f"Smack keeps {_text(tracer.smack)} from tracing {_text(target.smack)}"
    return Finding(permits, why, ("smack:same-label", "cap:mac_override"))


def apparmor(tracer: Side, target: Side, world: World) -> Finding:
    """security/apparmor/task.c, aa_may_ptrace: the tracer's profile must let it trace, the target's be traced.

    An unconfined tracer passes both; capabilities do not help.
    """
    ours, theirs = tracer.apparmor, target.apparmor
    if ours is None or theirs is None:
        return Finding(True, "")
    trace, be_traced = _lets_trace(ours, theirs), _lets_be_traced(ours, theirs)
    why = f"AppArmor keeps {_label(ours)} from tracing {_label(theirs)}"
    return Finding(all_of([trace, be_traced]), why, ("apparmor:unconfined", "apparmor:allow-ptrace"))


def _lets_trace(ours: AppArmorProfile | Unknown, theirs: AppArmorProfile | Unknown) -> Maybe:
    """security/apparmor/task.c, profile_tracer_perm."""
    if isinstance(ours, Unknown) or _unenforced(ours):
        return ours if isinstance(ours, Unknown) else True
    return _lists(ours, ours.traces, theirs)


def _lets_be_traced(ours: AppArmorProfile | Unknown, theirs: AppArmorProfile | Unknown) -> Maybe:
    """security/apparmor/task.c, profile_tracee_perm."""
    theirs_unenforced: Maybe = theirs if isinstance(theirs, Unknown) else _unenforced(theirs)
    ours_unconfined: Maybe = ours if isinstance(ours, Unknown) else ours.mode == "unconfined"
    listed = theirs if isinstance(theirs, Unknown) else _lists(theirs, theirs.traced_by, ours)
    return any_of([ours_unconfined, theirs_unenforced, listed])


def _unenforced(profile: AppArmorProfile) -> bool:
    return profile.mode in ("unconfined", "complain")


def _lists(profile: AppArmorProfile, peers: tuple[str, ...] | Unknown, peer: AppArmorProfile | Unknown) -> Maybe:
    if profile.mode not in ("enforce", "kill"):  # mixed: several profiles at once
        return Unknown("ENODATA", f"what the AppArmor mode {profile.mode} means here")
    if isinstance(peers, Unknown):
        return peers
    if "*" in peers or not peers:
        return bool(peers)
    return peer if isinstance(peer, Unknown) else peer.label in peers


def _text(fact: str | Unknown) -> str:
    return "an unknown label" if isinstance(fact, Unknown) else printable(fact)


def _label(fact: AppArmorProfile | Unknown) -> str:
    return _text(fact if isinstance(fact, Unknown) else fact.label)

"""From causes to the narrowest changes, each with its risk. Pure; what to type is remedy_commands.py.

A change is named by an id: ``user`` (the target's own), ``root``, ``cap:NAME``, ``seccomp``, ``label:apparmor``, ...
Where experiments were made (probe/changes.py), they have found the smallest set. Where none could be, :func:`proposed`
takes it from the causes, by the rules of diagnosis/access_rules.py; that is then not ``verified``.

No change is a sysctl: at ptrace_scope 1 and 2 one capability of the debugger does what a setting for the whole machine
would, and at 3 the setting cannot be changed (security/yama/yama_lsm.c).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

from attrs import frozen

from safedlv.capabilities import CAPABILITY_BITS, capability_names
from safedlv.diagnosis.place import Place
from safedlv.diagnosis.remedy_commands import commands
from safedlv.model import NOBODY_MAY, Diagnosis, Fix
from safedlv.values import Value

LOW, MEDIUM, HIGH = RISKS = ("low", "medium", "high")


@frozen(eq=False, repr=False)
class Remedy(Value):
    """One change."""

    words: str
    """What to do; fields of the :class:`Place` in braces."""
    risk: str
    why: str
    """Why that is its risk."""


REMEDIES = {
    "user": Remedy(
        "run the debugger as the target's own user (uid {uid}, gid {gid})",
        LOW,
        "it gives no privilege that the target's own user has not",
    ),
    "root": Remedy("run the debugger as root", MEDIUM, "root may change every process and file that is in its reach"),
    "seccomp": Remedy(
        "let the seccomp filter of the debugger allow the calls that dlv makes",
        MEDIUM,
        "whoever runs under that filter may trace; all else that it refuses stays refused",
    ),
    "cap:sys_ptrace": Remedy(
        "give the debugger CAP_SYS_PTRACE",
        MEDIUM,
        "its holder may read and change every process that it can name, not only the target",
    ),
    "cap:dac_read_search": Remedy(
        "give the debugger CAP_DAC_READ_SEARCH", MEDIUM, "its holder may read every file that it can name"
    ),
    "cap:kill": Remedy("give the debugger CAP_KILL", MEDIUM, "its holder may signal every process that it can name"),
    "label:apparmor": Remedy(
        "let the AppArmor profiles of both sides allow ptrace and signals between them, or run the debugger under the "
        "target's own",
        MEDIUM,
        "whoever runs under the debugger's profile may trace the target",
    ),
    "label:selinux": Remedy(
        "run the debugger in the target's own SELinux domain",
        MEDIUM,
        "it may then do all that the target may",
    ),
    "label:smack": Remedy(
        "run the debugger under the target's own Smack label", MEDIUM, "it may then do all that the target may"
    ),
    "outside:landlock": Remedy(
        "start the debugger outside of the Landlock domain that it is in",
        MEDIUM,
        "nothing of that domain then holds the debugger back",
    ),
    "namespace:pid": Remedy(
        "run the debugger where the target has a PID: in the target's PID namespace",
        LOW,
        "it sees no more processes than the target does",
    ),
    "namespace:user": Remedy(
        "start the debugger in the target's own user namespace",
        LOW,
        "what it may do there ends with that namespace",
    ),
    "thaw": Remedy("thaw the target's cgroup", LOW, "the target runs on from where it was"),
    "end-tracer": Remedy(
        "end the tracer that the target has, in its own way (quit, detach)",
        MEDIUM,
        "a tracer that is killed may leave breakpoints behind, and the target then dies of them",
    ),
    "reboot": Remedy(
        "boot with another kernel.yama.ptrace_scope: at 3 nobody may attach, and it cannot be changed",
        HIGH,
        "everything that runs on the machine ends",
    ),
    "limit:pids": Remedy("let the target's cgroup have more threads", LOW, "a limit stays, with room for the debugger"),
    "limit:memory": Remedy(
        "let the target's cgroup have more memory", LOW, "a limit stays, with room for the debugger"
    ),
    "delve": Remedy("install dlv", LOW, "it is started by nobody but you"),
}
"""Every change. Other capabilities than these three go by :data:`OTHER_CAPABILITY`."""
OTHER_CAPABILITY = Remedy("give the debugger CAP_{name}", LOW, "it gives no power over other processes")

KINDS = (
    *("namespace", "user", "root", "seccomp", "label", "outside", "cap"),
    *("thaw", "end-tracer", "limit", "delve", "reboot"),
)
"""The kinds of changes, as they begin an id, in the order in which they are told (the same as probe/changes.py's)."""

NEVER_TRIED = ("thaw", "end-tracer", "limit", "delve")
"""Changes of something else than the tracer's context, as they begin an id: no experiment makes them."""

NARROW = frozenset({"net_bind_service", "net_broadcast", "net_raw", "ipc_lock", "sys_nice", "audit_write", "lease"})
"""Capabilities that give no power over other processes: less than CAP_SYS_PTRACE, as long as they are all it takes."""

BY_CAUSE = {
    "seccomp": "seccomp",
    "apparmor": "label:apparmor",
    "selinux": "label:selinux",
    "smack": "label:smack",
    "landlock": "outside:landlock",
    "frozen": "thaw",
    "already-traced": "end-tracer",
    "pid-namespace": "namespace:pid",
    "user-namespace": "namespace:user",
    "thread-limit": "limit:pids",
    "memory-limit": "limit:memory",
    "delve-missing": "delve",
}
"""Causes that one change answers, wherever target and tracer stand."""
BY_IDENTITY = frozenset(
    {"credentials", "not-dumpable", "capability-excess", "yama", "proc-access", "signal-access", "hidepid"}
)
"""Causes that another user or a capability answers: see :func:`_identity`."""
NOT_TO_BE_DEBUGGED = frozenset(
    {"no-such-process", "zombie", "kernel-thread", "self-attach", "uninterruptible", "ptrace-unsupported"}
)
"""Causes that no change of anybody's rights answers. advice.py says what there is to say."""


def mended(diagnosis: Diagnosis, proved: tuple[str, ...] | None, place: Place) -> Fix | None:
    """The fix for a diagnosis: the changes that were shown to be enough, else those that the causes ask for."""
    if diagnosis.verdict != "blocked":
        return None
    causes = {cause.id for cause in diagnosis.causes}
    besides = tuple(change for cause, change in BY_CAUSE.items() if cause in causes and change.startswith(NEVER_TRIED))
    ids = _in_order((*proved, *besides)) if proved else proposed(causes, place)
    return fix(ids, place, verified=bool(proved) and not besides) if ids else None


def _in_order(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(ids, key=lambda change: KINDS.index(change.partition(":")[0])))


def fix(ids: tuple[str, ...], place: Place, *, verified: bool) -> Fix:
    """A set of changes as a value that can describe itself."""
    chosen = [_remedy(change, place) for change in ids]
    risk = max((remedy.risk for remedy in chosen), key=RISKS.index)
    return Fix(
        changes=tuple(remedy.words for remedy in chosen),
        ids=ids,
        risk=risk,
        risk_why="; ".join(remedy.why for remedy in chosen if remedy.risk == risk),
        not_needed=not_needed(ids, place),
        verified=verified,
        commands=commands(ids, place),
        shareable=commands(ids, place.without_names()),
    )


def _remedy(change: str, place: Place) -> Remedy:
    remedy = REMEDIES.get(change, OTHER_CAPABILITY)
    words = remedy.words.format(uid=place.uid, gid=place.gid, name=change.partition(":")[2].upper())
    if change == "user" and place.uid == 0:  # then the target's user is root
        return Remedy(words, MEDIUM, REMEDIES["root"].why)
    return Remedy(words, remedy.risk, remedy.why)


# ---------------------------------------------------------------- from causes


def proposed(causes: Set[str], place: Place) -> tuple[str, ...]:
    """The narrowest changes that answer all of the causes; () where there are none."""
    if causes & NOT_TO_BE_DEBUGGED:
        return ()
    if "yama" in causes and place.yama_scope == NOBODY_MAY:
        return ("reboot",)
    identity = _identity(causes & BY_IDENTITY, place)
    if causes & BY_IDENTITY and not identity:
        return ()
    found = (*identity, *(change for cause, change in BY_CAUSE.items() if cause in causes))
    return _in_order(found)


def _identity(causes: Set[str], place: Place) -> tuple[str, ...]:
    """Another user if that is enough, else the capability over all users, with what it takes to hold it."""
    if not causes:
        return ()
    if causes == {"capability-excess"} and (narrow := _narrow(place)):
        return narrow
    inherits = "capability-excess" in causes and place.uid == 0  # root in a container has what the target's root has
    by_rank = causes & {"not-dumpable", "yama", "hidepid"} or ("capability-excess" in causes and not inherits)
    another = place.uid is not None and (place.uid, place.gid) != (place.tracer_uid, place.tracer_gid)
    if not by_rank and place.one_user and another:
        return ("user",)
    return _power(place)


def _narrow(place: Place) -> tuple[str, ...]:
    """The capabilities of the target that the tracer lacks, if they are few and harmless and the tracer is root."""
    lacking = capability_names((place.permitted or 0) & ~place.tracer_caps)
    return tuple(f"cap:{name}" for name in lacking) if place.tracer_uid == 0 and set(lacking) <= NARROW else ()


def _power(place: Place) -> tuple[str, ...]:
    """CAP_SYS_PTRACE in effect: of what a container was given, another user than root holds nothing (capabilities(7)).

    On a plain host root has every capability. Of another user's process dlv also needs to read files and to stop
    threads (kernel-facts, sidecars): an engine gives root CAP_KILL and CAP_DAC_OVERRIDE unless it was told not to.
    """
    root = ("root",) if place.tracer_uid != 0 else ()
    if root and not place.inside:
        return root
    wanted = ["sys_ptrace"]
    if place.uid != 0 and not root:
        reads = _holds(place, "dac_override") or _holds(place, "dac_read_search")
        wanted += [] if reads else ["dac_read_search"]
        wanted += [] if _holds(place, "kill") else ["kill"]
    return (*root, *(f"cap:{name}" for name in wanted if not _holds(place, name)))


def _holds(place: Place, name: str) -> bool:
    return bool(place.tracer_caps >> CAPABILITY_BITS[name] & 1)


# ---------------------------------------------------------------- what is not needed

Row = tuple[str, Callable[[Set[str], Place], bool]]


def _gives_root(ids: Set[str], place: Place) -> bool:
    return place.uid == 0 if "user" in ids else bool({"root", "reboot"} & ids) or place.tracer_uid == 0


def _gives_capabilities(ids: Set[str]) -> bool:
    return any(change.startswith("cap:") for change in ids)


NOT_NEEDED: tuple[Row, ...] = (
    ("--privileged", lambda ids, place: place.containers),
    ("seccomp=unconfined", lambda ids, place: place.containers),
    ("apparmor=unconfined", lambda ids, place: place.containers),
    ("--pid=host", lambda ids, place: place.containers),
    ("CAP_SYS_PTRACE", lambda ids, place: not _gives_capabilities(ids) and not {"root", "reboot"} & ids),
    ("root in the container", lambda ids, place: place.containers and not _gives_root(ids, place)),
    ("root", lambda ids, place: not place.containers and not _gives_root(ids, place)),
    ("another kernel.yama.ptrace_scope", lambda ids, place: bool(place.yama_scope) and "reboot" not in ids),
    ("a restart of the target", lambda ids, place: not _is_fixed_at_start(ids, place)),
)
"""What is often advised, and when it is true that it is not needed."""


def _is_fixed_at_start(ids: Set[str], place: Place) -> bool:
    """A container's filter, capabilities and labels are set when it starts; all else can be had while it runs."""
    of_a_container = _gives_capabilities(ids) or "seccomp" in ids or any(c.startswith("label:") for c in ids)
    return "reboot" in ids or (place.containers and of_a_container)


def not_needed(ids: tuple[str, ...], place: Place) -> tuple[str, ...]:
    """What these changes do without."""
    return tuple(words for words, holds in NOT_NEEDED if holds(set(ids), place))

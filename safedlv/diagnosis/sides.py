"""Both sides of one attach as values, and logic that knows "unknown". Pure.

Ids, PIDs and inodes are as one reader sees them, the same for both sides. A field that nobody read is
:class:`Unknown`. Who fills them in from /proc is :mod:`safedlv.facts.sides`.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field, frozen

from safedlv.capabilities import CAPABILITY_BITS
from safedlv.model import CapabilitySets, Ids, Unknown
from safedlv.values import Value

Maybe = bool | Unknown
"""True, False, or unknown."""

INITIAL_USER_NAMESPACE = 0xEFFFFFFD
INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""The inodes of the namespaces above all others (PROC_USER_INIT_INO, PROC_PID_INIT_INO; include/linux/proc_ns.h)."""


NAMED = "PR_SET_PTRACER"
"""The source of the fact that nobody can read: whom a process let trace it."""
NAMELESS = -1
"""In place of an id that the reader's user namespace has no number for: it is none of those that it has."""


def unread(name: str) -> Unknown:
    """What a field holds that nobody read."""
    return Unknown("ENODATA", name)


# ---------------------------------------------------------------- what there is to know


@frozen(eq=False, repr=False)
class UserNamespace(Value):
    """One user namespace (user_namespaces(7))."""

    inode: int
    owner: int | Unknown = field(default=unread("the owner of the user namespace"))
    """The effective uid of whoever made it (ioctl_nsfs(2), NS_GET_OWNER_UID)."""


UserNamespaces = tuple[UserNamespace, ...]
"""A user namespace, its parent, and so on as far as the reader sees: never empty. One alone: ancestors unknown."""


@frozen(eq=False, repr=False)
class AppArmorProfile(Value):
    """The confinement of a process; what its profile says of ptrace is not in /proc and mostly unknown."""

    label: str
    mode: str = "enforce"
    """As in attr/current (enforce, complain, kill, unconfined, mixed); unconfined for the label of that name."""
    traces: tuple[str, ...] | Unknown = field(default=unread("the profile's ptrace rules"))
    """The labels that it lets its processes trace (``ptrace trace peer=...``); ``*`` for any."""
    traced_by: tuple[str, ...] | Unknown = field(default=unread("the profile's ptrace rules"))


DOCKER_DEFAULT = AppArmorProfile("docker-default", "enforce", ("docker-default",), ("docker-default",))
"""As Docker and containerd generate it (moby profiles/apparmor/template.go: ``ptrace (...) peer=docker-default``).

An assumption, since an administrator can load another one under that name first.
"""


@frozen(eq=False, repr=False)
class Side(Value):
    """What the table has to know of a tracer or a target; see the module for who sees the numbers."""

    pid: int | Unknown = field(default=unread("pid"))
    tgid: int | Unknown = field(default=unread("tgid"))
    uid: Ids | Unknown = field(default=unread("uid"))
    gid: Ids | Unknown = field(default=unread("gid"))
    capabilities: CapabilitySets | Unknown = field(default=unread("capabilities"))
    user_ns: UserNamespaces | Unknown = field(default=unread("user namespace"))
    mm_user_ns: UserNamespaces | Unknown = field(default=unread("user namespace of the memory"))
    """Where the program was executed: the process's own namespace or, if that changed since, an ancestor of it."""
    dumpable: bool | Unknown = field(default=unread("dumpable"))
    kernel_thread: bool | Unknown = field(default=unread("kernel thread"))
    state: str | Unknown = field(default=unread("state"))
    tracer_pid: int | Unknown = field(default=unread("TracerPid"))
    ancestors: tuple[int, ...] | Unknown = field(default=unread("ancestors"))
    """The thread group ids of the real parent, its parent, and so on to the top."""
    ptracer: int | Unknown | None = field(default=unread(NAMED))
    """Whom the process named with PR_SET_PTRACER: a PID, :data:`PTRACER_ANY`, or None. The kernel does not show it."""
    seccomp: tuple[tuple[int, str | None], ...] | Unknown | None = field(default=unread("seccomp filters"))
    """What the filters answer to a ptrace request: None for let through, else an errno's name, SIGSYS or SIGKILL.
    A request that is not listed is unknown. None instead of the tuple: there is no filter."""
    landlock: tuple[int, ...] | Unknown = field(default=unread("Landlock domain"))
    """The domains that the process is in, outermost first, by any number that is the domain's own; () for none."""
    apparmor: AppArmorProfile | Unknown | None = field(default=unread("AppArmor label"))
    """None, here and for the next two: the module is not loaded."""
    selinux: str | Unknown | None = field(default=unread("SELinux context"))
    smack: str | Unknown | None = field(default=unread("Smack label"))
    pid_ns: tuple[int, ...] | Unknown = field(default=unread("PID namespace"))
    """The inodes of the PID namespace, its parent, and so on as far as the reader sees; never empty."""
    visible: bool | Unknown = field(default=unread("the directory in /proc"))
    """Of a target: the tracer can enter its /proc/PID."""


PTRACER_ANY = -1


@frozen(eq=False, repr=False)
class World(Value):
    """What holds for the whole machine, or for this pair."""

    modules: tuple[str, ...] | Unknown = field(default=unread("security modules"))
    """Loaded security modules in the order in which the kernel asks them (/sys/kernel/security/lsm)."""
    yama_scope: int | Unknown | None = field(default=unread("kernel.yama.ptrace_scope"))
    hidepid: int | Unknown = field(default=unread("hidepid"))
    """Of the /proc that the tracer uses: 0, 1, 2 or 4 (proc(5))."""
    selinux_enforcing: bool | Unknown = field(default=unread("SELinux enforcing"))
    selinux_deny_ptrace: bool | Unknown = field(default=unread("SELinux boolean deny_ptrace"))
    selinux_allows: bool | Unknown = field(default=unread("SELinux policy"))
    """The policy's answer (booleans included) to process:ptrace between the two contexts."""
    smack_allows: bool | Unknown = field(default=unread("Smack rules"))
    """The rules' answer to read and write between the two labels."""


# ---------------------------------------------------------------- logic with three values


@frozen(eq=False, repr=False)
class Finding(Value):
    """What one row of the table finds."""

    permits: Maybe
    why: str
    """For the case that it does not permit."""
    satisfied_by: tuple[str, ...] = ()
    errno: str | None = None
    """Where the row has no errno of its own."""


def all_of(values: Iterable[Maybe]) -> Maybe:
    """False as soon as one is False, whatever is unknown; else the first unknown; else True."""
    return _first(values, False)


def any_of(values: Iterable[Maybe]) -> Maybe:
    """True as soon as one is True, whatever is unknown; else the first unknown; else False."""
    return _first(values, True)


def _first(values: Iterable[Maybe], decisive: bool) -> Maybe:
    unknown: Unknown | None = None
    for value in values:
        if value is decisive:
            return decisive
        if isinstance(value, Unknown):
            unknown = value if unknown is None else unknown
    return not decisive if unknown is None else unknown


def negated(value: Maybe) -> Maybe:
    """Not; unknown stays unknown."""
    return value if isinstance(value, Unknown) else not value


def same(one: object, other: object) -> Maybe:
    """Equality of two facts."""
    for fact in (one, other):
        if isinstance(fact, Unknown):
            return fact
    return one == other


# ---------------------------------------------------------------- power over a namespace


def effective(side: Side, capability: str) -> Maybe:
    """Whether a capability is in the effective set."""
    sets = side.capabilities
    return sets if isinstance(sets, Unknown) else bool(sets.effective >> CAPABILITY_BITS[capability] & 1)


def capable_over(side: Side, namespaces: UserNamespaces | Unknown, capability: str) -> Maybe:
    """Whether a process has a capability over a user namespace: security/commoncap.c, cap_capable.

    It has when the capability is effective and its own namespace is that one or an ancestor; or when its effective
    uid owns that one, or an ancestor of it, as a child of its own namespace.
    """
    if isinstance(side.user_ns, Unknown):
        return side.user_ns
    own = side.user_ns[0].inode
    held = effective(side, capability)
    if own == INITIAL_USER_NAMESPACE and held is True:
        return True
    if isinstance(namespaces, Unknown):
        return namespaces
    chain = [namespace.inode for namespace in namespaces]
    if own in chain:
        place = chain.index(own)
        return any_of([held, _owns(side, namespaces[place - 1])]) if place else held
    known_above = {namespace.inode for namespace in side.user_ns} | {INITIAL_USER_NAMESPACE}
    if known_above & set(chain):  # both are below one namespace, and ours is not on the way to it
        return False
    return unread("the ancestors of the user namespace")


def _owns(side: Side, namespace: UserNamespace) -> Maybe:
    return side.uid if isinstance(side.uid, Unknown) else same(side.uid.effective, namespace.owner)


def can_name(side: Side, target: Side) -> Maybe:
    """Whether a process of one side's PID namespace has a PID for the other: it is in that one or in one below it.

    kernel/pid.c, find_task_by_vpid: a process has a number in its PID namespace and in all above (pid_namespaces(7)).
    """
    if isinstance(side.pid_ns, Unknown):
        return side.pid_ns
    if side.pid_ns[0] == INITIAL_PID_NAMESPACE:
        return True
    if isinstance(target.pid_ns, Unknown):
        return target.pid_ns
    if side.pid_ns[0] in target.pid_ns:
        return True
    met = set(target.pid_ns) & {*side.pid_ns, INITIAL_PID_NAMESPACE}
    return False if met else unread("the ancestors of the PID namespace")

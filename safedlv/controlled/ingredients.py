"""What a real target and its debugger have that the control group has not: a table, each row a change of the setup.

The control group's own setup (:func:`plain`) is the least that a debugger needs: both processes under the same ids,
without a capability, a filter, a label or a limit, in the same namespaces, and the target has named its debugger to
Yama. So whatever fails in it is the kernel's or this process's own doing.

The order of the table is that in which rows are added: namespaces and capabilities first, since a capability makes up
for layers that come later, and never for one before. Nothing here touches a process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import evolve, field, frozen

from safedlv.capabilities import capability_names
from safedlv.diagnosis.causes import DLV_MEMORY, DLV_THREADS
from safedlv.diagnosis.evidence import headroom
from safedlv.diagnosis.sides import PTRACER_ANY, UserNamespaces
from safedlv.model import CapabilitySets, Cgroup, Ids, ProcessFacts, Unknown
from safedlv.probe.changes import without_power
from safedlv.probe.context import Context
from safedlv.values import Value

NOTHING = CapabilitySets(0, 0, 0, 0, 0)
NAMED_AT_MOST = 3
MIB = 1 << 20
TRIES = 3
OWN, ANOTHERS = "own", "another's"
NOBODY = 65534
Place = Callable[[int], int | None]
"""From an id as we see it to the one that it has in the control group; None: it has none there."""


@frozen(eq=False, repr=False)
class Setup(Value):
    """The two processes of one trial. Ids are numbered as the control group numbers them."""

    debugger: Context
    target: Context
    ptracer: int | None = PTRACER_ANY
    """Whom the target names with PR_SET_PTRACER; None: nobody."""
    dumpable: bool = True
    frozen: bool = False
    apart: frozenset[str] = frozenset()
    """Kinds of namespaces (user, pid) in which the debugger is alone, so that the target is outside of them."""
    below: str | None = None
    """The target is in a user namespace below the debugger's, which belongs to the debugger's user (OWN) or to another
    (ANOTHERS); None: in the same one."""
    pids_left: int | None = None
    """Room for processes and threads in the cgroup of both; None: no limit."""
    memory_left: int | None = None
    """Bytes, likewise."""


@frozen(eq=False, repr=False)
class Ingredient(Value):
    """One row: how it is in the control group, how it really is, and the change from the one to the other."""

    id: str
    control: str
    real: str
    apply: Callable[[Setup], Setup] | None = field(eq=False)
    """None: it cannot be taken on here; ``why`` says why."""
    why: str = ""
    needs_dlv: bool = False
    """The probe does not feel it; dlv does."""
    tries: int = 1
    """How many sessions of dlv have to go well."""


@frozen(eq=False, repr=False)
class Real(Value):
    """The real thing: the debugger's context, the target's facts, and how the two stand to each other."""

    debugger: Context
    target: ProcessFacts
    room: Cgroup | None
    """The cgroup that the debugger would run in."""
    user_namespaces: tuple[UserNamespaces | Unknown, UserNamespaces | Unknown]
    """The debugger's and the target's, each with those above it."""
    pid_namespaces: tuple[tuple[int, ...] | Unknown, tuple[int, ...] | Unknown]
    target_labels: tuple[tuple[str, str], ...] = ()
    """(security module, label) where the target's label is another than ours."""
    program: int | None = None
    """The target's executable, open, where it is a Go program that can be read."""


def plain(uid: int, gid: int, yama_scope: object = None, no_new_privs: bool = False) -> Setup:
    """The control group's own setup. With Yama's scope 2, which asks for it, the debugger holds CAP_SYS_PTRACE.

    ``no_new_privs``: safedlv has it, and so has whatever it starts.
    """
    ids, gids = Ids(uid, uid, uid, uid), Ids(gid, gid, gid, gid)
    target = Context(
        who="the control group",
        source=0,
        namespaces=(),
        uid=ids,
        gid=gids,
        groups=(),
        capabilities=NOTHING,
        no_new_privs=no_new_privs,
        filters=(),
        labels=(),
    )
    return Setup(debugger=target.with_capability("sys_ptrace") if yama_scope == 2 else target, target=target)


def ingredients(real: Real, setup: Setup, place: Place) -> tuple[Ingredient, ...]:
    """The rows in which the real thing differs from ``setup``, in the order in which they are to be added."""
    context = real.debugger
    rows = [
        _user_namespace(real, place),
        _pid_namespace(real),
        _capabilities(real, setup),
        _ids(real, setup, place),
        _no_new_privs(real, setup),
        _dumpable(real),
        _yama(real),
        _filters(context),
        *_labels(real),
        *_limits(real.room),
        _frozen(real.target.cgroup),
    ]
    return tuple(row for row in rows if row is not None)


def not_copied(real: Real) -> Iterator[str]:
    """What is known to be left out, a sentence each: the control group says nothing of it."""
    status = real.target.status
    if isinstance(status.tracer_pid, int) and status.tracer_pid:
        yield f"the target is being traced by process {status.tracer_pid}; its copy is not"
    if status.state == "D":
        yield "the target sleeps uninterruptibly (state D); its copy does not"
    if isinstance(real.target.dumpable, Unknown):
        yield f"whether the target is dumpable is unknown ({real.target.dumpable.errno}); its copy is"
    if isinstance(real.target.cgroup.frozen, Unknown):
        yield f"whether the target is frozen is unknown ({real.target.cgroup.frozen.errno}); its copy is not"
    if _yama(real) is not None:
        yield "whether the target has named a tracer (PR_SET_PTRACER) is unknown; the row supposes that it has not"
    yield from (line for line in real.debugger.unread if not line.startswith(("seccomp:", "yama:")))


# ---------------------------------------------------------------- namespaces


def _user_namespace(real: Real, place: Place) -> Ingredient | None:
    """Its own user namespace gives the target's capabilities; one above has power through the owner (cap_capable)."""
    relation = _relation(*(_inodes(chain) for chain in real.user_namespaces))
    row = ("user-namespace", "both in one")
    if isinstance(relation, Unknown):
        return Ingredient(*row, "unknown", None, f"unknown: {relation.source} ({relation.errno})")
    if relation == "apart":
        return Ingredient(*row, "the target outside the debugger's", lambda s: _apart(s, "user"))
    if relation == "below":
        return _below(real, place, Ingredient(*row, "the target in one below", None))
    return None


def _below(real: Real, place: Place, row: Ingredient) -> Ingredient:
    """Whose it is counts: the user who owns a namespace has every capability in it (user_namespaces(7))."""
    chain = real.user_namespaces[1]
    owner = chain if isinstance(chain, Unknown) else chain[0].owner
    if isinstance(owner, Unknown):
        return evolve(row, why=f"unknown: {owner.source} ({owner.errno})")
    whose = OWN if owner == real.debugger.uid.effective else ANOTHERS
    if whose == ANOTHERS and place(NOBODY) is None:
        return evolve(row, why="it is another user's, and an ordinary user has no other's id")
    text = f"{row.real}, which is {'its' if whose == OWN else 'not its'} user's"
    return evolve(row, real=text, apply=lambda s: evolve(s, below=whose))


def _pid_namespace(real: Real) -> Ingredient | None:
    relation = _relation(*real.pid_namespaces)
    row = ("pid-namespace", "both in one")
    if isinstance(relation, Unknown):
        return Ingredient(*row, "unknown", None, f"unknown: {relation.source} ({relation.errno})")
    if relation != "apart":  # one below is seen from above (pid_namespaces(7))
        return None
    return Ingredient(*row, "the target outside the debugger's", lambda s: _apart(s, "pid"))


def _apart(setup: Setup, kind: str) -> Setup:
    return evolve(setup, apart=setup.apart | {kind})


def _relation(debugger: tuple[int, ...] | Unknown, target: tuple[int, ...] | Unknown) -> str | Unknown:
    """``same``, ``below`` (the target's is below the debugger's) or ``apart``."""
    if isinstance(debugger, Unknown):
        return debugger
    if isinstance(target, Unknown):
        return target
    if debugger[0] == target[0]:
        return "same"
    return "below" if debugger[0] in target else "apart"


def _inodes(chain: UserNamespaces | Unknown) -> tuple[int, ...] | Unknown:
    return chain if isinstance(chain, Unknown) else tuple(namespace.inode for namespace in chain)


# ---------------------------------------------------------------- ids and capabilities


def _capabilities(real: Real, setup: Setup) -> Ingredient | None:
    """What both hold. In another user namespace than the debugger's the target's are not compared with its own, and
    the debugger's have no power over a target outside of its namespace (kernel/ptrace.c, cap_ptrace_access_check)."""
    theirs = real.target.status.capabilities
    if isinstance(theirs, Unknown):
        return Ingredient("capabilities", "none", "unknown", None, f"unknown: {theirs.source} ({theirs.errno})")
    relation = _relation(*(_inodes(chain) for chain in real.user_namespaces))
    own = _powerless(real.debugger.capabilities) if relation == "apart" else real.debugger.capabilities
    held = NOTHING if relation in ("apart", "below") else theirs
    if (own.effective, own.permitted, held.permitted) == (setup.debugger.capabilities.effective, 0, 0):
        return None
    text = f"debugger: {_named(own.effective)}; target: {_named(held.permitted)}"
    return Ingredient(
        "capabilities",
        f"debugger: {_named(setup.debugger.capabilities.effective)}; target: none",
        text,
        lambda s: evolve(s, debugger=s.debugger.with_capabilities(own), target=s.target.with_capabilities(held)),
    )


def _powerless(sets: CapabilitySets) -> CapabilitySets:
    return evolve(sets, permitted=without_power(sets.permitted), effective=without_power(sets.effective))


def _named(mask: int) -> str:
    names = capability_names(mask)
    if len(names) <= NAMED_AT_MOST:
        return ", ".join(names) or "none"
    return f"{len(names)}, {'with' if 'sys_ptrace' in names else 'without'} sys_ptrace"


def _ids(real: Real, setup: Setup, place: Place) -> Ingredient | None:
    status, context = real.target.status, real.debugger
    if isinstance(status.uid, Unknown) or isinstance(status.gid, Unknown):
        return Ingredient("ids", "the same", "unknown", None, "unknown: the target's uid or gid cannot be read")
    debugger = _placed(context.uid, place), _placed(context.gid, place)
    target = _placed(status.uid, place), _placed(status.gid, place)
    if debugger == target == (setup.target.uid, setup.target.gid):
        return None
    control = f"both {setup.target.uid.real}:{setup.target.gid.real}"
    text = f"debugger: {_listed(context.uid, context.gid)}; target: {_listed(status.uid, status.gid)}"
    (uid, gid), (their_uid, their_gid) = debugger, target
    if uid is None or gid is None or their_uid is None or their_gid is None:
        return Ingredient("ids", control, text, None, "an ordinary user's namespace has no id but the user's own")

    def apply(s: Setup) -> Setup:
        return evolve(
            s, debugger=evolve(s.debugger, uid=uid, gid=gid), target=evolve(s.target, uid=their_uid, gid=their_gid)
        )

    return Ingredient("ids", control, text, apply)


def _placed(ids: Ids, place: Place) -> Ids | None:
    placed = [place(number) for number in (ids.real, ids.effective, ids.saved, ids.filesystem)]
    known = [number for number in placed if number is not None]
    return Ids(*known) if len(known) == len(placed) else None


def _listed(uid: Ids, gid: Ids) -> str:
    return ":".join(str(ids.real) if len(set(_all(ids))) == 1 else "/".join(map(str, _all(ids))) for ids in (uid, gid))


def _all(ids: Ids) -> tuple[int, ...]:
    return ids.real, ids.effective, ids.saved, ids.filesystem


# ---------------------------------------------------------------- flags, filters, labels


def _no_new_privs(real: Real, setup: Setup) -> Ingredient | None:
    own, theirs = real.debugger.no_new_privs, real.target.status.no_new_privs is True
    if setup.debugger.no_new_privs or not (own or theirs):  # what is set cannot be taken back
        return None
    who = "both" if own and theirs else "the debugger" if own else "the target"

    def apply(s: Setup) -> Setup:
        return evolve(s, debugger=s.debugger.with_no_new_privs(own), target=s.target.with_no_new_privs(theirs))

    return Ingredient("no-new-privs", "off", f"set for {who}", apply)


def _dumpable(real: Real) -> Ingredient | None:
    if real.target.dumpable is not False:
        return None
    return Ingredient("dumpable", "yes", "no", lambda s: evolve(s, dumpable=False))


def _yama(real: Real) -> Ingredient | None:
    """The scope is the machine's, so the control group has it too; but its target names a debugger, as few do."""
    scope = real.target.modules.yama_scope
    if not isinstance(scope, int) or not scope:
        return None
    control, text = f"scope {scope}, and the target names a tracer", f"scope {scope}, and the target names none"
    return Ingredient("yama", control, text, lambda s: evolve(s, ptracer=None))


def _filters(context: Context) -> Ingredient | None:
    """The debugger's: a filter on the target is never asked, since it makes none of the calls (seccomp(2))."""
    unread = next((line for line in context.unread if line.startswith("seccomp:")), None)
    if unread and not context.filters:
        return Ingredient("seccomp", "no filter", "unknown", None, unread)
    if not context.filters:
        return None
    sizes = " and ".join(str(len(program) // 8) for program in context.filters)
    what = "filter" if len(context.filters) == 1 else "filters"
    programs = context.filters
    return Ingredient(
        "seccomp",
        "no filter",
        f"{len(programs)} {what} of {sizes} instructions",
        lambda s: evolve(s, debugger=s.debugger.with_filters(*programs)),
        unread or "",
    )


def _labels(real: Real) -> Iterator[Ingredient]:
    """Both labels at once: what a module says of two processes it says of the pair."""
    debugger, target = dict(real.debugger.labels), dict(real.target_labels)
    for module in sorted(debugger.keys() | target.keys()):
        own, theirs = debugger.get(module), target.get(module)

        def apply(s: Setup, module: str = module, own: str | None = own, theirs: str | None = theirs) -> Setup:
            return evolve(s, debugger=s.debugger.with_label(module, own), target=s.target.with_label(module, theirs))

        text = f"debugger: {own or 'as safedlv'}; target: {theirs or 'as safedlv'}"
        yield Ingredient(module, "both as safedlv", text, apply)


# ---------------------------------------------------------------- the cgroup


def _limits(room: Cgroup | None) -> Iterator[Ingredient]:
    """With little room dlv fails in some of its runs only, so it is run more than once."""
    if room is None:
        return
    pids, memory = headroom(room.pids_current, room.pids_max), headroom(room.memory_current, room.memory_max)
    if pids is not None:
        text, tries = f"room for {pids} of {room.pids_max} threads", 1 if pids >= DLV_THREADS else TRIES
        yield Ingredient("pids-limit", "none", text, lambda s: evolve(s, pids_left=pids), needs_dlv=True, tries=tries)
    if memory is not None and isinstance(room.memory_max, int):
        text, tries = f"room for {memory // MIB} of {room.memory_max // MIB} MiB", 1 if memory >= DLV_MEMORY else TRIES
        yield Ingredient(
            "memory-limit", "none", text, lambda s: evolve(s, memory_left=memory), needs_dlv=True, tries=tries
        )


def _frozen(cgroup: Cgroup) -> Ingredient | None:
    if cgroup.frozen is not True:
        return None
    return Ingredient("frozen", "no", "the target's cgroup is", lambda s: evolve(s, frozen=True))

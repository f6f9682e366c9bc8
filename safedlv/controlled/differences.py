"""Two processes side by side: a table of what is compared, and which differences matter to a debugger. Pure.

A difference matters when ``doctor`` names a cause of one of the two and not of the other, and the row is one that this
cause is about. Nothing is concluded from the difference itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from attrs import field, frozen

from safedlv.capabilities import capabilities_in_words
from safedlv.model import CapabilitySets, Diagnosis, GoBinary, Ids, ProcessFacts, Unknown
from safedlv.values import Value

Fact = object
"""What is compared: anything that is equal or not, or Unknown."""
AWAKE = {"R": "runs or sleeps", "S": "runs or sleeps", "I": "runs or sleeps"}
MIB = 1 << 20
NOT_GO = "NOT_GO"
"""The errno word of a fact that only a Go program has (facts/go_binary.py)."""


@frozen(eq=False, repr=False)
class Seen(Value):
    """One of the two, as it was read."""

    text: str
    """How the user named it."""
    facts: ProcessFacts
    binary: GoBinary
    filters: tuple[bytes, ...] | Unknown
    diagnosis: Diagnosis | None
    """What doctor says of it; None: it was not asked, of a process that is safedlv itself."""


@frozen(eq=False, repr=False)
class Property(Value):
    """One row of the table."""

    id: str
    read: Callable[[Seen], Fact] = field(eq=False)
    show: Callable[[object], str] = field(eq=False, default=str)
    causes: tuple[str, ...] = ()
    """The causes (contract) that this is about."""
    beside: Callable[[object, object], str] | None = field(eq=False, default=None)
    """How a fact is shown beside another one that differs; None: as ever."""


@frozen(eq=False, repr=False)
class Row(Value):
    """One property of both."""

    id: str
    one: str
    other: str
    same: bool | Unknown
    causes: tuple[str, ...]


@frozen(eq=False, repr=False)
class Compared(Value):
    """The whole comparison."""

    one: Seen
    other: Seen
    rows: tuple[Row, ...]

    @property
    def deciding(self) -> tuple[str, ...]:
        """The causes that doctor names of one of the two alone; of the one that it was asked about, all."""
        named = [self._causes(seen) for seen in (self.one, self.other)]
        if self.one.diagnosis is None or self.other.diagnosis is None:
            return tuple(dict.fromkeys(named[0] + named[1]))
        return tuple(
            cause for cause in dict.fromkeys(named[0] + named[1]) if (cause in named[0]) != (cause in named[1])
        )

    @property
    def judged_alike(self) -> bool | None:
        """Whether doctor's verdict is the same of both; None: it was asked of one only."""
        if self.one.diagnosis is None or self.other.diagnosis is None:
            return None
        return self.one.diagnosis.verdict == self.other.diagnosis.verdict

    @property
    def matters(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(cause, the rows that differ, or may, and that it is about)."""
        return tuple(
            (cause, tuple(row.id for row in self.rows if row.same is not True and cause in row.causes))
            for cause in self.deciding
        )

    @staticmethod
    def _causes(seen: Seen) -> tuple[str, ...]:
        return tuple(cause.id for cause in seen.diagnosis.causes) if seen.diagnosis else ()


def compare(one: Seen, other: Seen) -> Compared:
    """Every row of the table, in its order."""
    return Compared(one, other, tuple(_row(p, one, other) for p in _properties(one, other)))


def _row(p: Property, one: Seen, other: Seen) -> Row:
    first, second = p.read(one), p.read(other)
    unknown = next((fact for fact in (first, second) if isinstance(fact, Unknown)), None)
    if unknown is not None or p.beside is None or first == second:
        same: bool | Unknown = (first == second) if unknown is None else unknown
        return Row(p.id, _shown(p, first), _shown(p, second), same, p.causes)
    return Row(p.id, p.beside(first, second), p.beside(second, first), False, p.causes)


def _shown(p: Property, fact: Fact) -> str:
    return f"unknown ({fact.errno})" if isinstance(fact, Unknown) else p.show(fact)


# ---------------------------------------------------------------- how facts are shown


def _yes(fact: object) -> str:
    return "yes" if fact else "no"


def _maybe(fact: object) -> str:
    return "-" if fact is None else _yes(fact)


def _ids(fact: object) -> str:
    assert isinstance(fact, Ids)
    every = (fact.real, fact.effective, fact.saved, fact.filesystem)
    return str(fact.real) if len(set(every)) == 1 else "/".join(map(str, every))


def _mask(fact: object) -> str:
    assert isinstance(fact, int)
    return capabilities_in_words(fact)


def _mask_beside(fact: object, other: object) -> str:
    """What both hold by its number, so that what one holds alone is seen."""
    assert isinstance(fact, int)
    assert isinstance(other, int)
    both = (fact & other).bit_count()
    if not both:
        return capabilities_in_words(fact)
    return f"{both} that both hold" + (f", and {capabilities_in_words(fact & ~other)}" if fact & ~other else "")


def _groups(fact: object) -> str:
    assert isinstance(fact, tuple)
    return ", ".join(map(str, fact)) or "none"


def _filters(fact: object) -> str:
    """How many instructions each has, and the beginning of its checksum, by which equal ones are seen."""
    assert isinstance(fact, tuple)
    return (
        ", ".join(f"{len(program) // 8} instructions ({hashlib.sha256(program).hexdigest()[:8]})" for program in fact)
        or "none"
    )


def _limit(fact: object) -> str:
    return "none" if fact is None else str(fact)


def _bytes(fact: object) -> str:
    return f"{fact // MIB} MiB" if isinstance(fact, int) else "none"


def _or_none(fact: object) -> str:
    return "none" if fact in (None, "") else str(fact)


# ---------------------------------------------------------------- the table


def _status(name: str) -> Callable[[Seen], Fact]:
    return lambda seen: getattr(seen.facts.status, name)


def _cgroup(name: str) -> Callable[[Seen], Fact]:
    return lambda seen: getattr(seen.facts.cgroup, name)


def _module(name: str) -> Callable[[Seen], Fact]:
    return lambda seen: getattr(seen.facts.modules, name)


def _binary(name: str) -> Callable[[Seen], Fact]:
    """What only a Go program has is None of another one."""

    def read(seen: Seen) -> Fact:
        fact: Fact = getattr(seen.binary, name)
        return None if isinstance(fact, Unknown) and fact.errno == NOT_GO else fact

    return read


def _set(name: str) -> Callable[[Seen], Fact]:
    def read(seen: Seen) -> Fact:
        sets = seen.facts.status.capabilities
        return getattr(sets, name) if isinstance(sets, CapabilitySets) else sets

    return read


def _state(seen: Seen) -> Fact:
    state = seen.facts.status.state
    return state if isinstance(state, Unknown) else AWAKE.get(state, state)


def _landlock(seen: Seen) -> Fact:
    """The kernel shows nobody's domain; there is none where it has no Landlock."""
    modules = seen.facts.modules
    absent = not isinstance(modules.loaded, Unknown) and "landlock" not in modules.loaded
    return None if modules.landlock_abi is None or absent else Unknown("not shown by the kernel", "the Landlock domain")


OTHERS_IDS = ("credentials", "proc-access", "signal-access")
POWER = ("capability-excess",)
NAMESPACES = {"user": ("user-namespace", *POWER), "pid": ("pid-namespace", "no-such-process"), "mnt": ("hidepid",)}
PROPERTIES: tuple[Property, ...] = (
    Property("state", _state, causes=("zombie", "uninterruptible")),
    Property("traced by", _status("tracer_pid"), _or_none, ("already-traced",)),
    Property("kernel thread", _status("kernel_thread"), _yes, ("kernel-thread",)),
    Property("uid", _status("uid"), _ids, OTHERS_IDS),
    Property("gid", _status("gid"), _ids, OTHERS_IDS),
    Property("groups", _status("groups"), _groups),
    Property("permitted", _set("permitted"), _mask, POWER, _mask_beside),
    Property("effective", _set("effective"), _mask, (), _mask_beside),
    Property("inheritable", _set("inheritable"), _mask, (), _mask_beside),
    Property("bounding", _set("bounding"), _mask, (), _mask_beside),
    Property("ambient", _set("ambient"), _mask, (), _mask_beside),
    Property("no_new_privs", _status("no_new_privs"), _yes),
    Property("dumpable", lambda seen: seen.facts.dumpable, _yes, ("not-dumpable",)),
    Property("seccomp filters", _status("seccomp_filters"), causes=("seccomp",)),
    Property("seccomp programs", lambda seen: seen.filters, _filters, ("seccomp",)),
    Property("apparmor", _module("apparmor"), _or_none, ("apparmor",)),
    Property("selinux", _module("selinux"), _or_none, ("selinux",)),
    Property("smack", _module("smack"), _or_none, ("smack",)),
    Property("yama scope", _module("yama_scope"), _or_none, ("yama",)),
    Property("landlock domain", _landlock, _or_none, ("landlock",)),
    Property("cgroup", _cgroup("path")),
    Property("frozen", _cgroup("frozen"), _yes, ("frozen",)),
    Property("pids limit", _cgroup("pids_max"), _limit, ("thread-limit",)),
    Property("memory limit", _cgroup("memory_max"), _bytes, ("memory-limit",)),
    Property("vfork parent", lambda seen: seen.facts.vfork_parent, _yes, ("uninterruptible",)),
    Property("Go program", _binary("is_go"), _yes, ("not-go", "wrong-process")),
    Property("Go version", _binary("go_version"), _or_none, ("delve-version",)),
    Property("debug information", _binary("has_dwarf"), _yes, ("no-debug-info",)),
    Property("optimised", _binary("optimized"), _maybe, ("optimized",)),
    Property("cgo", _binary("cgo"), _yes),
    Property("executable deleted", _binary("deleted"), _yes),
)


def _properties(one: Seen, other: Seen) -> Iterator[Property]:
    """The table, with a row for each kind of namespace before those of privilege."""
    for p in PROPERTIES:
        if p.id == "no_new_privs":
            yield from _namespaces(one, other)
        yield p


def _namespaces(one: Seen, other: Seen) -> Iterator[Property]:
    for kind in dict.fromkeys(link.kind for seen in (one, other) for link in seen.facts.namespaces):
        if kind != "pid_for_children":
            yield Property(f"{kind} namespace", _namespace(kind), causes=NAMESPACES.get(kind, ()))


def _namespace(kind: str) -> Callable[[Seen], Fact]:
    def read(seen: Seen) -> Fact:
        missing = Unknown("ENODATA", f"the {kind} namespace")
        return next((link.inode for link in seen.facts.namespaces if link.kind == kind), missing)

    return read

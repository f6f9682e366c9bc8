"""The cgroup of a process: which hierarchy, frozen or not, and the limits that concern a debugger beside it.

cgroups(7), cgroup_namespaces(7), proc_pid_mountinfo(5); kernel Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.

/proc/PID/cgroup names a cgroup relative to the *reader's* cgroup namespace, and mountinfo says which cgroup is at a
mount's root in the same terms: in a container the two must be put together before a file can be found. What lies
above the mount, out of sight, may be limited or frozen too; for freezing the kernel tells, for limits it does not.
"""

from __future__ import annotations

import os
import re

from attrs import frozen

from safedlv.facts.procfs import ProcDir
from safedlv.facts.reading import MALFORMED, decimal, parsed, read, read_system, unknown
from safedlv.model import Cgroup, Unknown
from safedlv.values import Value

V2 = ""
"""The key of the v2 hierarchy, where v1 hierarchies go by their controllers."""

MOUNTINFO = "/proc/self/mountinfo"

_NO_LIMIT = 0x7FFFFFFFFFFF0000
"""From here up memory.limit_in_bytes means none: PAGE_COUNTER_MAX in whole pages, the largest page being 64 KiB."""

_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")


@frozen(eq=False, repr=False)
class Mount(Value):
    """A cgroup file system that the reader sees."""

    root: str
    """The cgroup at the mount's root, as /proc/PID/cgroup writes it (field 4 of mountinfo)."""
    point: str
    hierarchies: frozenset[str]
    """:data:`V2`, or the controllers of v1 (among other mount options)."""


@frozen(eq=False, repr=False)
class Files(Value):
    """What one thing is called in one version."""

    controller: str
    current: str
    limit: str
    cache: tuple[bytes, ...] = ()
    """Keys of memory.stat: page cache that counts as used and is given back when there is need (cgroup-v2.rst)."""


V1_CACHE = (b"total_inactive_file", b"total_active_file")
V2_CACHE = (b"inactive_file", b"active_file")
LIMITS = {
    ("pids", "v1"): Files("pids", "pids.current", "pids.max"),
    ("pids", "v2"): Files(V2, "pids.current", "pids.max"),
    ("memory", "v1"): Files("memory", "memory.usage_in_bytes", "memory.limit_in_bytes", V1_CACHE),
    ("memory", "v2"): Files(V2, "memory.current", "memory.max", V2_CACHE),
}


@frozen(eq=False, repr=False)
class Freezer(Value):
    """How one version says that a cgroup is frozen, itself or through an ancestor, and which one was told to be."""

    controller: str
    state: str
    frozen: frozenset[bytes]
    """The lines of ``state`` that mean frozen."""
    request: str
    """Holds ``1`` in the cgroup that was told to freeze."""


FREEZERS = (
    Freezer(V2, "cgroup.events", frozenset({b"frozen 1"}), "cgroup.freeze"),
    Freezer("freezer", "freezer.state", frozenset({b"FROZEN", b"FREEZING"}), "freezer.self_freezing"),
)

Membership = dict[str, str]
"""The path of a process in each hierarchy: by controller (``pids``, ``name=systemd``) in v1, by :data:`V2`."""

Levels = tuple[str, ...]
"""Directories from a process's own cgroup up to the mount's root."""


# ---------------------------------------------------------------- parsing


def parse_membership(data: bytes) -> Membership:
    """/proc/PID/cgroup; ValueError when a line is not ``id:controllers:path``."""
    paths = {}
    for line in os.fsdecode(data).removesuffix("\n").split("\n"):  # splitlines() would cut at more than newlines
        number, controllers, path = line.split(":", 2)
        decimal(number)
        if not path.startswith("/"):
            raise ValueError("a cgroup path that is not absolute")
        for controller in controllers.split(","):
            paths[controller] = path
    if not paths:
        raise ValueError("no cgroup at all")
    return paths


def parse_mountinfo(data: bytes) -> tuple[Mount, ...]:
    """The cgroup mounts in /proc/self/mountinfo, in its order; lines that make no sense are no mounts."""
    mounts = []
    for line in data.split(b"\n"):
        before, separator, after = line.partition(b" - ")
        left, right = before.split(b" "), after.split(b" ")
        if not separator or len(left) < 6 or len(right) < 3 or right[0] not in (b"cgroup", b"cgroup2"):
            continue
        options = {V2} if right[0] == b"cgroup2" else set(os.fsdecode(right[2]).split(","))
        mounts.append(Mount(unescape(left[3]), unescape(left[4]), frozenset(options)))
    return tuple(mounts)


def unescape(field: bytes) -> str:
    r"""A field of mountinfo: space, tab, newline and backslash are written as ``\040`` and the like."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes((int(match[1], 8),)), field))


def version(membership: Membership) -> str:
    """``v1``, ``v2`` or ``hybrid``: which hierarchies list the process."""
    if V2 not in membership:
        return "v1"
    return "v2" if len(membership) == 1 else "hybrid"


def relative(path: str, root: str) -> str | None:
    """A cgroup's path below a mount whose root is the cgroup ``root`` (no leading slash); None: not below it.

    Paths that lead out of the reader's cgroup namespace begin with ``/..``; a name below such a root is found, what
    lies beside it cannot be, as the names of the cgroups in between are not told.
    """
    if path == root:
        return ""
    prefix = root if root.endswith("/") else root + "/"
    if not path.startswith(prefix):
        return None
    rest = path.removeprefix(prefix)
    return None if ".." in rest.split("/") else rest


def levels(membership: Membership, mounts: tuple[Mount, ...], controller: str) -> Levels | Unknown:
    """The directories of a process's cgroup in one hierarchy, its own first; ENOENT where no mount shows it."""
    path = membership.get(controller)
    if path is None:
        return Unknown("ENOENT", f"the {controller or 'v2'} line of /proc/PID/cgroup")
    missing = Unknown("ENOENT", f"a {controller or 'v2'} mount with {path} in {MOUNTINFO}")
    for mount in reversed(mounts):  # a later mount may hide an earlier one
        below = relative(path, mount.root) if controller in mount.hierarchies else None
        if below is None:
            continue
        found = _directories(mount.point, below)
        if not isinstance(found, Unknown):
            return found
        missing = found
    return missing


def _directories(point: str, below: str) -> Levels | Unknown:
    names = [name for name in below.split("/") if name]
    found = tuple("/".join((point, *names[:depth])) for depth in range(len(names), -1, -1))
    try:
        os.stat(found[0])
    except OSError as error:
        return unknown(error, found[0])
    except ValueError:  # a NUL in it
        return Unknown(MALFORMED, found[0])
    return found


# ---------------------------------------------------------------- reading


def cgroup_of(pid: int) -> Cgroup | None:
    """The cgroup of a process by its PID; None when it has ended."""
    try:
        with ProcDir(pid) as procdir:
            return read_cgroup(procdir)
    except OSError:
        return None


def read_cgroup(procdir: ProcDir) -> Cgroup:
    """The cgroup of a process as the reader's mounts show it.

    ``frozen_by`` is a directory (in a hybrid setup a bare path would not tell which freezer); None where the
    ancestor that is frozen lies above what is mounted here. No limit means: none that can be seen from here.
    """
    source = f"{procdir.path}/cgroup"
    membership = parsed(read(procdir, "cgroup"), parse_membership, source)
    if isinstance(membership, Unknown):
        return Cgroup(membership, membership, membership, None, *(membership,) * 5)
    mounts = parsed(read_system(MOUNTINFO), parse_mountinfo, MOUNTINFO)
    found = _Hierarchies(membership, mounts)
    is_frozen, frozen_by = _freezing(found)
    pids_current, pids_max = _limit(found, "pids")
    memory_current, memory_max = _limit(found, "memory")
    return Cgroup(
        version=version(membership),
        path=_path(membership, source),
        frozen=is_frozen,
        frozen_by=frozen_by,
        pids_current=pids_current,
        pids_max=pids_max,
        memory_current=memory_current,
        memory_max=memory_max,
        throttled_periods=_throttled(found),
    )


def read_mounts() -> tuple[Mount, ...] | Unknown:
    """The cgroup mounts that the reader sees."""
    return parsed(read_system(MOUNTINFO), parse_mountinfo, MOUNTINFO)


def read_frozen(procdir: ProcDir, mounts: tuple[Mount, ...] | Unknown) -> bool | Unknown:
    """Whether a process is frozen, and nothing else of its cgroup: for many processes and one reading of the mounts."""
    membership = parsed(read(procdir, "cgroup"), parse_membership, f"{procdir.path}/cgroup")
    return membership if isinstance(membership, Unknown) else _freezing(_Hierarchies(membership, mounts))[0]


def directory(procdir: ProcDir, controller: str = V2) -> str | Unknown:
    """The directory of a process's cgroup in one hierarchy, for who wants to write there (the guard's freezer)."""
    source = f"{procdir.path}/cgroup"
    membership = parsed(read(procdir, "cgroup"), parse_membership, source)
    if isinstance(membership, Unknown):
        return membership
    mounts = parsed(read_system(MOUNTINFO), parse_mountinfo, MOUNTINFO)
    found = _Hierarchies(membership, mounts).levels(controller)
    return found if isinstance(found, Unknown) else found[0]


@frozen(eq=False, repr=False)
class _Hierarchies(Value):
    """Where a process is, and what of it is mounted here."""

    membership: Membership
    mounts: tuple[Mount, ...] | Unknown

    def levels(self, controller: str) -> Levels | Unknown:
        return self.mounts if isinstance(self.mounts, Unknown) else levels(self.membership, self.mounts, controller)

    def has(self, controller: str) -> bool:
        return controller in self.membership


def _path(membership: Membership, source: str) -> str | Unknown:
    for controller in (V2, "pids", "memory", "freezer"):
        if controller in membership:
            return membership[controller]
    return Unknown("ENOENT", source)


def _freezing(found: _Hierarchies) -> tuple[bool | Unknown, str | None]:
    """Whether any freezer holds the process (a hybrid setup has two), and the cgroup that was told to freeze."""
    answer: bool | Unknown = False
    for freezer in FREEZERS:
        if not found.has(freezer.controller):
            continue
        where = found.levels(freezer.controller)
        held = where if isinstance(where, Unknown) else frozen_in(where, freezer)
        if isinstance(held, Unknown):
            answer = held
        elif held[0]:
            return held
    return answer, None


def frozen_in(where: Levels, freezer: Freezer) -> tuple[bool, str | None] | Unknown:
    """Whether a cgroup is frozen or about to be, and the nearest one up from it that was told to freeze.

    The request counts before the state does: cgroup.events says frozen only once every process in it has stopped,
    and one that cannot stop yet must not make the others look runnable.
    """
    for level in where:
        if read_system(f"{level}/{freezer.request}") == b"1\n":
            return True, level
    state = read_system(f"{where[0]}/{freezer.state}")
    if not isinstance(state, Unknown):
        return not freezer.frozen.isdisjoint(state.splitlines()), None
    # ENOENT: the hierarchy's root, which has no freezer, or a kernel without one
    return (False, None) if state.errno == "ENOENT" else state


def _limit(found: _Hierarchies, what: str) -> tuple[int | Unknown, int | Unknown | None]:
    """Current use and limit at the level that will be hit first."""
    files = LIMITS[what, "v1" if found.has(what) else "v2"]
    where = found.levels(files.controller)
    return (where, where) if isinstance(where, Unknown) else tightest(where, files)


def tightest(where: Levels, files: Files) -> tuple[int | Unknown, int | Unknown | None]:
    """Use and limit at the level with the least room left; where no level has a limit, the nearest use and None."""
    return tightest_at(where, files)[1:]


def tightest_at(where: Levels, files: Files) -> tuple[str, int | Unknown, int | Unknown | None]:
    """The same, and before it that level; the nearest one where none has a limit that is known.

    A level without the file has no such limit (the root, or a controller that is not enabled there). A level that
    cannot be read makes the answer unknown only where no other level has a limit.
    """
    limited: list[tuple[int, int, int, str]] = []
    unreadable: tuple[int | Unknown, int | Unknown] | None = None
    for level in where:
        limit = _number(level, files.limit)
        if limit is None or _absent(limit):
            continue
        current = _in_use(level, files)
        if isinstance(limit, int) and isinstance(current, int):
            limited.append((limit - current, current, limit, level))
        elif unreadable is None:
            unreadable = (Unknown("EINVAL", level) if current is None else current, limit)
    if limited:
        _, current, limit, level = min(limited, key=lambda one: one[:3])
        return level, current, limit
    return where[0], *(unreadable or (_nearest_use(where, files.current), None))


def _nearest_use(where: Levels, name: str) -> int | Unknown:
    use: int | Unknown | None = None
    for level in where:
        use = _number(level, name)
        if isinstance(use, int):
            return use
    return use if isinstance(use, Unknown) else Unknown("ENOENT", f"{where[0]}/{name}")


def _in_use(level: str, files: Files) -> int | Unknown | None:
    """What is used, but for page cache; all of it where memory.stat does not tell."""
    current = _number(level, files.current)
    if not isinstance(current, int) or not files.cache:
        return current
    path = f"{level}/memory.stat"
    cache = parsed(read_system(path), lambda data: parse_cache(data, files.cache), path)
    return current if isinstance(cache, Unknown) else max(current - cache, 0)


def parse_cache(data: bytes, keys: tuple[bytes, ...]) -> int:
    """The sum of these lines of memory.stat, in bytes. Raises ValueError for a line that is no number."""
    lines = (line.partition(b" ") for line in data.splitlines())
    return sum(decimal(value) for key, _, value in lines if key in keys)


def _absent(fact: int | Unknown) -> bool:
    return isinstance(fact, Unknown) and fact.errno == "ENOENT"


def _number(level: str, name: str) -> int | Unknown | None:
    path = f"{level}/{name}"
    return parsed(read_system(path), parse_limit, path)


def parse_limit(data: bytes) -> int | None:
    """A number, or None for no limit: ``max`` in v2 and pids, a number of 2^63 in whole pages in v1's memory."""
    if data.strip() == b"max":
        return None
    value = decimal(data)
    return None if value >= _NO_LIMIT else value


def _throttled(found: _Hierarchies) -> int | Unknown:
    """The most periods that any level was throttled in: the quota sits on the container's cgroup, not the process's."""
    where = found.levels("cpu" if found.has("cpu") else V2)
    if isinstance(where, Unknown):
        return where
    counts = [parsed(read_system(f"{level}/cpu.stat"), parse_throttled, f"{level}/cpu.stat") for level in where]
    known = [count for count in counts if isinstance(count, int)]
    if known:
        return max(known)
    return next((count for count in counts if isinstance(count, Unknown)), Unknown("ENOENT", f"{where[0]}/cpu.stat"))


def parse_throttled(data: bytes) -> int | None:
    """nr_throttled in cpu.stat; None where the controller is not enabled, so that there is no such line."""
    for line in data.splitlines():
        key, _, value = line.partition(b" ")
        if key == b"nr_throttled":
            return decimal(value)
    return None

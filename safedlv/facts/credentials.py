"""Credentials: the reader's own context, and whether a process is dumpable.

capabilities(7), credentials(7), proc_pid(5).
"""

from __future__ import annotations

import os

from safedlv.facts.procfs import ProcDir
from safedlv.facts.reading import decimal, mask, parsed, read, read_system, unknown
from safedlv.facts.reading import stat as stat_file
from safedlv.facts.status import StatFields, field, read_status_fields
from safedlv.model import Status, Tracer, Unknown

OVERFLOW_UID = 65534
"""What an id that the reader's user namespace cannot name is shown as (/proc/sys/kernel/overflowuid)."""

_IDENTITY_MAP = (0, 0, 4294967295)  # /proc/self/uid_map of the first user namespace


def own_tracer() -> Tracer:
    """The calling thread as a tracer: its real ids, which ptrace compares, and its effective capabilities."""
    return Tracer(who="self", uid=os.getuid(), gid=os.getgid(), capabilities=_own_effective())


def _own_effective() -> int | Unknown:
    source = "/proc/thread-self"  # capabilities belong to the thread
    try:
        procdir = ProcDir("thread-self")
    except OSError as error:
        return unknown(error, source)
    with procdir:
        return field(read_status_fields(procdir), "CapEff", mask, f"{source}/status")


def proc_owner(procdir: ProcDir) -> tuple[int, int] | Unknown:
    """The uid and gid that own the process's files.

    Not those of the directory /proc/PID itself: it keeps the effective ids of a process that is not dumpable, its
    files do not (fs/proc/base.c, task_dump_owner: "world readable and executable directories" are left out).
    """
    result = stat_file(procdir, "status")
    return result if isinstance(result, Unknown) else (result.st_uid, result.st_gid)


def dumpable(
    procdir: ProcDir, status: Status, stat: StatFields | Unknown, owner: tuple[int, int] | Unknown
) -> bool | Unknown:
    """Whether the memory of a process is dumpable (PR_SET_DUMPABLE(2const)), seen from who owns its files.

    proc_pid(5): the effective ids of a dumpable process, else root of the user namespace that owns its memory.
    Unknown where both are the same (a process of root), and where there is no memory left to own: zombies and
    kernel threads are root's as well.
    """
    effective = _effective_ids(status)
    if isinstance(owner, Unknown):
        return owner
    if isinstance(effective, Unknown):
        return effective
    if isinstance(stat, Unknown):
        return stat
    if stat.virtual_size == 0:
        return Unknown("ESRCH", f"owner of {procdir.path}/status (the task has no memory)")
    return False if owner != effective else _owned_by_itself(procdir, owner)


def _effective_ids(status: Status) -> tuple[int, int] | Unknown:
    if isinstance(status.uid, Unknown):
        return status.uid
    return status.gid if isinstance(status.gid, Unknown) else (status.uid.effective, status.gid.effective)


def _owned_by_itself(procdir: ProcDir, owner: tuple[int, int]) -> bool | Unknown:
    """A process that owns its files is dumpable, but where root of some kind would own them either way."""
    source = f"owner of {procdir.path}/status"
    roots = _roots(procdir)
    if isinstance(roots, Unknown):
        return roots
    if owner in roots:
        return Unknown("EPERM", f"{source} (a process of root is owned by root, dumpable or not)")
    if owner[0] == OVERFLOW_UID and _has_every_id() is not True:
        return Unknown("EOVERFLOW", f"{source} (an id without a name in this user namespace)")
    return True


def _roots(procdir: ProcDir) -> set[tuple[int, int]] | Unknown:
    """Who may own the files of a process that is not dumpable: root here, or root of its own user namespace."""
    uid, gid = _mapped_root(procdir, "uid_map"), _mapped_root(procdir, "gid_map")
    if isinstance(uid, Unknown):
        return uid
    if isinstance(gid, Unknown):
        return gid
    return {(0, 0), (uid, gid), (0, gid), (uid, 0)}


def _mapped_root(procdir: ProcDir, name: str) -> int | Unknown:
    """The id that 0 of the process's user namespace has here; 0 where it has none (GLOBAL_ROOT_UID)."""
    entries = parsed(read(procdir, name), parse_id_map, f"{procdir.path}/{name}")
    if isinstance(entries, Unknown):
        return 0 if entries.errno == "ENOENT" else entries  # ENOENT: a kernel without user namespaces
    return next((outside for inside, outside, _ in entries if inside == 0), 0)


def parse_id_map(data: bytes) -> tuple[tuple[int, int, int], ...]:
    """The lines of /proc/PID/uid_map or gid_map: first id inside, first id as the reader sees it, length.

    user_namespaces(7); ValueError when a line is something else.
    """
    entries = []
    for line in data.splitlines():
        inside, outside, length = (decimal(word) for word in line.split())
        entries.append((inside, outside, length))
    return tuple(entries)


def _has_every_id() -> bool | Unknown:
    """Whether the reader is in the first user namespace, where every id has a name."""
    source = "/proc/self/uid_map"
    entries = parsed(read_system(source), parse_id_map, source)
    return entries if isinstance(entries, Unknown) else entries == (_IDENTITY_MAP,)

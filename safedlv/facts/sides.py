"""From the facts about a process to one side of the access table (:mod:`safedlv.diagnosis.sides`).

What the table needs beyond /proc/PID/status: the ancestry of the user and PID namespaces (ioctl_nsfs(2)), the parents
up to the top, and machine-wide settings. Both sides must be read by the same reader, since it is the reader's PID and
user namespaces that the numbers are in.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from typing import TypeVar

import attrs

from safedlv.diagnosis.sides import (
    INITIAL_USER_NAMESPACE,
    NAMED,
    NAMELESS,
    AppArmorProfile,
    Side,
    UserNamespace,
    UserNamespaces,
    World,
)
from safedlv.facts import credentials
from safedlv.facts.landlock import MAX_LAYERS
from safedlv.facts.procfs import ProcDir
from safedlv.facts.reading import MALFORMED, parsed, read_system, unknown
from safedlv.facts.status import read_stat
from safedlv.model import Ids, ProcessFacts, SecurityModules, Unknown

T = TypeVar("T")

# include/uapi/linux/nsfs.h: _IO(0xb7, n)
NS_GET_PARENT = 0xB702
NS_GET_OWNER_UID = 0xB704

HIDEPID = {"off": 0, "noaccess": 1, "invisible": 2, "ptraceable": 4, "0": 0, "1": 1, "2": 2, "4": 4}
"""As /proc/self/mountinfo shows it: words since Linux 5.8 (fs/proc/root.c)."""

ALL_IDS = (1 << 32) - 1
SELINUX = "/sys/fs/selinux"
MOUNTINFO = "/proc/self/mountinfo"
GENERATIONS = 1000
"""Where a walk up the parents ends even if PIDs are recycled under it in a circle."""


Ancestry = dict[int, tuple[int, ...]]
"""The ancestors of processes that a reader of many has met: see :func:`read_ancestors`."""


def read_side(facts: ProcessFacts, met: Ancestry | None = None) -> Side:
    """A tracer or a target. What only root may read stays unknown for another reader.

    ``met``: kept by a caller that reads many sides, see :func:`read_ancestors`.
    """
    status, modules = facts.status, facts.modules
    user_ns = read_user_namespaces(facts.pid)
    return Side(
        pid=status.pid,
        tgid=status.tgid,
        uid=_named(status.uid, "uid_map"),
        gid=_named(status.gid, "gid_map"),
        capabilities=status.capabilities,
        user_ns=user_ns,
        mm_user_ns=_memory_namespace(user_ns),
        dumpable=facts.dumpable,
        kernel_thread=status.kernel_thread,
        state=status.state,
        tracer_pid=status.tracer_pid,
        ancestors=read_ancestors(facts.pid, met),
        ptracer=None if modules.yama_scope is None else Unknown("ENODATA", NAMED),
        seccomp=None if status.seccomp == 0 else _or(status.seccomp, Unknown("ENODATA", "the seccomp filters")),
        landlock=_landlock(modules, of_reader=facts.pid == os.getpid()),
        apparmor=apparmor_profile(modules.apparmor),
        selinux=modules.selinux,
        smack=modules.smack,
        pid_ns=read_pid_namespaces(facts.pid),
        visible=_visible(facts.pid),
    )


def read_world(modules: SecurityModules) -> World:
    """What holds for the machine; what SELinux and Smack say of a pair is left unknown."""
    return World(
        modules=modules.loaded,
        yama_scope=modules.yama_scope,
        hidepid=parsed(read_system(MOUNTINFO), parse_hidepid, f"{MOUNTINFO} (/proc)"),
        selinux_enforcing=_selinux_flag("enforce"),
        selinux_deny_ptrace=_selinux_flag("booleans/deny_ptrace"),
    )


# ---------------------------------------------------------------- namespaces and their ancestry


def read_user_namespaces(pid: int) -> UserNamespaces | Unknown:
    """The user namespace of a process and those above it, up to the reader's own; with their owners."""
    all_ids = _sees_every_id()

    def look(fd: int) -> UserNamespace:
        return UserNamespace(os.fstat(fd).st_ino, _owner(fd, all_ids))

    return _namespaces(f"/proc/{pid}/ns/user", look)


def read_pid_namespaces(pid: int) -> tuple[int, ...] | Unknown:
    """The inodes of the PID namespace of a process and those above it, up to the reader's own."""
    return _namespaces(f"/proc/{pid}/ns/pid", lambda fd: os.fstat(fd).st_ino)


def _namespaces(path: str, look: Callable[[int], T]) -> tuple[T, ...] | Unknown:
    found = []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        while fd >= 0:
            try:
                found.append(look(fd))
                above = _parent(fd)
            finally:
                os.close(fd)
            fd = above
    except OSError as error:
        return unknown(error, path)
    return tuple(found)


def _parent(fd: int) -> int:
    """A descriptor of the namespace above; -1 where the reader sees none (EPERM, also for the first of all)."""
    try:
        return fcntl.ioctl(fd, NS_GET_PARENT)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTTY):  # ENOTTY: before Linux 4.9
            raise
        return -1


def _owner(fd: int, all_ids: bool) -> int | Unknown:
    source = "the owner of the user namespace"
    try:
        (uid,) = struct.unpack("I", fcntl.ioctl(fd, NS_GET_OWNER_UID, bytes(4)))
    except OSError as error:
        return unknown(error, source)
    return Unknown("EOVERFLOW", source) if uid == credentials.OVERFLOW_UID and not all_ids else int(uid)


def _memory_namespace(user_ns: UserNamespaces | Unknown) -> UserNamespaces | Unknown:
    """The kernel shows it nowhere, but it is never below the process's own: nothing is above the first."""
    if isinstance(user_ns, Unknown) or user_ns[0].inode == INITIAL_USER_NAMESPACE:
        return user_ns
    return Unknown("ENODATA", "the user namespace of the memory")


# ---------------------------------------------------------------- the rest of a side


def read_ancestors(pid: int, met: Ancestry | None = None) -> tuple[int, ...] | Unknown:
    """The parents of a process up to the first: PPid is the real parent's thread group, whoever traces it.

    A parent outside the reader's PID namespace is 0 and ends the walk: its own parents are outside as well.
    ``met`` holds what earlier walks found, so that the way up from many processes is read once.
    """
    met = {} if met is None else met
    found: list[int] = []
    while len(found) < GENERATIONS:
        if pid in met:
            return (*found, *met[pid])
        try:
            with ProcDir(pid) as procdir:
                stat = read_stat(procdir)
        except OSError as error:
            return unknown(error, f"/proc/{pid}")
        if isinstance(stat, Unknown):
            return stat
        if stat.ppid == 0:
            met.update({child: tuple(found[place + 1 :]) for place, child in enumerate(found)})
            return tuple(found)
        pid = stat.ppid
        found.append(pid)
    return Unknown(MALFORMED, f"the parents of process {pid}")


def apparmor_profile(label: str | Unknown | None) -> AppArmorProfile | Unknown | None:
    """A label as attr/current shows it: ``docker-default (enforce)``, or ``unconfined`` without a mode."""
    if label is None or isinstance(label, Unknown):
        return label
    name, _, mode = label.rpartition(" (")
    if not name or not mode.endswith(")"):
        name, mode = label, "unconfined)" if label == "unconfined" else "unknown)"
    return AppArmorProfile(name, mode[:-1])


def _landlock(modules: SecurityModules, of_reader: bool) -> tuple[int, ...] | Unknown:
    """The kernel shows no domain. "None" is known without Landlock, or of a reader that has all its layers free."""
    absent = not isinstance(modules.loaded, Unknown) and "landlock" not in modules.loaded
    if modules.landlock_abi is None or absent or (of_reader and modules.landlock_free_layers == MAX_LAYERS):
        return ()
    return Unknown("ENODATA", "the Landlock domain")


def _visible(pid: int) -> bool:
    try:
        os.stat(f"/proc/{pid}/stat")
    except OSError:
        return False
    return True


def _named(ids: Ids | Unknown, id_map: str) -> Ids | Unknown:
    """Ids that stand for themselves. One without a number in the reader's user namespace is shown as 65534."""
    if isinstance(ids, Unknown) or credentials.OVERFLOW_UID not in (ids.real, ids.effective, ids.saved):
        return ids
    numbers = _numbers(id_map)
    if isinstance(numbers, Unknown):
        return numbers
    if any(start <= credentials.OVERFLOW_UID < start + length for start, _, length in numbers):
        whole = sum(length for _, _, length in numbers) == ALL_IDS
        return ids if whole else Unknown("EOVERFLOW", "an id without a number in this user namespace, or nobody's")
    return Ids(*(NAMELESS if number == credentials.OVERFLOW_UID else number for number in attrs.astuple(ids)))


def _numbers(id_map: str) -> tuple[tuple[int, int, int], ...] | Unknown:
    source = f"/proc/self/{id_map}"
    return parsed(read_system(source), credentials.parse_id_map, source)


def _sees_every_id() -> bool:
    """Whether no id that the reader sees can be the stand-in for one without a name."""
    entries = _numbers("uid_map")
    return not isinstance(entries, Unknown) and sum(length for _, _, length in entries) == ALL_IDS


def _or(fact: object, other: Unknown) -> Unknown:
    return fact if isinstance(fact, Unknown) else other


# ---------------------------------------------------------------- machine-wide


def parse_hidepid(data: bytes) -> int:
    """The option of the proc mounted last on /proc, from mountinfo (proc_pid_mountinfo(5)); ValueError without one."""
    found: int | None = None
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        mount, _, rest = line.partition(" - ")
        words, kind = mount.split(), rest.split()
        if len(words) > 4 and words[4] == "/proc" and kind[:1] == ["proc"]:
            options = dict(option.partition("=")[::2] for option in kind[-1].split(","))
            found = HIDEPID.get(options.get("hidepid", "off"))
    if found is None:
        raise ValueError("no /proc, or an option that is not known")
    return found


def _selinux_flag(name: str) -> bool | Unknown:
    return parsed(read_system(f"{SELINUX}/{name}"), _first_flag, f"{SELINUX}/{name}")


def _first_flag(data: bytes) -> bool:
    """``enforce`` holds one flag, a boolean its value and the one that is waiting to be committed."""
    first = data.split()[:1]
    if first not in ([b"0"], [b"1"]):
        raise ValueError("not a flag")
    return first == [b"1"]

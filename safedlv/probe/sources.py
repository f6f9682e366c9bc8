"""Where a context comes from: a process that there is, or the process that ``docker exec`` would start.

:func:`read_context` reads /proc/PID and, where the process has seccomp filters, holds it for a moment to read them
(probe/filters.py). It raises only when there is no such process or its status cannot be read; what else could not be
read is listed in ``Context.unread``. :func:`exec_context` works out from a container's first process what an engine
gives a second one; it reads no file of the container.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from typing import Final, TypeVar

from attrs import evolve

from safedlv.facts.credentials import parse_id_map
from safedlv.facts.namespaces import KINDS
from safedlv.facts.procfs import READ_LIMIT, ProcDir, identity, read_path
from safedlv.facts.security_modules import LABEL_FILES, read_security_modules
from safedlv.facts.status import read_status
from safedlv.model import CapabilitySets, SecurityModules, Status, Unknown
from safedlv.probe.context import Context, NamespaceLink
from safedlv.probe.filters import asks_a_supervisor, read_filters

T = TypeVar("T")
_SECCOMP_STRICT, _SECCOMP_FILTER = 1, 2
_EVERY_ID: Final = ((0, 0, 4294967295),)
_CAP_LAST_CAP: Final = "/proc/sys/kernel/cap_last_cap"


def read_context(pid: int, with_filters: bool = True) -> Context:
    """The context of process ``pid``. Close it, or use it as a context manager.

    Without ``with_filters`` the process is not held, and the context has no seccomp programs.
    Raises OSError: FileNotFoundError or ProcessLookupError when it is not there or ends meanwhile, PermissionError
    when its status cannot be read.
    """
    with ProcDir(pid) as procdir, ExitStack() as undo:
        began = identity(procdir)
        status = read_status(procdir)
        unread: list[str] = []
        links = _open_namespaces(procdir, unread, undo)
        context = Context(
            who=f"process {pid}",
            source=pid,
            namespaces=links,
            uid=_needed(status.uid),
            gid=_needed(status.gid),
            groups=_needed(status.groups),
            capabilities=_needed(status.capabilities),
            no_new_privs=_needed(status.no_new_privs),
            filters=_filters(pid, procdir, status, unread) if with_filters else (),
            labels=_modules(procdir, unread),
            unread=(*unread, *_proc_mount(procdir, links)),
        )
        if identity(procdir) != began:
            raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended")
        undo.pop_all()
        return context


def exec_context(init_pid: int, user: tuple[int, int | None] | None = None, privileged: bool = False) -> Context:
    """What ``docker exec [-u UID[:GID]] [--privileged]`` starts in the container whose first process is ``init_pid``.

    ``user`` is (uid, gid), numbered as the container does; gid None: that of its /etc/passwd, else 0, as the engine
    has it. Without ``user``: the ids of the first process now, which the container was started with unless it has
    changed them itself. The rest is the container's (moby daemon/exec.go, daemon/exec_linux.go; runc
    libcontainer/init_linux.go): namespaces, filters, no_new_privs, label, bounding set. The other sets are what
    execve(2) makes of it: all of it for uid 0, nothing for another (capabilities(7)).
    Raises as :func:`read_context`; ValueError for an id that the container's user namespace has not.
    """
    base = read_context(init_pid)
    with ExitStack() as undo, ProcDir(init_pid) as procdir:
        undo.callback(base.close)
        remapped = base.namespace("user") is not None
        uids = _id_map(procdir, "uid_map") if remapped else _EVERY_ID
        ids = (base.uid.real, base.gid.real, base.groups) if user is None else _exec_ids(procdir, base, user, remapped)
        bounding = every_capability() if privileged else base.capabilities.bounding
        inheritable = base.capabilities.inheritable & bounding  # empty since docker 20.10.14 (CVE-2022-24769)
        own = bounding if ids[0] == _outside(uids, 0) else 0
        sets = CapabilitySets(inheritable=inheritable, permitted=own, effective=own, bounding=bounding, ambient=0)
        words = [f"docker exec beside process {init_pid} as {ids[0]}:{ids[1]}", "--privileged" if privileged else ""]
        # It is a new process: nobody's ancestor, named by nobody; and engines make no Landlock domain.
        unread = tuple(line for line in base.unread if not line.startswith(("landlock:", "yama:")))
        made = evolve(base.as_user(*ids), who=" ".join(filter(None, words)), capabilities=sets, unread=unread)
        undo.pop_all()
        return made


def root_of(pid: int) -> tuple[int, int]:
    """uid and gid of root in the user namespace of process ``pid``, as we see them. Raises OSError; ValueError."""
    with ProcDir(pid) as procdir:
        return _outside(_id_map(procdir, "uid_map"), 0), _outside(_id_map(procdir, "gid_map"), 0)


def _exec_ids(
    procdir: ProcDir, base: Context, user: tuple[int, int | None], remapped: bool
) -> tuple[int, int, tuple[int, ...]]:
    """uid, gid and groups as we see them: the gid is one of the groups (CVE-2022-36109), --group-add gives the rest."""
    uids = _id_map(procdir, "uid_map") if remapped else _EVERY_ID
    gids = _id_map(procdir, "gid_map") if remapped else _EVERY_ID
    uid, gid = user
    outer = _outside(gids, _gid_of(procdir, uid) if gid is None else gid)
    return _outside(uids, uid), outer, tuple(sorted({outer, *base.groups} - ({base.gid.real} - {outer})))


def _gid_of(procdir: ProcDir, uid: int) -> int:
    """The gid that the container's /etc/passwd gives a uid; 0 without one (moby pkg/user, GetExecUser).

    The file is the container's, so no link in it is followed and nothing but a plain file is read.
    """
    try:
        with ExitStack() as undo:
            directory = procdir.open("root", os.O_PATH | os.O_DIRECTORY)
            undo.callback(os.close, directory)
            etc = os.open("etc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            undo.callback(os.close, etc)
            fd = os.open("passwd", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=etc)
            undo.callback(os.close, fd)
            lines = os.read(fd, READ_LIMIT).splitlines() if stat.S_ISREG(os.fstat(fd).st_mode) else []
    except OSError:
        return 0
    for fields in (line.split(b":") for line in lines):
        if len(fields) > 3 and fields[2] == b"%d" % uid and fields[3].isdigit():
            return int(fields[3])
    return 0


def _id_map(procdir: ProcDir, name: str) -> tuple[tuple[int, int, int], ...]:
    return parse_id_map(procdir.read(name))


def _outside(id_map: tuple[tuple[int, int, int], ...], number: int) -> int:
    """An id of the container as we see it (user_namespaces(7)). Raises ValueError when the map has it not."""
    for inside, outside, count in id_map:
        if inside <= number < inside + count:
            return outside + number - inside
    raise ValueError(f"the container's user namespace has no id {number}")


def every_capability() -> int:
    """The mask of all capabilities that this kernel has."""
    return (1 << int(read_path(_CAP_LAST_CAP)) + 1) - 1


def _needed(fact: T | Unknown) -> T:
    if isinstance(fact, Unknown):
        number = getattr(errno, fact.errno, errno.EIO)
        raise OSError(number, os.strerror(number), fact.source)
    return fact


# ---------------------------------------------------------------- namespaces


def _open_namespaces(procdir: ProcDir, unread: list[str], undo: ExitStack) -> tuple[NamespaceLink, ...]:
    """Every kind that the kernel has; open where it is another than ours, until ``undo`` runs."""
    links = []
    with ProcDir("self") as own:
        for kind in KINDS:
            if kind == "pid_for_children":
                continue
            try:
                link = _open_namespace(procdir, own, kind)
            except FileNotFoundError:  # no such kind in this kernel
                continue
            except OSError as error:
                unread.append(f"namespace: {kind} cannot be read: {error.strerror}")
            else:
                links.append(link)
                if link.fd is not None:
                    undo.callback(os.close, link.fd)
    return tuple(links)


def _open_namespace(procdir: ProcDir, own: ProcDir, kind: str) -> NamespaceLink:
    fd = procdir.open(f"ns/{kind}")
    theirs, ours = os.fstat(fd).st_ino, own.stat(f"ns/{kind}").st_ino
    if theirs != ours:
        return NamespaceLink(kind, theirs, fd)
    os.close(fd)
    return NamespaceLink(kind, theirs, None)


def _proc_mount(procdir: ProcDir, links: tuple[NamespaceLink, ...]) -> tuple[str, ...]:
    """Where a debugger in that mount namespace would see less of /proc than the probe does (proc(5), hidepid)."""
    if all(link.fd is None for link in links if link.kind == "mnt"):
        return ()
    try:
        lines = os.fsdecode(procdir.read("mountinfo")).splitlines()
    except OSError as error:
        return (f"proc: its mounts cannot be read: {error.strerror}",)
    mounts = [line.partition(" - ") for line in lines if line.split()[4] == "/proc"]
    kind, _, options = mounts[-1][2].partition(" ") if mounts else ("", "", "")
    if kind != "proc":
        return ("proc: its mount namespace has no /proc, and the probe looked at one of its own",)
    settings = [option for option in options.split()[-1].split(",") if option.startswith(("hidepid", "subset"))]
    hiding = [setting for setting in settings if setting not in ("hidepid=0", "hidepid=off")]
    return (f"proc: its /proc has {','.join(hiding)}, and the probe looked at one that has not",) if hiding else ()


# ---------------------------------------------------------------- filters, labels, what cannot be read


def _filters(pid: int, procdir: ProcDir, status: Status, unread: list[str]) -> tuple[bytes, ...]:
    mode = _needed(status.seccomp) if not _without_seccomp(status) else 0
    if mode == _SECCOMP_STRICT:
        unread.append("seccomp: it is in the strict mode, from which no process can make a probe")
    if mode != _SECCOMP_FILTER:
        return ()
    try:
        programs = read_filters(pid, procdir.fileno())
    except OSError as error:
        unread.append(f"seccomp: its filters cannot be read: {error.strerror}")
        return ()
    if any(map(asks_a_supervisor, programs)):
        unread.append("seccomp: a filter asks a supervisor, which does not answer to a copy")
    return programs


def _without_seccomp(status: Status) -> bool:
    return isinstance(status.seccomp, Unknown) and status.seccomp.errno == "ENOENT"


def _modules(procdir: ProcDir, unread: list[str]) -> tuple[tuple[str, str], ...]:
    """The labels that differ from ours; what cannot be read of them, of Landlock and of Yama goes into ``unread``."""
    theirs = read_security_modules(procdir)
    with ProcDir("self") as own_procdir:
        own = read_security_modules(own_procdir)
    found = []
    for module in LABEL_FILES:
        label, ours = _label_of(theirs, module), _label_of(own, module)
        if isinstance(label, Unknown):
            unread.append(f"{module}: its label cannot be read: {label.errno}")
        elif label is not None and label != ours:
            found.append((module, label))
    if theirs.yama_scope == 1:
        unread.append("yama: a target may be its descendant, or have named it as its tracer; the probe is neither")
    if theirs.landlock_abi is not None:
        unread.append("landlock: whether it is in a domain cannot be read, and a domain cannot be entered")
    return tuple(found)


def _label_of(modules: SecurityModules, module: str) -> str | Unknown | None:
    label: str | Unknown | None = getattr(modules, module)
    return label

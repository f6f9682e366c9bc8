"""One process as /proc shows it, and who is whose parent: proc(5), kernel fs/proc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from safedlv.facts import cgroup, credentials, namespaces, security_modules
from safedlv.facts.procfs import ProcDir
from safedlv.facts.reading import MALFORMED, listdir, read, unknown
from safedlv.facts.status import (
    StatFields,
    make_status,
    parse_stat_fields,
    parse_status,
    read_stat,
    read_status,
    read_status_fields,
)
from safedlv.model import Cgroup, ProcessFacts, SecurityModules, Unknown

__all__ = [
    "descendants",
    "list_processes",
    "parse_cmdline",
    "parse_status",
    "process_tree",
    "read_cmdline",
    "read_process",
    "read_status",
    "vfork_parent",
]

PID_LIMIT = 1 << 22
"""PID_MAX_LIMIT of linux/threads.h: no PID is as large."""

VFORK_WCHANS = frozenset({"kernel_clone", "_do_fork", "do_fork", "wait_for_vfork_done"})
"""Where a vfork parent waits: the function that wait_for_vfork_done is inlined in goes by three names over time."""

CLONE_VFORK = 0x00004000  # linux/sched.h
_VFORK_CALLS = {"x86_64": 58}  # no vfork(2) on aarch64 and riscv64
_CLONE_CALLS = {"x86_64": 56, "aarch64": 220, "riscv64": 220}  # the flags are the first argument
_CLONE3_CALL = 435  # the flags are in the caller's memory


def read_process(pid: int, count_landlock_layers: bool = False) -> ProcessFacts:
    """Everything about one process at one moment; a PID that is gone gives ``exists=False`` and unknowns.

    ``count_landlock_layers``: see :func:`security_modules.read_security_modules`.
    """
    try:
        procdir = ProcDir(pid)
    except OSError as error:
        return _unreadable(pid, unknown(error, f"/proc/{pid}"))
    with procdir:
        stat = read_stat(procdir)
        owner = credentials.proc_owner(procdir)
        status = make_status(stat, read_status_fields(procdir), f"{procdir.path}/status")
        return ProcessFacts(
            pid=pid,
            exists=not isinstance(stat, Unknown) or _answers(pid),
            status=status,
            cmdline=read_cmdline(procdir),
            proc_owner=owner if isinstance(owner, Unknown) else owner[0],
            dumpable=credentials.dumpable(procdir, status, stat, owner),
            namespaces=namespaces.read_namespaces(procdir),
            modules=security_modules.read_security_modules(procdir, count_landlock_layers),
            cgroup=cgroup.read_cgroup(procdir),
            vfork_parent=vfork_parent(procdir, stat),
        )


def _unreadable(pid: int, why: Unknown) -> ProcessFacts:
    """The facts about a process without a directory: gone, or hidden (proc(5), hidepid=4)."""
    nothing = SecurityModules(why, why, why, why, why, why, None)
    return ProcessFacts(
        pid=pid,
        exists=_answers(pid),
        status=make_status(why, why, why.source),
        cmdline=why,
        proc_owner=why,
        dumpable=why,
        namespaces=namespaces.unknown_namespaces(why),
        modules=nothing,
        cgroup=Cgroup(why, why, why, None, why, why, why, why, why),
        vfork_parent=why,
    )


def _answers(pid: int) -> bool:
    """Whether kill(2) knows the PID: it does so even where hidepid keeps /proc/PID out of sight."""
    if not 0 < pid < PID_LIMIT:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # EPERM: there, but not ours
        return True
    return True


def read_cmdline(procdir: ProcDir) -> tuple[str, ...] | Unknown:
    """The arguments of a process as it shows them now; () for a kernel thread or a zombie (proc_pid_cmdline(5)).

    They are the process's own memory: text that it chose, escape codes and all, cut at 1 MiB.
    """
    data = read(procdir, "cmdline")
    return data if isinstance(data, Unknown) else parse_cmdline(data)


def parse_cmdline(data: bytes) -> tuple[str, ...]:
    """The arguments in /proc/PID/cmdline: each ends with a NUL, but where the process has written over them."""
    if not data:
        return ()
    return tuple(os.fsdecode(part) for part in data.removesuffix(b"\0").split(b"\0"))


# ---------------------------------------------------------------- vfork


def vfork_parent(procdir: ProcDir, stat: StatFields | Unknown) -> bool | Unknown:
    """Whether any thread waits in vfork() for its child to exec or exit: until then no signal or stop reaches it.

    Such a thread is in state D (TASK_KILLABLE, kernel/fork.c wait_for_vfork_done); where it waits is told by
    /proc/PID/wchan or, by number, /proc/PID/syscall. Both want PTRACE_MODE_READ or ATTACH, so for another's process
    in state D this is Unknown. A process without a thread in D is known not to wait.
    """
    if isinstance(stat, Unknown):
        return stat
    if stat.threads <= 1:
        return _waits_in_vfork(procdir, "") if stat.state == "D" else False
    tids = listdir(procdir, "task")
    if isinstance(tids, Unknown):
        return tids
    answer: bool | Unknown = False
    for tid in tids:
        waits = _thread_waits(procdir, f"task/{tid}/")
        if waits is True:
            return True
        answer = waits if isinstance(waits, Unknown) else answer
    return answer


def _thread_waits(procdir: ProcDir, prefix: str) -> bool | Unknown:
    data = read(procdir, f"{prefix}stat")
    if isinstance(data, Unknown):
        return False if data.errno in ("ENOENT", "ESRCH") else data  # a thread that has ended waits for nothing
    try:
        state = parse_stat_fields(data).state
    except ValueError:
        return Unknown(MALFORMED, f"{procdir.path}/{prefix}stat")
    return _waits_in_vfork(procdir, prefix) if state == "D" else False


def _waits_in_vfork(procdir: ProcDir, prefix: str) -> bool | Unknown:
    """For a thread in state D: by the name of the function that it sleeps in, else by its system call."""
    wchan = read(procdir, f"{prefix}wchan")
    if not isinstance(wchan, Unknown) and wchan.strip() not in (b"", b"0"):  # 0: not allowed, or not asleep
        return os.fsdecode(wchan.strip()) in VFORK_WCHANS
    call = read(procdir, f"{prefix}syscall", 4096)
    if isinstance(call, Unknown):
        return call
    return parse_vfork_call(call, os.uname().machine, f"{procdir.path}/{prefix}syscall")


def parse_vfork_call(data: bytes, machine: str, source: str) -> bool | Unknown:
    """Whether the call in /proc/PID/syscall is vfork or a clone that waits as vfork does (proc_pid_syscall(5))."""
    words = data.split()
    if words[:1] == [b"running"]:
        return False
    try:
        number = int(words[0])
        flags = int(words[1], 16) if len(words) > 2 else 0
    except (IndexError, ValueError):
        return Unknown(MALFORMED, source)
    if machine not in _CLONE_CALLS or number == _CLONE3_CALL:
        return Unknown("EFAULT", f"{source} (the flags of call {number} are not shown)")
    if number == _CLONE_CALLS[machine]:
        return bool(flags & CLONE_VFORK)
    return number == _VFORK_CALLS.get(machine)


# ---------------------------------------------------------------- all processes


def list_processes() -> Iterable[int]:
    """The PIDs in /proc, lowest first; empty where /proc cannot be listed."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def process_tree() -> dict[int, int]:
    """The parent of every process that can be seen, from /proc/PID/stat alone; one that ends meanwhile is left out."""
    tree = {}
    for pid in list_processes():
        try:
            procdir = ProcDir(pid)
        except OSError:
            continue
        with procdir:
            stat = read_stat(procdir)
        if not isinstance(stat, Unknown):
            tree[pid] = stat.ppid
    return tree


def descendants(tree: Mapping[int, int], pid: int) -> tuple[int, ...]:
    """The processes below ``pid`` in a :func:`process_tree`: children first, then theirs, each level by PID."""
    children: dict[int, list[int]] = {}
    for child, parent in sorted(tree.items()):
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children.pop(parent, ())]
        found.extend(level)
    return tuple(found)

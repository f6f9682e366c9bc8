"""/proc/PID/status and /proc/PID/stat: proc_pid_status(5), proc_pid_stat(5), kernel fs/proc/array.c."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

from attrs import frozen

from safedlv.facts import seccomp
from safedlv.facts.procfs import ProcDir, parse_stat
from safedlv.facts.reading import MALFORMED, decimal, mask, parsed, read
from safedlv.model import CapabilitySets, Ids, SignalSets, Status, Unknown
from safedlv.values import Value

T = TypeVar("T")

PF_KTHREAD = 0x00200000  # include/linux/sched.h

STATES = frozenset("RSDTtZXxKWPI")
"""Every letter that a kernel since 2.6 has shown as a state (fs/proc/array.c, task_state_array)."""

CAPABILITY_KEYS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
SIGNAL_KEYS = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")


@frozen(eq=False, repr=False)
class StatFields(Value):
    """The fields of /proc/PID/stat that are used here, raw except where they are numbers."""

    comm: str
    state: str
    ppid: int
    flags: int
    threads: int
    start_time: int
    virtual_size: int
    """Bytes of address space; 0: the task has no memory (a kernel thread, a zombie, one that is exiting)."""


def parse_stat_fields(data: bytes) -> StatFields:
    """The fields of /proc/PID/stat; ValueError when it is not one."""
    comm, fields = parse_stat(data)
    if len(fields) < 21 or fields[0].decode("ascii", "replace") not in STATES:
        raise ValueError("not a stat line")
    return StatFields(
        comm=os.fsdecode(comm),
        state=fields[0].decode("ascii"),
        ppid=decimal(fields[1]),  # field 4
        flags=decimal(fields[6]),  # field 9
        threads=decimal(fields[17]),  # field 20
        start_time=decimal(fields[19]),  # field 22
        virtual_size=decimal(fields[20]),  # field 23
    )


def parse_status(data: bytes) -> dict[str, str]:
    """The lines of /proc/PID/status as key and value.

    The first line of a key counts: the process chooses its Name, whose line comes first, and although the kernel
    escapes newlines in it, a look-alike must never win over the kernel's own line.
    """
    fields: dict[str, str] = {}
    for line in os.fsdecode(data).split("\n"):
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key, value.strip("\t "))
    return fields


def field(
    fields: Mapping[str, str] | Unknown, key: str, parse: Callable[[str], T], source: str = "/proc/PID/status"
) -> T | Unknown:
    """One value of a parsed status: ENOENT where this kernel prints no such line, MALFORMED where it makes no sense."""
    if isinstance(fields, Unknown):
        return fields
    text = fields.get(key)
    if text is None:
        return Unknown("ENOENT", f"{source} {key}")
    try:
        return parse(text)
    except ValueError:
        return Unknown(MALFORMED, f"{source} {key}")


def read_stat(procdir: ProcDir) -> StatFields | Unknown:
    """/proc/PID/stat of a process."""
    return parsed(read(procdir, "stat"), parse_stat_fields, f"{procdir.path}/stat")


def read_status_fields(procdir: ProcDir) -> dict[str, str] | Unknown:
    """/proc/PID/status of a process, as key and value."""
    return parsed(read(procdir, "status"), parse_status, f"{procdir.path}/status")


def read_status(procdir: ProcDir) -> Status:
    """Both files of a process as one :class:`Status`."""
    return make_status(read_stat(procdir), read_status_fields(procdir), f"{procdir.path}/status")


def make_status(stat: StatFields | Unknown, fields: Mapping[str, str] | Unknown, source: str) -> Status:
    """A :class:`Status` of the two files: stat for what is raw in it (the name) or only there, else status."""

    def number(key: str) -> int | Unknown:
        return field(fields, key, decimal, source)

    return Status(
        name=stat if isinstance(stat, Unknown) else stat.comm,
        state=stat if isinstance(stat, Unknown) else stat.state,
        tgid=number("Tgid"),
        pid=number("Pid"),
        ppid=number("PPid"),
        tracer_pid=number("TracerPid"),
        uid=field(fields, "Uid", _ids, source),
        gid=field(fields, "Gid", _ids, source),
        groups=field(fields, "Groups", _numbers, source),
        ns_pid=field(fields, "NSpid", _numbers, source),
        threads=number("Threads"),
        capabilities=_masks(fields, CAPABILITY_KEYS, CapabilitySets, source),
        no_new_privs=field(fields, "NoNewPrivs", _flag, source),
        seccomp=field(fields, seccomp.MODE_KEY, seccomp.parse_mode, source),
        seccomp_filters=field(fields, seccomp.FILTERS_KEY, decimal, source),
        signals=_masks(fields, SIGNAL_KEYS, SignalSets, source),
        start_time=stat if isinstance(stat, Unknown) else stat.start_time,
        kernel_thread=stat if isinstance(stat, Unknown) else bool(stat.flags & PF_KTHREAD),
    )


def _masks(
    fields: Mapping[str, str] | Unknown,
    keys: tuple[str, ...],
    make: Callable[[int, int, int, int, int], T],
    source: str,
) -> T | Unknown:
    """Five masks of a status, or the first of them that is unknown."""
    values = []
    for key in keys:
        value = field(fields, key, mask, source)
        if isinstance(value, Unknown):
            return value
        values.append(value)
    return make(*values)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(decimal(word) for word in text.split())


def _ids(text: str) -> Ids:
    numbers = _numbers(text)
    if len(numbers) != 4:
        raise ValueError("not four ids")
    return Ids(*numbers)


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("not a flag")
    return text == "1"

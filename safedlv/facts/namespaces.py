"""The namespaces of a process against the reader's own: namespaces(7), the links in /proc/PID/ns."""

from __future__ import annotations

import re

from safedlv.facts.procfs import ProcDir
from safedlv.facts.reading import MALFORMED, readlink, unknown
from safedlv.model import Namespace, Unknown

KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "user", "uts")

_LINK = re.compile(r"[a-z]{1,16}:\[([0-9]{1,20})\]", re.ASCII)


def parse_link(text: str) -> int:
    """The inode in ``pid:[4026531836]``; ValueError when the text is no such thing."""
    match = _LINK.fullmatch(text)
    if match is None:
        raise ValueError(f"not a namespace link: {text[:40]!r}")
    return int(match[1])


def inode(procdir: ProcDir, kind: str) -> int | Unknown:
    """The inode of one namespace of a process.

    EACCES where the reader may not inspect the process (PTRACE_MODE_READ_FSCREDS); ENOENT where this kernel has no
    such namespace, and for ``pid_for_children`` while no child was made in it (pid_namespaces(7)).
    """
    text = readlink(procdir, f"ns/{kind}")
    if isinstance(text, Unknown):
        return text
    try:
        return parse_link(text)
    except ValueError:
        return Unknown(MALFORMED, f"{procdir.path}/ns/{kind}")


def read_namespaces(procdir: ProcDir) -> tuple[Namespace, ...]:
    """Every kind of :data:`KINDS`, compared by inode with the reader's own (all live on one nsfs)."""
    try:
        own = ProcDir("self")
    except OSError as error:
        missing = unknown(error, "/proc/self")
        return tuple(Namespace(kind, inode(procdir, kind), missing) for kind in KINDS)
    with own:
        return tuple(_compare(kind, inode(procdir, kind), inode(own, kind)) for kind in KINDS)


def unknown_namespaces(why: Unknown) -> tuple[Namespace, ...]:
    """Every kind, none of them readable for the same reason."""
    return tuple(Namespace(kind, why, why) for kind in KINDS)


def _compare(kind: str, theirs: int | Unknown, ours: int | Unknown) -> Namespace:
    if isinstance(theirs, Unknown):
        return Namespace(kind, theirs, theirs)
    return Namespace(kind, theirs, ours if isinstance(ours, Unknown) else theirs == ours)

"""What a sidecar's plan needs to know of its target: whose it is, its number, its memory, whether dlv fits it.

Each function answers or raises SafedlvError with why there can be no sidecar. Nothing is changed.
"""

from __future__ import annotations

import os
from typing import Final

from safedlv.errors import SafedlvError, printable
from safedlv.facts.credentials import parse_id_map
from safedlv.facts.delve import read_delve, supports
from safedlv.facts.go_binary import read_contents
from safedlv.facts.process import read_process
from safedlv.facts.procfs import ProcDir
from safedlv.model import Ids
from safedlv.probe import runner
from safedlv.sibling.privilege import Privilege, Refusal, foretold, inner, tried
from safedlv.target import Found

BASE_NEED: Final = 64 << 20
NEED_PER_BYTE: Final = 10
"""Memory that dlv may take for each byte of the program: it took 10 for a small one, 6 for a large one."""
BASE_LIMIT: Final = 256 << 20
LIMIT_PER_BYTE: Final = 12
UNKNOWN_SIZE: Final = 200 << 20
"""A large program: what is assumed of one whose file we may not look at."""


def user_inside(pid: int, first: int) -> tuple[int, int]:
    """The target's user and group as its container numbers them; ``first``: the container's first process."""
    status = read_process(pid).status
    if not isinstance(status.uid, Ids) or not isinstance(status.gid, Ids):
        raise SafedlvError(f"the user of process {pid} cannot be read")
    try:
        with ProcDir(first) as procdir:
            uids, gids = (parse_id_map(procdir.read(name)) for name in ("uid_map", "gid_map"))
        return inner(status.uid.real, uids), inner(status.gid.real, gids)
    except (OSError, ValueError) as error:
        raise SafedlvError(f"the user of process {pid} has no number in its container") from error


def pid_inside(found: Found, first: int) -> int:
    """The target's PID in the namespace of the container's first process, which the sidecar joins.

    The target itself may live in one below (proc_pid_status(5): NSpid).
    """
    target, container = (read_process(pid).status.ns_pid for pid in (found.pid, first))
    if not isinstance(target, tuple) or not isinstance(container, tuple) or len(target) < len(container):
        raise SafedlvError(f"the PID of process {found.pid} in its container cannot be read")
    return target[len(container) - 1]


def least_privilege(found: Found, first: int, user: tuple[int, int], timeout: float, apparmor: str | None) -> Privilege:
    """The least with which the probe passes where it can be tried (root), else what the rules make likely.

    ``apparmor``: the profile of the target's container, which the sidecar is to have as well.
    """
    if not runner.way_back_is_open(found.pid, found.before):
        raise SafedlvError(
            f"process {found.pid} is frozen, and could not be left as it was", "safedlv doctor says by what"
        )
    if tracer := runner.Before.of(found.procdir).traced_by:
        raise SafedlvError(
            f"no sidecar could attach: process {found.pid} is traced by process {tracer} already",
            "a process has one tracer at a time: end that session first",
        )
    if os.geteuid() != 0:
        return foretold(read_process(found.pid), user)
    try:
        privilege = tried(found.pid, first, user, timeout)
    except OSError:
        return foretold(read_process(found.pid), user)
    if isinstance(privilege, Refusal):
        raise SafedlvError(
            f"no sidecar could attach: with every privilege that one may have, {privilege.step} fails "
            f"({privilege.errno or 'it could not be tried'}){under(apparmor)}",
            "safedlv doctor names the layer that refuses",
        )
    return privilege


def under(apparmor: str | None) -> str:
    """Words for a profile that a sidecar has because its target has it."""
    return f", under the target's AppArmor profile {printable(apparmor)}" if apparmor else ""


def memory_limit(found: Found) -> int:
    """A limit in bytes that dlv will not need, and that the machine can give."""
    try:
        size = os.stat("exe", dir_fd=found.procdir).st_size
    except OSError:  # another user's process
        size = UNKNOWN_SIZE
    with open("/proc/meminfo", "rb") as file:
        fields = dict(text.split(b":", 1) for text in file.read().splitlines())
    return limit_of(size, int(fields[b"MemAvailable"].split()[0]) << 10, known=size != UNKNOWN_SIZE)


def limit_of(size: int, available: int, *, known: bool = True) -> int:
    """The limit, in whole MiB, for a program of ``size`` bytes on a machine with so many available. Pure.

    Too low a limit would have dlv killed in the middle of its work, which harms the target.
    """
    need = BASE_NEED + (NEED_PER_BYTE * size if known else 0)
    if available < need:
        raise SafedlvError(
            f"dlv would not fit: it may take {need >> 20} MiB of memory for this program, and {available >> 20} MiB "
            "are left on this machine"
        )
    return min(BASE_LIMIT + LIMIT_PER_BYTE * size, available) >> 20 << 20


def require_supported_go(dlv: str, found: Found) -> None:
    """Refuse a dlv that says of itself that it does not support the Go that built the target."""
    go_version = read_contents(found.procdir).go_version
    delve = read_delve(dlv)
    if supports(delve, go_version) is False:
        raise SafedlvError(
            f"dlv {delve.version} supports Go {delve.min_go} to {delve.max_go}, and the target was built by "
            f"{printable(str(go_version))}",
            "name another dlv with SAFEDLV_DLV=/path/to/dlv, or try it all the same with --check-go-version=false",
        )

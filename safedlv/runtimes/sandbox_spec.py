"""What a sandbox is made of: a value, and the ordered steps that follow from it. Each step says what it does.

Theory of operation: an *entry* process takes :func:`entry_steps` (cgroup, namespaces); with a PID namespace its child,
the *init*, takes :func:`init_steps`; the *workload* takes :func:`workload_steps` (Landlock, capabilities, ids, filter)
and then runs. The order is that of a container engine: whatever needs privilege first, the filter last. The one
exception is also an engine's: without no_new_privs a filter needs CAP_SYS_ADMIN (seccomp(2)), so it is loaded before
the last capabilities go, and has to let that capset(2) pass.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from attrs import Attribute, field, frozen

from safedlv.capabilities import CAPABILITIES, CAPABILITY_BITS
from safedlv.linux import confine
from safedlv.linux.steps import Step, ambient, inheritable_and_bounding, seccomp_filter, set_uids
from safedlv.model import CapabilitySets
from safedlv.runtimes.cgroup_tree import CgroupTree

NAMESPACES: Final = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
_ALIASES: Final = {"mount": "mnt", "network": "net"}


@frozen
class IdMap:
    """One line of a uid_map or gid_map (user_namespaces(7))."""

    inside: int
    outside: int
    count: int


def capability_sets(*keep: str | int, ambient: bool = False) -> CapabilitySets:
    """Sets that hold just these capabilities, given by name (with or without CAP_) or number.

    Bounding, permitted and effective hold them; inheritable and ambient too with ``ambient``, which a process that is
    not uid 0 needs to keep them over execve (capabilities(7)). Raises ValueError for an unknown one.
    """
    mask = 0
    for capability in keep:
        mask |= 1 << _capability_number(capability)
    carried = mask if ambient else 0
    return CapabilitySets(inheritable=carried, permitted=mask, effective=mask, bounding=mask, ambient=carried)


def _capability_number(capability: str | int) -> int:
    number = (
        capability if isinstance(capability, int) else CAPABILITY_BITS.get(capability.lower().removeprefix("cap_"), -1)
    )
    if not 0 <= number < len(CAPABILITIES):  # the kernel would ignore a bit that it does not know
        raise ValueError(f"no such capability: {capability}")
    return number


def _kinds(names: Iterable[str]) -> frozenset[str]:
    return frozenset(_ALIASES.get(name, name) for name in names)


def _programs(given: bytes | Iterable[bytes] | None) -> tuple[bytes, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, bytes) else tuple(given)


@frozen
class Sandbox:
    """The context of a workload; a field that is left out leaves that part of the caller's context as it is."""

    namespaces: frozenset[str] = field(default=frozenset(), converter=_kinds)
    """Kinds to make anew: user, mount (or mnt), pid, net, ipc, uts, cgroup. mount and pid together: a fresh /proc."""
    uid: int | None = None
    """Real, effective, saved and filesystem uid, as numbered inside the user namespace."""
    gid: int | None = None
    groups: tuple[int, ...] | None = None
    """Supplementary groups."""
    uid_map: tuple[IdMap, ...] | None = None
    """For a user namespace; None: root maps every id to itself, another caller maps its own id to 0."""
    gid_map: tuple[IdMap, ...] | None = None
    capabilities: CapabilitySets | None = None
    """The sets before execve; None: as they are, and none once the uid is not 0. See :func:`capability_sets`."""
    no_new_privs: bool = False
    seccomp: tuple[bytes, ...] = field(default=(), converter=_programs)
    """BPF programs (one, or several in this order)."""
    landlock: int = 0
    """How many Landlock layers (the kernel takes 16)."""
    dumpable: bool = True
    """False only for a callable: execve makes a process dumpable again (prctl(2), PR_SET_DUMPABLE)."""
    ptracer: int | None = None
    """PR_SET_PTRACER: a PID in the workload's PID namespace, or -1 for any; EINVAL on a kernel without Yama."""
    cgroup: bool = False
    """A cgroup of its own: on v2, and in the freezer, pids and memory hierarchies of v1."""
    pids_max: int | None = None
    memory_max: int | None = None
    """Bytes."""

    @namespaces.validator
    def _known_kinds(self, _: Attribute[frozenset[str]], value: frozenset[str]) -> None:
        if value - set(NAMESPACES):
            raise ValueError(f"no such namespace: {', '.join(sorted(value - set(NAMESPACES)))}")

    def __attrs_post_init__(self) -> None:
        if (self.uid_map or self.gid_map) and "user" not in self.namespaces:
            raise ValueError("uid_map and gid_map need a user namespace")
        if (self.pids_max is not None or self.memory_max is not None) and not self.cgroup:
            raise ValueError("pids_max and memory_max need cgroup=True")

    def describe(self) -> list[str]:
        """What will be done, in order, one line each; the directories of a cgroup are chosen at the start."""
        cgroup = ["make a cgroup, and remove it at the end"] if self.cgroup else []
        limits = [("pids_max", self.pids_max), ("memory_max", self.memory_max)]
        cgroup += [f"limit {name} to {limit}" for name, limit in limits if limit is not None]
        steps = [*entry_steps(self, _nothing), *init_steps(self), *workload_steps(self, _nothing)]
        return cgroup + [step.text for step in steps]

    def id_maps(self) -> tuple[tuple[IdMap, ...], tuple[IdMap, ...]]:
        """uid_map and gid_map with their defaults filled in for the calling process."""
        root = os.geteuid() == 0
        uid_map = self.uid_map or (_identity("uid_map") if root else (IdMap(0, os.geteuid(), 1),))
        gid_map = self.gid_map or (_identity("gid_map") if root else (IdMap(0, os.getegid(), 1),))
        return uid_map, gid_map


def _identity(name: str) -> tuple[IdMap, ...]:
    """Every id that the caller's own user namespace has, as itself."""
    lines = Path("/proc/self", name).read_text().splitlines()
    return tuple(IdMap(int(inside), int(inside), int(count)) for inside, _, count in map(str.split, lines))


def _nothing() -> None:
    pass


# ---------------------------------------------------------------- entry and init: namespaces


def entry_steps(spec: Sandbox, map_ids: Callable[[], None], tree: CgroupTree | None = None) -> list[Step]:
    """Into the cgroup and new namespaces; ``map_ids`` asks the supervisor outside to write the id maps."""
    steps = []
    if spec.cgroup:
        # First: files under /sys/fs/cgroup need the privilege of the outside, and a cgroup namespace is rooted here.
        steps.append(Step("join the cgroup", tree.join if tree else _nothing))
    if "user" in spec.namespaces:
        steps.append(Step("unshare the user namespace", partial(confine.unshare, "user")))
        steps.append(Step("write uid_map and gid_map", map_ids))
    others = [kind for kind in NAMESPACES if kind in spec.namespaces and kind != "user"]
    if others:
        # After the user namespace, so that it owns them (namespaces(7)).
        steps.append(Step(f"unshare the namespaces {', '.join(others)}", partial(confine.unshare, *others)))
    if "mnt" in spec.namespaces:
        flags = confine.MS_REC | confine.MS_PRIVATE
        steps.append(Step("make every mount private", partial(confine.mount, "none", "/", None, flags)))
    return steps


def init_steps(spec: Sandbox) -> list[Step]:
    """By the first process of a new PID namespace: /proc shows the namespace of whoever mounted it."""
    if not {"pid", "mnt"} <= spec.namespaces:
        return []
    flags = confine.MS_NOSUID | confine.MS_NODEV | confine.MS_NOEXEC
    return [Step("mount a fresh /proc", partial(confine.mount, "proc", "/proc", "proc", flags))]


def join_steps(spec: Sandbox, namespace_fds: dict[str, int], tree: CgroupTree | None = None) -> list[Step]:
    """Into the cgroup and namespaces of a sandbox that runs; the descriptors are of its init's /proc/PID/ns."""
    steps = [Step("join the cgroup", tree.join)] if spec.cgroup and tree else []
    # The user namespace first: it gives the privilege for the others. mnt last: it changes what paths mean.
    for kind in sorted(namespace_fds, key=("user", "ipc", "uts", "net", "cgroup", "pid", "mnt").index):
        steps.append(Step(f"join the {kind} namespace", partial(confine.setns, namespace_fds[kind], kind)))
    if "mnt" in namespace_fds:
        # setns moves the working directory to the root of that namespace.
        steps.append(Step("return to the working directory", partial(_return_to, _working_directory())))
    return steps


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed, or one above it is closed to us
        return "/"


def _return_to(directory: str) -> None:
    """Where it may not be entered, the root of the namespace has to do."""
    with suppress(OSError):
        os.chdir(directory)


# ---------------------------------------------------------------- workload: Landlock, capabilities, ids, filter


def workload_steps(spec: Sandbox, die_with_parent: Callable[[], None]) -> list[Step]:
    """Everything that is a property of the workload itself, in order."""
    steps = []
    if spec.no_new_privs:
        steps.append(Step("set no_new_privs", confine.set_no_new_privs))
    steps += [Step(f"enter Landlock layer {n + 1}", _enter_landlock_domain) for n in range(spec.landlock)]
    if spec.capabilities is not None:
        steps.append(inheritable_and_bounding(spec.capabilities))
    steps += _id_steps(spec)
    if spec.capabilities is not None:
        steps.append(ambient(spec.capabilities))
    # The kernel clears dumpable and the parent-death signal when ids change, so both come after.
    steps.append(Step(f"set dumpable to {spec.dumpable:d}", partial(confine.set_dumpable, spec.dumpable)))
    steps.append(Step("die with the sandbox", die_with_parent))
    if spec.ptracer is not None:
        steps.append(Step(f"name {spec.ptracer} as ptracer", partial(confine.set_ptracer, spec.ptracer)))
    filters = [seccomp_filter(program) for program in spec.seccomp]
    last = _last_capabilities(spec)
    return [*steps, *last, *filters] if spec.no_new_privs else [*steps, *filters, *last]


def _id_steps(spec: Sandbox) -> list[Step]:
    steps = []
    if spec.groups is not None:
        steps.append(Step(f"setgroups {list(spec.groups)}", partial(os.setgroups, spec.groups)))
    if spec.gid is not None:
        steps.append(Step(f"setresgid {spec.gid}", partial(os.setresgid, spec.gid, spec.gid, spec.gid)))
    if spec.uid is not None:
        steps.append(Step(f"setresuid {spec.uid}", partial(set_uids, spec.uid, spec.uid, spec.uid)))
    return steps


def _last_capabilities(spec: Sandbox) -> list[Step]:
    if spec.capabilities is not None:
        sets = spec.capabilities
        text = f"set permitted to {sets.permitted:#x} and effective to {sets.effective:#x}"
        return [Step(text, partial(confine.capset, sets.effective, sets.permitted, sets.inheritable))]
    if spec.uid:  # what setresuid does by itself to a process that gives up uid 0
        return [Step("give up every capability", lambda: confine.capset(0, 0, confine.capget()[2]))]
    return []


def _enter_landlock_domain() -> None:
    """One layer that refuses as little as it can: making block devices (and what every domain refuses)."""
    ruleset = confine.landlock_create_ruleset(confine.LANDLOCK_ACCESS_FS_MAKE_BLOCK)
    try:
        confine.landlock_restrict_self(ruleset)
    finally:
        os.close(ruleset)

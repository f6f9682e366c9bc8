"""From a profile as people write it to the rules that a runtime loads, and the program it makes of them.

Pure. Sources: moby profiles/seccomp/seccomp_linux.go (``setupSeccomp``: ``includes``, ``excludes``, ``archMap``; the
same in containers/common pkg/seccomp), runc libcontainer/seccomp/seccomp_linux.go (``matchCall``) and
libcontainer/seccomp/patchbpf/enosys_linux.go (``generateEnosysStub``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from safedlv.seccomp import answers, bpf
from safedlv.seccomp.bpf import Instruction, Program
from safedlv.seccomp.profile import PERMISSIVE, Profile, Rule, checked_rules, rule_names

ACTIONS: Final = {
    "SCMP_ACT_KILL": answers.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": answers.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": answers.KILL_PROCESS,
    "SCMP_ACT_TRAP": answers.TRAP,
    "SCMP_ACT_ERRNO": answers.ERRNO,
    "SCMP_ACT_TRACE": answers.TRACE,
    "SCMP_ACT_ALLOW": answers.ALLOW,
    "SCMP_ACT_LOG": answers.LOG,
    "SCMP_ACT_NOTIFY": answers.USER_NOTIF,
}
COMPARISONS: Final = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
"""enum scmp_compare of seccomp.h."""
_EPERM: Final = 1
X32_BIT: Final = 0x40000000
_ENOSYS: Final = answers.ERRNO | 38
_X86_64: Final = 0xC000003E
_KERNEL: Final = re.compile(r"(\d+)\.(\d+)")


class Machine(NamedTuple):
    """Where the filter will be loaded."""

    arch: str
    """As profiles call it in ``includes``: the name of libseccomp's API, for example ``amd64``."""
    profile_arch: str
    """As ``architectures`` and ``archMap`` call it, for example ``SCMP_ARCH_X86_64``."""
    kernel: tuple[int, int]


MACHINES: Final = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
}
"""uname(2)'s machine to the two names."""


def machine(name: str, release: str) -> Machine:
    """From uname(2). Raises ValueError for one that profiles have no name for."""
    found = _KERNEL.match(release)
    if name not in MACHINES or found is None:
        raise ValueError(f"profiles have no name for a machine {name} with the kernel {release}")
    return Machine(*MACHINES[name], (int(found[1]), int(found[2])))


class Added(NamedTuple):
    """One rule as it is handed to libseccomp; the conditions hold together."""

    name: str
    action: int
    conditions: tuple[tuple[int, int, int, int], ...]
    """(argument, comparison, value, second value)."""


class Rules(NamedTuple):
    """What a runtime hands to libseccomp."""

    default: int
    architectures: tuple[str, ...]
    """SCMP_ARCH_*; the machine's own is always there besides."""
    added: tuple[Added, ...]
    named: tuple[str, ...]
    """All calls that the profile names for this container."""


def rules(profile: Profile, where: Machine, capabilities: frozenset[str]) -> Rules:
    """The rules that remain of a profile for a container with these capabilities (``CAP_KILL``) in its bounding set.

    Raises ValueError when it is no profile, or one that runtimes refuse.
    """
    kept = [rule for rule in checked_rules(profile) if _is_for(rule, where, capabilities)]
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    added = [one for rule in kept for one in _added(rule) if one.action != default]
    named = tuple(dict.fromkeys(name for rule in kept for name in rule_names(rule)))
    return Rules(default, _architectures(profile, where), tuple(added), named)


def _architectures(profile: Profile, where: Machine) -> tuple[str, ...]:
    plain, mapped = profile.get("architectures") or [], profile.get("archMap") or []
    if plain and mapped:
        raise ValueError("it has both architectures and archMap, and engines take one of them")
    found = [entry for entry in mapped if entry.get("architecture") == where.profile_arch]
    beside = [name for entry in found[:1] for name in [entry["architecture"], *(entry.get("subArchitectures") or [])]]
    return tuple(str(name) for name in [*plain, *beside])


def _is_for(rule: Rule, where: Machine, capabilities: frozenset[str]) -> bool:
    excludes, includes = rule.get("excludes") or {}, rule.get("includes") or {}
    if where.arch in (excludes.get("arches") or []) or capabilities & set(excludes.get("caps") or []):
        return False
    if excludes.get("minKernel") and where.kernel >= _kernel(excludes["minKernel"]):
        return False
    if includes.get("arches") and where.arch not in includes["arches"]:
        return False
    if not set(includes.get("caps") or []) <= capabilities:
        return False
    return not includes.get("minKernel") or where.kernel >= _kernel(includes["minKernel"])


def _kernel(text: object) -> tuple[int, int]:
    found = _KERNEL.fullmatch(str(text))
    if found is None:
        raise ValueError(f"minKernel is two numbers with a dot between, not {text}")
    return int(found[1]), int(found[2])


def _action(name: str, errno_return: Any) -> int:
    if name not in ACTIONS:
        raise ValueError(f"there is no action {name}")
    action = ACTIONS[name]
    if action not in (answers.ERRNO, answers.TRACE):
        return action
    return action | (_EPERM if errno_return is None else int(errno_return)) & answers.DATA


def _added(rule: Rule) -> Iterator[Added]:
    """Two conditions on one argument count as two rules (runc's "old behavior")."""
    action = _action(rule["action"], rule.get("errnoRet"))
    conditions = tuple(map(_condition, rule.get("args") or []))
    alternatives = len({condition[0] for condition in conditions}) < len(conditions)
    for name in rule_names(rule):
        for together in ((one,) for one in conditions) if alternatives else (conditions,):
            yield Added(name, action, tuple(together))


def _condition(arg: Mapping[str, Any]) -> tuple[int, int, int, int]:
    comparison = COMPARISONS.get(str(arg.get("op")))
    index = int(arg.get("index", 0))
    if comparison is None or not 0 <= index <= 5:
        raise ValueError(f"it has a condition that is none: {arg}")
    return index, comparison, int(arg.get("value", 0)), int(arg.get("valueTwo", 0))


# ---------------------------------------------------------------- ENOSYS for what the profile is too old to know


def enosys_stub(found: Rules, architectures: Iterable[str], number: Callable[[str, str], int | None]) -> Program:
    """What runc puts before libseccomp's program: calls with a higher number than any that is named get ENOSYS.

    ``architectures``: names of libseccomp's (``x86_64``), the machine's own among them; ``number``: architecture and
    name to number, None for a call that it has not. Empty where the default lets calls pass.
    """
    if answers.profile_action(found.default)[0] in (*PERMISSIVE, "SCMP_ACT_TRACE"):
        return ()
    last: dict[int, dict[str, int]] = {}
    for arch in architectures:
        numbers = [one for name in found.named if (one := number(arch, name)) is not None and one > 0]
        if numbers and arch in AUDIT:
            last.setdefault(AUDIT[arch], {})[arch] = max(numbers)
    sections = {audit: _section(highest) for audit, highest in last.items()}
    return _joined(sections)


AUDIT: Final = {
    "x86": 0x40000003,
    "x86_64": _X86_64,
    "x32": _X86_64,
    "arm": 0x40000028,
    "aarch64": 0xC00000B7,
    "riscv64": 0xC00000F3,
    "ppc64le": 0xC0000015,
    "s390": 0x00000016,
    "s390x": 0x80000016,
}
"""AUDIT_ARCH_* (include/uapi/linux/audit.h) of the machines that containers run on."""


def _section(highest: Mapping[str, int]) -> list[Instruction]:
    """Ends with ENOSYS, or falls through to what follows."""
    refuse = Instruction(bpf.RET, 0, 0, _ENOSYS)
    load = Instruction(bpf.LD, 0, 0, bpf.NR)
    if "s390" in highest or "s390x" in highest:
        return [load, Instruction(bpf.JEQ, 1, 0, 0), Instruction(bpf.JGT, 0, 1, max(highest.values())), refuse]
    if not {"x86_64", "x32"} & set(highest):
        return [load, Instruction(bpf.JGT, 0, 1, max(highest.values())), refuse]
    return [
        load,
        Instruction(bpf.JSET, 1, 0, X32_BIT),
        Instruction(bpf.JGT, 1, 2, highest["x86_64"]) if "x86_64" in highest else Instruction(bpf.JA, 0, 0, 2),
        Instruction(bpf.JGT, 0, 1, highest["x32"]) if "x32" in highest else Instruction(bpf.JA, 0, 0, 1),
        refuse,
    ]


def _joined(sections: Mapping[int, list[Instruction]]) -> Program:
    """Each section behind a test of its architecture."""
    made: list[Instruction] = []
    for audit, section in sections.items():
        made += [Instruction(bpf.LD, 0, 0, bpf.ARCH), Instruction(bpf.JEQ, 0, len(section), audit), *section]
    return tuple(made)

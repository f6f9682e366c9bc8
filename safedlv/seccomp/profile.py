"""Seccomp profiles in JSON, as Docker, podman and the OCI runtimes read them: the same profile, and dlv works under it.

Pure: takes the document, returns another. What a profile means is moby profiles/seccomp/seccomp_linux.go (``includes``
and ``excludes``) and runc libcontainer/seccomp/seccomp_linux.go (a rule whose action is the default's is skipped; two
conditions on one argument count as two rules, so each condition here has a rule of its own). A call that two rules
name, one that refuses and one that allows, is left to libseccomp's taste; so refusals are taken out, not outvoted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any, Final

Profile = dict[str, Any]
Rule = dict[str, Any]

PTRACE_REQUESTS: Final = {
    "PEEKDATA": 2,
    "PEEKUSER": 3,
    "POKEDATA": 5,
    "POKEUSER": 6,
    "CONT": 7,
    "SINGLESTEP": 9,
    "GETREGS": 12,
    "SETREGS": 13,
    "GETFPREGS": 14,
    "ATTACH": 16,
    "DETACH": 17,
    "SETOPTIONS": 0x4200,
    "GETEVENTMSG": 0x4201,
    "GETSIGINFO": 0x4202,
    "GETREGSET": 0x4204,
    "SETREGSET": 0x4205,
}
"""What dlv asks of ptrace (pkg/proc/native of 1.20 and 1.27, and seen with strace in sessions of both); GETSIGINFO is
what safedlv's probe asks besides. GETREGS and SETREGS are amd64's; arm64 uses the regsets."""

TO_START: Final = {"TRACEME": 0}
"""What a dlv asks besides that starts its target (exec), in the process that becomes it."""
CALLS_TO_START: Final = ("setpgid",)

OTHER_REQUESTS: Final = (
    *(0, 1, 4, 8, 15, 18, 19, 24, 25, 26, 30, 31, 32, 33, 0x4203),
    *range(0x4206, 0x4213),
)
"""All other requests that the kernel knows on x86_64 and aarch64 (include/uapi/linux/ptrace.h, asm/ptrace-abi.h)."""

OTHER_NAMES: Final = {
    "PEEKTEXT": 1,
    "POKETEXT": 4,
    "KILL": 8,
    "SYSCALL": 24,
    "SETSIGINFO": 0x4203,
    "SEIZE": 0x4206,
    "INTERRUPT": 0x4207,
    "LISTEN": 0x4208,
    "PEEKSIGINFO": 0x4209,
    "GETSIGMASK": 0x420A,
    "SETSIGMASK": 0x420B,
    "SECCOMP_GET_FILTER": 0x420C,
    "SECCOMP_GET_METADATA": 0x420D,
    "GET_SYSCALL_INFO": 0x420E,
}
"""What those are called that are the same on every architecture."""

DLV_CALLS: Final = (
    *("ptrace", "process_vm_readv", "wait4", "waitid", "tgkill", "kill"),
    *(
        "openat",
        "read",
        "write",
        "pread64",
        "close",
        "lseek",
        "fcntl",
        "fstat",
        "newfstatat",
        "readlinkat",
        "getdents64",
    ),
    *("access", "faccessat", "ioctl", "dup3", "pipe2", "poll", "ppoll", "eventfd2", "chdir", "uname"),
    *("epoll_create1", "epoll_ctl", "epoll_pwait"),
    *("socket", "bind", "listen", "accept4", "connect", "getsockname", "setsockopt"),
    *("mmap", "munmap", "mprotect", "madvise", "brk"),
    *("futex", "nanosleep", "sched_yield", "sched_getaffinity", "restart_syscall", "getrandom"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack"),
    *("clone", "execve", "exit", "exit_group", "set_robust_list", "set_tid_address", "rseq", "arch_prctl"),
    *("prctl", "prlimit64", "setsid", "getpid", "gettid", "getuid", "geteuid", "getgid", "getegid"),
)
"""The calls seen with strace in sessions of dlv 1.20 and 1.27 (attach, breakpoint, step, watchpoint, dump, headless),
and their names on aarch64. Not among them, since dlv does without: bpf, pidfd_open, pidfd_send_signal, faccessat2, and
clone3, whose arguments a filter cannot see: Docker answers it with ENOSYS, so that clone is used."""

SOCKETS_OF_DLV: Final = {"socket": (1, 2, 10)}
"""The families of the sockets that dlv makes: AF_UNIX, AF_INET, AF_INET6."""

PERMISSIVE: Final = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
COMMENT: Final = "added by safedlv: what dlv needs"

_NUMBERS: Final = ("index", "value", "valueTwo")
_COMPARISONS: Final[dict[str, Callable[[int, int, int], bool]]] = {
    "SCMP_CMP_NE": lambda value, operand, _: value != operand,
    "SCMP_CMP_LT": lambda value, operand, _: value < operand,
    "SCMP_CMP_LE": lambda value, operand, _: value <= operand,
    "SCMP_CMP_EQ": lambda value, operand, _: value == operand,
    "SCMP_CMP_GE": lambda value, operand, _: value >= operand,
    "SCMP_CMP_GT": lambda value, operand, _: value > operand,
    "SCMP_CMP_MASKED_EQ": lambda value, mask, operand: value & mask == operand,
}


def allowing_dlv(profile: Profile, *, starts: bool = False) -> Profile:
    """The same profile, and nothing of what dlv needs refused. The document given is left as it is.

    ``starts``: a dlv that starts its target, not one that attaches alone.

    Where the profile allows what it does not name, ptrace stays refused for every request that dlv does not make;
    where it refuses that, exactly dlv's requests are allowed. Raises ValueError when it is no profile.
    """
    rules = checked_rules(profile)
    allows = profile["defaultAction"] in PERMISSIVE
    made = deepcopy(profile)
    requests = PTRACE_REQUESTS | TO_START if starts else PTRACE_REQUESTS
    calls = DLV_CALLS + CALLS_TO_START if starts else DLV_CALLS
    kept = [kept for rule in rules for kept in _without_refusals(rule, requests, calls, allows_the_rest=allows)]
    made["syscalls"] = kept if allows else [*kept, *_missing(kept, requests, calls)]
    return made


def checked_rules(profile: Profile) -> list[Rule]:
    """The rules of a profile. Raises ValueError when it is none."""
    if not isinstance(profile, dict) or not isinstance(profile.get("defaultAction"), str):
        raise ValueError("it is no seccomp profile: it has no defaultAction")
    rules = profile.get("syscalls") or []
    if not isinstance(rules, list) or not all(map(_is_rule, rules)):
        raise ValueError("it is no seccomp profile: its syscalls are not a list of rules")
    return rules


def _is_rule(rule: object) -> bool:
    if not isinstance(rule, dict) or not isinstance(rule.get("action"), str):
        return False
    names, args = rule.get("names") or [], rule.get("args") or []
    return (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and isinstance(args, list)
        and all(isinstance(arg, dict) and all(isinstance(arg.get(key, 0), int) for key in _NUMBERS) for arg in args)
        and isinstance(rule.get("includes") or {}, dict)
    )


def rule_names(rule: Rule) -> list[str]:
    """The calls that a rule is about. ``name`` is how Docker wrote it before 1.13."""
    return list(rule.get("names") or ([rule["name"]] if rule.get("name") else []))


# ---------------------------------------------------------------- refusals taken out


def _without_refusals(
    rule: Rule, requests: dict[str, int], calls: tuple[str, ...], *, allows_the_rest: bool
) -> Iterator[Rule]:
    """What remains of a rule."""
    if rule["action"] in PERMISSIVE:
        yield deepcopy(rule)
        return
    names = rule_names(rule)
    others = [name for name in names if name not in calls]
    args = rule.get("args")
    if args:  # a refusal of other arguments than dlv's may stay
        others += [name for name in names if name in SOCKETS_OF_DLV and not _concerns(args, SOCKETS_OF_DLV[name])]
    if others:
        yield _like(rule, others)
    if "ptrace" not in names:
        return
    if not args:
        if allows_the_rest:
            refused = [number for number in OTHER_REQUESTS if number not in requests.values()]
            yield from (_like(rule, ["ptrace"], _request(number)) for number in refused)
    elif not _concerns(args, requests.values()):
        yield _like(rule, ["ptrace"])


def _like(rule: Rule, names: list[str], *args: dict[str, Any]) -> Rule:
    made = {key: value for key, value in deepcopy(rule).items() if key not in ("name", "names")}
    return {"names": names, **made, **({"args": list(args)} if args else {})}


def _concerns(args: list[dict[str, Any]], values: Iterable[int]) -> bool:
    """Whether conditions may hold for one of these first arguments."""
    return any(_may_match(args, value) for value in values)


def _may_match(args: list[dict[str, Any]], request: int) -> bool:
    """Whether conditions may hold for a request; what the other arguments will be is not known."""
    on_request = [arg for arg in args if arg.get("index", 0) == 0]
    alternatives = len(args) > len({arg.get("index", 0) for arg in args})  # then each is a rule of its own, see above
    if len(on_request) < len(args) and (alternatives or not on_request):
        return True
    return any(_holds(arg, request) for arg in on_request)


def _holds(arg: dict[str, Any], value: int) -> bool:
    compare = _COMPARISONS.get(str(arg.get("op")))
    return compare is None or compare(value, int(arg.get("value", 0)), int(arg.get("valueTwo", 0)))


def _request(number: int) -> dict[str, Any]:
    return {"index": 0, "value": number, "op": "SCMP_CMP_EQ"}


# ---------------------------------------------------------------- permissions added


def _missing(rules: list[Rule], requests: dict[str, int], wanted: tuple[str, ...]) -> Iterator[Rule]:
    """Rules that allow what no rule allows yet: the calls, and ptrace request by request."""
    allowing = [rule for rule in rules if rule["action"] in PERMISSIVE and not (rule.get("includes") or {}).get("caps")]
    # A call that is allowed for some arguments (clone without namespaces, socket but for some families) is enough.
    allowed = {name for rule in allowing for name in rule_names(rule)}
    calls = [name for name in wanted if name not in allowed and name != "ptrace"]
    if calls:
        yield {"names": calls, "action": "SCMP_ACT_ALLOW", "comment": COMMENT}
    conditions = [rule.get("args") or [] for rule in allowing if "ptrace" in rule_names(rule)]
    for name, number in requests.items():
        if not any(not args or _certainly_matches(args, number) for args in conditions):
            comment = f"{COMMENT}: PTRACE_{name}"
            yield {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "args": [_request(number)], "comment": comment}


def _certainly_matches(args: list[dict[str, Any]], request: int) -> bool:
    return all(arg.get("index", 0) == 0 and arg.get("op") in _COMPARISONS for arg in args) and any(
        _holds(arg, request) for arg in args
    )

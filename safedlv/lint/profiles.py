"""A seccomp profile judged: what of dlv's it refuses, by which rule, and the edits that end it. Pure.

What dlv needs, and how a profile has to change, is :mod:`safedlv.seccomp.profile`; a difference between a profile and
what that makes of it is a refusal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from typing import Any, Final

from attrs import frozen

from safedlv.errors import printable
from safedlv.lint.tree import Node, TornError, get, items, read_json
from safedlv.lint.values import Add, Edit, Put, Take
from safedlv.seccomp.profile import PERMISSIVE, PTRACE_REQUESTS, Profile, Rule, allowing_dlv

NEEDED: Final = frozenset(
    (
        *("ptrace", "wait4", "tgkill", "kill", "clone", "futex", "exit_group", "mmap", "mprotect"),
        *("openat", "read", "write", "pread64", "close", "fcntl", "newfstatat", "getdents64"),
        *("eventfd2", "epoll_create1", "epoll_ctl", "epoll_pwait"),
        *("socket", "bind", "listen", "accept4", "getsockname", "setsockopt"),
        *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack"),
    )
)
"""Of the calls that dlv makes, those it cannot do without: each was refused with EPERM, alone, for a headless dlv 1.27
that attached, met a breakpoint, stepped and went on. clone is needed where clone3 is refused, as Docker does."""
REQUESTS_WITHOUT: Final = frozenset({"GETSIGINFO", "PEEKUSER", "POKEUSER"})
"""ptrace requests that only safedlv's probe makes, or only watchpoints need."""
_REQUESTS: Final = {number: name for name, number in PTRACE_REQUESTS.items()}
_DARK: Final = "SCMP_ACT_NOTIFY"
NAMED_AT_MOST: Final = 4


@frozen
class Refusal:
    """What one rule refuses, or what no rule allows."""

    place: int | None
    """The rule's; None: the default action does it."""
    action: str
    calls: tuple[str, ...]
    requests: tuple[str, ...]
    """Of ptrace; () where ptrace is refused as a whole or not at all."""

    @property
    def words(self) -> str:
        """The calls, ptrace's requests with them."""
        calls = [call for call in self.calls if call != "ptrace" or not self.requests]
        named = [f"PTRACE_{name}" for name in self.requests] + calls
        more = len(named) - NAMED_AT_MOST
        return ", ".join(named[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def read_profile(text: str) -> Profile:
    """The document. Raises TornError when it is no profile."""
    try:
        document = json.loads(text)
        allowing_dlv(document)
    except json.JSONDecodeError as error:
        raise TornError(f"it is no JSON: {error.msg}", error.lineno) from error
    except (ValueError, RecursionError) as error:
        raise TornError(printable(str(error)), 1) from error
    assert isinstance(document, dict)
    return document


def is_profile(document: Node) -> bool:
    return get(document, "defaultAction") is not None


def refusals(profile: Profile, holds: Callable[[str], bool]) -> tuple[Refusal, ...]:
    """What of dlv's needs is refused in a container whose root ``holds`` these capabilities."""
    rules = profile.get("syscalls") or []
    active = [(place, rule) for place, rule in enumerate(rules) if _is_active(rule, holds)]
    found = [refusal for place, rule in active if (refusal := _by_rule(place, rule))]
    plain = [{**rule, "includes": {}} for _, rule in active]
    return tuple(refusal for refusal in (*found, _by_default(profile, plain)) if refusal is not None)


def _is_active(rule: Rule, holds: Callable[[str], bool]) -> bool:
    """Whether Docker takes the rule for such a container (moby profiles/seccomp/seccomp_linux.go)."""

    def names(which: str, key: str) -> list[str]:
        return [str(name) for name in (rule.get(which) or {}).get(key) or []]

    ours = {"amd64", "arm64"}
    arches = names("includes", "arches")
    return (
        all(holds(name.removeprefix("CAP_")) for name in names("includes", "caps"))
        and not any(holds(name.removeprefix("CAP_")) for name in names("excludes", "caps"))
        and (not arches or bool(ours & set(arches)))
        and not ours <= set(names("excludes", "arches"))
    )


def _by_rule(place: int, rule: Rule) -> Refusal | None:
    """What a rule that does not allow takes from dlv."""
    alone = {"defaultAction": PERMISSIVE[0], "syscalls": [rule]}
    if rule["action"] in PERMISSIVE or allowing_dlv(alone)["syscalls"] == [rule]:
        return None
    names = rule.get("names") or [rule.get("name")]
    calls = tuple(call for call in names if call in NEEDED)
    requests = tuple(_requests(rule)) if "ptrace" in calls else ()
    if rule.get("args") and "ptrace" in calls and requests and set(requests) <= REQUESTS_WITHOUT:
        calls = tuple(call for call in calls if call != "ptrace")
        requests = ()
    return Refusal(place, rule["action"], calls, requests) if calls else None


def _requests(rule: Rule) -> Iterator[str]:
    """The requests of dlv's that a rule names one by one; conditions of other kinds are not taken apart."""
    for arg in rule.get("args") or []:
        if arg.get("index", 0) == 0 and arg.get("op") == "SCMP_CMP_EQ" and arg.get("value") in _REQUESTS:
            yield _REQUESTS[arg["value"]]


def _by_default(profile: Profile, plain: list[Rule]) -> Refusal | None:
    """What no rule allows, where the default action refuses."""
    if profile["defaultAction"] in PERMISSIVE:
        return None
    permissive = [rule for rule in plain if rule["action"] in PERMISSIVE]
    made = allowing_dlv({"defaultAction": profile["defaultAction"], "syscalls": permissive})["syscalls"]
    added = made[len(permissive) :]
    calls = tuple(name for rule in added for name in rule["names"] if name in NEEDED and name != "ptrace")
    requests = tuple(name for rule in added for name in _requests(rule) if name not in REQUESTS_WITHOUT)
    if not calls and not requests:
        return None
    whole = not any("ptrace" in (rule.get("names") or [rule.get("name")]) for rule in permissive)
    calls = (*(("ptrace",) if requests else ()), *calls)
    return Refusal(None, profile["defaultAction"], calls, () if whole else requests)


# ---------------------------------------------------------------- in words


def line_of(tree: Node, place: int | None) -> int:
    """Where a rule, or the default action, stands."""
    if place is not None:
        return items(get(tree, "syscalls"))[place].line
    found = get(tree, "defaultAction")
    return found.line if found is not None else tree.line


def consequence(action: str) -> str:
    """What the caller gets (libseccomp, seccomp_rule_add(3))."""
    if action == "SCMP_ACT_TRACE":
        return "fail with ENOSYS"
    if action in ("SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"):
        return "kill the debugger"
    if action == _DARK:
        return "wait for whatever listens to the filter"
    return "fail"


def is_undecided(refusal: Refusal) -> bool:
    """A program beside the container decides (SECCOMP_RET_USER_NOTIF)."""
    return refusal.action == _DARK


# ---------------------------------------------------------------- mended


def mended(profile: Profile) -> str:
    """The text of a profile like this one under which dlv works."""
    return json.dumps(allowing_dlv(profile), indent=2) + "\n"


def edits(profile: Profile) -> tuple[Edit, ...]:
    """The same as edits of the profile's own text: rules changed, taken away, added."""
    before, after = list(profile.get("syscalls") or []), list(allowing_dlv(profile)["syscalls"])
    if not before:
        return (Put((0, "syscalls"), after),)
    taken: list[Edit] = []
    others: list[Edit] = []
    for what, start, end, new_start, new_end in SequenceMatcher(
        a=[_key(rule) for rule in before], b=[_key(rule) for rule in after], autojunk=False
    ).get_opcodes():
        if what == "equal":
            continue
        paired = min(end - start, new_end - new_start)
        others += [Put((0, "syscalls", start + i), after[new_start + i]) for i in range(paired)]
        taken += [Take((0, "syscalls", place)) for place in range(start + paired, end)]
        others += [Add((0, "syscalls"), rule) for rule in after[new_start + paired : new_end]]
    return (*others, *reversed(taken))


def _key(rule: Any) -> str:
    return json.dumps(rule, sort_keys=True)


def tree_of(text: str) -> Node:
    """The places of a profile's values."""
    return read_json(text)

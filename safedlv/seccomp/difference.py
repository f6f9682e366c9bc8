"""What differs between two profiles, call by call, in words.

Pure, and of the documents alone: two calls with the same rules are answered alike whatever the runtime makes of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from safedlv.seccomp.answers import errno_name
from safedlv.seccomp.profile import Profile, Rule, checked_rules, rule_names
from safedlv.seccomp.rules_text import VALUES

_ACTIONS: Final = {
    "SCMP_ACT_ALLOW": "allowed",
    "SCMP_ACT_LOG": "allowed and logged",
    "SCMP_ACT_TRAP": "answered with SIGSYS",
    "SCMP_ACT_NOTIFY": "left to a supervisor",
    "SCMP_ACT_TRACE": "left to a tracer",
    "SCMP_ACT_KILL": "killing the thread",
    "SCMP_ACT_KILL_THREAD": "killing the thread",
    "SCMP_ACT_KILL_PROCESS": "killing the process",
}
_COMPARISONS: Final = {
    "SCMP_CMP_EQ": "is",
    "SCMP_CMP_NE": "is not",
    "SCMP_CMP_LT": "is less than",
    "SCMP_CMP_LE": "is at most",
    "SCMP_CMP_GT": "is more than",
    "SCMP_CMP_GE": "is at least",
}
_SHORT: Final = 60
_SAID_OTHERWISE: Final = ("syscalls", "defaultAction", "defaultErrnoRet", "defaultErrno")


class Difference(NamedTuple):
    """One call, or one of the profile's other settings."""

    what: str
    before: str
    after: str

    def in_words(self) -> str:
        return f"{self.what}: {self.before}; now {self.after}"


def differences(before: Profile, after: Profile) -> tuple[Difference, ...]:
    """What changed, the default first. Raises ValueError for what is no profile."""
    one, other = _by_call(before), _by_call(after)
    found: list[Difference] = []
    defaults = (_default(before), _default(after))
    if defaults[0] != defaults[1]:
        found.append(Difference("all that is not named", *defaults))
    for key in sorted((set(before) | set(after)) - set(_SAID_OTHERWISE)):
        if before.get(key) != after.get(key):
            found.append(Difference(f"the setting {key}", _setting(before.get(key)), _setting(after.get(key))))
    for call in sorted(set(one) | set(other)):
        if sorted(map(repr, one.get(call, []))) != sorted(map(repr, other.get(call, []))):
            said = [
                _said(call, rules.get(call, []), default) for rules, default in zip((one, other), defaults, strict=True)
            ]
            if said[0] != said[1]:
                found.append(Difference(call, *said))
    return tuple(found)


def _setting(value: Any) -> str:
    """Short settings as they are; of the map of architectures only that it is another one."""
    text = "not there" if value is None else str(value)
    return text if len(text) <= _SHORT else f"a list of {len(value)}" if isinstance(value, list) else "something longer"


def _by_call(profile: Profile) -> dict[str, list[Rule]]:
    """The rules of each call, without what is for people only, and each of them once."""
    found: dict[str, list[Rule]] = {}
    for rule in checked_rules(profile):
        bare = {key: value for key, value in rule.items() if key not in ("names", "name", "comment") and value}
        for name in rule_names(rule):
            if bare not in found.setdefault(name, []):
                found[name].append(bare)
    return found


def _default(profile: Profile) -> str:
    return _action(profile["defaultAction"], profile.get("defaultErrnoRet"))


def _action(name: str, errno_return: Any) -> str:
    if name != "SCMP_ACT_ERRNO":
        return _ACTIONS.get(name, name)
    return f"refused with {errno_name(1 if errno_return is None else int(errno_return))}"


def _said(call: str, rules: list[Rule], default: str) -> str:
    """All rules of one call; those with one answer together."""
    if not rules:
        return f"{default}, as all that is not named"
    by_answer: dict[str, list[str]] = {}
    for rule in rules:
        by_answer.setdefault(_action(rule["action"], rule.get("errnoRet")), []).append(
            "".join(_when(call, rule)).strip()
        )
    said = [
        answer if "" in conditions else f"{answer} {_short(conditions)}" for answer, conditions in by_answer.items()
    ]
    always = any("" in conditions for conditions in by_answer.values())
    return "; ".join(said if always else [*said, f"else {default}"])


def _short(conditions: list[str]) -> str:
    """``if argument 0 is A, B`` for the two conditions ``if argument 0 is A`` and ``if argument 0 is B``."""
    start = "if argument 0 is "
    values = [one.removeprefix(start) for one in conditions if one.startswith(start) and " " not in one[len(start) :]]
    others = [one for one in conditions if one.removeprefix(start) not in values]
    return " or ".join([*others, *([start + ", ".join(values)] if values else [])])


def _when(call: str, rule: Rule) -> Iterator[str]:
    args = rule.get("args") or []
    alternatives = len({arg.get("index", 0) for arg in args}) < len(args)
    if args:
        yield "if " + (" or " if alternatives else " and ").join(_condition(call, arg) for arg in args)
    for key, word in (("includes", "with"), ("excludes", "without")):
        yield from (f" {word} {_place(kind, values)}" for kind, values in (rule.get(key) or {}).items() if values)


def _condition(call: str, arg: Mapping[str, Any]) -> str:
    index, value = int(arg.get("index", 0)), int(arg.get("value", 0))
    if arg.get("op") == "SCMP_CMP_MASKED_EQ":
        return f"argument {index} & {value:#x} is {int(arg.get('valueTwo', 0)):#x}"
    called = VALUES.get(call, {}).get(index, {}).get(value, f"{value:#x}")
    return f"argument {index} {_COMPARISONS.get(str(arg.get('op')), str(arg.get('op')))} {called}"


def _place(kind: str, values: Any) -> str:
    words = ", ".join(sorted(map(str, values))) if isinstance(values, list) else str(values)
    return {"caps": words, "arches": f"the architecture {words}", "minKernel": f"a kernel from {words} on"}.get(
        kind, words
    )

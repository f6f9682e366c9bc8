"""A profile made for dlv: what dlv needs is allowed, and all else is answered as before."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedlv.seccomp.profile import DLV_CALLS, OTHER_REQUESTS, PTRACE_REQUESTS, Profile, allowing_dlv
from tests.support import ROOT

DOCKER = json.loads((ROOT / "safedlv" / "seccomp" / "docker-default.json").read_text())
OTHERS = ("mount", "reboot", "init_module")
ACTIONS = ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY")
REQUESTS = (*PTRACE_REQUESTS.values(), *OTHER_REQUESTS)


def allowed(profile: Profile, call: str, *arguments: int) -> bool:
    """What runc and libseccomp make of a profile whose rules do not contradict each other."""
    answers = {rule["action"] for rule in profile["syscalls"] if call in rule["names"] and matches(rule, arguments)}
    return (answers or {profile["defaultAction"]}) <= {"SCMP_ACT_ALLOW", "SCMP_ACT_LOG"}


def matches(rule: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    includes = rule.get("includes") or {}
    if includes.get("caps") or "amd64" not in includes.get("arches", ["amd64"]):
        return False
    held = [holds(arg, arguments[arg["index"]] if arg["index"] < len(arguments) else 0) for arg in rule.get("args", [])]
    alternatives = len({arg["index"] for arg in rule.get("args", [])}) < len(held)
    return not held or (any(held) if alternatives else all(held))


def holds(arg: dict[str, Any], value: int) -> bool:
    answers: dict[str, bool] = {
        "SCMP_CMP_EQ": value == arg["value"],
        "SCMP_CMP_NE": value != arg["value"],
        "SCMP_CMP_LT": value < arg["value"],
        "SCMP_CMP_GE": value >= arg["value"],
        "SCMP_CMP_MASKED_EQ": value & arg["value"] == arg.get("valueTwo", 0),
    }
    return answers[arg["op"]]


def only(action: str, *rules: dict[str, Any]) -> Profile:
    return {"defaultAction": action, "syscalls": list(rules)}


def refusing_request(number: int) -> dict[str, Any]:
    args = [{"index": 0, "value": number, "op": "SCMP_CMP_EQ"}]
    return {"names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "args": args}


def test_dockers_own_profile_has_all_that_dlv_needs() -> None:
    assert allowing_dlv(DOCKER) == DOCKER


def test_docker_before_ptrace_was_allowed() -> None:
    """As Docker's was before 19.03, and podman's: ptrace is only for CAP_SYS_PTRACE."""
    old = deepcopy(DOCKER)
    old["syscalls"] = [rule for rule in old["syscalls"] if rule.get("includes") != {"minKernel": "4.8"}]
    made = allowing_dlv(old)
    added = made["syscalls"][len(old["syscalls"]) :]
    assert made["syscalls"][: len(old["syscalls"])] == old["syscalls"]
    assert [rule["names"] for rule in added] == [["process_vm_readv"]] + [["ptrace"]] * len(PTRACE_REQUESTS)
    assert [rule["args"][0]["value"] for rule in added[1:]] == list(PTRACE_REQUESTS.values())


def test_ptrace_refused_by_a_list_of_refusals() -> None:
    """What dlv does not ask stays refused: another's filters, SEIZE, PTRACE_SYSCALL."""
    made = allowing_dlv(only("SCMP_ACT_ALLOW", {"names": ["ptrace", "mount"], "action": "SCMP_ACT_ERRNO"}))
    assert [request for request in REQUESTS if allowed(made, "ptrace", request)] == list(PTRACE_REQUESTS.values())
    assert not allowed(made, "mount")


def test_one_request_refused() -> None:
    assert allowing_dlv(only("SCMP_ACT_ALLOW", refusing_request(0x4200)))["syscalls"] == []
    seize = only("SCMP_ACT_ALLOW", refusing_request(0x4206))
    assert allowing_dlv(seize) == seize


def test_a_call_allowed_for_some_arguments_is_not_widened() -> None:
    """Docker lets clone pass without the flags that make namespaces; dlv needs none of them."""
    made = allowing_dlv(DOCKER)
    assert allowed(made, "clone", 0x50F00)
    assert not allowed(made, "clone", 0x10000000)


def test_all_that_is_not_a_rule_stays() -> None:
    given_one = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "archMap": [], "flags": ["x"], "syscalls": []}
    made = allowing_dlv(given_one)
    assert {**made, "syscalls": []} == given_one


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"defaultAction": 1},
        only("SCMP_ACT_ALLOW", {"names": 1, "action": "x"}),
        only("SCMP_ACT_ALLOW", {"names": ["x"], "action": "x", "args": [{"index": "x"}]}),
        {"defaultAction": "x", "syscalls": 1},
    ],
)
def test_what_is_no_profile(document: Any) -> None:
    with pytest.raises(ValueError, match="no seccomp profile"):
        allowing_dlv(document)


arguments = st.fixed_dictionaries(
    {
        "index": st.integers(0, 1),
        "value": st.sampled_from(REQUESTS),
        "op": st.sampled_from(["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_GE", "SCMP_CMP_MASKED_EQ"]),
    }
)
names = st.lists(st.sampled_from(["ptrace", "tgkill", "clone", "process_vm_readv", *OTHERS]), min_size=1, unique=True)
rules = st.fixed_dictionaries(
    {"names": names, "action": st.sampled_from(ACTIONS)},
    optional={"args": st.lists(arguments, max_size=2), "includes": st.just({"caps": ["CAP_SYS_PTRACE"]})},
)
profiles = st.builds(only, st.sampled_from(ACTIONS[:3]), st.lists(rules, max_size=5)).map(
    lambda profile: {**profile, "syscalls": [rule for sub in profile["syscalls"] for rule in sub]}
)


@given(profiles, st.integers(0, 0x4300))
def test_any_profile(profile: Profile, other: int) -> None:
    before = deepcopy(profile)
    made = allowing_dlv(profile)
    assert profile == before
    assert allowing_dlv(made) == made, "done twice is done once"
    for request in PTRACE_REQUESTS.values():
        assert allowed(made, "ptrace", request, other)
    for call in ("tgkill", "process_vm_readv"):
        assert [rule for rule in made["syscalls"] if call in rule["names"] and "ALLOW" not in rule["action"]] == [
            rule for rule in made["syscalls"] if call in rule["names"] and rule["action"] == "SCMP_ACT_LOG"
        ]
    for call in OTHERS:
        assert allowed(made, call, other, other) == allowed(before, call, other, other)
    added = [rule for rule in made["syscalls"] if rule not in before["syscalls"] and rule["action"] == "SCMP_ACT_ALLOW"]
    assert {name for rule in added for name in rule["names"]} <= set(DLV_CALLS)


def test_a_dlv_that_starts_its_target() -> None:
    """It asks TRACEME and sets a process group besides; all else stays refused."""
    denied = only("SCMP_ACT_ALLOW", {"names": ["ptrace", "mount", "setpgid"], "action": "SCMP_ACT_ERRNO"})
    for profile in (denied, only("SCMP_ACT_ERRNO")):
        made = allowing_dlv(profile, starts=True)
        requests = {request for request in REQUESTS if allowed(made, "ptrace", request)}
        assert requests == {0, *PTRACE_REQUESTS.values()}
        assert (allowed(made, "setpgid"), allowed(made, "mount")) == (True, False)
        assert not allowed(allowing_dlv(profile), "ptrace", 0)
    assert allowing_dlv(DOCKER, starts=True) == DOCKER

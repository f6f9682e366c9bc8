"""What is asked about dlv, what differs between profiles, and what a runtime makes of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safedlv.capabilities import CAPABILITIES
from safedlv.errors import SafedlvError, UsageError
from safedlv.seccomp import answers, bpf, oci
from safedlv.seccomp.difference import differences
from safedlv.seccomp.evaluate import Call, run
from safedlv.seccomp.profile import DLV_CALLS, PTRACE_REQUESTS, Profile, allowing_dlv
from safedlv.seccomp.program import AUDIT_ARCH, Refuse, assemble
from safedlv.seccomp.questions import asked, of_dlv
from safedlv.seccomp.rules import profile
from safedlv.seccomp_command import COMMANDS, HELP, seccomp
from safedlv.seccomp_source import DOCKERS_CAPABILITIES, SHIPPED, profile_of, shipped
from tests.support import ROOT

HERE = oci.Machine("amd64", "SCMP_ARCH_X86_64", (6, 1))
NO_CAPABILITIES: frozenset[str] = frozenset()


def test_the_questions_about_dlv() -> None:
    questions = of_dlv()
    needed = {one.call for one in questions if one.needed}
    assert needed == set(DLV_CALLS)
    requests = [one.arguments[0] for one in questions if one.call == "ptrace" and one.needed]
    assert requests == list(PTRACE_REQUESTS.values())
    assert {one.call for one in questions if not one.needed} == {"ptrace", "setpgid", "personality"}


@pytest.mark.parametrize(
    ("text", "call", "arguments"),
    [
        ("ptrace", "ptrace", ()),
        ("ptrace(16)", "ptrace", (16,)),
        ("ptrace(PTRACE_SEIZE, ?, 0)", "ptrace", (0x4206, None, 0)),
        ("clone(?, -1)", "clone", (None, (1 << 64) - 1)),
        ("socket(AF_INET6,0x1,)", "socket", (10, 1, None)),
        ("101()", "101", (None,)),
    ],
)
def test_a_call_as_it_is_written(text: str, call: str, arguments: tuple[int | None, ...]) -> None:
    found = asked(text)
    assert (found.call, found.arguments) == (call, arguments)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a call is a name"),
        ("ptrace(", "a call is a name"),
        ("a b", "a call is a name"),
        ("ptrace(x)", "not x"),
        ("ptrace(1,2,3,4,5,6,7)", "at most 6"),
        (f"ptrace({1 << 64})", "64 bits"),
    ],
)
def test_what_is_no_call(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        asked(text)


# ---------------------------------------------------------------- what a runtime makes of a profile


def rule(*names: str, action: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def only(*rules: dict[str, Any], action: str = "SCMP_ACT_ERRNO", **more: Any) -> Profile:
    return {"defaultAction": action, "syscalls": list(rules), **more}


def calls(profile: Profile, capabilities: frozenset[str] = NO_CAPABILITIES, machine: oci.Machine = HERE) -> set[str]:
    return {one.name for one in oci.rules(profile, machine, capabilities).added}


def test_rules_for_some_containers_only() -> None:
    """As moby's setupSeccomp decides."""
    document = only(
        rule("a"),
        rule("b", includes={"caps": ["CAP_X", "CAP_Y"]}),
        rule("c", excludes={"caps": ["CAP_X", "CAP_Z"]}),
        rule("d", includes={"arches": ["arm64"]}),
        rule("e", excludes={"arches": ["amd64"]}),
        rule("f", includes={"minKernel": "6.1"}),
        rule("g", includes={"minKernel": "6.2"}),
        rule("h", excludes={"minKernel": "4.8"}),
        rule("i", action="SCMP_ACT_ERRNO"),  # the default's
        {"name": "j", "action": "SCMP_ACT_LOG"},
    )
    assert calls(document) == {"a", "c", "f", "j"}
    assert calls(document, frozenset({"CAP_X"})) == {"a", "f", "j"}
    assert calls(document, frozenset({"CAP_X", "CAP_Y"})) == {"a", "b", "f", "j"}
    assert calls(document, machine=oci.Machine("arm64", "SCMP_ARCH_AARCH64", (4, 4))) == {"a", "c", "d", "e", "h", "j"}


def test_actions_architectures_and_conditions() -> None:
    args = [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_GT"}]
    twice = [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]
    where = [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}, {"architecture": "other"}]
    found = oci.rules(
        only(
            rule("a", args=args), rule("b", args=twice), rule("c", action="SCMP_ACT_ERRNO", errnoRet=38), archMap=where
        ),
        HERE,
        NO_CAPABILITIES,
    )
    assert found.default == answers.ERRNO | 1
    assert found.architectures == ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86")
    assert [(one.name, one.conditions) for one in found.added[:3]] == [
        ("a", ((0, 4, 1, 0), (1, 6, 2, 0))),
        ("b", ((0, 4, 1, 0),)),
        ("b", ((0, 4, 2, 0),)),
    ]
    assert found.added[3].action == answers.ERRNO | 38


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (only(action="SCMP_ACT_NOTHING"), "no action SCMP_ACT_NOTHING"),
        (only(rule("a", args=[{"index": 6, "op": "SCMP_CMP_EQ"}])), "a condition that is none"),
        (only(rule("a", args=[{"index": 0, "op": "="}])), "a condition that is none"),
        (only(rule("a", includes={"minKernel": "new"})), "two numbers"),
        (only(architectures=["SCMP_ARCH_X86"], archMap=[{"architecture": "x"}]), "both architectures and archMap"),
    ],
)
def test_what_a_runtime_refuses(document: Profile, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        oci.rules(document, HERE, NO_CAPABILITIES)


def test_calls_that_the_profile_is_too_old_to_know() -> None:
    """Higher numbers than any named get ENOSYS before libseccomp's program is reached, of each architecture its own."""
    numbers = {"x86_64": 300, "x86": 350, "x32": 0x40000000 + 220, "aarch64": 200}
    found = oci.Rules(answers.ERRNO | 1, (), (), ("last",))
    stub = oci.enosys_stub(found, numbers, lambda arch, _: numbers[arch])
    program = (*stub, bpf.Instruction(bpf.RET, 0, 0, answers.ALLOW))
    bpf.check(program)
    for arch, last in numbers.items():
        for number, wanted in ((last, answers.ALLOW), (last + 1, answers.ERRNO | 38), (1, answers.ALLOW)):
            call = Call(oci.AUDIT[arch], number | (last & 0x40000000))
            assert run(program, call.words())[0] == wanted, (arch, number)
    assert run(program, Call(1, 9999).words())[0] == answers.ALLOW, "another architecture is libseccomp's to answer"
    permissive = oci.Rules(answers.ALLOW, (), (), ("last",))
    assert oci.enosys_stub(permissive, numbers, lambda arch, _: numbers[arch]) == ()


# ---------------------------------------------------------------- the profiles of engines, and made from them


@pytest.mark.parametrize("engine", SHIPPED)
def test_shipped_profiles(engine: str) -> None:
    """Each is there with its licence, is a profile, and has what dlv needs."""
    document = shipped(engine)
    assert (ROOT / "safedlv" / "seccomp" / f"{engine}-default.LICENSE").read_text().count("Apache License") >= 1
    assert {"ptrace", "process_vm_readv", "clone"} <= calls(document)
    assert "reboot" not in calls(document) or engine == "podman"
    assert allowing_dlv(allowing_dlv(document)) == allowing_dlv(document)


def test_a_refusal_of_other_sockets_stays() -> None:
    """podman's refuses the audit's netlink socket, which is none of dlv's."""
    assert differences(shipped("podman"), allowing_dlv(shipped("podman"))) == ()
    refused = rule("socket", action="SCMP_ACT_ERRNO", args=[{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}])
    assert allowing_dlv(only(refused, action="SCMP_ACT_ALLOW"))["syscalls"] == []


def test_differences_in_words() -> None:
    before = only(rule("read", "write"), rule("x", includes={"caps": ["CAP_KILL"]}), flags=["A"])
    after = only(
        rule("write", "read", comment="the same"),
        rule("x"),
        rule("ptrace", args=[{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}]),
        rule("ptrace", args=[{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]),
        rule("y", action="SCMP_ACT_ERRNO", errnoRet=38),
        action="SCMP_ACT_KILL_PROCESS",
        flags=["B"],
    )
    refused = "refused with EPERM, as all that is not named"
    said = [one.in_words() for one in differences(before, after)]
    assert said == [
        "all that is not named: refused with EPERM; now killing the process",
        "the setting flags: ['A']; now ['B']",
        f"ptrace: {refused}; now allowed if argument 0 is PTRACE_ATTACH, PTRACE_CONT; else killing the process",
        "x: allowed with CAP_KILL; else refused with EPERM; now allowed",
        f"y: {refused}; now refused with ENOSYS",
    ]
    assert differences(before, before) == ()


def test_what_generate_adds_is_all_that_differs() -> None:
    """Docker's default before ptrace was in it."""
    document = shipped("docker")
    document["syscalls"] = [one for one in document["syscalls"] if one.get("includes") != {"minKernel": "4.8"}]
    found = differences(document, allowing_dlv(document))
    assert [one.what for one in found] == ["process_vm_readv", "ptrace"]
    assert "PTRACE_ATTACH" in found[1].after
    assert "PTRACE_SEIZE" not in found[1].after


def test_a_profile_from_a_program() -> None:
    """What it says of calls with names, and the same again when it is made to a program."""
    numbers = {"ptrace": 101, "kill": 62, "read": 0, "write": 1}
    names = {number: name for name, number in numbers.items()}
    refusals = [Refuse(101, arg=(0, 16), errno=38), Refuse(62, action="trap"), Refuse(101, arg=(0, 7))]
    made = profile([bpf.load(assemble(refusals, "x86_64"))], {AUDIT_ARCH["x86_64"]: names.get}, ["SCMP_ARCH_X86_64"])
    assert made["defaultAction"] == "SCMP_ACT_ALLOW"
    found = {(one["names"][0], one["action"], one.get("errnoRet")): one["args"] for one in made["syscalls"]}
    assert set(found) == {
        ("ptrace", "SCMP_ACT_ERRNO", 38),
        ("ptrace", "SCMP_ACT_ERRNO", 1),
        ("kill", "SCMP_ACT_TRAP", None),
    }
    assert found["ptrace", "SCMP_ACT_ERRNO", 38] == [{"index": 0, "value": 16, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]
    assert found["kill", "SCMP_ACT_TRAP", None] == []


# ---------------------------------------------------------------- words and documents


def test_the_commands_are_in_the_help() -> None:
    assert all(f"safedlv seccomp {command} " in HELP for command in COMMANDS)
    for words in ([], ["nothing"]):
        with pytest.raises(UsageError, match="seccomp"):
            seccomp(words)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({}, "docker"),
        ({"SecurityOpt": ["seccomp=builtin"]}, "docker"),
        ({"SecurityOpt": ["label=x", "seccomp=unconfined"]}, None),
        ({"Privileged": True}, None),
        ({"SecurityOpt": ['seccomp={"defaultAction": "SCMP_ACT_ALLOW"}']}, "given"),
    ],
)
def test_what_an_engine_was_asked_for(config: dict[str, Any], name: str | None) -> None:
    expected = {None: None, "given": {"defaultAction": "SCMP_ACT_ALLOW"}, "docker": shipped("docker")}[name]
    assert profile_of(config, "docker") == expected


def test_the_usual_capabilities() -> None:
    assert set(DOCKERS_CAPABILITIES) <= set(CAPABILITIES)
    assert sum(1 << CAPABILITIES.index(name) for name in DOCKERS_CAPABILITIES) == 0xA80425FB


def test_what_is_no_source(tmp_path: Path) -> None:
    torn, listed = tmp_path / "torn.json", tmp_path / "list.json"
    torn.write_text('{"defaultAction"')
    listed.write_text(json.dumps([{"Id": 1}]))
    (tmp_path / "bytes").write_bytes(b"\0" * 12)
    for path, sentence in (
        (torn, "begins like JSON and is none"),
        (listed, "it is no seccomp profile"),
        (tmp_path / "bytes", "torn"),
        (tmp_path / "nowhere", "cannot read"),
        (tmp_path, "cannot read"),
    ):
        for command in ("show", "explain"):
            with pytest.raises(SafedlvError, match=sentence):
                seccomp([command, str(path)])

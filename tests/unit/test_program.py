"""The builder of seccomp programs, read back by a small interpreter of classic BPF that shares no code with it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedlv.seccomp.program import SYSCALLS, Action, Refuse, assemble

ALLOW = 0x7FFF0000
X86_64 = 0xC000003E
AARCH64 = 0xC00000B7
PTRACE_ATTACH, PTRACE_CONT, PTRACE_SETOPTIONS, PTRACE_GETREGSET = 16, 7, 0x4200, 0x4204


def answer(program: bytes, nr: int, *args: int, arch: int = X86_64) -> int:
    """Run the program on a struct seccomp_data (int nr; u32 arch; u64 instruction_pointer; u64 args[6])."""
    data = struct.pack("<IIQ6Q", nr, arch, 0, *(arg & (1 << 64) - 1 for arg in (*args, *[0] * 6)[:6]))
    code = list(struct.iter_unpack("<HBBI", program))
    accumulator = at = 0
    while True:
        opcode, true, false, k = code[at]
        at += 1
        if opcode == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif opcode == 0x15:
            at += true if accumulator == k else false
        elif opcode == 0x06:
            return int(k)
        else:
            raise AssertionError(f"unexpected instruction {opcode:#x}")


def test_no_rule_allows_everything() -> None:
    assert answer(assemble([], "x86_64"), 101, PTRACE_ATTACH) == ALLOW


@pytest.mark.parametrize("request_", [PTRACE_ATTACH, PTRACE_CONT, PTRACE_SETOPTIONS, PTRACE_GETREGSET])
def test_one_ptrace_request_is_refused_and_no_other(request_: int) -> None:
    program = assemble([Refuse("ptrace", errno=13, arg=(0, request_))], "x86_64")
    assert answer(program, 101, request_) == 0x00050000 | 13
    assert answer(program, 101, request_ + 1) == ALLOW
    assert answer(program, 101, 0, request_) == ALLOW  # the value in another argument
    assert answer(program, 102, request_) == ALLOW  # another call


def test_all_64_bits_of_an_argument_are_compared() -> None:
    program = assemble([Refuse("ptrace", arg=(0, 16))], "x86_64")
    assert answer(program, 101, 1 << 32 | 16) == ALLOW
    negative = assemble([Refuse("kill", arg=(0, -1))], "x86_64")
    assert answer(negative, 62, -1) == 0x00050001
    assert answer(negative, 62, 0xFFFFFFFF) == ALLOW


@pytest.mark.parametrize(
    ("action", "value"),
    [("kill_process", 0x80000000), ("kill_thread", 0), ("trap", 0x00030000), ("log", 0x7FFC0000)],
)
def test_actions(action: Action, value: int) -> None:
    assert answer(assemble([Refuse(234, action=action)], "x86_64"), 234) == value


def test_the_first_rule_that_matches_answers() -> None:
    program = assemble([Refuse("ptrace", errno=38, arg=(0, 16)), Refuse("ptrace", errno=1)], "x86_64")
    assert answer(program, 101, 16) == 0x00050000 | 38
    assert answer(program, 101, 7) == 0x00050000 | 1


def test_another_architecture_is_killed() -> None:
    program = assemble([], "x86_64")
    assert answer(program, 101, arch=0x40000003) == 0x80000000


def test_aarch64_numbers() -> None:
    program = assemble([Refuse("ptrace", arg=(0, 16))], "aarch64")
    assert answer(program, 117, 16, arch=AARCH64) == 0x00050001
    assert answer(program, 101, 16, arch=AARCH64) == ALLOW


def test_both_architectures_name_the_same_calls() -> None:
    assert SYSCALLS["x86_64"].keys() == SYSCALLS["aarch64"].keys()


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Refuse("no_such_call"), "no number is known for no_such_call"),
        (Refuse("kill", errno=4096), "an errno is 0 to 4095"),
        (Refuse("kill", arg=(6, 0)), "arguments 0 to 5"),
        (Refuse("kill", arg=(0, 1 << 64)), "64 bits"),
    ],
)
def test_rules_that_cannot_be(rule: Refuse, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        assemble([rule], "x86_64")


def test_unknown_architecture_and_too_many_rules() -> None:
    with pytest.raises(ValueError, match="no such architecture: vax"):
        assemble([], "vax")
    with pytest.raises(ValueError, match="the kernel takes 4096"):
        assemble([Refuse(number) for number in range(1400)], "x86_64")


def test_describe() -> None:
    assert Refuse("ptrace", arg=(0, 16)).describe() == "ptrace with argument 0 = 0x10: errno 1"
    assert Refuse("tgkill", action="kill_process").describe() == "tgkill: kill_process"


refusals = st.builds(
    Refuse,
    st.integers(0, 5),
    errno=st.integers(0, 4095),
    arg=st.none() | st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 16, 1 << 32, (1 << 64) - 1])),
)


@given(st.lists(refusals, max_size=6), st.integers(0, 5), st.lists(st.integers(0, 17), min_size=6, max_size=6))
def test_the_program_answers_as_the_rules_read(rules: list[Refuse], nr: int, args: list[int]) -> None:
    matching = [r.errno for r in rules if r.syscall == nr and (r.arg is None or args[r.arg[0]] == r.arg[1])]
    expected = 0x00050000 | matching[0] if matching else ALLOW
    assert answer(assemble(rules, "x86_64"), nr, *args) == expected

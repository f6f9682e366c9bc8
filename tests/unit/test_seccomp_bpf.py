"""Programs: what the kernel takes, their listing, and the ways through them, which agree with their evaluation."""

from __future__ import annotations

import random
import re
import struct
from typing import Final

import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from safedlv.seccomp import answers, bpf
from safedlv.seccomp.bpf import BadProgramError, Instruction, Program
from safedlv.seccomp.conditions import Among, Conditions, Masked, Unclear, as_args, in_words, joined
from safedlv.seccomp.evaluate import Answer, Call, answer
from safedlv.seccomp.paths import TooManyWaysError, knowledge, ways
from safedlv.seccomp.program import Refuse, assemble
from safedlv.seccomp.rules import Case, cases, rules
from tests.programs import ARCH, programs, random_arguments, random_program, random_word
from tests.support import count

RET = Instruction(bpf.RET, 0, 0, answers.ALLOW)
X86_64 = 0xC000003E
CALLS = 20
"""For each program."""


def with_return(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("=HBBI", *one) for one in (*instructions, RET))


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        (b"", "empty"),
        (bpf.dump((RET,))[:-1], "torn"),
        (bpf.dump((RET,) * 4097), "the kernel takes 4096"),
        (with_return((0x30, 0, 0, 0)), "instruction 0: code 0x30 is none"),  # ld byte
        (with_return((0x94, 0, 0, 3)), "code 0x94"),  # mod
        (with_return((0xFFFF, 0, 0, 0)), "code 0xffff"),
        (with_return((bpf.LD, 0, 0, 64)), "it reads at 64"),
        (with_return((bpf.LD, 0, 0, 2)), "it reads at 2"),
        (with_return((bpf.LD, 0, 0, 0xFFFFF000)), "it reads at"),
        (with_return((bpf.ST, 0, 0, 16)), "16 words of memory"),
        (with_return((bpf.LD_MEM, 0, 0, 0)), "not written on every way"),
        (with_return((bpf.JEQ, 1, 0, 0), (bpf.ST, 0, 0, 1), (bpf.LD_MEM, 0, 0, 1)), "instruction 2: it reads word 1"),
        (with_return((0x34, 0, 0, 0)), "divides by zero"),
        (with_return((0x64, 0, 0, 32)), "shifts by 32"),
        (with_return((bpf.JEQ, 1, 0, 0)), "beyond the end"),
        (with_return((bpf.JEQ, 0, 255, 0)), "beyond the end"),
        (with_return((bpf.JA, 0, 0, 0xFFFFFFFF)), "beyond the end"),
        (bpf.dump((Instruction(bpf.LD_IMM, 0, 0, 1),)), "does not end with a return"),
    ],
)
def test_a_hostile_program_is_refused(program: bytes, sentence: str) -> None:
    with pytest.raises(BadProgramError, match=sentence):
        bpf.load(program)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """A program, or a sentence."""
    try:
        program = bpf.load(data)
    except BadProgramError:
        return
    assert bpf.dump(program) == data
    assert len(list(bpf.listing(program, lambda *_: None, lambda _: None))) == len(program)


@given(programs())
def test_a_listing_says_every_instruction(program: Program) -> None:
    """Assembled again by what its lines say, it is the same program; and all that these tests make is taken."""
    assert bpf.load(bpf.dump(program)) == program
    lines = list(bpf.listing(program, lambda *_: None, lambda _: None))
    assert tuple(map(assembled, lines)) == program


def assembled(line: str) -> Instruction:
    """As tools/bpf/bpf_exp.y reads a line."""
    place, words = re.fullmatch(r" *l(\d+): ([^;]*?) *(?:;.*)?", line).groups()  # type: ignore[union-attr]
    opcode, _, operands = words.partition(" ")
    parts = [one.strip() for one in operands.split(",")] if operands else []
    skips = [int(part[1:]) - int(place) - 1 for part in parts if re.fullmatch(r"l\d+", part)]
    if opcode == "ja":
        return Instruction(bpf.JA, 0, 0, skips[0])
    number = next((int(found[1], 0) for part in parts if (found := re.search(r"[#\[](\w*\d\w*)", part))), 0)
    kind = re.sub(r"0x[0-9a-f]+|\d+", "k", parts[0]) if parts else ""
    jt, jf = skips or (0, 0)
    return Instruction(CODES[opcode, kind], jt, jf, number)


ALU = {"add": 0, "sub": 0x10, "mul": 0x20, "div": 0x30, "or": 0x40, "and": 0x50, "lsh": 0x60, "rsh": 0x70, "xor": 0xA0}
CODES = {
    ("ld", "[k]"): 0x20,
    ("ld", "#k"): 0x00,
    ("ldx", "#k"): 0x01,
    ("ld", "#len"): 0x80,
    ("ldx", "#len"): 0x81,
    ("ld", "M[k]"): 0x60,
    ("ldx", "M[k]"): 0x61,
    ("st", "M[k]"): 0x02,
    ("stx", "M[k]"): 0x03,
    ("tax", ""): 0x07,
    ("txa", ""): 0x87,
    ("neg", ""): 0x84,
    ("ret", "#k"): 0x06,
    ("ret", "a"): 0x16,
    **{(word, kind): 4 | code | by for word, code in ALU.items() for kind, by in (("#k", 0), ("x", 8))},
    **{
        (word, kind): 5 | code | by
        for word, code in (("jeq", 0x10), ("jgt", 0x20), ("jge", 0x30), ("jset", 0x40))
        for kind, by in (("#k", 0), ("x", 8))
    },
}
"""tools/bpf/bpf_exp.y."""


def test_a_listing_names_calls_and_architectures() -> None:
    program = bpf.load(assemble([Refuse("ptrace", errno=1, arg=(0, 16))], "x86_64"))
    lines = list(bpf.listing(program, lambda _, number: {101: "ptrace"}.get(number), lambda _: "x86_64"))
    remarks = [line.partition("; ")[2] for line in lines]
    assert remarks == [
        *("arch", "x86_64", "KILL_PROCESS", "nr", "ptrace", "argument 0, low half", "", "argument 0, high half", ""),
        *("ERRNO(EPERM)", "ALLOW"),
    ]


# ---------------------------------------------------------------- several programs


def returning(value: int) -> Program:
    return (Instruction(bpf.RET, 0, 0, value),)


def test_the_most_restrictive_answer_wins() -> None:
    order = [answers.KILL_PROCESS, answers.KILL_THREAD, answers.TRAP, answers.ERRNO | 1, answers.USER_NOTIF]
    order += [answers.TRACE, answers.LOG, answers.ALLOW]
    call = Call(ARCH, 1)
    for stronger, value in enumerate(order):
        for other in order[stronger:]:
            for stack in ([value, other], [other, value]):
                assert answer(list(map(returning, stack)), call).value == value
    same = [returning(answers.ERRNO | 1), returning(answers.ERRNO | 2)]
    assert answer(same, call) == Answer(answers.ERRNO | 2, 1, 0), "the one that was loaded last says which errno"
    assert answer([], call).value == answers.ALLOW


# ---------------------------------------------------------------- unknown arguments


def program_of(*instructions: tuple[int, int, int, int]) -> Program:
    return bpf.load(with_return(*instructions))


BITS_AGAINST_BOUNDS: Final = program_of(
    (bpf.LD, 0, 0, 28),
    (bpf.JSET, 2, 0, 1),
    (bpf.JGE, 0, 2, 5),
    (bpf.JGT, 1, 2, 5),
    (bpf.RET, 0, 0, answers.LOG),
    (bpf.RET, 0, 0, answers.TRAP),
)
"""It allows what is even and 5."""
BITS_OF_THE_NUMBER: Final = program_of(
    (bpf.LD, 0, 0, 16),
    (bpf.JEQ, 0, 2, 0),
    (bpf.LD, 0, 0, bpf.NR),
    (bpf.JEQ, 3, 4, 0x10),
    (bpf.LD, 0, 0, bpf.NR),
    (bpf.AND, 0, 0, 0x11),
    (bpf.JEQ, 0, 1, 0x10),
    (bpf.RET, 0, 0, answers.TRAP),
)
"""Of the number itself and of its bits, as an argument is."""
NUMBER_FIRST: Final = program_of(
    (bpf.LD, 0, 0, bpf.NR),
    (bpf.JEQ, 3, 0, 16),
    (bpf.LD, 0, 0, bpf.ARCH),
    (bpf.JEQ, 1, 0, ARCH),
    (bpf.RET, 0, 0, answers.TRAP),
)
"""A call that it allows before it knows the architecture."""
BOUNDS_OF_ARCH: Final = program_of((bpf.LD, 0, 0, bpf.ARCH), (bpf.JGE, 0, 1, 5), (bpf.RET, 0, 0, answers.TRAP))


@settings(max_examples=count(5000), deadline=None)
@given(st.lists(programs(most=12), min_size=1, max_size=2), st.integers(0, 1 << 32))
def test_ways_agree_with_the_evaluation(stack: list[Program], seed: int) -> None:
    """Whatever is not known beforehand: the way that a call takes is among them, with the same answer, and only one."""
    chosen = random.Random(seed)
    told = [random_word(chosen, stack[0]) if chosen.random() < 0.3 else None for _ in range(6)]
    arch, nr = (number if chosen.random() < 0.5 else None for number in (ARCH, random_word(chosen, stack[0])))
    try:
        every = list(ways(stack, knowledge(arch, nr, told), most=2000))
    except TooManyWaysError:
        reject()
    for _ in range(CALLS):
        random_ones = random_arguments(chosen, stack[chosen.randrange(len(stack))])
        arguments = tuple(one if known is None else known for one, known in zip(random_ones, told, strict=True))
        call = Call(ARCH, random_word(chosen, stack[0]) if nr is None else nr, arguments)
        words = call.words()
        found = [way for way in every if all(word.fits(words[at // 4]) for at, word in way.known.items())]
        expected = answer(stack, call)
        if any(way.vague or way.answer is None for way in found):
            assert any(way.answer is None or way.answer == expected for way in found)
        else:
            assert [way.answer for way in found] == [expected]


def test_a_computed_answer_may_be_the_lowest() -> None:
    computed = program_of((bpf.LD, 0, 0, 16), (bpf.RET_A, 0, 0, 0))
    assert [way.answer for way in ways([returning(answers.KILL_PROCESS), computed], {})] == [None]


@settings(max_examples=count(5000), deadline=None)
@example(random_program(random.Random(1552), 12), 0)  # bounds of some bits of an argument
@example(random_program(random.Random(708), 12), 4957)  # an answer that is sure on one way and not on another
@example(random_program(random.Random(5018473), 48), 0)  # the same bound twice, in other words
@example(BITS_AGAINST_BOUNDS, 0)
@given(programs(most=12), st.integers(0, 1 << 32))
def test_what_cases_say_of_arguments_is_so(program: Program, seed: int) -> None:
    chosen = random.Random(seed)
    nr = random_word(chosen, program)
    known = knowledge(ARCH, nr)
    found = cases([program], known)
    for _ in range(CALLS):
        call = Call(ARCH, nr, random_arguments(chosen, program))
        assert_right(found, call, answer([program], call).value)
    said = [all_of for one in found for all_of in one.alternatives]
    assert all("argument" in in_words([all_of]) for all_of in said if set(all_of) - {Unclear()})
    if not any(way.vague for way in ways([program], known)):
        assert not any(Unclear() in all_of for all_of in said), "only what is computed is unclear"


@settings(max_examples=count(5000), deadline=None)
@example([BITS_OF_THE_NUMBER], 0)
@example([NUMBER_FIRST], 0)
@example([BOUNDS_OF_ARCH], 0)
@given(st.lists(programs(most=12), min_size=1, max_size=2), st.integers(0, 1 << 32))
def test_what_rules_say_of_calls_is_so(stack: list[Program], seed: int) -> None:
    """Every call is in one group of numbers of its architecture, and gets what that says."""
    chosen = random.Random(seed)
    try:
        found = {one.audit: one for one in rules(stack)}
    except TooManyWaysError:
        reject()
    for _ in range(CALLS):
        program = chosen.choice(stack)
        arch, nr = (random_word(chosen, program) for _ in range(2))
        call = Call(chosen.choice((ARCH, arch)), chosen.choice((nr, nr % 500)), random_arguments(chosen, program))
        groups = found[call.arch if call.arch in found else None].groups
        (group,) = (one for one in groups if one.has(call.nr))
        assert_right(group.cases, call, answer(stack, call).value)


def assert_right(found: tuple[Case, ...], call: Call, expected: int) -> None:
    """A call's answer is among those that are said to be possible, and the only one unless something is unclear."""
    holding = [(one.value, all_of) for one in found for all_of in one.alternatives if holds(all_of, call)]
    values = {value for value, _ in holding}
    assert values & {None, expected}
    if any(Unclear() not in all_of for _, all_of in holding):
        assert len(values) == 1


def holds(all_of: Conditions, call: Call) -> bool:
    """Whether all that is said of arguments is so."""
    for condition in all_of:
        if isinstance(condition, Unclear):
            continue
        value = call.arguments[condition.argument]
        if isinstance(condition, Masked):
            masked = value & condition.mask
            fits = masked >= condition.value if condition.more else masked == condition.value
            if fits != condition.holds:
                return False
        if isinstance(condition, Among):
            part = {"whole": value, "low": value & 0xFFFFFFFF, "high": value >> 32}[condition.part]
            if not any(low <= part <= high for low, high in condition.intervals):
                return False
    return True


def test_bounds_of_some_bits_in_words() -> None:
    load_and_mask = ((bpf.LD, 0, 0, 28), (bpf.AND, 0, 0, 0x3E9))
    program = program_of(*load_and_mask, (bpf.JGT, 0, 1, 15), (bpf.RET, 0, 0, answers.TRAP))
    found = {case.value: in_words(case.alternatives) for case in cases([program], knowledge(ARCH, 1))}
    assert found[answers.TRAP] == "argument 1 & 0x3e900000000 is 0x1000000000 or more"
    assert found[answers.ALLOW] == "argument 1 & 0x3e900000000 is less than 0x1000000000"


def test_alternatives_that_say_the_same_are_one() -> None:
    one, other = Masked(0, 1, 1, False), Masked(0, 6, 2, False)
    assert len(joined([(one, other), (other, one)])) == 1


def test_what_is_computed_is_said_to_be() -> None:
    """It is in the words, no rule of a profile stands for it, and it is nothing where the answers are the same."""

    def adding(value: int) -> tuple[Case, ...]:
        compute = ((bpf.LD, 0, 0, 16), (bpf.ALU | bpf.ADD, 0, 0, 1))
        program = program_of(*compute, (bpf.JEQ, 0, 1, 5), (bpf.RET, 0, 0, value))
        return cases([program], knowledge(ARCH, 1))

    found = adding(answers.TRAP)
    assert {(case.value, in_words(case.alternatives)) for case in found} == {
        (answers.TRAP, "what is computed says so"),
        (answers.ALLOW, "what is computed says so"),
    }
    with pytest.raises(ValueError, match="what is computed"):
        as_args(found[0].alternatives)
    assert [(case.value, case.alternatives) for case in adding(answers.ALLOW)] == [(answers.ALLOW, ((),))]


def test_what_depends_on_an_argument() -> None:
    refuse = [Refuse("ptrace", arg=(0, 16)), Refuse("ptrace", arg=(0, 7), errno=38)]
    program = bpf.load(assemble(refuse, "x86_64"))
    found = cases([program], knowledge(X86_64, 101))
    said = [(case.value, in_words(case.alternatives, {0: {16: "PTRACE_ATTACH"}})) for case in found]
    assert set(said[:-1]) == {
        (answers.ERRNO | 38, "argument 0 is 0x7"),
        (answers.ERRNO | 1, "argument 0 is PTRACE_ATTACH"),
    }
    assert said[-1][0] == answers.ALLOW, "what is hardest to say is said as otherwise"
    assert len(cases([program], knowledge(X86_64, 101, [16]))) == 1


def test_the_rules_of_a_program() -> None:
    program = bpf.load(assemble([Refuse(101, errno=1), Refuse(5, action="trap")], "x86_64"))
    found = {one.audit: one for one in rules([program])}
    assert set(found) == {X86_64, None}
    by_value = {group.cases[0].value: group.intervals for group in found[X86_64].groups}
    assert by_value[answers.ERRNO | 1] == ((101, 101),)
    assert by_value[answers.TRAP] == ((5, 5),)
    assert by_value[answers.ALLOW] == ((0, 4), (6, 100), (102, 0xFFFFFFFF))
    assert found[None].groups[0].cases[0].value == answers.KILL_PROCESS


def test_a_program_with_too_many_ways_is_given_up() -> None:
    """Sixty words of which each is looked at, and joined into one: more ways than anybody will follow."""
    step = [
        (bpf.LD, 0, 0, 16),
        (bpf.AND, 0, 0, 3),
        (bpf.ALU | bpf.BY_X, 0, 0, 0),
        (bpf.JEQ, 0, 1, 1),
        (bpf.TAX, 0, 0, 0),
    ]
    program = bpf.load(with_return(*(step * 60)))
    with pytest.raises(TooManyWaysError, match="too many ways"):
        list(ways([program], {}))

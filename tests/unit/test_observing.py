"""The pure parts of observe: what a failed call means, how it is shown, what dlv is told, what it comes to."""

from __future__ import annotations

import errno
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedlv.linux import tracing
from safedlv.observing import calls
from safedlv.observing.calls import (
    ATTACHED,
    ATTACHING,
    BREAKS,
    DETOUR,
    HARMLESS,
    POORER,
    STARTING,
    UNKNOWN,
    Call,
    first_that_matters,
    meaning,
)
from safedlv.observing.conversation import CONTINUE, DETACH, HALT, Conversation
from safedlv.observing.decoding import errno_name, in_words, name_of, path_of
from safedlv.observing.observation import FAILS, HIDDEN, SPOILT, WORKS, Observation, as_dict, document, report

TARGET = 4711
ADDRESS = 0x1000
ESCAPE = b"/tmp/\x1b[31mred"


def call(name: str, error: str, *args: int, phase: str = ATTACHING, **rest: Any) -> Call:
    return Call(name, (*args, *[0] * (6 - len(args))), error, 1, 1.0, phase, **rest)


MEANINGS = [
    (call("ptrace", "EPERM", 16, TARGET), BREAKS, "the attach fails"),
    (call("ptrace", "ESRCH", 16, TARGET), BREAKS, "the attach fails"),
    (call("ptrace", "EPERM", 16, TARGET + 1), POORER, "without that thread"),
    (call("ptrace", "ESRCH", 16, TARGET + 1), HARMLESS, "had ended"),
    (call("ptrace", "EPERM", 0x4200, TARGET), POORER, "goes on without it"),
    (call("ptrace", "EPERM", 7, TARGET), BREAKS, "cannot be continued"),
    (call("ptrace", "EIO", 2, TARGET), HARMLESS, "no memory"),
    (call("ptrace", "EPERM", 2, TARGET), BREAKS, "memory"),
    (call("ptrace", "SIGSYS", 16, TARGET), BREAKS, "SIGSYS"),
    (call("wait4", "EPERM", TARGET), BREAKS, "never learns"),
    (call("wait4", "ECHILD", TARGET, 0, 1), HARMLESS, "nobody"),
    (call("wait4", "ECHILD", TARGET, 0, 0), BREAKS, "never learns"),
    (call("tgkill", "EPERM", TARGET, TARGET, 19), BREAKS, "cannot stop"),
    (call("tgkill", "EPERM", 1, 1, 23), POORER, "cannot signal"),
    (call("kill", "EPERM", TARGET, 5), BREAKS, "halt"),
    (call("process_vm_readv", "EPERM", TARGET), DETOUR, "word by word"),
    (call("process_vm_readv", "EFAULT", TARGET), HARMLESS, "no memory"),
    (call("openat", "ENOENT", path="/etc/ld.so.preload"), HARMLESS, "optional"),
    (call("openat", "ENOENT", path=f"/proc/{TARGET}/exe"), BREAKS, "needs this file"),
    (call("openat", "EACCES", path=f"/proc/{TARGET}/auxv"), BREAKS, "needs this file"),
    (call("openat", "EACCES", path=f"/proc/{TARGET}0/auxv"), DETOUR, "does without"),
    (call("futex", "EAGAIN"), HARMLESS, "wait"),
    (call("clone3", "EAGAIN"), BREAKS, "threads"),
    (call("clone3", "ENOSYS"), HARMLESS, "older"),
    (call("clone", "EPERM"), BREAKS, "threads"),
    (call("read", "EINTR"), HARMLESS, "signal"),
    (call("wait4", "ERESTARTSYS"), HARMLESS, "signal"),
    (call("epoll_ctl", "EPERM", 6, 1, 5, plain_file=True), HARMLESS, "file"),
    (call("epoll_ctl", "EPERM", 6, 1, 5), BREAKS, "runtime"),
    (call("bind", "EACCES", phase=STARTING), BREAKS, "listen"),
    (call("mmap", "ENOMEM"), BREAKS, "memory"),
    (call("execve", "ENOENT", phase=STARTING, path="/nowhere"), HARMLESS, "optional"),
    (call("execve", "ENOENT", phase=STARTING, path="/toolbox/dlv", executed=False), BREAKS, "started"),
    (call("some_new_call", "EPERM"), UNKNOWN, "not known"),
]  # fmt: skip


@pytest.mark.parametrize(("failed", "level", "words"), MEANINGS, ids=lambda value: getattr(value, "name", None))
def test_what_a_failed_call_means(failed: Call, level: str, words: str) -> None:
    what = meaning(failed, TARGET)
    assert (what.level, words in what.effect) == (level, True), what


def test_requests_are_the_kernels() -> None:
    """The names stand for the numbers that linux/tracing.py has, which are held against python-ptrace's."""
    ours = {name: getattr(tracing, name) for name in calls.PTRACE_REQUESTS.values() if hasattr(tracing, name)}
    assert len(ours) > 10
    assert ours == {name: number for number, name in calls.PTRACE_REQUESTS.items() if name in ours}


def test_the_first_that_matters() -> None:
    harmless, poorer = call("futex", "EAGAIN"), call("ptrace", "EPERM", 0x4200, TARGET)
    breaks, unknown, detour = (
        call("kill", "EPERM"),
        call("some_new_call", "EPERM"),
        call("process_vm_readv", "EPERM"),
    )

    def first(*failed: Call, dlv_failed: bool) -> int | None:
        return first_that_matters([(one, meaning(one, TARGET)) for one in failed], failed=dlv_failed)

    assert first(harmless, poorer, breaks, dlv_failed=True) == 2
    assert first(harmless, poorer, dlv_failed=False) == 1
    assert first(unknown, harmless, unknown, dlv_failed=True) == 2
    assert first(unknown, harmless, detour, dlv_failed=False) is None
    assert first(harmless, dlv_failed=True) is None


# ---------------------------------------------------------------- in words


class Memory:
    """What a traced process has at ADDRESS."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[int] = []

    def read(self, address: int, size: int) -> bytes:
        self.asked.append(address)
        if not ADDRESS <= address < ADDRESS + len(self.data):
            raise OSError(errno.EFAULT, "nothing there")
        return self.data[address - ADDRESS :][:size]


def test_a_call_in_words() -> None:
    memory = Memory(b"/proc/4711/auxv\0" + bytes(100))
    attach = in_words("ptrace", (16, TARGET, 0, 0, 0, 0), memory.read)
    assert attach == "ptrace(PTRACE_ATTACH, 4711, 0, 0)"
    assert in_words("ptrace", (0x4299, 1, 0, 0, 0, 0), memory.read).startswith("ptrace(0x4299, 1")
    opened = in_words("openat", (0xFFFFFFFFFFFFFF9C, ADDRESS, 0, 0, 0, 0), memory.read)
    assert opened.startswith('openat(AT_FDCWD, "/proc/4711/auxv", O_RDONLY')
    assert path_of("openat", (0, ADDRESS, 0, 0, 0, 0), memory.read) == "/proc/4711/auxv"
    assert path_of("faccessat2", (0, ADDRESS, 0, 0, 0, 0), memory.read) == "/proc/4711/auxv"
    assert path_of("openat", (0, 8, 0, 0, 0, 0), memory.read) is None
    assert path_of("futex", (0, ADDRESS, 0, 0, 0, 0), memory.read) is None


def test_words_and_environment_of_a_program_are_not_read() -> None:
    """execve(2): neither argv nor envp is looked at, and what is written is not, either."""
    vector = struct.pack("=QQ", ADDRESS + 16, 0) + b"SECRET=s3cr3t\0"
    memory = Memory(vector)
    assert in_words("execve", (8, ADDRESS, ADDRESS, 0, 0, 0), memory.read) == "execve(0x8, ..., ...)"
    assert ADDRESS not in memory.asked
    assert "s3cr3t" not in in_words("write", (2, ADDRESS + 16, 14, 0, 0, 0), memory.read)


def test_control_characters_are_escaped() -> None:
    memory = Memory(ESCAPE + b"\0")
    shown = in_words("newfstatat", (0, ADDRESS, 0, 0, 0, 0), memory.read)
    assert "\\x1b[31mred" in shown
    assert shown.isprintable()


NUMBERS = st.integers(0, 2**64 - 1) | st.integers(ADDRESS - 8, ADDRESS + 600)


@given(st.integers(0, 460), st.tuples(*[NUMBERS] * 6), st.binary(max_size=512))
def test_any_call_can_be_put_into_words(number: int, args: tuple[int, ...], data: bytes) -> None:
    """Whatever the words and the memory are: a line of printable text, and no exception."""
    memory = Memory(data)
    name = name_of(number, lambda _: None)
    shown = in_words(name, args, memory.read)
    assert shown.startswith(name)
    assert shown.isprintable()
    assert len(shown) <= 400
    path_of(name, args, memory.read)


def test_names_of_errnos() -> None:
    assert [errno_name(number) for number in (1, 38, 512, 9999)] == ["EPERM", "ENOSYS", "ERESTARTSYS", "errno 9999"]
    assert name_of(99999, lambda _: None) == "syscall_99999"
    assert name_of(99999, lambda _: "newest") == "newest"


# ---------------------------------------------------------------- what dlv is told


def test_a_target_of_our_own_is_continued_and_halted() -> None:
    conversation = Conversation(runs=True)
    assert conversation.begin() == CONTINUE
    assert conversation.heard(b"garbage\n{}\n[1]\n") == b""
    assert conversation.waited() == HALT
    assert conversation.heard(b'{"id":2,"result":{}}\n{"id":1,"res') == b""
    assert conversation.heard(b'ult":{}}\n') == DETACH
    assert conversation.patience is None
    assert conversation.waited() == b""


def test_one_that_does_not_answer_is_let_go_all_the_same() -> None:
    conversation = Conversation(runs=True)
    conversation.begin()
    assert [conversation.waited(), conversation.waited(), conversation.waited()] == [HALT, DETACH, b""]


def test_a_real_target_is_only_let_go() -> None:
    conversation = Conversation(runs=False)
    assert conversation.patience is None
    assert conversation.begin() == DETACH
    assert (conversation.patience, conversation.heard(b'{"id":3}\n')) == (None, b"")


# ---------------------------------------------------------------- what it comes to


def seen(*failed: Call, **changes: Any) -> Observation:
    fields: dict[str, Any] = {
        "pid": 99,
        "inner": TARGET,
        "container": None,
        "who": "self",
        "place": "safedlv",
        "real": False,
        "attached": True,
        "how": "ended",
        "code": 0,
        "made": 1000,
        "calls": failed,
        "said": (),
        "out": (),
        "lacks": (),
        "home": "",
    }
    return Observation(**{**fields, **changes})


ATTACH = call("ptrace", "EPERM", 16, TARGET, text="ptrace(PTRACE_ATTACH, 4711, 0, 0)")
OPTIONS = call("ptrace", "EPERM", 0x4200, TARGET, phase=ATTACHED, text="ptrace(PTRACE_SETOPTIONS, 4711, 0, 8)")


def test_the_verdict() -> None:
    assert seen(call("futex", "EAGAIN"), call("process_vm_readv", "EPERM")).verdict == WORKS
    assert seen(OPTIONS).verdict == SPOILT
    assert seen(ATTACH, attached=False, code=1).verdict == FAILS
    assert seen(how="hung", code=-9).verdict == FAILS
    assert seen(code=2).verdict == FAILS
    assert seen(inner=0, attached=False, code=None).verdict == HIDDEN


def test_as_json() -> None:
    answer = json.loads(document(seen(call("futex", "EAGAIN"), ATTACH, attached=False, code=1, said=("no",))))
    assert answer == as_dict(seen(call("futex", "EAGAIN"), ATTACH, attached=False, code=1, said=("no",)))
    assert (answer["schema"], answer["verdict"], answer["first"], answer["harmless"]) == (
        "safedlv.observation/1",
        "fails",
        1,
        1,
    )
    assert answer["calls"][1] == {
        "call": "ptrace",
        "request": "PTRACE_ATTACH",
        "text": "ptrace(PTRACE_ATTACH, 4711, 0, 0)",
        "errno": "EPERM",
        "thread": 1,
        "ms": 1.0,
        "phase": "attaching",
        "level": "breaks",
        "effect": "the attach fails",
    }


def test_for_people() -> None:
    failed = seen(call("futex", "EAGAIN", text="futex()"), ATTACH, attached=False, code=1, said=("could not attach",))
    text = report(failed, "docker:web", everything=False)
    assert text.startswith("fails: dlv did not attach, and ended with code 1\n")
    assert "thread 1  ptrace(PTRACE_ATTACH, 4711, 0, 0) = -1 EPERM\n" in text
    assert "futex" not in text
    assert "1000 calls, 2 failed; 1 of them harmless (--all shows them)\n" in text
    assert "dlv said:\n  could not attach\n" in text
    assert text.endswith(
        "The first that matters: ptrace(PTRACE_ATTACH) fails with EPERM: the attach fails.\n"
        "What refuses it, and what would mend it: safedlv doctor docker:web\n"
    )
    assert "futex() = -1 EAGAIN" in report(failed, "99", everything=True)


def test_for_people_from_another_place() -> None:
    text = report(seen(OPTIONS, who="pid:7", place="process 7", real=True, home="two"), "99", everything=False)
    assert text.startswith("spoilt: dlv attached, and ended with code 0\n  dlv stood in the place of process 7; ")
    assert "its target was process 99 itself" in text
    assert "the target was brought home: two\n" in text
    assert text.endswith("safedlv doctor 99 --tracer pid:7\n")
    hidden = report(seen(inner=0, attached=False, code=None), "99", everything=False)
    assert hidden.startswith("hidden: the target has no PID where dlv stands")
    healthy = report(seen(), "99", everything=False)
    assert healthy.endswith("1000 calls, 0 failed\n")

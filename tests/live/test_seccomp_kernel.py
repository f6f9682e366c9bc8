"""The evaluator against the kernel: the same calls made under the same filters, and what came of each.

A child of ours loads the programs and makes the calls; what came of them it writes into memory that we share, so that a
filter that kills loses nothing. The numbers of the random calls are of no call, so that what is allowed answers ENOSYS.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import random
import resource
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safedlv.linux import confine
from safedlv.linux.libseccomp import Libseccomp
from safedlv.seccomp import answers, bpf
from safedlv.seccomp.bpf import Instruction, Program
from safedlv.seccomp.evaluate import Call, answer
from safedlv.seccomp.profile import allowing_dlv
from safedlv.seccomp_source import SHIPPED, filters, made_from, shipped
from tests.programs import ARCH, WORD, programs, random_arguments, random_word
from tests.support import count, require

PROGRAMS: Final = count(3500)
CALLS: Final = 40
"""Calls for each program, fewer where too many of them kill: 100,000 in all."""
NO_CALL: Final = 1000
"""From here on there is no system call (but for x32's, with a bit that is not set here)."""
TRAPPED: Final = 1 << 20
MISSING: Final = 1 << 21
Made = tuple[int, tuple[int, ...]]
"""The number and the arguments of a call."""


@pytest.fixture(scope="module")
def library() -> Libseccomp:
    require(os.path.exists("/proc/self/status") and _has_libseccomp(), "needs libseccomp2")
    return Libseccomp()


def _has_libseccomp() -> bool:
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return False
    return True


# ---------------------------------------------------------------- the calls, made


def outcomes(stack: Sequence[Program], calls: Sequence[Made]) -> list[int]:
    """What came of each call: -errno, 0 for success, TRAPPED, MISSING where it killed its caller."""
    memory = mmap.mmap(-1, 8 * len(calls))
    memory.write(struct.pack("q", MISSING) * len(calls))
    begin = 0
    while begin < len(calls):
        child = os.fork()
        if child == 0:
            _child(stack, calls, begin, memory)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the child could not load the programs"
            break
        assert os.WTERMSIG(status) == signal.SIGSYS
        begin = 1 + next(at for at in range(begin, len(calls)) if result(memory, at) == MISSING)
    return [result(memory, at) for at in range(len(calls))]


def result(memory: mmap.mmap, at: int) -> int:
    found: int = struct.unpack_from("q", memory, 8 * at)[0]
    return found


def _child(stack: Sequence[Program], calls: Sequence[Made], begin: int, memory: mmap.mmap) -> None:
    """Ends with 1 when a program could not be loaded."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a filter that kills makes one
        trapped = []
        signal.signal(signal.SIGSYS, lambda *_: trapped.append(1))
        syscall = ctypes.CDLL(None, use_errno=True).syscall
        syscall.restype = ctypes.c_long
        syscall.argtypes = [ctypes.c_long] + [ctypes.c_ulong] * 6
        confine.set_no_new_privs()
        for program in stack:
            confine.seccomp_set_mode_filter(bpf.dump(program))
        for at in range(begin, len(calls)):
            number, arguments = calls[at]
            value = syscall(number, *arguments)
            code = ctypes.get_errno() if value == -1 else 0
            struct.pack_into("q", memory, 8 * at, TRAPPED if trapped else -code)
            trapped.clear()
        os._exit(0)
    finally:
        os._exit(1)


def expected(value: int, allowed: int) -> int:
    """What comes of a call with this answer; ``allowed``: what comes of it when it is made."""
    outcome = answers.outcome(value)
    if outcome in ("traced", "asked"):
        return -errno.ENOSYS  # nobody is there to be asked
    if outcome in ("killed", "trapped"):
        return MISSING if outcome == "killed" else TRAPPED
    return -(answers.errno_of(value) or 0) if outcome == "refused" else allowed


# ---------------------------------------------------------------- random programs


def only_for_no_call(program: Program) -> Program:
    """The same, for the numbers that are of no call; all others are allowed, so that the child can live."""
    head = [(bpf.LD, 0, 0, bpf.NR), (bpf.JGE, 1, 0, NO_CALL), (bpf.RET, 0, 0, answers.ALLOW), (bpf.LD_IMM, 0, 0, 0)]
    return (*(Instruction(*one) for one in head), *program)


@settings(max_examples=PROGRAMS, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.lists(programs(), min_size=1, max_size=3), st.integers(0, 1 << 32))
def test_random_programs(stack: list[Program], seed: int) -> None:
    """One to three programs at a time: the kernel and the evaluator agree on every call."""
    chosen = random.Random(seed)
    loaded = [only_for_no_call(program) for program in stack]
    calls: list[Made] = []
    deadly = 0
    while len(calls) < CALLS:
        number = max(random_word(chosen, stack[0]) & 0x3FFFFFFF, NO_CALL)
        made = number, random_arguments(chosen, stack[-1])
        killed = answers.outcome(answer(loaded, Call(ARCH, *made)).value) == "killed"
        deadly += killed
        if deadly > 2 and killed:  # each costs a child
            made = NO_CALL + chosen.randrange(8), (0,) * 6
            if answers.outcome(answer(loaded, Call(ARCH, *made)).value) == "killed":
                break
        calls.append(made)
    found = outcomes(loaded, calls)
    wanted = [expected(answer(loaded, Call(ARCH, *made)).value, -errno.ENOSYS) for made in calls]
    assert found == wanted


# ---------------------------------------------------------------- the filters of engines


def harmless(chosen: random.Random, library: Libseccomp) -> Iterator[tuple[Made, frozenset[int]]]:
    """Calls that change nothing where they are made, and what may come of them then."""
    native = library.native
    nobody, bad = 0x3FFFFFF0, (1 << 64) - 1
    kinds: list[tuple[str, Callable[[], tuple[int, ...]], tuple[int, ...]]] = [
        (
            "ptrace",
            lambda: (chosen.choice([2, 7, 16, 0x4200, 0x4206, 9999, 1 << 33]), nobody),
            (errno.ESRCH, errno.EIO),
        ),
        ("personality", lambda: (0xFFFFFFFF,), (0,)),
        ("socket", lambda: (chosen.randrange(64), bad, chosen.randrange(20)), (errno.EINVAL, errno.EAFNOSUPPORT)),
        # CLONE_SIGHAND without CLONE_VM is EINVAL (kernel/fork.c, copy_process)
        ("clone", lambda: (0x800 | chosen.getrandbits(31) & 0x7E020000, 0), (errno.EINVAL,)),
        ("unshare", lambda: (bad,), (errno.EINVAL,)),
        ("setns", lambda: (bad, 0), (errno.EBADF,)),
        ("kcmp", lambda: (nobody, nobody), (errno.ESRCH,)),
        ("process_vm_readv", lambda: (nobody, 0, 1, 0, 1, bad), (errno.EINVAL,)),
        ("getppid", lambda: (chosen.getrandbits(64),), (0,)),
        ("clone3", lambda: (0, 0), (errno.EINVAL,)),
    ]
    for name, arguments, codes in kinds:
        number = library.number(native, name)
        assert number is not None
        assert number >= 0, name
        six = (arguments() + (0,) * 6)[:6]
        yield (number, six), frozenset(-code for code in codes)


@pytest.mark.parametrize("generated", [False, True], ids=["base", "generated"])
@pytest.mark.parametrize("engine", SHIPPED)
def test_the_filters_of_engines(library: Libseccomp, engine: str, generated: bool) -> None:
    """The evaluator, and the kernel under the same program: of Docker, of podman, of containerd, and made from them."""
    document = shipped(engine)
    if generated:
        document = allowing_dlv(without_ptrace(document))
    loaded = made_from(document, engine, frozenset({"kill"})).programs
    chosen = random.Random(engine)
    asked = [one for _ in range(count(200)) for one in harmless(chosen, library)]
    found = outcomes(loaded, [made for made, _ in asked])
    allowed = refused = 0
    for (made, codes), came in zip(asked, found, strict=True):
        value = answer(loaded, Call(ARCH, *made)).value
        if answers.passes(value):
            allowed += 1
            assert came in codes, (made, os.strerror(-came))
        else:
            refused += 1
            assert came == expected(value, 0), (made, came)
    assert allowed
    assert refused


def without_ptrace(document: dict[str, object]) -> dict[str, object]:
    """A profile as it was before ptrace was in it."""
    text = json.dumps(document).replace('"ptrace"', '"iopl"').replace('"process_vm_readv"', '"iopl"')
    changed: dict[str, object] = json.loads(text)
    return changed


def test_docker_s_default_refuses_and_allows_as_is_known(library: Libseccomp) -> None:
    """What Docker documents: no unshare without CAP_SYS_ADMIN, with it yes; ptrace yes."""
    for more, verdict in ((frozenset[str](), "refused"), (frozenset({"sys_admin"}), "allowed")):
        loaded = filters("docker", more=more).programs
        for call, wanted in (("unshare", verdict), ("ptrace", "allowed")):
            number = library.number(library.native, call)
            assert number is not None
            assert answers.outcome(answer(loaded, Call(ARCH, number, (WORD,))).value) == wanted

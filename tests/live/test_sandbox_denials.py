"""The denials that a sandbox can make: filters, ids, capabilities and Landlock between a tracer and its target."""

from __future__ import annotations

import ast
import ctypes
import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from safedlv.linux import confine
from safedlv.runtimes.sandbox import Running, Sandbox, capability_sets, start
from safedlv.seccomp.program import Refuse, assemble
from tests.live.sandboxes import (  # noqa: F401 - pytest finds fixtures by their names here
    ARCH,
    NOBODY,
    PTRACE_ATTACH,
    PTRACE_CONT,
    PTRACE_GETREGSET,
    PTRACE_SETOPTIONS,
    SECONDS,
    SLEEP,
    attach_and_let_go,
    libc,
    needs_root,
    nothing_left,
    ptrace,
    status,
)
from tests.support import require

pytestmark = pytest.mark.usefixtures("nothing_left")

# ---------------------------------------------------------------- filters that refuse


@contextmanager
def target_and_tracer(
    tracer: Callable[[int], bytes], target: Sandbox | None = None, **changes: Any
) -> Iterator[tuple[Running, Running]]:
    """A sleeping target, and beside it a callable that gets the target's PID (the same in both, without ``pid``)."""
    with start(target or Sandbox(), SLEEP) as first, first.run(lambda: tracer(first.pid), **changes) as second:
        yield first, second


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("refused", [PTRACE_ATTACH, PTRACE_SETOPTIONS, PTRACE_CONT, PTRACE_GETREGSET])
def test_a_filter_refuses_one_ptrace_request_with_its_errno(refused: int) -> None:
    def trace(pid: int) -> bytes:
        answers = {PTRACE_ATTACH: ptrace(PTRACE_ATTACH, pid)}
        if not answers[PTRACE_ATTACH]:
            os.waitpid(pid, 0x40000000)
            # Without a buffer GETREGSET fails with EFAULT, after the filter let it through.
            for request in (PTRACE_SETOPTIONS, PTRACE_GETREGSET, PTRACE_CONT):
                answers[request] = ptrace(request, pid)
        return repr(answers).encode()

    program = assemble([Refuse("ptrace", errno=errno.EXDEV, arg=(0, refused))], ARCH)
    with target_and_tracer(trace, seccomp=program) as (_, tracer):
        answers = ast.literal_eval(tracer.result(SECONDS).decode())
    assert answers.pop(refused) == errno.EXDEV
    assert errno.EXDEV not in answers.values()
    assert len(answers) == (0 if refused == PTRACE_ATTACH else 3)


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize(
    ("syscall", "call"),
    [
        ("tgkill", lambda pid: libc.tgkill(pid, pid, 0)),
        ("kill", lambda pid: libc.kill(pid, 0)),
        ("wait4", lambda pid: libc.wait4(pid, None, 1, None)),
        ("openat", lambda pid: libc.openat(-100, b"/", 0)),
        ("process_vm_readv", lambda pid: libc.process_vm_readv(pid, None, 0, None, 0, 0)),
        ("process_vm_writev", lambda pid: libc.process_vm_writev(pid, None, 0, None, 0, 0)),
        ("ptrace", lambda pid: libc.ptrace(PTRACE_ATTACH, pid, None, None)),
    ],
)
def test_a_filter_refuses_a_call(syscall: str, call: Callable[[int], int]) -> None:
    def attempt(pid: int) -> bytes:
        ctypes.set_errno(0)
        return f"{call(pid)} {ctypes.get_errno()}".encode()

    program = assemble([Refuse(syscall, errno=errno.EXDEV)], ARCH)
    with target_and_tracer(attempt, seccomp=program) as (_, tracer):
        assert tracer.result(SECONDS) == f"-1 {errno.EXDEV}".encode()


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("action", ["kill_process", "kill_thread", "trap"])
def test_a_filter_that_kills_ends_with_sigsys(action: str) -> None:
    rule = Refuse("ptrace", arg=(0, PTRACE_ATTACH), action=action)  # type: ignore[arg-type]
    with target_and_tracer(attach_and_let_go, seccomp=assemble([rule], ARCH)) as (target, tracer):
        assert tracer.wait(SECONDS) == -signal.SIGSYS
        assert target.state() in "SR"


@pytest.mark.usefixtures("needs_root")
def test_a_filter_that_logs_lets_the_call_pass() -> None:
    program = assemble([Refuse("ptrace", action="log")], ARCH)
    with target_and_tracer(attach_and_let_go, seccomp=program) as (_, tracer):
        assert tracer.result(SECONDS) == b"0"


@pytest.mark.usefixtures("needs_root")
def test_a_target_and_a_tracer_beside_it_in_a_pid_namespace() -> None:
    spec = Sandbox(namespaces=frozenset({"pid", "mount"}), uid=NOBODY, gid=NOBODY, groups=())
    program = assemble([Refuse("ptrace", arg=(0, PTRACE_ATTACH))], ARCH)
    with start(spec, SLEEP) as target:
        inner = int(status(target.pid)["NSpid"].split()[-1])
        cases: list[tuple[dict[str, Any], int]] = [
            ({}, 0),
            ({"no_new_privs": True, "seccomp": program}, errno.EPERM),
            ({"uid": 1000}, errno.EPERM),
            ({"gid": 1000}, errno.EPERM),
            ({"uid": 1000, "capabilities": capability_sets("SYS_PTRACE")}, 0),
            ({"uid": 0, "gid": 0}, 0),
            ({"uid": 0, "gid": 0, "capabilities": capability_sets()}, errno.EPERM),
        ]
        for changes, expected in cases:
            with target.run(lambda: attach_and_let_go(inner), **changes) as tracer:
                assert tracer.result(SECONDS) == str(expected).encode(), changes


# ---------------------------------------------------------------- Landlock


@pytest.mark.usefixtures("needs_root")
def test_a_landlock_domain_may_not_trace_outside_it() -> None:
    try:
        require(confine.landlock_abi() > 0, "needs Landlock")
    except OSError as error:
        require(False, f"needs Landlock ({error})")
    with target_and_tracer(attach_and_let_go, landlock=1) as (_, tracer):
        assert tracer.result(SECONDS) == str(errno.EPERM).encode()
    with target_and_tracer(attach_and_let_go, Sandbox(landlock=1), landlock=0) as (_, tracer):
        assert tracer.result(SECONDS) == b"0"
    with start(Sandbox(landlock=16), SLEEP) as running:
        assert running.state() in "SR"
    with pytest.raises(OSError, match="enter Landlock layer 17: landlock_restrict_self") as caught:
        start(Sandbox(landlock=17), SLEEP)
    assert caught.value.errno == errno.E2BIG

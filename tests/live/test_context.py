"""A probe from a process's context answers what that process's own probe answers; with the layer out, it passes."""

from __future__ import annotations

import errno
import os
import signal
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import field, frozen

from safedlv import target
from safedlv.linux import confine
from safedlv.probe import runner
from safedlv.probe.context import Context
from safedlv.probe.elsewhere import Experiment, probe_from
from safedlv.probe.sources import read_context
from safedlv.runtimes.sandbox import Running, Sandbox, capability_sets, start
from tests.live.contexts import (
    ATTACH,
    NOBODYS,
    PID,
    READ,
    THIRD,
    Outcome,
    Told,
    counting,
    counts,
    outcome,
    refuse,
    sending,
    vfork_parent,
    zero_counts,
)
from tests.live.sandboxes import (  # noqa: F401 - pytest finds fixtures by their names here
    ARCH,
    NOBODY,
    PTRACE_ATTACH,
    PTRACE_CONT,
    PTRACE_GETREGSET,
    PTRACE_SETOPTIONS,
    SECONDS,
    SLEEP,
    SYS_PTRACE,
    forever,
    libc,
    needs_root,
    nothing_left,
    status,
)
from tests.support import assert_unharmed, count, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left", "needs_root")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return zero_counts(tmp_path / "count")


def own_probe(pid: int) -> Outcome:
    """The probe as the calling process can make it by itself."""
    try:
        found = target.find(pid)
    except target.NoSuchProcessError:
        return (("attach", "ESRCH"),)
    return outcome(runner.start(pid, found.procdir, found.before, 2.0).result())


def lift_nothing(context: Context) -> Context:
    return context


@frozen
class Case:
    name: str
    tracer: dict[str, Any]
    """Fields of Sandbox for the tracer."""
    expected: tuple[str, str] | None
    """The first step that fails, and how; None: nothing does."""
    lift: Callable[[Context], Context] = lift_nothing
    target: Sandbox = field(factory=Sandbox)
    beside: bool = True
    """In the target's namespaces, not in a sandbox of its own."""
    plain: bool = False
    """The target is a callable (which is not dumpable)."""
    same: bool = True
    """False: the context cannot be taken on, and ``missing`` says so."""


NET_RAW = capability_sets("NET_RAW", ambient=True)
CASES = [
    Case("nothing in the way", {}, None),
    Case("a filter refuses ATTACH", {"seccomp": ATTACH}, ("attach", "EXDEV"), Context.without_filters),
    Case(
        "a filter refuses SETOPTIONS",
        {"seccomp": refuse("ptrace", PTRACE_SETOPTIONS)},
        ("setoptions", "EPERM"),
        Context.without_filters,
    ),
    Case(
        "a filter refuses CONT, loaded by nobody in a PID namespace",
        {"seccomp": refuse("ptrace", PTRACE_CONT, errno=errno.ENOSYS), "no_new_privs": True},
        ("cont", "ENOSYS"),
        Context.without_filters,
        Sandbox(PID, **NOBODYS),
    ),
    Case(
        "a filter refuses GETREGSET",
        {"seccomp": refuse("ptrace", PTRACE_GETREGSET)},
        ("getregset", "EPERM"),
        Context.without_filters,
    ),
    Case("a filter refuses tgkill", {"seccomp": refuse("tgkill")}, ("tgkill", "EPERM"), Context.without_filters),
    Case("the second filter refuses ATTACH", {"seccomp": (READ, ATTACH)}, ("attach", "EXDEV"), Context.without_filters),
    Case(
        "a filter kills the process",
        {"seccomp": refuse("ptrace", PTRACE_ATTACH, action="kill_process")},
        ("attach", "SIGSYS"),
        Context.without_filters,
    ),
    Case(
        "a filter kills at SETOPTIONS",
        {"seccomp": refuse("ptrace", PTRACE_SETOPTIONS, action="kill_thread")},
        ("setoptions", "SIGSYS"),
        Context.without_filters,
    ),
    Case(
        "another uid", {**NOBODYS, "uid": 1000}, ("attach", "EPERM"), lambda c: c.as_user(NOBODY, NOBODY),
        Sandbox(PID, **NOBODYS),
    ),
    Case(
        "another gid", {**NOBODYS, "gid": 1000}, ("attach", "EPERM"), lambda c: c.with_capability("sys_ptrace"),
        Sandbox(PID, **NOBODYS),
    ),
    Case(
        "root without capabilities", {"uid": 0, "gid": 0, "capabilities": capability_sets()}, ("attach", "EPERM"),
        lambda c: c.with_capability("sys_ptrace", "dac_read_search", "kill"), Sandbox(**NOBODYS),
    ),
    Case(
        "SYS_PTRACE and not DAC_READ_SEARCH nor KILL",
        {"uid": 0, "gid": 0, "capabilities": capability_sets("SYS_PTRACE")}, ("tgkill", "EPERM"),
        lambda c: c.with_capability("dac_read_search", "kill"), Sandbox(**NOBODYS),
    ),
    Case(
        "SYS_PTRACE and KILL, not DAC_READ_SEARCH",
        {"uid": 0, "gid": 0, "capabilities": capability_sets("SYS_PTRACE", "KILL")}, ("auxv", "EACCES"),
        lambda c: c.with_capability("dac_read_search"), Sandbox(PID, **NOBODYS),
    ),
    Case(
        "capabilities that a user keeps",
        {**THIRD, "capabilities": capability_sets("SYS_PTRACE", "DAC_READ_SEARCH", "KILL")},
        None, target=Sandbox(PID, **NOBODYS),
    ),
    Case(
        "a user namespace beside", {"namespaces": {"user"}}, ("attach", "EPERM"),
        lambda c: c.without_namespaces("user"), beside=False,
    ),
    Case(
        "a user namespace around both", {"seccomp": ATTACH}, ("attach", "EXDEV"), Context.without_filters,
        Sandbox(PID | {"user", "net", "ipc", "uts", "cgroup"}, **THIRD),
    ),
    Case(
        "a PID namespace beside", {"namespaces": PID}, ("attach", "ESRCH"), lambda c: c.without_namespaces("pid"),
        beside=False,
    ),
    Case("no_new_privs", {"no_new_privs": True}, None),
    Case(
        "a target that is not dumpable", {**NOBODYS, "no_new_privs": True}, ("attach", "EPERM"),
        lambda c: c.with_capability("sys_ptrace", "dac_read_search"), Sandbox(**NOBODYS, dumpable=False), plain=True,
    ),
    Case(
        "a target that has a capability more", {"capabilities": None}, ("attach", "EPERM"),
        lambda c: c.with_capability("net_raw"),
        Sandbox(**NOBODYS, capabilities=NET_RAW),
    ),
    Case("a Landlock domain", {"landlock": 1}, ("attach", "EPERM"), same=False),
]  # fmt: skip


@contextmanager
def staged(case: Case) -> Iterator[tuple[Running, Running, Outcome]]:
    """A target, a tracer that has made its own probe and stays, and what came of that."""
    told = Told()
    with ExitStack() as undo:
        undo.callback(told.close)
        first = undo.enter_context(start(case.target, forever if case.plain else SLEEP))
        if case.plain:
            wait_until(lambda: status(first.pid)["Uid"].split()[0] == str(NOBODY), "the target is nobody's")
        inner = int(status(first.pid)["NSpid"].split()[-1])
        workload = told.workload(lambda: own_probe(inner if case.beside else first.pid))
        tracer = first.run(workload, **case.tracer) if case.beside else start(Sandbox(**case.tracer), workload)
        undo.enter_context(tracer)
        yield first, tracer, told.answer()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answer_is_the_one_that_the_process_itself_gets(case: Case) -> None:
    with staged(case) as (first, tracer, answer):
        assert next((step for step in answer if step[1]), None) == case.expected
        with read_context(tracer.pid) as context:
            there = probe_from(context, first.pid)
            lifted = probe_from(case.lift(context), first.pid)
        missing = [line for line in there.missing if not line.startswith("landlock:")]
        assert missing == []
        assert len(there.missing) == 1, "a Landlock domain cannot be read"
        assert there.attempt[3]
        assert (outcome(there.attempt) == answer) == case.same
        assert not [step for step in outcome(lifted.attempt) if step[1]]
        assert first.state() in "SR"
        assert_unharmed(tracer.pid)
        assert_unharmed(first.pid)


def test_the_target_cannot_be_named_in_another_pid_namespace() -> None:
    with start(Sandbox(), SLEEP) as first, start(Sandbox(PID), SLEEP) as other, read_context(other.pid) as context:
        assert probe_from(context, first.pid).inner_pid is None
        assert probe_from(context, other.pid).inner_pid == int(status(other.pid)["NSpid"].split()[-1])
        assert probe_from(context.without_namespaces("pid"), first.pid).inner_pid == first.pid


FIELDS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp_filters")
KINDS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")


def looks(pid: int) -> list[str]:
    """All of a context that /proc shows."""
    said = status(pid)
    return [said[key] for key in FIELDS] + [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS]


def child_of(pid: int) -> int:
    names = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return next((name for name in names if status(name).get("PPid") == str(pid)), 0)


@contextmanager
def waiting_helper(context: Context, first: Running) -> Iterator[int]:
    """The helper of a probe of a vfork parent, looked at while it waits for a stop that does not come."""
    wait_until(lambda: first.state() == "D", "the target waits for its child")
    watcher = os.fork()
    if watcher == 0:
        probe_from(context, first.pid, timeout=SECONDS)
        os._exit(0)
    helper = 0
    try:
        helper = wait_until(lambda: child_of(watcher), "the helper")
        wait_until(lambda: status(first.pid)["TracerPid"] == str(helper), "the helper has attached")
        yield helper
    finally:
        os.kill(watcher, signal.SIGKILL)
        os.waitpid(watcher, 0)
        if helper:
            os.kill(helper, signal.SIGKILL)
            wait_until(lambda: status(helper).get("State", "Z")[0] == "Z", "the helper is gone")


def test_every_part_of_the_context_is_taken_on_and_nothing_else_is_open() -> None:
    spec = Sandbox(
        PID | {"user", "net", "ipc", "uts", "cgroup"}, uid=1000, gid=1001, groups=(7, 8),
        capabilities=capability_sets("SYS_PTRACE", "NET_RAW", ambient=True), no_new_privs=True,
        seccomp=(READ, refuse("ptrace", 99)),
    )  # fmt: skip
    with ExitStack() as undo:
        first = undo.enter_context(start(spec, vfork_parent))
        beside = undo.enter_context(first.run(SLEEP))
        context = undo.enter_context(read_context(beside.pid))
        with waiting_helper(context, first) as helper:
            assert looks(helper) == looks(beside.pid)
            links = {os.readlink(f"/proc/{helper}/fd/{fd}") for fd in os.listdir(f"/proc/{helper}/fd")}
            assert len(links) == 2, links
            assert "anon_inode:[pidfd]" in links
            assert Path(f"/proc/{helper}/status").stat().st_uid == 0, "it is not dumpable"


def test_what_a_killed_helper_leaves_is_mended() -> None:
    """A helper that hangs is killed from outside, and one that gives up takes its SIGSTOP back."""
    with start(Sandbox(PID), vfork_parent) as first, first.run(SLEEP) as beside:
        wait_until(lambda: first.state() == "D", "the target waits for its child")
        with read_context(beside.pid) as context:
            there = probe_from(context, first.pid, timeout=0.2)
        assert outcome(there.attempt) == (("attach", "TIMEOUT"),)
        assert there.attempt[3]
        assert {status(first.pid)[key] for key in ("SigPnd", "ShdPnd")} == {"0" * 16}


def test_a_mount_namespace_without_any_file() -> None:
    """As in a container whose image is empty: nothing in it is needed."""

    def empty_the_root() -> str:
        confine.mount("tmpfs", "/mnt", "tmpfs", 0)
        os.chdir("/mnt")
        libc.syscall({"x86_64": 155, "aarch64": 41}[ARCH], b".", b".")  # pivot_root(2)
        libc.umount2(b".", 2)  # MNT_DETACH
        return " ".join(os.listdir("/"))

    told = Told()
    with ExitStack() as undo:
        undo.callback(told.close)
        first = undo.enter_context(start(Sandbox(PID), SLEEP))
        empty = undo.enter_context(start(Sandbox(frozenset({"mount"})), told.workload(empty_the_root)))
        assert told.answer() == ""
        context = undo.enter_context(read_context(first.pid))
        other = undo.enter_context(read_context(empty.pid))
        there = probe_from(context.with_namespaces_of(other, "mnt"), first.pid)
        assert not [step for step in outcome(there.attempt) if step[1]]
        assert [line for line in there.missing if not line.startswith("landlock:")] == []
        assert other.unread[-1].startswith("proc: its mount namespace has no /proc")


def test_a_filter_that_refuses_to_open_any_file() -> None:
    """Such a process cannot look at the target first, as safedlv does; its three calls pass all the same."""
    with start(Sandbox(), SLEEP) as first, first.run(forever, seccomp=refuse("openat")) as tracer:
        with read_context(tracer.pid) as context:
            there = probe_from(context, first.pid)
        assert outcome(there.attempt)[:3] == (("attach", None), ("setoptions", None), ("cont", None))
        assert {name for name, failure in outcome(there.attempt) if failure == "EPERM"} >= {"threads", "auxv", "mem"}
        assert_unharmed(first.pid)


def test_no_signal_is_lost_by_a_probe_from_elsewhere(shared: Path) -> None:
    """The probe's own signal comes from another PID namespace than the target's (or from none that it sees)."""
    with counting(shared, namespaces=PID, seccomp=READ) as first:
        with read_context(first.pid) as context, sending(first.pid, shared):
            for n in range(count(1000)):
                there = probe_from(context if n % 2 else context.without_namespaces("pid"), first.pid)
                assert [step for step in outcome(there.attempt) if step[1]] == [("process_vm_readv", "ENOSYS")]
                assert there.attempt[3]
        assert_unharmed(first.pid)


def test_a_stopped_target_stays_stopped(shared: Path) -> None:
    with counting(shared, namespaces=PID) as first, read_context(first.pid) as context:
        first.stop()
        first.send_signal(signal.SIGUSR1)  # waits until it runs again
        for _ in range(count(200)):
            there = probe_from(context, first.pid)
            assert there.attempt[3]
            assert not [step for step in outcome(there.attempt) if step[1]]
            assert_unharmed(first.pid, stopped=True)
        assert counts(shared) == (0, 0), "it ran while it was stopped"
        first.cont()
        wait_until(lambda: counts(shared) == (1, 1), "both signals are counted once it runs again")


def test_a_time_namespace_with_another_clock() -> None:
    """The deadline is counted on the clock of the place where the probe runs."""
    words = ["unshare", "--time", "--monotonic", "1000000", "--fork", *SLEEP]
    unshare = subprocess.Popen(words)
    try:
        pid = wait_until(lambda: child_of(unshare.pid), "the process in the time namespace")
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "it sleeps")
        with start(Sandbox(), SLEEP) as first, read_context(pid) as context:
            assert any(line.startswith("join the time namespace") for line in context.describe())
            there = probe_from(context, first.pid)
        assert not [step for step in outcome(there.attempt) if step[1]]
        assert [line for line in there.missing if not line.startswith("landlock:")] == []
    finally:
        os.kill(child_of(unshare.pid) or unshare.pid, signal.SIGKILL)  # unshare itself waits for it, deaf to SIGTERM
        unshare.wait(SECONDS)


def test_ids_that_differ_from_each_other() -> None:
    """Real, effective, saved and filesystem id, and a capability that only the effective set lacks."""

    def mixed() -> bytes:
        os.setresgid(1, 2, 3)
        confine.set_keepcaps(True)
        os.setresuid(4, 5, 6)
        _, permitted, _ = confine.capget()
        confine.capset(permitted & ~SYS_PTRACE, permitted, 0)
        confine.setfsuid(7)
        return forever()

    with start(Sandbox(PID), vfork_parent) as first, first.run(mixed) as beside:
        wait_until(lambda: status(beside.pid)["Uid"].split() == ["4", "5", "6", "7"], "it has its ids")
        with read_context(beside.pid) as context:
            assert outcome(probe_from(context, first.pid).attempt)[0] == ("attach", "EPERM")
            able = context.with_capability("sys_ptrace")
            with waiting_helper(able, first) as helper:
                theirs = looks(beside.pid)
                theirs[FIELDS.index("CapEff")] = f"{able.capabilities.effective:016x}"
                assert looks(helper) == theirs


def test_time_of_an_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    spec = Sandbox(PID | {"net", "ipc", "uts"}, **THIRD, no_new_privs=True, seccomp=READ)
    with start(spec, SLEEP) as first, read_context(first.pid) as context:
        runs: list[Experiment] = [probe_from(context, first.pid) for _ in range(21)]
    milliseconds = statistics.median(run.us for run in runs) / 1000
    with capsys.disabled():
        print(f" [{milliseconds:.1f} ms per experiment]", end="")
    assert milliseconds < 100

"""The sandbox on this kernel: what was asked for is what the kernel states, and nothing of it stays."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedlv.linux import confine
from safedlv.runtimes.cgroup_tree import CgroupTree
from safedlv.runtimes.sandbox import IdMap, Running, Sandbox, WorkloadFailed, capability_sets, start
from safedlv.seccomp.program import Refuse, assemble
from tests.support import require

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long

ARCH = platform.machine()
SLEEP = ["sleep", "60"]
NOBODY = 65534
SYS_PTRACE = 1 << 19
PTRACE_CONT, PTRACE_ATTACH, PTRACE_DETACH, PTRACE_SETOPTIONS, PTRACE_GETREGSET = 7, 16, 17, 0x4200, 0x4204
SECONDS = 10.0


@pytest.fixture
def needs_root() -> None:
    require(os.geteuid() == 0, "makes namespaces and cgroups as root")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every test of this file leaves no child, no descriptor and no cgroup behind."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert len(os.listdir("/proc/self/fd")) == before
    assert cgroups_of(os.getpid()) == []


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {what}"
        time.sleep(0.005)


def cgroups_of(caller: int) -> list[str]:
    found = []
    for path, names, _ in os.walk("/sys/fs/cgroup"):
        found += [f"{path}/{name}" for name in names if name.startswith(f"safedlv-{caller}-")]
    return found


def status(pid: int) -> dict[str, str]:
    lines = Path("/proc", str(pid), "status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def forever() -> bytes:
    while True:
        signal.pause()


def ptrace(request: int, pid: int, data: int = 0) -> int:
    """0 or the errno."""
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.ptrace(request, pid, None, data) == -1 else 0


def attach_and_let_go(pid: int) -> bytes:
    """The errno of PTRACE_ATTACH as text; detached again once it is stopped."""
    refused = ptrace(PTRACE_ATTACH, pid)
    if not refused:
        os.waitpid(pid, 0x40000000)  # __WALL
        ptrace(PTRACE_DETACH, pid)
    return str(refused).encode()


def run_here(spec: Sandbox, workload: Callable[[], bytes]) -> bytes:
    with start(spec, workload) as running:
        return running.result(SECONDS)


# ---------------------------------------------------------------- start and end


def test_a_program_has_been_executed_when_start_returns() -> None:
    with start(Sandbox(), SLEEP) as running:
        assert Path(f"/proc/{running.pid}/comm").read_text() == "sleep\n"
        assert running.pid != running.init_pid
        with pytest.raises(TimeoutError):
            running.wait(0.01)
        running.kill()
        assert running.wait(SECONDS) == -signal.SIGKILL
        running.kill()  # again: nothing
        with pytest.raises(ProcessLookupError):
            running.state()


def test_exit_code_signal_and_output() -> None:
    read_end, write_end = os.pipe()
    with start(Sandbox(), ["sh", "-c", "echo out; echo err >&2; exit 7"], stdout=write_end, stderr=write_end) as running:
        os.close(write_end)
        assert running.wait(SECONDS) == 7
        assert running.wait(SECONDS) == 7
    with os.fdopen(read_end) as output:
        assert output.read() == "out\nerr\n"
    with start(Sandbox(), ["sh", "-c", "kill -TERM $$"]) as running:
        assert running.wait(SECONDS) == -signal.SIGTERM


def test_a_callable_answers_over_a_pipe_also_more_than_fits_into_one() -> None:
    assert run_here(Sandbox(), lambda: b"") == b""
    assert run_here(Sandbox(), lambda: b"x" * 1_000_000) == b"x" * 1_000_000


def test_a_callable_that_raises_or_dies_says_so() -> None:
    def raises() -> bytes:
        raise KeyError("of its own")

    with pytest.raises(WorkloadFailed, match="KeyError: 'of its own'"):
        run_here(Sandbox(), raises)

    def dies() -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b"never"

    with pytest.raises(WorkloadFailed, match=r"ended with -9: it left no result"):
        run_here(Sandbox(), dies)


def test_a_result_does_not_wait_for_the_callables_own_children() -> None:
    def leaves_a_child() -> bytes:
        if os.fork() == 0:
            forever()
        return b"done"

    assert run_here(Sandbox(), leaves_a_child) == b"done"


def test_orphans_that_left_the_session_end_too() -> None:
    def daemon() -> bytes:
        read_end, write_end = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.write(write_end, str(os.getpid()).encode())
            forever()
        return os.read(read_end, 16)

    with start(Sandbox(), daemon) as running:
        pid = int(running.result(SECONDS))
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()


def test_a_helper_keeps_no_pipe_of_the_caller_open() -> None:
    read_end, write_end = os.pipe()
    with start(Sandbox(), SLEEP):
        os.close(write_end)
        poller = select.poll()
        poller.register(read_end, select.POLLIN)
        assert poller.poll(SECONDS * 1000) == [(read_end, select.POLLHUP)]
    os.close(read_end)


def test_signals_are_as_a_shell_gives_them() -> None:
    with start(Sandbox(), SLEEP) as running:
        said = status(running.pid)
        assert {said["SigIgn"], said["SigBlk"], said["SigCgt"]} == {"0" * 16}
        running.stop()
        assert running.state() == "T"
        running.cont()
        until(lambda: running.state() == "S", "it sleeps again")


def test_a_caller_with_threads_is_refused() -> None:
    script = (
        "import threading\nfrom safedlv.runtimes.sandbox import Sandbox, start\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "start(Sandbox(), ['true'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "RuntimeError: a sandbox is started by fork" in ended.stderr


# ---------------------------------------------------------------- what the kernel states


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("kind", ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"])
def test_one_namespace_is_new_and_the_others_are_not(kind: str) -> None:
    with start(Sandbox(namespaces=frozenset({kind})), SLEEP) as running:
        new = {other for other in confine.CLONE_NEW if namespace(running.pid, other) != namespace("self", other)}
        assert new == {kind}


@pytest.mark.usefixtures("needs_root")
def test_all_namespaces_and_a_fresh_proc() -> None:
    spec = Sandbox(namespaces=frozenset({"user", "mount", "pid", "network", "ipc", "uts", "cgroup"}), cgroup=True)

    def look() -> bytes:
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        return repr((os.getpid(), os.getppid(), pids, os.path.exists("/sys/class/net/lo"))).encode()

    with start(spec, forever) as running:
        assert all(namespace(running.pid, kind) != namespace("self", kind) for kind in confine.CLONE_NEW)
        assert status(running.pid)["NSpid"].split() == [str(running.pid), "2"]
        assert status(running.init_pid)["NSpid"].split() == [str(running.init_pid), "1"]
        with running.run(look) as beside:
            assert all(namespace(beside.init_pid, k) == namespace(running.pid, k) for k in ("net", "mnt", "ipc", "uts"))
            pid, parent, pids, _ = eval(beside.result(SECONDS))
        assert (pid, parent, pids) == (3, 0, [1, 2, 3])


@pytest.mark.usefixtures("needs_root")
def test_ids_and_groups() -> None:
    with start(Sandbox(uid=1234, gid=2345, groups=(7, 8)), SLEEP) as running:
        said = status(running.pid)
        assert said["Uid"].split() == ["1234"] * 4
        assert said["Gid"].split() == ["2345"] * 4
        assert said["Groups"].split() == ["7", "8"]
        assert {said[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}


@pytest.mark.usefixtures("needs_root")
def test_capabilities_of_a_callable_are_exactly_the_asked_ones() -> None:
    sets = capability_sets("SYS_PTRACE", "cap_kill", 1)
    with start(Sandbox(uid=NOBODY, capabilities=sets), forever) as running:
        said = status(running.pid)
        wanted = 1 << 19 | 1 << 5 | 1 << 1
        assert {int(said[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {wanted}
        assert {int(said[name], 16) for name in ("CapInh", "CapAmb")} == {0}
        if shutil.which("capsh"):
            decoded = subprocess.run(["capsh", f"--decode={said['CapEff']}"], capture_output=True, text=True, check=True)
            assert decoded.stdout.split("=")[1].strip() == "cap_dac_override,cap_kill,cap_sys_ptrace"


@pytest.mark.usefixtures("needs_root")
def test_ambient_capabilities_outlive_execve_as_another_user() -> None:
    sets = capability_sets("SYS_PTRACE", ambient=True)
    with start(Sandbox(uid=NOBODY, gid=NOBODY, groups=(), capabilities=sets), SLEEP) as running:
        said = status(running.pid)
        names = ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")
        assert {int(said[name], 16) for name in names} == {SYS_PTRACE}


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("uid", [0, NOBODY])
def test_no_new_privs_and_a_filter_with_and_without_it(uid: int) -> None:
    program = assemble([Refuse("tgkill")], ARCH)
    sets = capability_sets()
    for no_new_privs in (False, True):
        with start(Sandbox(uid=uid, capabilities=sets, no_new_privs=no_new_privs, seccomp=program), SLEEP) as running:
            said = status(running.pid)
            assert (said["NoNewPrivs"], said["Seccomp"]) == (str(int(no_new_privs)), "2")
            assert {said[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16}


@pytest.mark.usefixtures("needs_root")
def test_several_filters_are_loaded() -> None:
    programs = (assemble([Refuse("tgkill")], ARCH), assemble([Refuse("ptrace", errno=38)], ARCH))
    with start(Sandbox(no_new_privs=True, seccomp=programs), SLEEP) as running:
        assert status(running.pid).get("Seccomp_filters", "2") == "2"


@pytest.mark.usefixtures("needs_root")
def test_a_process_that_is_not_dumpable_belongs_to_root() -> None:
    with start(Sandbox(uid=NOBODY, gid=NOBODY), forever) as running:
        assert os.stat(f"/proc/{running.pid}/status").st_uid == NOBODY
    with start(Sandbox(uid=NOBODY, gid=NOBODY, dumpable=False), forever) as running:
        # The files: the directory itself, mode 0555, always shows the effective uid (fs/proc/base.c, task_dump_owner).
        assert os.stat(f"/proc/{running.pid}/status").st_uid == 0
    with pytest.raises(ValueError, match="execve makes a process dumpable"):
        start(Sandbox(dumpable=False), SLEEP)


@pytest.mark.usefixtures("needs_root")
def test_ptracer_needs_yama() -> None:
    yama = Path("/proc/sys/kernel/yama").exists()
    if yama:
        with start(Sandbox(ptracer=confine.PR_SET_PTRACER_ANY), SLEEP) as running:
            assert running.state() in "SR"
    else:
        with pytest.raises(OSError, match=r"name -1 as ptracer: prctl\(PR_SET_PTRACER, -1\)") as caught:
            start(Sandbox(ptracer=confine.PR_SET_PTRACER_ANY), SLEEP)
        assert caught.value.errno == errno.EINVAL


# ---------------------------------------------------------------- filters that refuse


@contextmanager
def target_and_tracer(
    tracer: Callable[[int], bytes], target: Sandbox | None = None, **changes: object
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
        answers = eval(tracer.result(SECONDS))
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
        cases: list[tuple[dict[str, object], int]] = [
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


# ---------------------------------------------------------------- user namespaces and no privilege


@pytest.mark.usefixtures("needs_root")
def test_a_user_namespace_with_its_own_maps() -> None:
    maps = (IdMap(0, 100000, 65536),)
    with start(Sandbox(namespaces=frozenset({"user"}), uid=0, gid=5, uid_map=maps, gid_map=maps), SLEEP) as running:
        said = status(running.pid)
        assert (said["Uid"].split()[0], said["Gid"].split()[0]) == ("100000", "100005")
        assert Path(f"/proc/{running.pid}/uid_map").read_text().split() == ["0", "100000", "65536"]
        with running.run(lambda: attach_and_let_go(running.pid)) as tracer:
            assert tracer.result(SECONDS) == b"0"


def unprivileged(script: str) -> subprocess.CompletedProcess[str]:
    """Run Python as nobody (as the caller, when that is not root)."""
    user = NOBODY if os.geteuid() == 0 else None
    # The interpreter or the checkout may lie where nobody cannot look: PYTHONPATH as it is, imports before giving up.
    lines = ["import os", "from safedlv.runtimes.sandbox import *", "from safedlv.linux import confine"]
    if user:
        lines += [f"os.setgroups([]); os.setresgid({user}, {user}, {user}); os.setresuid({user}, {user}, {user})"]
        lines += ["confine.set_dumpable(True)"]
    program = "\n".join([*lines, script])
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60, env={"PATH": "/bin"}
    )


def test_without_privilege_a_user_namespace_is_enough_for_the_others() -> None:
    limit = Path("/proc/sys/user/max_user_namespaces")
    require(limit.exists() and limit.read_text() != "0\n", "needs user namespaces for everyone")
    script = """
spec = Sandbox(namespaces={"user", "mount", "pid", "net", "ipc", "uts"}, no_new_privs=True)
def look():
    return repr((os.getuid(), os.getpid(), os.listdir("/proc").count("1"))).encode()
with start(spec, ["sleep", "60"]) as target:
    with target.run(look) as beside:
        print(beside.result(10).decode())
    print(sorted(k for k in confine.CLONE_NEW
        if os.readlink(f"/proc/{target.init_pid}/ns/{k}") != os.readlink(f"/proc/self/ns/{k}")))
"""
    ended = unprivileged(script)
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == ["(0, 3, 1)", "['ipc', 'mnt', 'net', 'pid', 'user', 'uts']"]


def test_without_privilege_what_cannot_be_is_refused_by_name() -> None:
    script = """
for spec in (Sandbox(namespaces={"pid"}), Sandbox(cgroup=True), Sandbox(uid=0), Sandbox(landlock=1)):
    try:
        start(spec, ["true"])
    except OSError as error:
        print(type(error).__name__, error.strerror.split(":")[0])
"""
    ended = unprivileged(script)
    assert ended.stderr == ""
    expected = ["PermissionError unshare the namespaces pid", "PermissionError setresuid 0"]
    said = ended.stdout.splitlines()
    assert [said[0], said[2]] == expected
    assert said[1].startswith("PermissionError")
    assert said[3] == "PermissionError enter Landlock layer 1"


# ---------------------------------------------------------------- cgroups


@pytest.fixture
def tree(needs_root: None) -> Iterator[Running]:
    with start(Sandbox(namespaces=frozenset({"pid"}), cgroup=True), SLEEP) as running:
        yield running


def frozen_as_the_kernel_says(tree: CgroupTree) -> set[str]:
    found = set()
    if tree.v2 is not None and "frozen 1" in (tree.v2 / "cgroup.events").read_text():
        found.add("v2")
    freezer = dict(tree.v1).get("freezer")
    if freezer is not None and (freezer / "freezer.state").read_text() == "FROZEN\n":
        found.add("v1")
    return found


@pytest.mark.parametrize("version", ["v2", "v1", None])
def test_a_frozen_cgroup(tree: Running, version: str | None) -> None:
    assert tree.tree is not None
    has = {"v2": tree.tree.v2 is not None, "v1": "freezer" in dict(tree.tree.v1)}
    require(version is None or has[version], f"needs the {version} freezer")
    tree.freeze(version)
    assert frozen_as_the_kernel_says(tree.tree) == {version or next(name for name in has if has[name])}
    tree.thaw()
    assert frozen_as_the_kernel_says(tree.tree) == set()


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_a_frozen_sandbox_can_be_killed_and_closed(tree: Running, version: str) -> None:
    assert tree.tree is not None
    require(version == "v2" or "freezer" in dict(tree.tree.v1), "needs the v1 freezer")
    with tree.run(SLEEP):
        tree.freeze(version)
        tree.kill()
        assert tree.wait(SECONDS) == -signal.SIGKILL
        tree.freeze(version)
        tree.close()
    assert not any(path.exists() for path in tree.tree.directories)


def test_a_tracer_outside_the_cgroup_meets_a_frozen_target(tree: Running) -> None:
    inner = int(status(tree.pid)["NSpid"].split()[-1])

    def attach() -> bytes:
        refused = ptrace(PTRACE_ATTACH, inner)
        time.sleep(0.1)  # longer than a stop takes: none may come
        stopped, _ = os.waitpid(inner, 0x40000000 | os.WNOHANG)
        return f"{refused} {stopped}".encode()

    tree.freeze()
    with pytest.raises(TimeoutError, match="did not start in time"):
        tree.run(attach, timeout=0.2)
    with tree.run(attach, cgroup=False) as tracer:
        assert tracer.result(SECONDS) == b"0 0"


@pytest.mark.usefixtures("needs_root")
def test_every_process_is_in_the_cgroup_and_the_limits_hold() -> None:
    spec = Sandbox(cgroup=True, pids_max=10, memory_max=64 << 20)

    def too_many() -> bytes:
        try:
            while True:
                if os.fork() == 0:
                    forever()
        except OSError as error:
            return str(error.errno).encode()

    with start(spec, SLEEP) as running:
        assert running.tree is not None
        for directory in running.tree.directories:
            assert str(running.pid) in (directory / "cgroup.procs").read_text().split()
        limits = [path / name for path in running.tree.directories for name in ("memory.limit_in_bytes", "memory.max")]
        assert [path.read_text() for path in limits if path.exists()] == [f"{64 << 20}\n"]
        with running.run(too_many) as bomb:
            assert bomb.result(SECONDS) == str(errno.EAGAIN).encode()


@pytest.mark.usefixtures("needs_root")
def test_cgroups_that_the_workload_made_are_removed_too() -> None:
    with start(Sandbox(cgroup=True), SLEEP) as running:
        assert running.tree is not None
        for directory in running.tree.directories:
            (directory / "inner" / "most").mkdir(parents=True)
            (directory / "inner" / "most" / "cgroup.procs").write_text(str(running.pid))


# ---------------------------------------------------------------- killed, and twenty times


CALLER = """
import sys, time
from safedlv.runtimes.sandbox import Sandbox, start
spec = Sandbox(namespaces={namespaces}, cgroup={cgroup})
with start(spec, ["sh", "-c", "setsid sleep 61 & sleep 60"]) as target, target.run(["sleep", "62"]) as beside:
    if {frozen}:
        target.freeze("{frozen}")
    print(target.pid, target.init_pid, beside.pid, flush=True)
    time.sleep(60)
"""


def descendants(pid: int) -> set[int]:
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("frozen", ["", "v2", "v1"])
@pytest.mark.parametrize(
    ("namespaces", "cgroup"), [({"pid", "mount"}, True), ({"user", "pid"}, True), (set(), True), (set(), False)]
)
def test_a_killed_caller_leaves_no_process_and_no_cgroup(namespaces: set[str], cgroup: bool, frozen: str) -> None:
    require(frozen != "v1" or Path("/sys/fs/cgroup/freezer").exists(), "needs the v1 freezer")
    if frozen and not cgroup:
        return
    script = CALLER.format(namespaces=namespaces, cgroup=cgroup, frozen=frozen).replace("if :", "if False:")
    script = script.replace(f"if {frozen}:", "if True:") if frozen else script
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        pids = {int(pid) for pid in caller.stdout.readline().split()}
        assert len(pids) == 3
        processes = descendants(caller.pid)
        assert pids < processes
        assert bool(cgroups_of(caller.pid)) == cgroup
        caller.kill()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), "every process is gone")
    until(lambda: not cgroups_of(caller.pid), "every cgroup is gone")


@pytest.mark.usefixtures("needs_root")
def test_a_killed_supervisor_takes_the_sandbox_along_and_is_reported() -> None:
    running = start(Sandbox(namespaces=frozenset({"pid"}), cgroup=True), SLEEP)
    assert running.tree is not None
    os.kill(running._ends.supervisor, signal.SIGKILL)
    assert running.wait(SECONDS) == -signal.SIGKILL
    with pytest.raises(ChildProcessError, match="these cgroups may stay"):
        running.close()
    until(running.tree.remove, "the cgroups are empty")


@pytest.mark.usefixtures("needs_root")
def test_twenty_starts_leave_nothing() -> None:
    kinds = frozenset({"user", "mount", "pid", "net", "ipc", "uts", "cgroup"})
    before = Path("/proc/self/mountinfo").read_text()
    for _ in range(20):
        with start(Sandbox(namespaces=kinds, cgroup=True), SLEEP) as running, running.run(SLEEP) as beside:
            pids = [running.pid, running.init_pid, beside.pid, beside.init_pid]
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert cgroups_of(os.getpid()) == []
    assert Path("/proc/self/mountinfo").read_text() == before


# ---------------------------------------------------------------- errors and descriptions


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize(
    ("spec", "argv", "number", "text"),
    [
        (Sandbox(), ["/no/such/program"], errno.ENOENT, "execve /no/such/program: No such file"),
        (Sandbox(namespaces=frozenset({"pid", "mnt"})), ["/dev/null"], errno.EACCES, "execve /dev/null"),
        (Sandbox(seccomp=b"\0" * 8), ["true"], errno.EINVAL, "load a seccomp filter of 1 instructions: seccomp"),
        (Sandbox(capabilities=capability_sets(50)), ["true"], errno.EPERM, "set permitted to"),
        (
            Sandbox(namespaces=frozenset({"user"}), uid_map=(IdMap(0, 0, 1), IdMap(0, 0, 1))),
            ["true"],
            errno.EINVAL,
            "write '0 0 1.0 0 1' to /proc/[0-9]+/uid_map",
        ),
        (Sandbox(namespaces=frozenset({"user"}), uid_map=(IdMap(0, 0, 1),), uid=7), ["true"], 22, "setresuid 7"),
        (Sandbox(cgroup=True, pids_max=-5), ["true"], errno.EINVAL, "write -5 to /.*/pids.max"),
    ],
)
def test_a_setup_that_fails_names_the_step(spec: Sandbox, argv: list[str], number: int, text: str) -> None:
    with pytest.raises(OSError, match=text) as caught:
        start(spec, argv)
    assert caught.value.errno == number


def test_values_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="no such namespace: time"):
        Sandbox(namespaces=frozenset({"time"}))
    with pytest.raises(ValueError, match="need a user namespace"):
        Sandbox(uid_map=(IdMap(0, 0, 1),))
    with pytest.raises(ValueError, match="need cgroup=True"):
        Sandbox(pids_max=5)
    with pytest.raises(ValueError, match="no such capability: SYS_MAGIC"):
        capability_sets("SYS_MAGIC")
    with start(Sandbox(), SLEEP) as running:
        with pytest.raises(ValueError, match="cannot change namespaces"):
            running.run(SLEEP, namespaces={"pid"})
        with pytest.raises(ValueError, match="no cgroup"):
            running.freeze()


def test_a_spec_describes_itself_in_order() -> None:
    spec = Sandbox(
        namespaces=frozenset({"user", "pid", "mount"}), uid=7, no_new_privs=True, landlock=1, cgroup=True, seccomp=b"x" * 8
    )
    assert spec.describe() == [
        "make a cgroup, and remove it at the end",
        "join the cgroup",
        "unshare the user namespace",
        "write uid_map and gid_map",
        "unshare the namespaces mnt, pid",
        "make every mount private",
        "mount a fresh /proc",
        "set no_new_privs",
        "enter Landlock layer 1",
        "setresuid 7",
        "set dumpable to 1",
        "die with the sandbox",
        "give up every capability",
        "load a seccomp filter of 1 instructions",
    ]


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(0, 23)), st.booleans())
def test_any_set_of_capabilities(needs_root: None, keep: set[int], ambient: bool) -> None:
    with start(Sandbox(uid=NOBODY, capabilities=capability_sets(*keep, ambient=ambient)), forever) as running:
        said = status(running.pid)
        wanted = sum(1 << number for number in keep)
        assert [int(said[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")] == [wanted] * 3
        assert [int(said[name], 16) for name in ("CapInh", "CapAmb")] == [wanted if ambient else 0] * 2

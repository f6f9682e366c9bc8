"""The sandbox on this kernel: what was asked for is what the kernel states, or is refused by name."""

from __future__ import annotations

import ast
import errno
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedlv.linux import confine
from safedlv.model import CapabilitySets
from safedlv.runtimes.sandbox import IdMap, Sandbox, WorkloadFailed, capability_sets, start
from safedlv.runtimes.sandbox_spec import NAMESPACES
from safedlv.seccomp.program import Refuse, assemble
from tests.live.sandboxes import (  # noqa: F401 - pytest finds fixtures by their names here
    ARCH,
    NOBODY,
    SECONDS,
    SLEEP,
    SYS_PTRACE,
    attach_and_let_go,
    forever,
    namespace,
    needs_root,
    nothing_left,
    run_here,
    status,
)
from tests.support import require, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left")

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
    with start(
        Sandbox(), ["sh", "-c", "echo out; echo err >&2; exit 7"], stdout=write_end, stderr=write_end
    ) as running:
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
        # The C library keeps 32 and 33 for itself, and its posix_spawn, which make uses, leaves them ignored.
        assert not {int(said[key], 16) & ~(3 << 31) for key in ("SigIgn", "SigBlk", "SigCgt")} - {0}
        running.stop()
        assert running.state() == "T"
        running.cont()
        wait_until(lambda: running.state() == "S", "it sleeps again")


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
        assert all(namespace(running.pid, kind) != namespace("self", kind) for kind in NAMESPACES)
        assert status(running.pid)["NSpid"].split() == [str(running.pid), "2"]
        assert status(running.init_pid)["NSpid"].split() == [str(running.init_pid), "1"]
        with running.run(look) as beside:
            assert all(namespace(beside.init_pid, k) == namespace(running.pid, k) for k in ("net", "mnt", "ipc", "uts"))
            pid, parent, pids, _ = ast.literal_eval(beside.result(SECONDS).decode())
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
            decoded = subprocess.run(
                ["capsh", f"--decode={said['CapEff']}"], capture_output=True, text=True, check=True
            )
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


# ---------------------------------------------------------------- errors and descriptions


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize(
    ("spec", "argv", "number", "text"),
    [
        (Sandbox(), ["/no/such/program"], errno.ENOENT, "execve /no/such/program: No such file"),
        (Sandbox(namespaces=frozenset({"pid", "mnt"})), ["/dev/null"], errno.EACCES, "execve /dev/null"),
        (Sandbox(seccomp=b"\0" * 8), ["true"], errno.EINVAL, "load a seccomp filter of 1 instructions: seccomp"),
        (Sandbox(capabilities=CapabilitySets(0, 1, 1, 1, 1)), ["true"], errno.EPERM, "set ambient to 0x1: prctl"),
        (
            Sandbox(namespaces=frozenset({"user"}), uid_map=(IdMap(0, 0, 1), IdMap(0, 0, 1))),
            ["true"],
            errno.EINVAL,
            r"write '0 0 1\\n0 0 1' to /proc/[0-9]+/uid_map",
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
    with pytest.raises(ValueError, match="no such capability: 50"):
        capability_sets(50)
    words: list[str] = []
    for workload in ("sleep 60", words):
        with pytest.raises(ValueError, match="a workload is a callable or a list of words"):
            start(Sandbox(), workload)
    with start(Sandbox(), SLEEP) as running:
        with pytest.raises(ValueError, match="cannot change namespaces"):
            running.run(SLEEP, namespaces={"pid"})
        with pytest.raises(ValueError, match="no cgroup"):
            running.freeze()


def test_a_spec_describes_itself_in_order() -> None:
    spec = Sandbox(
        namespaces=frozenset({"user", "pid", "mount"}),
        uid=7,
        no_new_privs=True,
        landlock=1,
        cgroup=True,
        seccomp=b"x" * 8,
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
def test_any_set_of_capabilities(keep: set[int], ambient: bool) -> None:
    require(os.geteuid() == 0, "drops capabilities as root")
    with start(Sandbox(uid=NOBODY, capabilities=capability_sets(*keep, ambient=ambient)), forever) as running:
        said = status(running.pid)
        wanted = sum(1 << number for number in keep)
        assert [int(said[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")] == [wanted] * 3
        assert [int(said[name], 16) for name in ("CapInh", "CapAmb")] == [wanted if ambient else 0] * 2

"""The readers against real processes: every state and context here is really made, and unmade afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from safedlv import capabilities
from safedlv.facts import cgroup, credentials, landlock, process
from safedlv.facts.procfs import ProcDir, identity
from safedlv.facts.status import STATES
from safedlv.model import CapabilitySets, Ids, Unknown
from tests.support import require, wait_until

DEADLINE = 15.0
IS_ROOT = os.geteuid() == 0

PRELUDE = """
import ctypes, os, signal, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def ready():
    sys.stdout.write("ready\\n"); sys.stdout.flush()
def wait():
    ready(); time.sleep(60)
"""

# A clone that waits as vfork does, but without sharing memory, which Python would not survive.
CLONE_VFORK = """
number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
def vfork():
    if libc.syscall(number, 0x4000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        libc.sleep(60); os._exit(0)
"""


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; a failure after the deadline."""
    wait_until(condition, "the state that was asked for", DEADLINE)


@contextlib.contextmanager
def running(script: str, *prefix: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python child that has said ``ready``; it and its process group are gone afterwards."""
    command = [*prefix, sys.executable, "-c", PRELUDE + script]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate(timeout=DEADLINE)


def state_of(pid: int) -> str | Unknown:
    with ProcDir(pid) as procdir:
        return process.read_status(procdir).state


# ---------------------------------------------------------------- processes


def test_own_process() -> None:
    facts = process.read_process(os.getpid())
    assert facts.exists
    status = facts.status
    assert status.pid == status.tgid == os.getpid()
    assert status.ppid == os.getppid()
    assert status.state == "R"
    assert status.uid == Ids(*os.getresuid(), os.geteuid())
    assert status.groups == tuple(sorted(os.getgroups()))
    assert status.kernel_thread is facts.vfork_parent is False
    assert facts.cmdline == tuple(Path("/proc/self/cmdline").read_text().removesuffix("\0").split("\0"))
    assert all(namespace.same is not False for namespace in facts.namespaces)
    with ProcDir("self") as procdir:
        assert status.start_time == identity(procdir)


def test_every_process_reads_without_an_error() -> None:
    for pid in process.list_processes():
        facts = process.read_process(pid)
        assert isinstance(facts.status.state, Unknown) or facts.status.state in STATES


def test_kernel_thread() -> None:
    facts = process.read_process(2)
    require(facts.exists and facts.status.name == "kthreadd", "needs the first PID namespace")
    assert (facts.status.name, facts.status.kernel_thread, facts.cmdline) == ("kthreadd", True, ())
    assert isinstance(facts.dumpable, Unknown)


def test_stopped() -> None:
    with running("wait()") as child:
        os.kill(child.pid, signal.SIGSTOP)
        eventually(lambda: state_of(child.pid) == "T")
        assert process.read_process(child.pid).vfork_parent is False


def test_zombie_is_neither_gone_nor_undumpable() -> None:
    with running("wait()", *demote()) as child:
        os.kill(child.pid, signal.SIGKILL)
        eventually(lambda: state_of(child.pid) == "Z")
        facts = process.read_process(child.pid)
        assert (facts.exists, facts.status.state, facts.cmdline) == (True, "Z", ())
        assert facts.proc_owner == 0  # as with one that is not dumpable
        assert isinstance(facts.dumpable, Unknown)


def test_a_process_that_is_gone() -> None:
    with running("wait()") as child:
        procdir = ProcDir(child.pid)
        was = identity(procdir)
    with procdir:
        assert was > 0
        uid = process.read_status(procdir).uid
        assert isinstance(uid, Unknown)
        assert uid.errno in ("ENOENT", "ESRCH")
        with pytest.raises((FileNotFoundError, ProcessLookupError)):
            identity(procdir)
    facts = process.read_process(child.pid)
    assert facts.exists is False
    assert facts.status.state == Unknown("ENOENT", f"/proc/{child.pid}")


def test_a_file_held_open_over_the_end_says_esrch() -> None:
    with running("wait()") as child, ProcDir(child.pid) as procdir:
        fd = procdir.open("status")
        os.kill(child.pid, signal.SIGKILL)
        child.wait(DEADLINE)
        with os.fdopen(fd, "rb", buffering=0) as file, pytest.raises(ProcessLookupError):
            file.read()


def test_names_full_of_tricks() -> None:
    name = "a) R\n\x1b[2J\\x"
    script = f"libc.prctl(15, {name.encode()!r}, 0, 0, 0); wait()\n'\x1b]0;title\x07'\n'''\nUid:\t0\t0\t0\t0\n'''"
    with running(script) as child:
        eventually(lambda: state_of(child.pid) == "S")
        facts = process.read_process(child.pid)
        assert facts.status.name == name
        assert facts.status.state == "S"
        assert facts.status.ppid == os.getpid()
        assert facts.status.uid == Ids(*os.getresuid(), os.geteuid())
        assert facts.cmdline == (sys.executable, "-c", PRELUDE + script)


def test_threads() -> None:
    script = "[threading.Thread(target=time.sleep, args=(60,), daemon=True).start() for _ in range(3)]; wait()"
    with running(script) as child:
        assert process.read_process(child.pid).status.threads == 4


def test_family() -> None:
    script = "import subprocess; a = subprocess.Popen(['sleep', '60']); b = subprocess.Popen(['sleep', '60']); wait()"
    with running(script) as child:
        tree = process.process_tree()
        assert tree[child.pid] == os.getpid()
        assert len(process.descendants(tree, child.pid)) == 2
        assert child.pid in process.list_processes()


def test_tracer_is_named() -> None:
    script = """
child = os.fork()
if child == 0:
    libc.ptrace(0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP); time.sleep(60)
os.waitpid(child, 0); wait()
"""
    with running(script) as tracer:
        (child,) = process.descendants(process.process_tree(), tracer.pid)
        status = process.read_process(child).status
        assert (status.tracer_pid, status.state) == (tracer.pid, "t")


# ---------------------------------------------------------------- vfork


@pytest.mark.parametrize(
    "how", ["ready(); vfork()", "threading.Thread(target=vfork).start(); wait()"], ids=["leader", "thread"]
)
def test_vfork_parent(how: str) -> None:
    with running(CLONE_VFORK + how) as child:
        eventually(lambda: process.read_process(child.pid).vfork_parent is True)
        (inner,) = process.descendants(process.process_tree(), child.pid)
        assert process.read_process(inner).vfork_parent is False
        eventually(lambda: state_of(child.pid) == ("D" if "Thread" not in how else "S"))


def test_vfork_parent_by_its_system_call_alone() -> None:
    with running(CLONE_VFORK + "ready(); vfork()") as child, ProcDir(child.pid) as procdir:
        eventually(lambda: state_of(child.pid) == "D")
        require(IS_ROOT, "reading another's syscall file needs root under Yama")
        found = process.parse_vfork_call(procdir.read("syscall"), os.uname().machine, "syscall")
        assert found is True


def test_real_vfork_of_c(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    source = tmp_path / "v.c"
    source.write_text("#include <unistd.h>\nint main(void) { if (vfork() == 0) { sleep(60); _exit(0); } return 0; }\n")
    subprocess.run(["cc", "-o", tmp_path / "v", source], check=True)
    child = subprocess.Popen([tmp_path / "v"], start_new_session=True)
    try:
        eventually(lambda: process.read_process(child.pid).vfork_parent is True)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait(DEADLINE)


def test_vfork_parent_of_another_user_cannot_be_told() -> None:
    require(IS_ROOT, "needs two users")
    ask = "import sys; from safedlv.facts import process; print(process.read_process(int(sys.argv[1])).vfork_parent)"
    with running(CLONE_VFORK + "ready(); vfork()") as child:
        eventually(lambda: process.read_process(child.pid).vfork_parent is True)
        said = as_nobody(ask, str(child.pid))
    assert said == f"Unknown(errno='EACCES', source='/proc/{child.pid}/syscall')"


def as_nobody(script: str, *arguments: str, prefix: tuple[str, ...] = ()) -> str:
    """What a Python run by uid 1000 prints; it imports the package before it gives up root, who may read it."""
    drop = "import os; from safedlv.facts import process, landlock; os.setgroups([]); os.setresgid(1000, 1000, 1000); "
    command = [*prefix, sys.executable, "-c", f"{drop}os.setresuid(1000, 1000, 1000)\n{script}", *arguments]
    root = Path(cgroup.__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---------------------------------------------------------------- credentials


def demote(uid: int = 1000) -> tuple[str, ...]:
    """The start of a command line that runs the rest as another user."""
    require(IS_ROOT and shutil.which("setpriv") is not None, "needs root and setpriv")
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")


def test_capabilities_against_capsh() -> None:
    require(IS_ROOT and shutil.which("setpriv") is not None, "needs root and setpriv")
    with running("wait()", "setpriv", "--no-new-privs", "--bounding-set=-all,+chown,+kill,+net_raw") as child:
        status = process.read_process(child.pid).status
    wanted = capabilities.capability_mask(("chown", "kill", "net_raw"))
    assert status.capabilities == CapabilitySets(0, wanted, wanted, wanted, 0)
    assert status.no_new_privs is True
    require(shutil.which("capsh") is not None, "needs capsh (libcap2-bin)")
    for bits in (wanted, 0xA80425FB, (1 << 41) - 1):
        said = subprocess.run(["capsh", f"--decode={bits:x}"], capture_output=True, text=True, check=True).stdout
        ours = ",".join(f"cap_{name}" for name in capabilities.capability_names(bits))
        assert said.strip().partition("=")[2] == ours


def test_own_tracer() -> None:
    tracer = credentials.own_tracer()
    assert (tracer.who, tracer.uid, tracer.gid) == ("self", os.getuid(), os.getgid())
    status = process.read_process(os.getpid()).status
    assert not isinstance(status.capabilities, Unknown)
    assert tracer.capabilities == status.capabilities.effective


def test_dumpable_of_another_user() -> None:
    with running("libc.prctl(4, 1); wait()", *demote()) as child:
        facts = process.read_process(child.pid)
        assert (facts.dumpable, facts.proc_owner) == (True, 1000)


def test_not_dumpable_of_another_user() -> None:
    with running("libc.prctl(4, 0); wait()", *demote()) as child:
        facts = process.read_process(child.pid)
        assert (facts.dumpable, facts.proc_owner) == (False, 0)
        assert os.stat(f"/proc/{child.pid}").st_uid == 1000  # the directory itself does not tell


@pytest.mark.parametrize("flag", [0, 1])
def test_dumpable_of_root_cannot_be_seen(flag: int) -> None:
    require(IS_ROOT, "needs a process of root")
    with running(f"libc.prctl(4, {flag}); wait()") as child:
        assert isinstance(process.read_process(child.pid).dumpable, Unknown)


def test_dumpable_of_root_with_another_gid_can_be_seen() -> None:
    require(IS_ROOT and shutil.which("setpriv") is not None, "needs root and setpriv")
    for flag in (0, 1):
        with running(f"libc.prctl(4, {flag}); wait()", "setpriv", "--regid=1000", "--clear-groups") as child:
            assert process.read_process(child.pid).dumpable is bool(flag)


def test_what_another_user_may_not_see_is_unknown() -> None:
    require(IS_ROOT, "needs two users")
    ask = """
import sys
facts = process.read_process(int(sys.argv[1]))
errnos = {namespace.same.errno for namespace in facts.namespaces}
print(errnos <= {"EACCES", "ENOENT"}, facts.exists, facts.status.state)
"""
    with running("wait()") as child:
        eventually(lambda: state_of(child.pid) == "S")
        assert as_nobody(ask, str(child.pid)) == "True True S"


@pytest.mark.parametrize("hidepid", [0, 1, 2, 4])
def test_hidden_processes_exist_all_the_same(hidepid: int) -> None:
    require(IS_ROOT and shutil.which("unshare") is not None, "needs root and unshare")
    mount = f'mount -t proc -o hidepid={hidepid} proc /proc && exec "$0" "$@"'
    ask = """
import sys
facts, nothing = process.read_process(int(sys.argv[1])), process.read_process((1 << 22) - 1)
print(facts.exists, nothing.exists, getattr(facts.status.state, "errno", facts.status.state))
"""
    with running("wait()") as child:
        eventually(lambda: state_of(child.pid) == "S")
        said = as_nobody(ask, str(child.pid), prefix=("unshare", "--mount", "sh", "-c", mount))
    assert said == f"True False {({0: 'S', 1: 'EPERM', 2: 'ENOENT', 4: 'ENOENT'})[hidepid]}"


# ---------------------------------------------------------------- namespaces, seccomp, Landlock


def test_another_namespace_is_seen_as_such() -> None:
    require(IS_ROOT and shutil.which("unshare") is not None, "needs root and unshare")
    with running("wait()", "unshare", "--uts", "--ipc") as child:
        found = {namespace.kind: namespace.same for namespace in process.read_process(child.pid).namespaces}
    assert (found["uts"], found["ipc"], found["net"]) == (False, False, True)


@pytest.mark.parametrize(("inside", "dumpable"), [(0, "unknown"), (5, True)])
def test_user_namespace_has_a_root_of_its_own(inside: int, dumpable: object) -> None:
    require(IS_ROOT, "needs root")
    script = f"""
assert libc.unshare(0x10000000) == 0  # CLONE_NEWUSER
ready()
while not open("/proc/self/gid_map").read(): time.sleep(0.001)
os.setresgid({inside}, {inside}, {inside}); os.setresuid({inside}, {inside}, {inside})
os.execv("/bin/sleep", ["sleep", "60"])
"""
    with running(script) as child:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child.pid}/{name}").write_text("0 100000 10")
        eventually(lambda: process.read_process(child.pid).status.name == "sleep")
        facts = process.read_process(child.pid)
    uid = 100000 + inside
    assert facts.status.uid == Ids(uid, uid, uid, uid)
    assert facts.proc_owner == uid
    assert next(namespace.same for namespace in facts.namespaces if namespace.kind == "user") is False
    assert isinstance(facts.dumpable, Unknown) if dumpable == "unknown" else facts.dumpable is dumpable


def test_strict_seccomp() -> None:
    with running("ready(); libc.prctl(22, 1, 0, 0, 0)\nwhile True: pass") as child:
        eventually(lambda: process.read_process(child.pid).status.seccomp != 0 or child.poll() is not None)
        status = process.read_process(child.pid).status
        assert status.seccomp == 1 or status.state == "Z"


def test_landlock_layers() -> None:
    version = landlock.abi_version()
    require(isinstance(version, int), "needs Landlock")
    script = "assert libc.prctl(38, 1, 0, 0, 0) == 0\nfrom safedlv.facts import landlock\n"
    count = "\nprint(landlock.free_layers())"
    own = subprocess.run([sys.executable, "-c", script_of(script + count)], capture_output=True, text=True, check=True)
    taken = script + "landlock._take_layer(); landlock._take_layer()" + count
    two = subprocess.run([sys.executable, "-c", script_of(taken)], capture_output=True, text=True, check=True)
    assert 0 < int(own.stdout) <= landlock.MAX_LAYERS
    assert int(two.stdout) == int(own.stdout) - 2


def script_of(text: str) -> str:
    return f"import sys; sys.path.insert(0, {str(Path(cgroup.__file__).parents[2])!r})\n{PRELUDE}{text}"


def test_security_modules_of_this_kernel() -> None:
    modules = process.read_process(os.getpid()).modules
    assert modules.landlock_free_layers is None
    for name, value in (("apparmor", modules.apparmor), ("selinux", modules.selinux), ("smack", modules.smack)):
        if not isinstance(modules.loaded, Unknown):
            assert (value is not None) == (name in modules.loaded)
    if os.path.exists("/proc/sys/kernel/yama/ptrace_scope"):
        assert modules.yama_scope in range(4)
    else:
        assert modules.yama_scope is None


def test_time_to_read_one_process() -> None:
    process.read_process(1)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        process.read_process(os.getpid())
        times.append(time.perf_counter() - start)
    assert min(times) < 0.01

"""Status, stat, command line, and who may be dumped, from captured text and from a made-up /proc."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from safedlv import capabilities
from safedlv.facts import credentials, namespaces
from safedlv.facts.process import (
    descendants,
    parse_cmdline,
    parse_vfork_call,
    read_cmdline,
    read_process,
    vfork_parent,
)
from safedlv.facts.procfs import ProcDir, identity, parse_stat
from safedlv.facts.reading import decimal, mask, read
from safedlv.facts.status import make_status, parse_stat_fields, parse_status, read_stat, read_status
from safedlv.model import CapabilitySets, Ids, Status, Unknown

STAT = (
    b"13306 (vf) D 13305 13296 12192 0 -1 4194304 104 0 0 0 0 0 0 0 20 0 1 0 148703 2400256 254 "
    b"18446744073709551615 94071789191168 94071789191573 140725759987616 0 0 0 0 6 0 1 0 0 17 0 0 0 0 0 0 "
    b"94071789202896 94071789203496 94072282042368 140725759990489 140725759990494 140725759990494 140725759991795 0\n"
)
KTHREADD = b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 1 0 0 20 0 1 0 24 0 0 18446744073709551615 0 0 0\n"
STATUS = b"""Name:\tvf
Umask:\t0022
State:\tD (disk sleep)
Tgid:\t13306
Ngid:\t0
Pid:\t13306
PPid:\t13305
TracerPid:\t77
Uid:\t1000\t1001\t1002\t1003
Gid:\t100\t101\t102\t103
FDSize:\t256
Groups:\t4 24 1000\x20
NStgid:\t13306\t7
NSpid:\t13306\t7
Threads:\t3
SigQ:\t0/96365
SigPnd:\t0000000000000001
ShdPnd:\t0000000000000002
SigBlk:\t0000000000000004
SigIgn:\t0000000000000006
SigCgt:\tffffffffffffffff
CapInh:\t0000000000000000
CapPrm:\t000001fffeffffff
CapEff:\t00000000a80425fb
CapBnd:\t000001ffffffffff
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t1
"""


def status_of(stat: bytes, status: bytes) -> Status:
    return make_status(parse_stat_fields(stat), parse_status(status), "/proc/1/status")


def fake_proc(tmp_path: Path, **files: bytes) -> ProcDir:
    """A /proc/9 with the files named (``__`` for a slash)."""
    for name, data in files.items():
        path = tmp_path / "9" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return ProcDir(9, proc=str(tmp_path))


def test_status_of_a_captured_process() -> None:
    status = status_of(STAT, STATUS)
    assert (status.name, status.state, status.tgid, status.pid, status.ppid) == ("vf", "D", 13306, 13306, 13305)
    assert status.tracer_pid == 77
    assert status.uid == Ids(1000, 1001, 1002, 1003)
    assert status.gid == Ids(100, 101, 102, 103)
    assert status.groups == (4, 24, 1000)
    assert status.ns_pid == (13306, 7)
    assert status.threads == 3
    assert status.capabilities == CapabilitySets(0, 0x1FFFEFFFFFF, 0xA80425FB, 0x1FFFFFFFFFF, 0)
    assert status.no_new_privs is True
    assert (status.seccomp, status.seccomp_filters) == (2, 1)
    assert not isinstance(status.signals, Unknown)
    assert (status.signals.pending_thread, status.signals.caught) == (1, (1 << 64) - 1)
    assert status.start_time == 148703
    assert status.kernel_thread is False


def test_kernel_thread_has_the_flag() -> None:
    assert status_of(KTHREADD, STATUS).kernel_thread is True


def test_line_that_the_kernel_does_not_print_is_unknown() -> None:
    old = STATUS.replace(b"Seccomp_filters:\t1\n", b"").replace(b"CapAmb:\t0000000000000000\n", b"")
    status = status_of(STAT, old)
    assert status.seccomp_filters == Unknown("ENOENT", "/proc/1/status Seccomp_filters")
    assert status.capabilities == Unknown("ENOENT", "/proc/1/status CapAmb")
    assert status.seccomp == 2


@pytest.mark.parametrize(
    ("line", "key", "field"),
    [
        (b"Uid:\t1000\t1001\t1002\t1003", b"Uid:\t1000\t1001", "uid"),
        (b"TracerPid:\t77", b"TracerPid:\t-1", "tracer_pid"),
        (b"TracerPid:\t77", b"TracerPid:\t1_000", "tracer_pid"),
        (b"CapEff:\t00000000a80425fb", b"CapEff:\t1ffffffffffffffff", "capabilities"),
        (b"NoNewPrivs:\t1", b"NoNewPrivs:\tyes", "no_new_privs"),
        (b"Seccomp:\t2", b"Seccomp:\t3", "seccomp"),
        (b"Threads:\t3", b"Threads:\t", "threads"),
        (b"NSpid:\t13306\t7", "NSpid:\t\u0663".encode(), "ns_pid"),
    ],
)
def test_malformed_line_is_unknown_and_harms_no_other(line: bytes, key: bytes, field: str) -> None:
    status = status_of(STAT, STATUS.replace(line, key))
    value = getattr(status, field)
    assert isinstance(value, Unknown)
    assert value.errno == "MALFORMED"
    assert status.tgid == 13306


def test_name_cannot_forge_a_line() -> None:
    forged = parse_status(b"Uid:\t0\t0\t0\t0\nUid:\t9\t9\t9\t9\n")
    assert forged["Uid"].split() == ["0"] * 4


@pytest.mark.parametrize(
    ("data", "comm"),
    [
        (b"1 (a) S 0 0", b"a"),
        (b"1 (a) b) S 0 0", b"a) b"),
        (b"1 ((sd-pam)) S 0 0", b"(sd-pam)"),
        (b"1 (x\n) R 1 2 3 (\n) S 0 0", b"x\n) R 1 2 3 (\n"),
        (b"1 () S 0 0", b""),
    ],
)
def test_stat_comm_ends_at_the_last_parenthesis(data: bytes, comm: bytes) -> None:
    assert parse_stat(data) == (comm, [b"S", b"0", b"0"])


@pytest.mark.parametrize("data", [b"", b"1 a S", b"1 )a( S", b"1 (a)", b"1 (a) \n"])
def test_what_is_no_stat(data: bytes) -> None:
    with pytest.raises(ValueError, match="stat"):
        parse_stat(data)


def test_identity_is_the_start_time(tmp_path: Path) -> None:
    with fake_proc(tmp_path, stat=STAT) as procdir:
        assert identity(procdir) == 148703
    with fake_proc(tmp_path, stat=b"1 (a) S 1 2 3") as procdir, pytest.raises(ValueError, match="no start time"):
        identity(procdir)


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        (b"", ()),
        (b"/bin/sh\0-c\0a b\n\0", ("/bin/sh", "-c", "a b\n")),
        (b"x\0\0", ("x", "")),
        (b"nginx: master process", ("nginx: master process",)),
        (b"\0", ("",)),
        (b"\xff\x1b[31m\0", ("\udcff\x1b[31m",)),
    ],
)
def test_cmdline(data: bytes, arguments: tuple[str, ...]) -> None:
    assert parse_cmdline(data) == arguments


def test_reads_are_bounded(tmp_path: Path) -> None:
    with fake_proc(tmp_path, cmdline=b"a" * (3 << 20)) as procdir:
        cmdline = read_cmdline(procdir)
        assert not isinstance(cmdline, Unknown)
        assert len(cmdline[0]) == 1 << 20
        assert procdir.read("cmdline", 5) == b"aaaaa"


def test_errors_name_the_whole_path(tmp_path: Path) -> None:
    with fake_proc(tmp_path, stat=STAT, ns__pid=b"") as procdir:
        with pytest.raises(FileNotFoundError) as caught:
            procdir.read("status")
        assert caught.value.filename == f"{tmp_path}/9/status"
        with pytest.raises(OSError, match="ns/pid") as caught2:
            procdir.readlink("ns/pid")
        assert caught2.value.errno == errno.EINVAL
        with pytest.raises(IsADirectoryError) as caught3:
            procdir.read("ns")
        assert caught3.value.filename == f"{tmp_path}/9/ns"
        assert read(procdir, "status") == Unknown("ENOENT", f"{tmp_path}/9/status")
    assert procdir.fileno() == -1
    procdir.close()
    assert read(procdir, "stat") == Unknown("EBADF", f"{tmp_path}/9/stat")


def test_a_pid_that_cannot_be_is_only_unknown() -> None:
    for pid in (0, -1, 1 << 22, 1 << 80):
        facts = read_process(pid)
        assert facts.exists is False
        assert facts.status.state == Unknown("ENOENT", f"/proc/{pid}")
        assert facts.cgroup.frozen == facts.vfork_parent == facts.dumpable == Unknown("ENOENT", f"/proc/{pid}")
        assert [namespace.kind for namespace in facts.namespaces] == list(namespaces.KINDS)


def test_procfs_imports_nothing_but_os() -> None:
    script = "import os, sys; old = set(sys.modules); import safedlv.facts.procfs; print(*set(sys.modules) - old)"
    run = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) == {"__future__", "safedlv", "safedlv.facts", "safedlv.facts.procfs"}


# ---------------------------------------------------------------- vfork

VFORK = b"58 0x558ecb940166 0x7ffd44ef4fa8 0x7ffd44ef4fb8 0x7f5efa4b9850 0x0 0x7f5efa69f6d0 0x7ffd44ef4e80 0x7f5e\n"

NO_FLAGS = "f (the flags of call %d are not shown)"


@pytest.mark.parametrize(
    ("data", "machine", "answer"),
    [
        (VFORK, "x86_64", True),
        (VFORK, "aarch64", False),
        (b"56 0x4111 0x0 0x0 0x0 0x0 0x0 0x1 0x2\n", "x86_64", True),
        (b"56 0x1200011 0x0 0x0 0x0 0x0 0x0 0x1 0x2\n", "x86_64", False),
        (b"220 0x4111 0x0 0x0 0x0 0x0 0x0 0x1 0x2\n", "aarch64", True),
        (b"230 0x0 0x0 0x7ffd44ef4e40 0x7ffd44ef4e40 0x0 0x0 0x1 0x2\n", "x86_64", False),
        (b"-1 0x7ffd44ef4e40 0x7ffd44ef4e40\n", "x86_64", False),
        (b"running\n", "x86_64", False),
        (b"435 0x7ffd44ef4e40 0x58 0x0 0x0 0x0 0x0 0x1 0x2\n", "x86_64", Unknown("EFAULT", NO_FLAGS % 435)),
        (b"58 0x0\n", "sparc64", Unknown("EFAULT", NO_FLAGS % 58)),
        (b"", "x86_64", Unknown("MALFORMED", "f")),
        (b"fifty-eight 0x1 0x2", "x86_64", Unknown("MALFORMED", "f")),
    ],
)
def test_vfork_by_system_call(data: bytes, machine: str, answer: object) -> None:
    assert parse_vfork_call(data, machine, "f") == answer


def test_vfork_parent_by_wchan(tmp_path: Path) -> None:
    with fake_proc(tmp_path, stat=STAT, wchan=b"kernel_clone") as procdir:
        assert vfork_parent(procdir, read_stat(procdir)) is True
    with fake_proc(tmp_path, wchan=b"hrtimer_nanosleep") as procdir:
        assert vfork_parent(procdir, read_stat(procdir)) is False
    with fake_proc(tmp_path, wchan=b"0") as procdir:  # not allowed to look, and no syscall file either
        assert vfork_parent(procdir, read_stat(procdir)) == Unknown("ENOENT", f"{tmp_path}/9/syscall")


def test_vfork_parent_may_be_any_thread(tmp_path: Path) -> None:
    leader = STAT.replace(b") D", b") S").replace(b"20 0 1 0", b"20 0 3 0")
    sleeping = STAT.replace(b") D", b") S")
    files = {"stat": leader, "task__9__stat": leader, "task__10__stat": sleeping, "task__11__stat": STAT}
    with fake_proc(tmp_path, **files) as procdir:
        assert vfork_parent(procdir, read_stat(procdir)) == Unknown("ENOENT", f"{tmp_path}/9/task/11/syscall")
    with fake_proc(tmp_path, task__11__wchan=b"kernel_clone") as procdir:
        assert vfork_parent(procdir, read_stat(procdir)) is True
    with fake_proc(tmp_path, task__11__stat=sleeping) as procdir:
        assert vfork_parent(procdir, read_stat(procdir)) is False
        (tmp_path / "9/task/11/stat").unlink()  # a thread that has ended
        assert vfork_parent(procdir, read_stat(procdir)) is False
        (tmp_path / "9/task/11/stat").write_bytes(b"?")
        assert vfork_parent(procdir, read_stat(procdir)) == Unknown("MALFORMED", f"{tmp_path}/9/task/11/stat")


# ---------------------------------------------------------------- credentials


def test_capability_table() -> None:
    assert len(capabilities.CAPABILITIES) == 41
    assert capabilities.CAPABILITY_BITS["sys_ptrace"] == 19
    assert capabilities.CAPABILITY_BITS["checkpoint_restore"] == 40
    docker = capabilities.capability_names(0xA80425FB)
    assert len(docker) == 14
    assert "sys_ptrace" not in docker
    assert capabilities.capability_mask(docker) == 0xA80425FB
    assert capabilities.capability_names(1 << 41 | 1) == ("chown", "41")
    assert capabilities.capability_names(0) == ()


def dumpable(procdir: ProcDir, owner: tuple[int, int], uid: int, gid: int, stat: bytes = STAT) -> bool | Unknown:
    ids = b"Uid:\t%d\t%d\t%d\t%d\nGid:\t%d\t%d\t%d\t%d\n" % (uid, uid, uid, uid, gid, gid, gid, gid)
    return credentials.dumpable(procdir, status_of(stat, ids), parse_stat_fields(stat), owner)


def test_dumpable_by_owner(tmp_path: Path) -> None:
    whole = b"         0          0 4294967295\n"
    with fake_proc(tmp_path, uid_map=whole, gid_map=whole) as procdir:
        assert dumpable(procdir, (1000, 1000), 1000, 1000) is True
        assert dumpable(procdir, (0, 0), 1000, 1000) is False
        assert dumpable(procdir, (0, 0), 0, 1000) is False  # the gid tells
        assert dumpable(procdir, (0, 1000), 0, 1000) is True
        root = dumpable(procdir, (0, 0), 0, 0)
        assert isinstance(root, Unknown)
        assert "root" in root.source


def test_dumpable_in_another_user_namespace(tmp_path: Path) -> None:
    mapped = b"         0     100000      65536\n"
    with fake_proc(tmp_path, uid_map=mapped, gid_map=mapped) as procdir:
        assert isinstance(dumpable(procdir, (100000, 100000), 100000, 100000), Unknown)
        assert dumpable(procdir, (100000, 100000), 101000, 101000) is False
        assert dumpable(procdir, (101000, 101000), 101000, 101000) is True
    with fake_proc(tmp_path, uid_map=b"?") as procdir:
        assert dumpable(procdir, (7, 7), 7, 7) == Unknown("MALFORMED", f"{tmp_path}/9/uid_map")


def test_no_memory_no_answer(tmp_path: Path) -> None:
    with fake_proc(tmp_path, stat=KTHREADD) as procdir:
        answer = dumpable(procdir, (0, 0), 1000, 1000, KTHREADD)
    assert isinstance(answer, Unknown)
    assert answer.errno == "ESRCH"


def test_unreadable_status_leaves_dumpable_unknown(tmp_path: Path) -> None:
    with fake_proc(tmp_path, stat=STAT) as procdir:
        why = Unknown("ENOENT", f"{tmp_path}/9/status")
        status = read_status(procdir)
        assert status.uid == why
        assert status.name == "vf"
        assert credentials.dumpable(procdir, status, read_stat(procdir), (0, 0)) == why
        assert credentials.proc_owner(procdir) == why


# ---------------------------------------------------------------- small ones


def test_descendants_by_level_and_without_end() -> None:
    tree = {1: 0, 2: 0, 5: 1, 3: 1, 9: 5, 8: 3, 7: 7}
    assert descendants(tree, 1) == (3, 5, 8, 9)
    assert descendants(tree, 9) == ()
    assert descendants({1: 2, 2: 1}, 1) == (2, 1)
    assert descendants(tree, 7) == (7,)


def test_numbers_are_the_kernels() -> None:
    assert decimal(b" 12\n") == 12
    assert mask("000001fffeffffff") == 0x1FFFEFFFFFF
    for text in ("", "-1", "1_0", "+1", "\u0663", "9" * 5000):
        with pytest.raises(ValueError):
            decimal(text)
    with pytest.raises(ValueError, match="64"):
        mask("1" + "0" * 16)

"""A sidecar's plan as the engine is told it, its seccomp profile, and the numbers that it is made of."""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from safedlv.errors import SafedlvError
from safedlv.seccomp.profile import PTRACE_REQUESTS
from safedlv.sibling.needs import BASE_LIMIT, BASE_NEED, NEED_PER_BYTE, limit_of
from safedlv.sibling.plan import LABEL, OWNER, PROCESS, Sidecar, profile
from safedlv.sibling.privilege import candidates, first_failure, inner
from safedlv.sibling.sweep import is_stale, owner_label

PLAN = Sidecar(
    target="0123456789ab",
    process=4711,
    inner_pid=7,
    image="toolbox:tag",
    command=("/toolbox/dlv", "attach", "7"),
    user=(0, 0),
    capabilities=("sys_ptrace", "kill"),
    directory="/run/safedlv-1/session",
    memory=300 << 20,
    name="safedlv-sidecar-1",
    owner="1 2:3",
)
DANGEROUS = (
    *("mount", "umount2", "pivot_root", "chroot", "setns", "unshare", "bpf", "perf_event_open", "keyctl", "add_key"),
    *("init_module", "finit_module", "kexec_load", "reboot", "swapon", "process_vm_writev", "pidfd_getfd"),
    *("open_by_handle_at", "name_to_handle_at", "io_uring_setup", "mknod", "mknodat", "sethostname", "settimeofday"),
    *("kcmp", "quotactl", "syslog", "iopl", "ioperm", "personality", "memfd_create", "seccomp", "userfaultfd"),
)  # fmt: skip


def allowed() -> dict[str, list[Any]]:
    """The calls that the profile allows: name to the conditions of each rule that does."""
    found: dict[str, list[Any]] = {}
    for rule in profile()["syscalls"]:
        if rule["action"] == "SCMP_ACT_ALLOW":
            for name in rule["names"]:
                found.setdefault(name, []).append(rule.get("args") or [])
    return found


def test_what_it_does_not_name_is_refused() -> None:
    assert profile()["defaultAction"] == "SCMP_ACT_ERRNO"
    assert not set(DANGEROUS) & allowed().keys()


def test_ptrace_is_allowed_request_by_request() -> None:
    conditions = allowed()["ptrace"]
    assert all(len(args) == 1 and args[0]["index"] == 0 and args[0]["op"] == "SCMP_CMP_EQ" for args in conditions)
    assert {args[0]["value"] for args in conditions} == set(PTRACE_REQUESTS.values())
    assert 0x4206 not in PTRACE_REQUESTS.values()  # SEIZE, which dlv does not use


def test_clone3_is_answered_as_by_an_old_kernel() -> None:
    """So that the C library falls back to clone."""
    (rule,) = [rule for rule in profile()["syscalls"] if "clone3" in rule["names"]]
    assert (rule["action"], rule["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_what_the_engine_is_told() -> None:
    host = PLAN.config()["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] == ["SYS_PTRACE", "KILL"]
    assert host["PidMode"] == "container:0123456789ab"
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["Init"] is False
    assert host["MemorySwap"] == host["Memory"] == 300 << 20
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["SecurityOpt"] == ["no-new-privileges", f"seccomp={json.dumps(profile())}"]
    assert [mount["Source"] for mount in host["Mounts"]] == ["/run/safedlv-1/session"]
    assert not {"Privileged", "Devices", "Binds", "VolumesFrom", "IpcMode", "UTSMode"} & host.keys()
    assert PLAN.config()["Labels"] == {LABEL: "0123456789ab", OWNER: "1 2:3", PROCESS: "4711"}


def test_the_targets_own_profile() -> None:
    plan = evolve(PLAN, apparmor="docker-default")
    assert "apparmor=docker-default" in plan.config()["HostConfig"]["SecurityOpt"]
    assert "the AppArmor profile docker-default as the target" in "\n".join(plan.describe())
    assert "AppArmor" not in "\n".join(PLAN.describe())


def test_what_is_said_is_what_is_done() -> None:
    text = "\n".join(PLAN.describe())
    for part in ("toolbox:tag", "uid 0, gid 0", "SYS_PTRACE, KILL", "at most 300 MiB", "128 threads", PLAN.directory):
        assert part in text
    assert "no capability" in "\n".join(evolve(PLAN, capabilities=()).describe())


# ---------------------------------------------------------------- numbers


@given(size=st.integers(0, 1 << 33), available=st.integers(0, 1 << 40), known=st.booleans())
def test_the_memory_limit(size: int, available: int, known: bool) -> None:
    """Never more than there is, never less than dlv may need; or a sentence."""
    need = BASE_NEED + (NEED_PER_BYTE * size if known else 0)
    if available < need:
        with pytest.raises(SafedlvError, match="dlv would not fit"):
            limit_of(size, available, known=known)
        return
    limit = limit_of(size, available, known=known)
    assert limit <= available
    assert limit % (1 << 20) == 0
    assert limit > need - (1 << 20)
    assert limit >= min(BASE_LIMIT, available) >> 20 << 20


def test_the_least_privilege_comes_first() -> None:
    for user in ((0, 0), (1000, 100)):
        listed = candidates(user)
        assert listed[0] == (user, ())
        assert listed[-1] == ((0, 0), ("sys_ptrace", "dac_read_search", "kill"))
        for before, after in itertools.pairwise(listed):
            assert not set(after[1]) < set(before[1])
        assert all(who == (0, 0) for who, capabilities in listed if capabilities)


def test_ids_in_a_user_namespace() -> None:
    mapped = ((0, 100000, 1000), (5000, 7, 1))
    assert inner(100999, mapped) == 999
    assert inner(7, mapped) == 5000
    for number in (99999, 101000, 0):
        with pytest.raises(ValueError, match="has no number"):
            inner(number, mapped)


# ---------------------------------------------------------------- whose it is


def test_ours_lives() -> None:
    assert not is_stale(owner_label(os.getpid()), running=True)
    assert not is_stale(owner_label(os.getpid(), os.getppid()), running=False)


def test_stale_when_nobody_lives() -> None:
    namespace, pair = owner_label(os.getpid()).split()
    pid, start = pair.split(":")
    assert is_stale(f"{namespace} {pid}:{int(start) + 1}", running=True)
    assert not is_stale(f"{namespace} {pid}:{int(start) + 1} {pair}", running=True)
    assert is_stale(f"{namespace} 4194305:1", running=True)  # PID_MAX_LIMIT is 4194304


@pytest.mark.parametrize("owner", ["", "1 2:3", "x y z", "1"])
def test_not_ours_to_judge(owner: str) -> None:
    """Of another PID namespace, or a label that is none of ours: left alone while it runs."""
    assert not is_stale(owner, running=True)
    assert is_stale(owner, running=False)


@pytest.mark.parametrize(
    ("steps", "needs", "told"),
    [
        ([("attach", "EACCES", 1)], [], ("PTRACE_ATTACH", "EACCES")),
        ([("attach", None, 1), ("setoptions", "EPERM", 1)], [("files", "EACCES", 1)], ("PTRACE_SETOPTIONS", "EPERM")),
        ([("attach", None, 1)], [("process_vm_readv", "EPERM", 1), ("files", "EACCES", 1)], ("files", "EACCES")),
        ([("attach", None, 1)], [("process_vm_readv", "EPERM", 1)], None),
        ([], [], None),
    ],
)
def test_what_an_attempt_met_first(steps: list[Any], needs: list[Any], told: tuple[str, str] | None) -> None:
    refusal = first_failure((tuple(steps), tuple(needs), (0, 0), True))
    assert (refusal and (refusal.step, refusal.errno)) == told

"""Where systemd runs: ``safedlv control`` in a scope that it makes, and the filters of its units."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from safedlv.facts.cgroup import V2, parse_membership
from safedlv.facts.process import descendants, process_tree
from safedlv.facts.procfs import ProcDir
from safedlv.probe.filters import read_filters
from safedlv.seccomp import answers, bpf
from safedlv.seccomp.bpf import Instruction, Program
from safedlv.seccomp.evaluate import Call, answer
from tests.everyone import Everyones
from tests.live.systemd import LAYOUTS, Systemd, below, systemd
from tests.live.test_seccomp_kernel import MISSING, Made, expected, outcomes
from tests.programs import ARCH, random_word
from tests.support import SAFEDLV, assert_unharmed, count, wait_until

SECONDS: Final = 60


@pytest.fixture(scope="module")
def hybrid(everyones: Everyones) -> Iterator[Systemd]:
    with systemd("hybrid", everyones.places()) as running:
        yield running


# ---------------------------------------------------------------- control


def group_of(running: Systemd) -> Path | None:
    """The scope in which a control group runs by now."""
    for scope in running.scopes():
        with contextlib.suppress(OSError):  # gone meanwhile
            groups = [path for path in below(scope) if path.name.startswith("safedlv-")]
            if any((path / "cgroup.procs").read_text() for path in groups):
                return scope
    return None


@contextlib.contextmanager
def started(running: Systemd, everyones: Everyones, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command, from within; it has ended at the end."""
    command = everyones.safedlv("control", "--json", *words)
    with running.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as control:
        try:
            yield control
        finally:
            control.kill()


def no_scope(running: Systemd) -> bool:
    """systemd knows of none any more, and no cgroup of one is left."""
    listed = running.systemctl("list-units", "--all", "--plain", "--no-legend", "run-*.scope")
    return not listed and not running.scopes()


@contextlib.contextmanager
def frozen(scope: Path) -> Iterator[None]:
    """Nothing goes on in a scope."""
    (scope / "cgroup.freeze").write_text("1")
    wait_until(lambda: "frozen 1" in (scope / "cgroup.events").read_text(), "the scope is frozen")
    try:
        yield
    finally:
        (scope / "cgroup.freeze").write_text("0")


def test_in_a_scope_of_systemd_s(hybrid: Systemd, everyones: Everyones) -> None:
    """Once: with the limits that were asked for, all that control starts below it, and gone with it."""
    with started(hybrid, everyones) as running:
        scope = wait_until(lambda: group_of(hybrid), "its group is in a scope")
        assert scope is not None
        name = scope.name
        with frozen(hybrid.cgroups[V2] / "system.slice" / name):
            wanted = {"Delegate": "yes", "TasksMax": "4096", "MemoryMax": str(4 << 30), "ActiveState": "active"}
            assert hybrid.properties(name, *wanted) == wanted
            assert {path.name for path in hybrid.scopes()} == {name}
            limits = {"pids": "pids.max", "memory": "memory.limit_in_bytes"}
            held = [(hybrid.cgroups[key] / "system.slice" / name / file).read_text() for key, file in limits.items()]
            assert list(map(int, held)) == [4096, 4 << 30]
            processes = descendants(process_tree(), running.pid)
            assert len(processes) > 2
            for process in processes:
                where = membership(process)
                assert all(f"/{name}" in where[key] for key in (V2, "name=systemd", *limits)), where
        out, err = running.communicate(timeout=SECONDS)
    assert (running.returncode, err) == (0, "")
    group = json.loads(out)["group"]
    assert (group["cgroup"], group["left_out"]) == (True, [])
    wait_until(lambda: no_scope(hybrid), "its scope is gone")


def membership(process: int) -> dict[str, str]:
    return parse_membership(Path(f"/proc/{process}/cgroup").read_bytes())


def test_the_scope_goes_when_control_is_killed(hybrid: Systemd, everyones: Everyones) -> None:
    """SIGKILL at several moments: no process, no cgroup and no scope is left."""
    for n in range(count(20, 3)):
        with started(hybrid, everyones, "1", "--tracer=self") as running:
            wait_until(lambda: group_of(hybrid), "its group is in a scope")
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(n % 5 * 0.2)
            os.kill(descendants(process_tree(), running.pid)[0], signal.SIGKILL)
            running.communicate(timeout=SECONDS)
        wait_until(lambda: no_scope(hybrid), "its scope is gone")
        assert hybrid.members("init.scope") == [hybrid.pid]
        assert descendants(process_tree(), hybrid.pid) == ()


def test_the_limit_is_that_of_where_it_was_started(hybrid: Systemd, everyones: Everyones) -> None:
    """Not that of the scope that it is in."""
    words = everyones.safedlv("control", "--json", "1", "--tracer=self")
    done = hybrid.run("systemd-run", "--scope", "--quiet", "--collect", "--property=TasksMax=200", "--", *words)
    assert (done.returncode, done.stderr) == (0, "")
    limits = [row for row in json.loads(done.stdout)["ingredients"] if row["id"].endswith("-limit")]
    assert [row["id"] for row in limits] == ["pids-limit"]
    assert limits[0]["real"].endswith(" of 200 threads")
    wait_until(lambda: no_scope(hybrid), "its scope is gone")


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"hybrid"}))
def test_in_the_other_layouts(layout: str, everyones: Everyones) -> None:
    """cgroup v1 alone and v2 alone; that a scope there is made is seen. In v1 systemd in a container never learns that
    one has become empty (its release agent is the machine's), so there it may stay."""
    with systemd(layout, everyones.places()) as alone:
        with started(alone, everyones) as running:
            wait_until(lambda: group_of(alone), "its group is in a scope")
            out, err = running.communicate(timeout=SECONDS)
        assert (running.returncode, err) == (0, "")
        assert json.loads(out)["group"]["cgroup"] is True
        assert layout == "v1" or wait_until(lambda: no_scope(alone), "its scope is gone")


# ---------------------------------------------------------------- filters

UNITS: Final[dict[str, tuple[str, ...]]] = {
    "what services need": ("SystemCallFilter=@system-service",),
    "the same, with an errno": ("SystemCallFilter=@system-service", "SystemCallErrorNumber=EPERM"),
    "all but some": ("SystemCallFilter=~@debug @mount", "SystemCallErrorNumber=EACCES"),
    "an errno for each": ("SystemCallFilter=~ptrace:EACCES kcmp:ENOSYS process_vm_readv:kill",),
    "this architecture": ("SystemCallArchitectures=native",),
    "some families": ("RestrictAddressFamilies=AF_UNIX AF_INET",),
    "all but one family": ("RestrictAddressFamilies=~AF_PACKET",),
    "logged": ("SystemCallLog=ptrace",),
    "hardened": (
        *("SystemCallFilter=@system-service", "SystemCallFilter=~@privileged @resources"),
        *("SystemCallErrorNumber=EPERM", "SystemCallArchitectures=native", "RestrictAddressFamilies=AF_UNIX"),
        *("MemoryDenyWriteExecute=yes", "RestrictNamespaces=yes", "RestrictRealtime=yes", "RestrictSUIDSGID=yes"),
        *("LockPersonality=yes", "ProtectClock=yes", "ProtectKernelLogs=yes", "ProtectKernelModules=yes"),
        *("ProtectHostname=yes", "PrivateDevices=yes"),
    ),
}
"""Units as they are written, and as systemd-analyze security asks for them."""
PTRACE: Final = {
    "what services need": "killed",
    "the same, with an errno": "EPERM",
    "all but some": "EACCES",
    "an errno for each": "EACCES",
    "logged": "logged",
    "hardened": "EPERM",
}
"""What systemd.exec(5) says of ptrace there; allowed in the others."""
MARK: Final = 0x5AFED17
REACHED: Final = 1000
"""The errno of a call that all of a unit's filters allow: it is not made."""
HIGHEST: Final = 600
X32: Final = 0x40000000
UNFILTERED: Final = (335, 336) if os.uname().machine == "x86_64" else ()
"""uretprobe and uprobe: a newer kernel (seen: 6.18) asks no filter about them, whatever a program says."""


def mark() -> Program:
    """Answers for calls with MARK in the upper half of their last argument, so that none of them is ever made."""
    last = bpf.ARGUMENTS + 5 * 8 + 4
    steps = [(bpf.LD, 0, 0, last), (bpf.JEQ, 0, 1, MARK), (bpf.RET, 0, 0, answers.ERRNO | REACHED)]
    return tuple(Instruction(*one) for one in (*steps, (bpf.RET, 0, 0, answers.ALLOW)))


def loaded(pid: int) -> tuple[Program, ...]:
    with ProcDir(pid) as procdir:
        return tuple(map(bpf.load, read_filters(pid, procdir.fileno())))


def marked_calls(chosen: random.Random, stack: tuple[Program, ...]) -> Iterator[tuple[Made, int]]:
    """Every number, x32's among them, and more often those that the programs know; with the answer to each."""
    numbers = [*(set(range(HIGHEST)) - set(UNFILTERED))] * count(30, 2)
    for number in numbers:
        program = chosen.choice(stack)
        known = random_word(chosen, program)
        one = known if known in numbers[:HIGHEST] and chosen.random() < 0.5 else number
        upper = chosen.choice((0, 0, random_word(chosen, program)))
        five = [random_word(chosen, program) | upper << 32 for _ in range(5)]
        made = one | X32 * (chosen.random() < 0.05), (*five, MARK << 32)
        value = answer(stack, Call(ARCH, *made)).value
        if answers.outcome(value) != "killed" or chosen.random() < 0.1:  # each that kills costs a child
            yield made, value


@pytest.mark.parametrize("name", UNITS)
def test_the_filters_of_units(name: str, hybrid: Systemd) -> None:
    """Read out of a process of the unit, and loaded anew: the evaluator and the kernel agree on every call."""
    with hybrid.service(*UNITS[name]) as pid:
        programs = loaded(pid)
        assert_unharmed(pid)
        done = subprocess.run(
            [*SAFEDLV, "seccomp", "explain", str(pid), "ptrace(16)", "--json"], capture_output=True, check=False
        )
        assert_unharmed(pid)
    (said,) = json.loads(done.stdout)["calls"]
    assert (said["answers"][0]["errno"] or said["answers"][0]["outcome"]) == PTRACE.get(name, "allowed"), said
    assert done.returncode == (0 if said["verdict"] == "allowed" else 10)
    stack = (mark(), *programs)
    calls, values = zip(*marked_calls(random.Random(name), stack), strict=True)
    found = outcomes(stack, calls)
    assert found == [expected(value, MISSING) for value in values]
    assert -REACHED in found
    assert set(found) - {-REACHED} or name == "logged"

"""``safedlv observe docker:NAME``: dlv from where ``docker exec`` would start it, in a container that has neither."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from attrs import frozen

from tests.docker import test_context, test_doctor, test_refusals
from tests.docker.conftest import Engine
from tests.docker.stand import Stand, assert_serves, happening, named
from tests.docker.test_context import container, profile, really_started, rule
from tests.live.observed import agreed, first
from tests.support import SAFEDLV, assert_unharmed, count, our_processes, require, wait_until

__all__ = ["container"]  # the fixture


@frozen
class Case:
    verdict: str
    first: tuple[str | None, str | None, str | None] = (None, None, None)
    """The call, its request, and its errno."""
    run: tuple[str, ...] = ()
    who: str = "container"
    profile: str | None = None
    real: bool = False


CASES = {
    "default, the real one": Case("works", real=True),
    "non-root, exec as root": Case("fails", ("ptrace", "PTRACE_ATTACH", "EPERM"), ("--user", "1000"), "container:0"),
    "a profile against ptrace": Case(
        "fails", ("ptrace", "PTRACE_ATTACH", "EPERM"), profile=profile(rule("SCMP_ACT_ERRNO"))
    ),
    "a profile against SETOPTIONS, the real one": Case(
        "spoilt",
        ("ptrace", "PTRACE_SETOPTIONS", "EPERM"),
        profile=profile(rule("SCMP_ACT_ERRNO", 0x4200)),
        real=True,
    ),
    "a profile that kills at ptrace, the real one": Case(
        "fails", ("ptrace", "PTRACE_ATTACH", "SIGSYS"), profile=profile(rule("SCMP_ACT_KILL_PROCESS")), real=True
    ),
    "default": Case("works"),
    "dropped capabilities": Case("works", run=("--cap-drop", "ALL")),
}
OFTEN = (
    "a user's process, as root",
    "SYS_PTRACE and nothing else, as root",
    "a profile against SETOPTIONS, as a user",
    "sidecar: as the target, without SYS_PTRACE",
    "sidecar: without capabilities, under a profile",
)
"""Of the scenes of test_refusals.py; the others are for the long run."""
NOT_COMPARED = {"sidecar: not in the target's PID namespace": "the target has no PID there: no dlv is started"}
SCENES = {name: scene for name, scene in test_refusals.SCENES.items() if name not in NOT_COMPARED}
COMPARED = [*OFTEN, *(name for name in SCENES if name not in OFTEN)][: count(len(SCENES), len(OFTEN))]


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "enters containers as root")


# The others differ in nothing that the live tests do not have, too: they are for the long run.
@pytest.mark.parametrize("name", list(CASES)[: count(len(CASES), 4)])
def test_observe(docker_engine: Engine, prober: Callable[..., int], tmp_path: Path, newest_dlv: str, name: str) -> None:
    """The verdict and the first call that matters; and it agrees with strace."""
    case = CASES[name]
    pid = prober(case.run, case.profile)
    answer = agreed(
        newest_dlv, tmp_path / "log", f"docker:{docker_engine.last}", case.who, *(["--real"] if case.real else [])
    )
    assert (answer["verdict"], first(answer)) == (case.verdict, case.first)
    assert answer["target"] == {"pid": pid, "container": docker_engine.last}
    assert answer["on"] == ("real" if case.real else "stand-in")
    assert (answer["dlv"]["target_pid"] == 1) == case.real
    assert_unharmed(pid)


@pytest.mark.parametrize("name", COMPARED)
def test_it_agrees_with_strace(name: str, stand: Stand, newest_dlv: str, tmp_path: Path) -> None:
    """In the scenes of the refused attaches: the same calls failed, with the same errnos."""
    scene = SCENES[name]
    with stand.cast(scene) as (target, tracer):
        with happening(stand, scene, target):
            agreed(newest_dlv, tmp_path / "log", *named(scene, target, tracer))
        assert_serves(target)


@pytest.mark.parametrize("case", test_context.CASES[: count(len(test_context.CASES), 2)], ids=lambda case: case.name)
def test_in_the_place_of_what_docker_exec_started(
    docker_engine: Engine, container: int, newest_dlv: str, tmp_path: Path, case: test_context.Case
) -> None:
    """The same, in the place of a process that ``docker exec`` did start, with each of its options."""
    tracer = really_started(docker_engine, case, container)
    agreed(newest_dlv, tmp_path / "log", f"docker:{docker_engine.last}/1", f"pid:{tracer}")
    assert_unharmed(container)


@pytest.mark.parametrize("name", [*reversed(test_doctor.CASES)][: count(len(test_doctor.CASES), 1)])
def test_it_agrees_with_strace_where_doctor_is_asked(
    name: str, docker_engine: Engine, prober: Callable[..., int], newest_dlv: str, tmp_path: Path
) -> None:
    """The same, in the cases of test_doctor.py."""
    case = test_doctor.CASES[name]
    with test_doctor.played(case, docker_engine, prober) as pid:
        agreed(newest_dlv, tmp_path / "log", f"docker:{docker_engine.last}", *(case.tracer[1:] or ("container",)))
    assert_unharmed(pid)


def test_killed_beside_a_container(docker_engine: Engine, prober: Callable[..., int], newest_dlv: str) -> None:
    """With SIGKILL, at random moments: the target in the container runs on, and dlv is gone."""
    pid = prober()
    words = [*SAFEDLV, "observe", "--real", f"docker:{docker_engine.last}"]
    moments = random.Random(5)
    for _ in range(count(30, 2)):
        observer = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.3, 1.2))
        observer.kill()
        observer.wait()
        wait_until(lambda: not our_processes() and len(inside(pid)) == 1, "all that observe started has ended", 30)
        assert_unharmed(pid)
        wait_until(partial(is_clean, observer.pid), "its directory is gone")


def is_clean(observer: int) -> bool:
    """Whether no session's directory of that process is left."""
    return not list(Path("/tmp").glob(f"safedlv-{observer}-*"))


def inside(pid: int) -> list[int]:
    """The processes in the PID namespace of one."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(path / "ns/pid") == os.readlink(f"/proc/{pid}/ns/pid"):
                found.append(int(path.name))
    return found

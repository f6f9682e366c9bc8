"""``safedlv observe docker:NAME``: dlv from where ``docker exec`` would start it, in a container that has neither."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from tests.docker.conftest import Engine
from tests.docker.test_context import profile, rule
from tests.support import SAFEDLV, assert_unharmed, count, our_processes, require, wait_until


@frozen
class Case:
    run: tuple[str, ...]
    flags: tuple[str, ...]
    verdict: str
    first: tuple[str | None, str | None]
    """The request (or the call), and the errno."""
    profile: str | None = None


CASES = {
    "default, the real one": Case((), ("--real",), "works", (None, None)),
    "non-root, exec as root": Case(
        ("--user", "1000"), ("--tracer", "container:0"), "fails", ("PTRACE_ATTACH", "EPERM")
    ),
    "a profile against ptrace": Case(
        (), (), "fails", ("PTRACE_ATTACH", "EPERM"), profile(rule("SCMP_ACT_ERRNO"))
    ),
    "a profile against SETOPTIONS, the real one": Case(
        (), ("--real",), "spoilt", ("PTRACE_SETOPTIONS", "EPERM"), profile(rule("SCMP_ACT_ERRNO", 0x4200))
    ),
    "a profile that kills at ptrace, the real one": Case(
        (), ("--real",), "fails", ("PTRACE_ATTACH", "SIGSYS"), profile(rule("SCMP_ACT_KILL_PROCESS"))
    ),
    "default": Case((), (), "works", (None, None)),
    "dropped capabilities": Case(("--cap-drop", "ALL"), (), "works", (None, None)),
}  # fmt: skip


# The others differ in nothing that the live tests do not have, too: they are for the long run.
@pytest.mark.parametrize("name", list(CASES)[: count(len(CASES), 4)])
def test_observe(docker_engine: Engine, prober_image: str, tmp_path: Path, newest_dlv: str, name: str) -> None:
    require(os.geteuid() == 0, "enters containers as root")
    case = CASES[name]
    options = list(case.run)
    if case.profile:
        (tmp_path / "profile.json").write_text(case.profile)
        options += ["--security-opt", f"seccomp={tmp_path / 'profile.json'}"]
    pid = docker_engine.run(*options, prober_image, "/prober", "sleep")
    words = [*SAFEDLV, "observe", "--json", f"docker:{docker_engine.last}", *case.flags]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    answer: dict[str, Any] = json.loads(done.stdout)
    at = answer["first"]
    call = answer["calls"][at] if at is not None else {"call": None, "request": None, "errno": None}
    assert (answer["verdict"], (call["request"] or call["call"], call["errno"])) == (case.verdict, case.first)
    assert answer["target"] == {"pid": pid, "container": docker_engine.last}
    real = "--real" in case.flags
    assert answer["on"] == ("real" if real else "stand-in")
    assert (answer["dlv"]["target_pid"] == 1) == real
    assert_unharmed(pid)


def test_killed_beside_a_container(docker_engine: Engine, prober_image: str, newest_dlv: str) -> None:
    """With SIGKILL, at random moments: the target in the container runs on, and dlv is gone."""
    require(os.geteuid() == 0, "enters containers as root")
    pid = docker_engine.run(prober_image, "/prober", "sleep")
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

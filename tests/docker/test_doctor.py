"""``safedlv doctor docker:NAME``: would ``docker exec`` be able to debug, why not, and what would mend it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator

import pytest
from attrs import frozen

from tests.docker.conftest import Engine
from tests.docker.test_context import profile, rule
from tests.support import answer_of, assert_unharmed, require


@frozen
class Case:
    run: tuple[str, ...]
    profile: str | None
    tracer: tuple[str, ...]
    causes: frozenset[str]
    fix: tuple[str, ...]
    """The ids of the changes; () for none."""


DOCTOR = ("doctor", "--hold-limit=1", "--json")
NONE = profile(rule("SCMP_ACT_ERRNO"))
CASES = {
    "default": Case((), None, (), frozenset(), ()),
    "paused": Case((), None, (), frozenset({"frozen"}), ("thaw",)),
    "no-new-privileges": Case(("--security-opt", "no-new-privileges"), None, (), frozenset(), ()),
    "cap-drop ALL": Case(("--cap-drop", "ALL"), None, (), frozenset(), ()),
    "non-root, exec as root": Case(
        ("--user", "1000"), None, ("--tracer", "container:0"), frozenset({"credentials"}), ("user",)
    ),
    "root, exec as somebody": Case(
        (),
        None,
        ("--tracer", "container:1000"),
        frozenset({"credentials", "capability-excess"}),
        ("user",),
    ),
    "a profile against ptrace": Case((), NONE, (), frozenset({"seccomp"}), ("seccomp",)),
    "a profile against ptrace, --pid=host": Case(("--pid=host",), NONE, (), frozenset({"seccomp"}), ("seccomp",)),
    "a profile against SETOPTIONS": Case(
        (), profile(rule("SCMP_ACT_ERRNO", 0x4200)), (), frozenset({"seccomp"}), ("seccomp",)
    ),
    "a profile, and another user": Case(
        ("--user", "1000"),
        NONE,
        ("--tracer", "container:0"),
        frozenset({"credentials", "seccomp"}),
        ("user", "seccomp"),
    ),
}


@contextlib.contextmanager
def played(case: Case, engine: Engine, prober: Callable[..., int]) -> Iterator[int]:
    """The case's container, paused where that is the cause; the PID of its first process."""
    pid = prober(case.run, case.profile)
    paused = case.causes == {"frozen"}
    if paused:
        engine.docker("pause", engine.last)
    yield pid
    if paused:
        engine.docker("unpause", engine.last)


@pytest.mark.parametrize("name", CASES)
def test_doctor(docker_engine: Engine, prober: Callable[..., int], newest_dlv: str, name: str) -> None:
    require(os.geteuid() == 0, "enters containers as root")
    case = CASES[name]
    with played(case, docker_engine, prober) as pid:
        _, answer = answer_of(*DOCTOR, "--probe-timeout", "0.5", f"docker:{docker_engine.last}", *case.tracer)
    assert {cause["id"] for cause in answer["causes"]} == case.causes, json.dumps(answer["causes"], indent=1)
    assert tuple((answer["fix"] or {"ids": ()})["ids"]) == case.fix
    assert answer["verdict"] == ("blocked" if case.causes else "ok")
    assert answer["target"]["pid"] == pid
    assert answer["target"]["inner_pid"] == (pid if "--pid=host" in case.run else 1)
    assert_unharmed(pid)


def test_the_change_is_what_docker_exec_needs(
    docker_engine: Engine, prober: Callable[..., int], newest_dlv: str
) -> None:
    """A program in the container itself is refused as root, and passes as the user that the doctor names."""
    prober(("--user", "1000:1000"))
    _, answer = answer_of(*DOCTOR, f"docker:{docker_engine.last}", "--tracer", "container:0")
    assert answer["fix"]["changes"] == ["run the debugger as the target's own user (uid 1000, gid 1000)"]
    assert errnos(docker_engine, "-u", "0", docker_engine.last)["attach"] == errno.EPERM
    told = answer["fix"]["commands"]["docker"].split()
    assert told[:3] == ["docker", "exec", "-it"]  # there is no terminal here, and no dlv in the image
    assert told[-3:] == ["dlv", "attach", "1"]
    as_told = errnos(docker_engine, *told[3:-3])
    as_told.pop("process_vm_readv")  # this engine's profile may refuse it; dlv does without it
    assert set(as_told.values()) == {0}


def errnos(engine: Engine, *how: str) -> dict[str, int]:
    """What the program in the container gets when it is started by ``docker exec HOW``."""
    done = engine.docker("exec", *how, "/prober", "1")
    return {name: int(number) for name, number in (line.split() for line in done.stdout.decode().splitlines())}

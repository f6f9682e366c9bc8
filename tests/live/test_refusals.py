"""Refused attaches, made for real, alone and in pairs: ``doctor`` names exactly the layers that refuse."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safedlv.runtimes.sandbox import Sandbox, capability_sets
from safedlv.seccomp.program import Refuse, assemble
from tests.live.test_doctor import Boxed, assert_serves, boxed
from tests.support import SAFEDLV, assert_unharmed, require

ARCH = os.uname().machine
NOTHING = capability_sets()
TRACER = capability_sets("sys_ptrace")
AS_1000 = Sandbox(uid=1000, gid=1000, groups=())


def filtered(request: int) -> bytes:
    return assemble([Refuse("ptrace", errno=errno.EPERM, arg=(0, request))], ARCH)


def doctor_from(target: Boxed, tmp_path: Path, **context: Any) -> dict[str, Any]:
    """``safedlv doctor --json`` as a process of that context, beside the target."""
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        words = [*SAFEDLV, "doctor", "--json", "--probe-timeout", "1", str(target.pid)]
        spec = {"uid": 0, "gid": 0, "groups": (), **context}
        with target.running.run(words, stdout=stdout.fileno(), stderr=stderr.fileno(), **spec) as tracer:
            tracer.wait(30)
    assert err.read_text() == ""
    document: dict[str, Any] = json.loads(out.read_text())
    return document


def assert_ladder(answer: dict[str, Any], step: str | None, causes: set[str]) -> None:
    """The layers that refuse the attach are marked, one of them as the first; an attach that passed has no ladder."""
    marks = {rung["layer"]: rung["mark"] for rung in answer["ladder"]}
    refusing = {layer for layer, mark in marks.items() if mark in ("refused", "refuses too")}
    assert bool(marks) == (step == "attach")
    assert refusing <= causes
    assert list(marks.values()).count("refused") == (1 if step == "attach" else 0)


# target, the tracer's context, the step that fails and its errno, the causes
SCENES: dict[str, tuple[Sandbox, dict[str, Any], str | None, str | None, set[str]]] = {
    "another uid, no capability": (AS_1000, {"capabilities": NOTHING}, "attach", "EPERM", {"credentials"}),
    "another gid only": (
        Sandbox(gid=1000, capabilities=NOTHING),
        {"capabilities": NOTHING},
        "attach",
        "EPERM",
        {"credentials"},
    ),
    "another uid, SYS_PTRACE alone": (AS_1000, {"capabilities": TRACER}, None, None, {"proc-access", "signal-access"}),
    "another uid, SYS_PTRACE and DAC_READ_SEARCH": (
        AS_1000,
        {"capabilities": capability_sets("sys_ptrace", "dac_read_search")},
        None,
        None,
        {"signal-access"},
    ),
    "another uid, all three that a sidecar needs": (
        AS_1000,
        {"capabilities": capability_sets("sys_ptrace", "dac_read_search", "kill")},
        None,
        None,
        set(),
    ),
    "same uid, fewer capabilities": (Sandbox(), {"capabilities": NOTHING}, "attach", "EPERM", {"capability-excess"}),
    "same uid, both without": (Sandbox(capabilities=NOTHING), {"capabilities": NOTHING}, None, None, set()),
    "same uid, SYS_PTRACE makes up for the rest": (
        Sandbox(capabilities=capability_sets("net_admin")),
        {"capabilities": TRACER},
        None,
        None,
        set(),
    ),
    "no_new_privs does not matter": (
        Sandbox(capabilities=NOTHING, no_new_privs=True),
        {"capabilities": NOTHING, "no_new_privs": True},
        None,
        None,
        set(),
    ),
    "a filter on the target does not matter": (
        Sandbox(seccomp=filtered(16)),
        {"seccomp": ()},
        None,
        None,
        set(),
    ),
    "another uid, and a filter against SETOPTIONS": (
        AS_1000,
        {"capabilities": NOTHING, "seccomp": filtered(0x4200), "no_new_privs": True},
        "attach",
        "EPERM",
        {"credentials", "seccomp"},
    ),
    "fewer capabilities, and a filter against ATTACH": (
        Sandbox(),
        {"capabilities": NOTHING, "seccomp": filtered(16), "no_new_privs": True},
        "attach",
        "EPERM",
        {"capability-excess", "seccomp"},
    ),
    "only SETOPTIONS is refused: dlv alone would look healthy": (
        Sandbox(),
        {"seccomp": filtered(0x4200)},
        "setoptions",
        "EPERM",
        {"seccomp"},
    ),
    "only CONT is refused": (Sandbox(), {"seccomp": filtered(7)}, "cont", "EPERM", {"seccomp"}),
}


@pytest.fixture(scope="module")
def public_binary(server_binary: Path) -> Iterator[Path]:
    """The example server where every user may run it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as directory:
        os.chmod(directory, 0o755)
        yield Path(shutil.copy(server_binary, directory))


@pytest.mark.parametrize("scene", SCENES)
def test_exactly_these_causes(scene: str, public_binary: Path, tmp_path: Path, newest_dlv: str) -> None:
    require(os.geteuid() == 0, "needs root to make the contexts")
    spec, context, step, number, causes = SCENES[scene]
    with boxed(public_binary, spec) as target:
        answer = doctor_from(target, tmp_path, **context)
        found = {cause["id"] for cause in answer["causes"]}
        assert found == causes, json.dumps(answer["causes"], indent=1)
        assert (answer["probe"]["failed_step"], answer["probe"]["errno"]) == (step, number)
        assert answer["verdict"] == ("blocked" if causes else "ok")
        assert_ladder(answer, step, causes)
        assert answer["probe"]["left_as_found"] is True
        assert_serves(target)


# what the smallest change is, for scenes that are blocked, as seen by root from outside
FIXES = {
    "another uid, no capability": ["user"],
    "another gid only": ["user"],
    "another uid, SYS_PTRACE alone": ["user"],
    "another uid, SYS_PTRACE and DAC_READ_SEARCH": ["user"],
    "same uid, fewer capabilities": ["cap:sys_ptrace"],
    "another uid, and a filter against SETOPTIONS": ["user", "seccomp"],
    "fewer capabilities, and a filter against ATTACH": ["seccomp", "cap:sys_ptrace"],
    "only SETOPTIONS is refused: dlv alone would look healthy": ["seccomp"],
    "only CONT is refused": ["seccomp"],
}


@pytest.mark.parametrize("scene", SCENES)
def test_the_same_from_outside(scene: str, public_binary: Path, newest_dlv: str) -> None:
    """Root stands in the tracer's place: the same step, errno and causes, proved, and the smallest change, tried."""
    require(os.geteuid() == 0, "needs root to stand in another's place")
    spec, context, step, number, causes = SCENES[scene]
    with boxed(public_binary, spec) as target:
        placed = {"uid": 0, "gid": 0, "groups": (), **context}
        with target.running.run(["sleep", "600"], **placed) as tracer:
            words = [*SAFEDLV, "doctor", "--json", "--tracer", f"pid:{tracer.pid}", str(target.pid)]
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
            assert done.stderr == ""
            answer = json.loads(done.stdout)
            assert_unharmed(tracer.pid)
        assert {cause["id"] for cause in answer["causes"]} == causes, json.dumps(answer["causes"], indent=1)
        assert (answer["probe"]["failed_step"], answer["probe"]["errno"]) == (step, number)
        assert_ladder(answer, step, causes)
        assert (answer["fix"] or {}).get("ids") == FIXES.get(scene)
        assert answer["fix"] is None or answer["fix"]["verified"] is True
        assert {cause["proof"] for cause in answer["causes"]} <= {"experiment", "observed"}
        assert answer["held_us"] < 10_000 or os.environ.get("CI") == "true", "a loaded machine may be slower"
        assert_serves(target)

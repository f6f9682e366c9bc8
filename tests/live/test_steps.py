"""safedlv doctor TARGET --steps: five steps, each with what was found, and the command to keep at the end."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from safedlv.runtimes.sandbox import start
from tests.everyone import Everyones
from tests.live import test_refusals, test_refusals_states
from tests.live.sandboxes import SLEEP
from tests.live.stages import AS_1000, Scene, tracer_of
from tests.live.test_control import as_user
from tests.live.test_doctor import assert_fit_for_a_terminal
from tests.support import require

SECONDS = 60
SCENES = {**test_refusals.SCENES, **test_refusals_states.SCENES}


@pytest.fixture(autouse=True)
def as_root() -> None:
    require(os.geteuid() == 0, "needs root to make the contexts")


def told(words: list[str], code: int) -> dict[int, str]:
    """The text of each step, its lines joined; 0 is what stands before the first."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (code, "")
    # A command is never wrapped, and neither is the line of a table.
    assert_fit_for_a_terminal(done.stdout.partition("\nTo keep:")[0] + "\n")
    parts = re.split(r"^(\d)\. ", done.stdout, flags=re.MULTILINE)
    assert parts[1::2] == ["1", "2", "3", "4", "5"]
    return {n: " ".join(part.split()) for n, part in enumerate(parts[::2])}


def play(name: str, everyones: Everyones, server: Path, code: int = 10) -> dict[int, str]:
    scene: Scene = SCENES[name]
    with scene.stage(scene, everyones, server) as target:
        with scene.during(target), tracer_of(scene, target, SLEEP) as tracer:
            words = ["doctor", "--steps", "--probe-timeout=0.4", "--hold-limit=1", f"--tracer=pid:{tracer.pid}"]
            steps = told(everyones.safedlv(*words, str(target.pid)), code)
        target.check()
    return steps


def test_a_filter(everyones: Everyones, public_server: Path) -> None:
    """Its refused call by evaluation, by the probe, in the control group, and mended."""
    steps = play("only SETOPTIONS is refused: dlv alone would look healthy", everyones, public_server)
    assert "It does not matter: no cgroup controller knows ptrace" in steps[1]
    assert "refused with EPERM: ptrace(PTRACE_SETOPTIONS)" in steps[2]
    assert "PTRACE_ATTACH)" not in steps[2]
    assert "PTRACE_ATTACH: passed PTRACE_SETOPTIONS: EPERM" in steps[3]
    assert "fails with the real seccomp" in steps[4]
    assert "It was applied in the experiment, nothing else was changed, and the probe passed." in steps[5]
    assert "To keep:" in steps[5]


def test_a_cgroup_that_matters(everyones: Everyones, public_server: Path) -> None:
    steps = play("frozen (v2)", everyones, public_server)
    assert "It matters:" in steps[1]
    assert "There is none" in steps[2]
    assert "PTRACE_ATTACH: TIMEOUT" in steps[3]
    assert "fails with the real frozen" in steps[4]
    assert "could not be tried from here" in steps[5]


def test_nothing_is_refused(everyones: Everyones) -> None:
    """An ordinary user and its own process: nothing to mend, and attach is the command."""
    with start(AS_1000, SLEEP) as target:
        words = as_user(everyones.safedlv("doctor", "--steps", str(target.pid)))
        steps = told(words, 11)  # no Go program
        assert "None is refused" in steps[3]
        assert "works: with all that could be copied" in steps[4]
        assert steps[5].endswith(f"None is needed. To keep: safedlv attach {target.pid}")


def test_no_process_to_tell_of(everyones: Everyones) -> None:
    done = subprocess.run(
        everyones.safedlv("doctor", "--steps", "4194303"), capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 10
    assert "no-such-process" in done.stdout


@pytest.mark.parametrize("words", [["--steps"], ["--steps", "--json", "1"], ["--steps", "--all"]])
def test_wrong_usage(words: list[str], everyones: Everyones) -> None:
    done = subprocess.run(everyones.safedlv("doctor", *words), capture_output=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (2, b"")

"""kill -9 of safedlv at any moment of a swap: what the record brings back is the original, running, as it was."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from safedlv.runtimes.docker import Engine
from safedlv.sibling.clone_record import restore
from tests.docker.test_relaunch import Document, Stage, full_image, stage, told
from tests.support import assert_unharmed, count, wait_until

__all__ = ["full_image", "stage"]
LONGEST_SWAP = 1.5
"""Seconds from the record to the end of the way there, or back, about."""


def left_over(stage: Stage) -> set[str]:
    """Volumes that no container has, and images of containers' files."""
    found = stage.docker("volume ls --quiet --filter dangling=true") + stage.docker("image ls --quiet safedlv-snapshot")
    return set(found.split())


@pytest.mark.long
def test_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(stage.state))
    before = stage.start("--network NET1 --ip 10.213.7.77 -v /anonymous -p 127.0.0.1:43923:7000 --restart always")
    around = left_over(stage)
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    for trial in range(count(100)):
        moment = killed_once(stage, chance, on_the_way_back=trial % 2 == 1)
        with Engine() as engine:
            said = restore(engine)
        as_it_was(stage, before, f"seed {seed}, trial {trial}, killed after {moment:.3f} s; {said}")
        assert left_over(stage) <= around, (seed, trial)


def killed_once(stage: Stage, chance: random.Random, *, on_the_way_back: bool) -> float:
    """Kill a swap on its way there, from the moment when its record is made, or on its way back."""
    flags = ("--swap", "--change", "cap:sys_ptrace", *(("--snapshot",) if chance.random() < 0.2 else ()))
    if on_the_way_back:
        process = stage.relaunched(*flags)
        process.send_signal(signal.SIGINT)
    else:
        process = stage.relaunch(*flags)
        wait_until(stage.records, "the record")
    moment = chance.random() * LONGEST_SWAP
    time.sleep(moment)  # a random moment is what this is about
    process.kill()
    process.wait(timeout=30)
    return moment


def as_it_was(stage: Stage, before: Document, why: str) -> None:
    after = stage.inspect(stage.name)
    assert after["State"]["Running"], why
    assert told(after) == told(before), why
    assert_unharmed(after["State"]["Pid"])
    assert (stage.ours(), stage.records()) == ("", []), why


def test_those_who_live_and_those_who_stay_are_left_alone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(stage.state))
    before = stage.start("--network none")
    process = stage.relaunched("--swap", "--change", "cap:sys_ptrace")
    with Engine() as engine:
        assert restore(engine) == []
        assert stage.inspect(stage.name)["Id"] != before["Id"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert stage.relaunch("--swap", "--keep", "--change", "cap:sys_ptrace").wait(timeout=60) == 0
        assert restore(engine) == []
    code, said = stage.says("--back")
    assert (code, "either --debuggable or --back" in said) == (2, True)
    assert stage.inspect(stage.name)["Id"] != before["Id"]


def test_a_dry_run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed swap has left is named, and stays until it is asked for."""
    monkeypatch.setenv("XDG_STATE_HOME", str(stage.state))
    before = stage.start("--network none")
    stage.relaunched("--swap", "--change", "cap:sys_ptrace").kill()
    stage.relaunches[-1].wait(timeout=30)
    with Engine() as engine:
        assert restore(engine, dry=True) == [f"would undo the copy of {stage.name}"]
        assert stage.inspect(stage.name)["Id"] != before["Id"]
        assert f"started {stage.name} again" in restore(engine)
    as_it_was(stage, before, "after a dry run")


def test_an_original_that_somebody_has_removed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said once; the copy and the record go."""
    monkeypatch.setenv("XDG_STATE_HOME", str(stage.state))
    stage.start("--network none")
    process = stage.relaunched("--swap", "--change", "cap:sys_ptrace")
    stage.docker(f"rm {stage.name}-safedlv-original")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    assert "somebody else has removed it" in process.stderr.read()
    assert (stage.ours(), stage.records()) == ("", [])


def test_a_copy_whose_record_is_gone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine may finish what nobody waits for any more; another machine's copies are none of our business."""
    monkeypatch.setenv("XDG_STATE_HOME", str(stage.state))
    stage.start("--network none")
    here, path = os.uname().nodename, stage.state / "none.json"
    for name, host in (("ours", here), ("theirs", "elsewhere")):
        labels = f"--label safedlv.copy=x --label safedlv.record={host}:{path}"
        stage.docker(f"create --name {stage.name}-{name} -v /anonymous {labels} IMAGE /prober sleep")
    with Engine() as engine:
        foretold = restore(engine, dry=True)
        said = restore(engine)
    assert [line.replace("would remove", "removed") for line in foretold] == said
    assert len(said) == 1
    assert stage.docker(f"ps --all --format {{{{.Names}}}} --filter name={stage.name}-").split() == [
        f"{stage.name}-theirs"
    ]


def test_what_is_no_record(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said, and left where it is; a record that was never begun is removed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(stage.state))
    swaps = stage.state / "safedlv" / "swaps"
    swaps.mkdir(parents=True)
    (swaps / "a.json").write_text("no record\n")
    (swaps / "b.json.new").write_text('{"schema": ')
    with Engine() as engine:
        said = restore(engine)
    assert [line.partition(" is no record")[0] for line in said] == [str(swaps / "a.json")]
    assert stage.records() == ["a.json"]

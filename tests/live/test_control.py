"""safedlv control: the group works by itself, and names exactly what of a real target makes the difference."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from safedlv.controlled.parts import harmless
from safedlv.facts.process import descendants, process_tree
from safedlv.runtimes.sandbox import Sandbox, start
from tests import comparison
from tests.everyone import Everyones
from tests.live import test_refusals, test_refusals_states
from tests.live.leftovers import MARK, nothing_left_behind  # noqa: F401  pytest finds fixtures by their names here
from tests.live.sandboxes import ARCH, SLEEP, cgroups_of
from tests.live.stages import AS_1000, Scene, as_the_tracer, staged, tracer_of
from tests.live.test_doctor import assert_fit_for_a_terminal, boxed
from tests.scenes import DEGRADING
from tests.support import LONG, assert_unharmed, count, old_dlv, require, wait_until

SECONDS = 60
INGREDIENTS = {
    "credentials": "ids",
    "proc-access": "ids",
    "signal-access": "ids",
    "capability-excess": "capabilities",
    "not-dumpable": "dumpable",
    "thread-limit": "pids-limit",
}
"""The ingredient that a cause is about, where it goes by another name."""
NO_INGREDIENT = {"already-traced", "zombie", "kernel-thread", "uninterruptible", "landlock", "hidepid", "delve-missing"}
"""Causes in what a target is doing, or in what nobody can read: they are not in the table."""
EVERY = {**test_refusals.SCENES, **test_refusals_states.SCENES}
SCENES = {name: scene for name, scene in EVERY.items() if not scene.truth.causes & NO_INGREDIENT}
SINGLE = comparison.chosen(SCENES, lambda scene: scene.truth.causes if len(scene.truth.causes) == 1 else frozenset())
ONE_EACH = SINGLE | {
    "another uid, all three that a sidecar needs",
    "the owner of a user namespace needs no capability",
    "a filter on the target does not matter",
    "two programs",
    "not dumpable, another uid, and a filter",
    "another uid, out of a user namespace",
}
Document = dict[str, Any]


@pytest.fixture
def as_root() -> None:
    require(os.geteuid() == 0, "needs root to make the contexts")


def control(words: Sequence[str]) -> Document:
    """The answer as JSON, held against the exit code."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.stderr == ""
    answer: Document = json.loads(done.stdout)
    assert answer["schema"] == "safedlv.control/1"
    assert done.returncode == {"works": 0, "fails": 10, "undetermined": 3}[answer["verdict"]]
    return answer


def asked(everyones: Everyones, *words: str, dlv: bool = True) -> list[str]:
    return everyones.safedlv("control", "--json", "--probe-timeout=0.4", *words, dlv=dlv)


def as_user(words: Sequence[str]) -> list[str]:
    return ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", *words]


def played(name: str, scene: Scene, everyones: Everyones, server: Path) -> Document:
    """Root asks for the place of the tracer of a scene."""
    with scene.stage(scene, everyones, server) as target:
        with scene.during(target), tracer_of(scene, target, SLEEP) as tracer:
            limited = scene.target.pids_max or scene.target.memory_max  # which the probe alone does not feel
            words = asked(everyones, f"--tracer=pid:{tracer.pid}", str(target.pid), dlv=bool(limited))
            answer = control(words)
            assert_unharmed(tracer.pid)
        target.check()
    return answer


# ---------------------------------------------------------------- the ingredients


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("name", sorted(SCENES if LONG else ONE_EACH))
def test_exactly_the_ingredients_that_refuse(name: str, everyones: Everyones, public_server: Path) -> None:
    """What is named is what the scene is known to be refused by: one or several, or nothing."""
    answer = played(name, SCENES[name], everyones, public_server)
    blocking = SCENES[name].truth.causes - DEGRADING
    assert set(answer["named"]) == {INGREDIENTS.get(cause, cause) for cause in blocking}, json.dumps(answer, indent=1)
    assert answer["control"]["probe"]["result"] == "works"
    assert answer["verdict"] == ("fails" if blocking else "works")


@pytest.mark.usefixtures("as_root")
def test_which_call_failed_with_which_errno(everyones: Everyones, public_server: Path) -> None:
    """In the table: step and errno are those of the scene, and alone the filter does the same."""
    name = "only SETOPTIONS is refused: dlv alone would look healthy"
    answer = played(name, SCENES[name], everyones, public_server)
    (row,) = [row for row in answer["ingredients"] if row["id"] == "seccomp"]
    for column in ("added", "alone"):
        assert (row[column]["result"], row[column]["step"], row[column]["errno"]) == ("fails", "setoptions", "EPERM")
    assert answer["together"]["probe"]["step"] == "setoptions"


@pytest.mark.usefixtures("as_root")
def test_a_capability_makes_up_for_what_fails_alone(everyones: Everyones, public_server: Path) -> None:
    name = "another uid, all three that a sidecar needs"
    answer = played(name, SCENES[name], everyones, public_server)
    (ids,) = [row for row in answer["ingredients"] if row["id"] == "ids"]
    assert (ids["added"]["result"], ids["alone"]["result"]) == ("works", "fails")


# ---------------------------------------------------------------- the group itself


def test_this_kernel_and_this_dlv_can_debug(everyones: Everyones) -> None:
    """Without a target: the probe, and a real session of dlv with a Go program."""
    answer = control(asked(everyones))
    assert answer["control"]["probe"]["result"] == answer["control"]["dlv"]["result"] == "works"
    assert (answer["target"], answer["ingredients"], answer["named"]) == (None, [], [])


@pytest.mark.usefixtures("as_root")
def test_dlv_with_the_targets_own_program(everyones: Everyones, public_server: Path) -> None:
    """A Go program is executed anew for dlv, and none of it is run: it would print where it serves."""
    with boxed(public_server, AS_1000) as box:
        answer = control(asked(everyones, str(box.pid)))
    assert answer["control"]["own_program"]["result"] == "works"
    filtered = Sandbox(seccomp=harmless(ARCH), no_new_privs=True)
    with start(filtered, [str(public_server)]) as running:  # should it run all the same
        assert running.wait(SECONDS) == -signal.SIGSYS


def test_the_oldest_dlv(everyones: Everyones, monkeypatch: pytest.MonkeyPatch) -> None:
    dlv = old_dlv()
    require(dlv, "needs dlv 1.20 in $SAFEDLV_TEST_DLV_OLD")
    words = [word if not word.startswith("SAFEDLV_DLV=") else f"SAFEDLV_DLV={dlv}" for word in asked(everyones)]
    assert control(words)["control"]["dlv"]["result"] == "works"


def test_without_a_dlv(everyones: Everyones) -> None:
    answer = control(asked(everyones, dlv=False))
    assert answer["control"]["dlv"]["result"] == "not tried"
    assert answer["verdict"] == "works"


@pytest.mark.usefixtures("as_root")
def test_as_an_ordinary_user(everyones: Everyones) -> None:
    """In namespaces below a user namespace of its own; it says that it has no cgroup."""
    answer = control(as_user(asked(everyones)))
    assert answer["verdict"] == "works"
    assert "user" in answer["group"]["namespaces"]
    with start(AS_1000, SLEEP) as target:
        own = control(as_user(asked(everyones, str(target.pid), dlv=False)))
        assert (own["verdict"], own["named"]) == ("works", [])
    with start(Sandbox(uid=1000, gid=1000, groups=(), dumpable=False), _wait) as target:
        hidden = control(as_user(asked(everyones, str(target.pid), dlv=False)))
        assert hidden["named"] == ["dumpable"]


@pytest.mark.usefixtures("as_root")
def test_in_a_directory_that_is_closed_to_the_user(
    everyones: Everyones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    assert control(as_user(asked(everyones, dlv=False)))["verdict"] == "works"


@pytest.mark.usefixtures("as_root")
def test_what_an_ordinary_user_cannot_take_on(everyones: Everyones) -> None:
    """Another user's ids: not tried, and so undetermined, with the reason."""
    with start(Sandbox(uid=2000, gid=2000, groups=()), SLEEP) as target:
        answer = control(as_user(asked(everyones, str(target.pid), dlv=False)))
    (ids,) = [row for row in answer["ingredients"] if row["id"] == "ids"]
    assert ids["added"]["result"] == "not tried"
    assert "an ordinary user" in ids["added"]["why"]
    assert answer["verdict"] == "undetermined"


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("refused", [False, True])
def test_where_systemd_runs(refused: bool, everyones: Everyones, tmp_path: Path) -> None:
    """The command is executed anew in a scope, once; where none is given it goes on without. systemd is played."""
    shell, run, log = tmp_path / "systemd", tmp_path / "systemd-run", tmp_path / "log"
    shutil.copy(os.path.realpath("/bin/sh"), shell)
    scope = 'echo "$@" >> "$LOG"; while [ "$1" != "--" ]; do shift; done; shift; exec "$@"'
    run.write_text(f"#!/bin/sh\n{'exit 1' if refused else scope}\n")
    run.chmod(0o755)
    log.touch()
    words = asked(everyones, dlv=False)
    words[2:2] = [f"LOG={log}"]
    words = [word.replace("PATH=/nonexistent", f"PATH={tmp_path}:/usr/bin:/bin") for word in words]
    first = ["unshare", "--pid", "--fork", "--mount-proc", str(shell), "-c", '"$@"; exit $?', "sh"]
    assert control([*first, *words])["verdict"] == "works"
    said = log.read_text().splitlines()
    assert [line.split()[-1] for line in said] == ([] if refused else ["true", "--probe-timeout=0.4"])
    assert all(line.startswith("--scope --quiet --collect --property=Delegate=yes") for line in said)


@pytest.mark.usefixtures("as_root")
def test_where_no_namespace_may_be_made(everyones: Everyones) -> None:
    """A user whose user namespaces are used up: the group does without, and says so."""
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    answer = control(as_user(["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh", *asked(everyones)]))
    assert answer["verdict"] == "works"
    assert answer["group"]["namespaces"] == []
    assert "unshare" in answer["group"]["left_out"][0]


@pytest.mark.usefixtures("as_root")
def test_a_group_that_fails_itself(everyones: Everyones, public_server: Path) -> None:
    """Under a filter of its own safedlv blames no ingredient of a target, but what doctor says of this place."""
    scene = SCENES["every ptrace is refused"]
    with boxed(public_server, scene.target) as box:
        target = staged(box)
        code, out, err = as_the_tracer(scene, target, asked(everyones, str(target.pid)))
        assert (code, err) == (10, "")
        answer = json.loads(out)
        assert (answer["control"]["probe"]["step"], answer["control"]["probe"]["errno"]) == ("attach", "EPERM")
        assert answer["ingredients"] == []
        assert [cause["id"] for cause in answer["causes"]] == ["seccomp"]
        target.check()


@pytest.mark.usefixtures("as_root")
def test_the_text(everyones: Everyones) -> None:
    """For people: the verdict first, a table of 80 columns, and no escape codes of others."""
    with start(Sandbox(uid=1000, gid=1000, groups=()), SLEEP) as target, start(Sandbox(), SLEEP) as tracer:
        words = everyones.safedlv("control", f"--tracer=pid:{tracer.pid}", str(target.pid), dlv=False)
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert_fit_for_a_terminal(done.stdout)
    assert done.stdout.startswith("works:")
    assert "\nINGREDIENT " in done.stdout


@pytest.mark.parametrize("words", [["--tracer=self"], ["1", "2"], ["--unknown"], ["no-such"]])
def test_wrong_usage(words: list[str], everyones: Everyones) -> None:
    done = subprocess.run(everyones.safedlv("control", *words), capture_output=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (2, b"")


# ---------------------------------------------------------------- nothing is left behind


def below(pid: int) -> tuple[int, ...]:
    return descendants(process_tree(), pid)


def without_cgroup(pid: int) -> bool:
    return not cgroups_of(pid)


def _wait() -> bytes:
    while True:
        signal.pause()


@pytest.mark.usefixtures("as_root")
def test_nothing_is_left_behind_when_it_is_killed(
    everyones: Everyones,
    nothing_left_behind: Path,  # noqa: F811
) -> None:
    """SIGKILL at many moments: every process of the group and its cgroup go with it."""
    mark = [f"{MARK}={os.environ[MARK]}", f"TMPDIR={nothing_left_behind}"]
    for n in range(count(40, 4)):
        words = [*everyones.safedlv("control", "1", "--tracer=self")]
        words[2:2] = mark
        running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert wait_until(partial(below, running.pid), "it has made something")
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(0.02 + n % 10 * 0.12)
        finally:
            running.kill()
            running.wait()
        wait_until(partial(without_cgroup, running.pid), "its cgroup is gone")

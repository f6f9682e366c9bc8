"""Runs in the virtual machine, as root: makes the stages of /in/stages.json, plays every scene, prints a line of JSON
for each. What is right is not decided here (tests/vm/scenes.py, tests/vm/test_lab.py). Before them, while the machine
is quiet, come the sessions with hard cases (tests/vm/sessions.py); then the control groups, and beside them what is
watched (tests/vm/watches.py) and observed (tests/vm/observations.py).

A stage is a target, a tracer in its place, and perhaps something that is done to the target meanwhile. All of them
are made at ptrace_scope 0; then the scopes are gone through upwards, since 3 stays until the machine is off. Two
processes play, each the scenes of its own targets and agents.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tests.vm import agent, beside_strace, observations, sessions, watches
from tests.vm.stage import IMAGE, SECONDS, Stage, Target, Tracer, call

SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
AT_ONCE = 3
WORKERS = 2
Spec = dict[str, Any]


def main() -> None:
    """Make everything, play everything."""
    began = time.monotonic()
    agent.load()
    spec = json.loads(Path("/in/stages.json").read_text())
    prepare(spec["apparmor"])
    beside_strace.configure()
    sessions.play_all(spec["sessions"], tell, set_scope)
    note("sessions", began)
    watching = forked(lambda: watches.play_all(tell)) if spec["long"] else 0
    control_groups(spec["control"], spec["observe"])
    if watching:
        os.waitpid(watching, 0)
    note("control groups", began)
    targets = {name: Target(name, one, number) for number, (name, one) in enumerate(spec["targets"].items())}
    at_once([target.start for target in targets.values() if not target.waits])
    note("targets", began)
    tracers: dict[str, Tracer] = {}
    stages = []
    for one in spec["stages"]:
        target = targets[one["target"]]
        place = Tracer(one["tracer"], target, f"agent-{len(tracers)}")
        stages.append(Stage(one, target, tracers.setdefault(place.key, place)))
    at_once([tracer.start for tracer in tracers.values()])
    for stage in stages:
        if stage.target.waits:
            stage.target.start(stage.tracer.pid)
        stage.prepare()
    note("stages", began)
    for scope in range(4):
        set_scope(scope)
        play(stages, scope)
        note(f"scope {scope}", began)


def control_groups(scopes: dict[str, int], observed: list[Spec]) -> None:
    """``safedlv control`` under each of Yama's scopes (by the name of its line), and what is observed there."""
    for name, scope in scopes.items():
        set_scope(scope)
        cases = [case for case in observed if case["scope"] == scope]
        observing = forked(partial(observations.play_all, cases, tell)) if cases else 0
        words = [sys.executable, "-m", "safedlv", "control", "--json", "--probe-timeout", "20"]
        tell({"scene": name, **said_by(words)})
        if observing:
            os.waitpid(observing, 0)
    set_scope(0)


def said_by(words: list[str]) -> Spec:
    """What a program says, in files: nobody waits for those who keep a pipe open when it is killed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(words, stdout=out, stderr=err)
        try:
            process.wait(SECONDS * 3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        return {"code": process.returncode, "stdout": out.read(), "stderr": err.read()}


def forked(run: Callable[[], None]) -> int:
    """A child that does it; its PID. To be called while there is but one thread."""
    child = os.fork()
    if child == 0:
        try:
            run()
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)
    return child


def prepare(profiles: str) -> None:
    """The image that all containers share, AppArmor's profiles, a program that only root may read."""
    archive = "cd $(mktemp -d) && mkdir -p dev proc sys usr etc tmp in && chmod 1777 tmp && "
    archive += f"ln -s usr/bin usr/sbin usr/lib usr/lib64 . && tar -c . | docker import - {IMAGE}"
    call("sh", "-c", archive)
    call("apparmor_parser", "--replace", given=profiles.encode())
    call("install", "-m", "711", "/in/server", "/in/unreadable")
    os.mkdir("/in/talk")


def at_once(starts: list[Callable[[], None]]) -> None:
    """Run them, a few at a time; none of the threads is left when this returns, so that forks are safe again."""

    def run(start: Callable[[], None]) -> None:
        try:
            start()
        except Exception as error:
            note(repr(error), time.monotonic())

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run, starts))


def set_scope(scope: int) -> None:
    """kernel.yama.ptrace_scope: one value for the whole machine; 3 cannot be left."""
    SCOPE.write_text(str(scope))


def play(stages: list[Stage], scope: int) -> None:
    """All scenes of one scope."""
    for worker in [forked(partial(_play, share, scope)) for share in shares(stages)]:
        os.waitpid(worker, 0)


def _play(share: list[Stage], scope: int) -> None:
    for stage in share:
        for scene in stage.spec["scenes"]:
            if scene["scope"] == scope:
                report(stage, scene)


def shares(stages: list[Stage]) -> list[list[Stage]]:
    """The stages, divided among the workers: those of one target or one agent stay together."""
    groups: list[list[Stage]] = []
    for stage in stages:
        near = [g for g in groups if any(stage.target is s.target or stage.tracer is s.tracer for s in g)]
        groups = [g for g in groups if g not in near] + [[s for g in near for s in g] + [stage]]
    found: list[list[Stage]] = [[] for _ in range(WORKERS)]
    for group in sorted(groups, key=len, reverse=True):
        min(found, key=len).extend(group)
    return found


def report(stage: Stage, scene: Spec) -> None:
    """One scene's line; what goes wrong with one does not end the others."""
    try:
        found = stage.play(scene)
    except Exception as error:
        found = {"scene": scene["name"], "error": repr(error)}
    tell(found)


def tell(found: Spec) -> None:
    """A line for the host."""
    os.write(1, json.dumps(found).encode() + b"\n")


def note(what: str, began: float) -> None:
    """How long it took so far, for whoever reads the output."""
    print(f"{what}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

"""A refused attach in sandboxes, played: the target, somebody who would trace it, and the answer from both places.

From *inside* ``safedlv doctor`` runs as the tracer, with nothing but what the tracer may do and read. From *outside*
root asks the same with ``--tracer pid:N``, where N is a process that stands where the tracer stands.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from attrs import Factory, frozen

from safedlv.runtimes.sandbox import Running, Sandbox, capability_sets, start
from tests import comparison
from tests.everyone import Everyones
from tests.live.test_doctor import Boxed, assert_serves, boxed
from tests.scenes import EXIT_CODES, Document, Truth, asked, ids, judge
from tests.support import assert_unharmed, require, status, wait_until

NOTHING = capability_sets()
POWERS = ("sys_ptrace", "dac_read_search", "kill")
AS_1000 = Sandbox(uid=1000, gid=1000, groups=())
SECONDS = 30
TIMEOUT = "0.4"  # for a stop that never comes


class Staged:
    """A target: ``pid`` as we see it, and how to tell that it is as it was."""

    def __init__(self, pid: int, check: Callable[[], object], running: Running | None = None) -> None:
        self.pid = pid
        self.check = check
        self.running = running


Stage = Callable[["Scene", Everyones, Path], AbstractContextManager[Staged]]


@contextlib.contextmanager
def serving(scene: Scene, everyones: Everyones, server: Path) -> Iterator[Staged]:
    """The example server."""
    with boxed(server, scene.target) as box:
        yield staged(box)


@contextlib.contextmanager
def unreadable(scene: Scene, everyones: Everyones, server: Path) -> Iterator[Staged]:
    """The same, as a program that its user may run and not read: the kernel makes it non-dumpable (would_dump)."""
    program = server.with_name("unreadable")
    if not program.exists():
        program.write_bytes(server.read_bytes())
    program.chmod(0o711)
    with boxed(program, scene.target) as box:
        yield staged(box)


def staged(box: Boxed) -> Staged:
    return Staged(box.pid, lambda: assert_serves(box), box.running)


@contextlib.contextmanager
def as_it_is(target: Staged) -> Iterator[None]:
    """Nothing happens to the target meanwhile."""
    yield


@frozen
class Scene:
    """Who would trace whom, and what is true of it."""

    tracer: dict[str, Any]
    """Fields of its Sandbox; it is root of no group without them."""
    truth: Truth = Factory(Truth)
    target: Sandbox = Factory(Sandbox)
    inside: Truth | None = None
    """What can be known from inside, where that differs."""
    outside: Truth | None = None
    stage: Stage = serving
    during: Callable[[Staged], AbstractContextManager[None]] = as_it_is
    """What happens to the target while the questions are asked."""
    beside: bool = True
    """The tracer is in the target's namespaces (the sandbox's own ones), as ``docker exec`` would be."""
    dlv: bool = True
    """False: the tracer has no dlv."""
    under: tuple[str, ...] = ()
    """What emulates the tracer's processor."""


# ---------------------------------------------------------------- asking


def tracer_of(scene: Scene, target: Staged, words: list[str], **output: int) -> Running:
    """A process that stands where the tracer stands."""
    spec = {"uid": 0, "gid": 0, "groups": (), **scene.tracer}
    if scene.beside and target.running is not None:
        return target.running.run(words, **output, **spec)
    return start(Sandbox(**spec), words, **output)


def as_the_tracer(scene: Scene, target: Staged, words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a program that runs where the tracer stands."""
    with TemporaryFile() as out, TemporaryFile() as err:
        with tracer_of(scene, target, words, stdout=out.fileno(), stderr=err.fileno()) as running:
            code = running.wait(SECONDS)
        for file in (out, err):
            file.seek(0)
        return code, out.read().decode(), err.read().decode()


def from_inside(scene: Scene, target: Staged, everyones: Everyones) -> Document:
    """The tracer's own answer."""
    words = ["doctor", "--json", "--probe-timeout", TIMEOUT, str(target.pid)]
    words = everyones.safedlv(*words, dlv=scene.dlv, under=scene.under)
    code, out, err = as_the_tracer(scene, target, words)
    assert err == ""
    answer: Document = json.loads(out)
    assert code == EXIT_CODES[answer["verdict"]]
    return answer


def from_outside(scene: Scene, target: Staged, everyones: Everyones) -> Document:
    """Root's answer for the tracer's place."""
    with tracer_of(scene, target, ["sleep", "600"]) as tracer:
        words = [
            "doctor",
            "--hold-limit=1",
            "--json",
            "--probe-timeout",
            TIMEOUT,
            "--tracer",
            f"pid:{tracer.pid}",
            str(target.pid),
        ]
        done = subprocess.run(
            everyones.safedlv(*words, dlv=scene.dlv), capture_output=True, text=True, check=False, timeout=SECONDS
        )
        assert done.stderr == ""
        assert_unharmed(tracer.pid)
    answer: Document = json.loads(done.stdout)
    assert done.returncode == EXIT_CODES[answer["verdict"]]
    return answer


# ---------------------------------------------------------------- the two plays


def play_inside(name: str, scene: Scene, everyones: Everyones, server: Path, *, compared: bool) -> None:
    """Ask from inside; the others too where they are to be compared; then judge."""
    with scene.stage(scene, everyones, server) as target:
        with scene.during(target):
            answer = asked(lambda: from_inside(scene, target, everyones))
        target.check()
        if compared:
            with scene.during(target):
                compare(name, scene, target, everyones, answer)
    judge(answer, scene.inside or scene.truth, from_outside=False)


def play_outside(scene: Scene, everyones: Everyones, server: Path) -> None:
    """Ask from outside, and judge."""
    with scene.stage(scene, everyones, server) as target:
        with scene.during(target):
            answer = asked(lambda: from_outside(scene, target, everyones))
        judge(answer, scene.outside or scene.truth, from_outside=True)
        target.check()


def compare(name: str, scene: Scene, target: Staged, everyones: Everyones, answer: Document) -> None:
    """Ask dlv, gdb and strace in the very same place. One that had to be killed may leave a SIGSTOP behind."""
    said = {}
    for tool in comparison.TOOLS:
        words = everyones.tool(*comparison.command(tool, everyones.dlv, target.pid, scene.under))
        code, out, err = as_the_tracer(scene, target, words)
        said[tool] = comparison.told(out + err, code)
        with contextlib.suppress(ProcessLookupError):
            os.kill(target.pid, signal.SIGCONT)
    truth = scene.inside or scene.truth
    comparison.record("sandbox", name, truth.causes, safedlv=ids(answer) - truth.may, **said)


# ---------------------------------------------------------------- what happens to a target


@contextlib.contextmanager
def held(target: Staged) -> Iterator[None]:
    """Traced by strace."""
    words = ["strace", "-f", "-o", "/dev/null", "-p", str(target.pid)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as holder:
        try:
            wait_until(lambda: status(target.pid, "TracerPid") == str(holder.pid), "strace holds it")
            yield
        finally:
            holder.terminate()


def frozen_by(version: str) -> Callable[[Staged], AbstractContextManager[None]]:
    """Frozen by the freezer of one version."""

    @contextlib.contextmanager
    def frozen_while(target: Staged) -> Iterator[None]:
        assert target.running is not None
        try:
            target.running.freeze(version)
        except OSError as error:
            require(False, f"needs a {version} freezer ({error})")
        try:
            yield
        finally:
            target.running.thaw()

    return frozen_while


@contextlib.contextmanager
def stopped(target: Staged) -> Iterator[None]:
    """Stopped by job control, and still so at the end."""
    assert target.running is not None
    target.running.stop()
    yield
    assert_unharmed(target.pid, stopped=True)
    target.running.cont()


@contextlib.contextmanager
def workload(spec: Sandbox, words: Any, ready: Callable[[int], object]) -> Iterator[Running]:
    """A program or callable in a sandbox, once it is ready."""
    with ExitStack() as last:
        running = last.enter_context(start(spec, words))
        wait_until(lambda: ready(running.pid), "the target is ready")
        yield running

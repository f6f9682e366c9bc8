"""The access table against this kernel: what it expects from the facts of two real processes is what an attach meets.

A scene is one sandbox with a tracer and a target that take random ids, capabilities, user namespaces, Landlock
domains, filters and dumpable; this process reads both from outside and asks the table; then the tracer probes.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import itertools
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen

from safedlv.diagnosis.access_rules import ALLOWS, REFUSES, UNKNOWN, expected_errno, first_refusal, rulings, verdict
from safedlv.diagnosis.sides import Side, World
from safedlv.facts.process import read_process
from safedlv.facts.sides import read_side, read_world
from safedlv.linux import confine
from safedlv.probe import runner
from safedlv.runtimes.sandbox import IdMap, Sandbox, start
from safedlv.seccomp.program import Refuse, assemble
from tests.live.sandboxes import (  # noqa: F401 - pytest finds fixtures by their names here
    ARCH,
    NOBODY,
    PTRACE_ATTACH,
    SECONDS,
    SLEEP,
    attach_and_let_go,
    forever,
    needs_root,
    nothing_left,
    ptrace,
)
from tests.support import require, wait_until

pytestmark = pytest.mark.usefixtures("needs_root", "nothing_left")

SCENES = 120
SYS_PTRACE = 1 << 19
SOME_CAPS = (1 << 5) | (1 << 21) | (1 << 2)  # kill, sys_admin, dac_read_search
IDS = [(0, 0, 0), (1000, 1000, 1000), (2000, 2000, 2000), (1000, 1000, 2000), (1000, 2000, 1000), (2000, 1000, 1000)]
FIRST_DOMAIN = 100


@frozen
class Person:
    """What one of the two becomes, in this order."""

    uid: tuple[int, int, int]
    gid: tuple[int, int, int]
    own_user_ns: bool
    permitted: int
    effective: int
    layers: int
    filter_errno: int | None
    dumpable: bool

    def become(self) -> None:
        confine.set_no_new_privs()
        confine.set_keepcaps(True)
        os.setgroups([])
        os.setresgid(*self.gid)
        os.setresuid(*self.uid)
        _, had, _ = confine.capget()
        confine.capset(had, had, 0)
        if self.own_user_ns:
            confine.unshare("user")
            _, had, _ = confine.capget()
        confine.capset(self.effective & had, self.permitted & had, 0)
        enter_landlock(self.layers)
        if self.filter_errno is not None:
            rule = Refuse("ptrace", arg=(0, PTRACE_ATTACH), errno=self.filter_errno)
            confine.seccomp_set_mode_filter(assemble([rule], ARCH))
        confine.set_dumpable(self.dumpable)
        confine.set_pdeathsig(signal.SIGKILL)


@frozen
class Scene:
    tracer: Person
    target: Person
    common_layers: int
    sandbox_user_ns: bool

    def domains(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The Landlock domains of tracer and target, by numbers of our own."""
        common = tuple(range(self.common_layers))
        tracer = tuple(FIRST_DOMAIN + n for n in range(self.tracer.layers))
        target = tuple(2 * FIRST_DOMAIN + n for n in range(self.target.layers))
        return common + tracer, common + target


def enter_landlock(layers: int) -> None:
    for _ in range(layers):
        ruleset = confine.landlock_create_ruleset(confine.LANDLOCK_ACCESS_FS_MAKE_BLOCK)
        confine.landlock_restrict_self(ruleset)
        os.close(ruleset)


def random_scene(seed: int) -> Scene:
    dice = random.Random(seed)
    # Scenes in which nothing differs but one thing are as instructive as those in which everything does.
    busy = dice.choice([0.1, 0.25, 0.5])

    def sometimes() -> bool:
        return dice.random() < busy

    def person(uid: tuple[int, int, int], tracer: bool) -> Person:
        permitted = dice.choice([0, 0, SYS_PTRACE, SOME_CAPS, SYS_PTRACE | SOME_CAPS, (1 << 41) - 1])
        if sometimes():
            uid = dice.choice(IDS)
        return Person(
            uid=uid,
            gid=dice.choice(IDS) if sometimes() else uid,
            own_user_ns=sometimes(),
            permitted=permitted,
            effective=dice.choice([permitted, permitted, 0]),
            layers=dice.choice([1, 2]) if sometimes() else 0,
            filter_errno=dice.choice([errno.EPERM, errno.EACCES, errno.ENOSYS]) if tracer and sometimes() else None,
            dumpable=tracer or not sometimes(),
        )

    both = dice.choice(IDS[:3])
    return Scene(
        tracer=person(both, True),
        target=person(both, False),
        common_layers=1 if sometimes() else 0,
        sandbox_user_ns=sometimes(),
    )


def probe(pid: int) -> str:
    """The errno of the attach step of the real probe; empty when it passed."""
    procdir = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY)
    try:
        steps, _, _, left_as_found = runner.start(pid, procdir, runner.Before.of(procdir), SECONDS / 2).result()
    finally:
        os.close(procdir)
    assert left_as_found
    return steps[0][1] or ""


def play(scene: Scene, told: int, go: int) -> Callable[[], bytes]:
    """The tracer: makes the target, says both PIDs, and probes when told to."""

    def run() -> bytes:
        confine.set_no_new_privs()
        enter_landlock(scene.common_layers)
        ready, ready_child = os.pipe()
        target = os.fork()
        if target == 0:
            try:
                scene.target.become()
                os.write(ready_child, b"r")
                forever()
            finally:
                os._exit(1)
        os.close(ready_child)
        assert os.read(ready, 1) == b"r", "the target failed"
        scene.tracer.become()
        os.write(told, repr((os.getpid(), target)).encode())
        assert os.read(go, 1) == b"g"
        return probe(target).encode()

    return run


@contextlib.contextmanager
def on_stage(scene: Scene) -> Iterator[tuple[Side, Side, World, Callable[[], str]]]:
    """Both sides as they are, and a function that makes the tracer probe."""
    told, told_child = os.pipe()
    go_child, go = os.pipe()
    spec = Sandbox(namespaces=frozenset({"user"} if scene.sandbox_user_ns else ()))
    with contextlib.ExitStack() as last:
        for fd in (told, told_child, go_child, go):
            last.callback(os.close, fd)
        running = last.enter_context(start(spec, play(scene, told_child, go_child)))
        tracer_pid, target_pid = ast.literal_eval(os.read(told, 100).decode())

        def act() -> str:
            os.write(go, b"g")
            return running.result(SECONDS).decode()

        facts = read_process(tracer_pid)
        ours, theirs = scene.domains()
        tracer = evolve(read_side(facts), landlock=ours, seccomp=filter_of(scene))
        target = evolve(read_side(read_process(target_pid)), landlock=theirs, dumpable=scene.target.dumpable)
        # None of the two has executed anything since this process was: their memory is still of our user namespace.
        own = read_side(read_process(os.getpid())).user_ns
        yield tracer, evolve(target, mm_user_ns=own), read_world(facts.modules), act


def filter_of(scene: Scene) -> tuple[tuple[int, str | None], ...] | None:
    number = scene.tracer.filter_errno
    return None if number is None else ((PTRACE_ATTACH, errno.errorcode[number]),)


@pytest.mark.parametrize("seed", range(SCENES))
def test_the_table_expects_what_the_kernel_answers(seed: int) -> None:
    scene = random_scene(seed)
    with on_stage(scene) as (tracer, target, world, act):
        expected = verdict(tracer, target, world)
        told = rulings(tracer, target, world)
        answer = act()
    assert expected != UNKNOWN, [ruling for ruling in told if ruling.answer == UNKNOWN]
    assert (expected_errno(tracer, target, world) or "") == answer, (scene, [r for r in told if r.answer == REFUSES])
    assert (expected == ALLOWS) == (answer == "")


@pytest.mark.parametrize("own_user_ns", [False, True])
@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_every_mix_of_ids(kind: str, own_user_ns: bool) -> None:
    """Real, effective and saved of both sides; with a user namespace of the target's own, who owns it counts too."""
    plain = Person((1000,) * 3, (1000,) * 3, False, 0, 0, 0, None, True)
    mixes = list(itertools.product((1000, 2000), repeat=3))
    for ours, theirs in itertools.product(mixes[:4], mixes):
        changes: tuple[dict[str, Any], dict[str, Any]] = ({kind: ours}, {kind: theirs})
        target = evolve(plain, own_user_ns=own_user_ns, **changes[1])
        scene = Scene(evolve(plain, **changes[0]), target, 0, False)
        with on_stage(scene) as (tracer, facts, world, act):
            assert (expected_errno(tracer, facts, world) or "") == act(), scene


def test_the_scenes_have_every_refusal_of_this_kernel() -> None:
    """The seeds above are not all alike: each layer that this kernel has is alone in refusing at least once."""
    alone = set()
    for seed in range(SCENES):
        scene = random_scene(seed)
        with on_stage(scene) as (tracer, target, world, _):
            refusing = [ruling.id for ruling in rulings(tracer, target, world) if ruling.answer == REFUSES]
        if len(refusing) == 1:
            alone.add(refusing[0])
    assert alone == {"seccomp", "credentials", "not-dumpable", "user-namespace", "capability-excess", "landlock"}


def sides_of(tracer: int, target: int) -> tuple[Side, Side, World]:
    """As read, but for what nobody can read: here no tracer is in a Landlock domain."""
    facts = read_process(tracer)
    return evolve(read_side(facts), landlock=()), read_side(read_process(target)), read_world(facts.modules)


def test_another_pid_namespace() -> None:
    with start(Sandbox(), SLEEP) as target, start(Sandbox(namespaces=frozenset({"pid", "mnt"})), forever) as inside:
        assert expected_errno(*sides_of(inside.pid, target.pid)) == "ESRCH"
        assert verdict(*sides_of(target.pid, inside.pid)) == ALLOWS
        with inside.run(lambda: attach_and_let_go(target.pid)) as tracer:
            assert tracer.result(SECONDS) == str(errno.ESRCH).encode()


def test_a_zombie_a_traced_process_a_kernel_thread_and_oneself() -> None:
    own = os.getpid()
    zombie = os.fork()
    if zombie == 0:
        os._exit(0)
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    cases = {zombie: "zombie", own: "self-attach"}
    if read_process(2).status.name == "kthreadd":
        cases[2] = "kernel-thread"
    for pid, layer in cases.items():
        refused = first_refusal(*sides_of(own, pid))
        assert refused is not None
        assert refused.id == layer
        assert expected_errno(*sides_of(own, pid)) == "EPERM" == errno.errorcode[ptrace(PTRACE_ATTACH, pid)]
    os.waitpid(zombie, 0)
    with start(Sandbox(), SLEEP) as target:

        def hold() -> bytes:
            return b"" if ptrace(PTRACE_ATTACH, target.pid) else forever()

        with target.run(hold) as tracer:
            refused = wait_until(lambda: first_refusal(*sides_of(own, target.pid)), "the target is traced")
            assert refused is not None
            assert (refused.id, refused.errno) == ("already-traced", "EPERM")
            assert str(tracer.pid) in refused.why
            assert ptrace(PTRACE_ATTACH, target.pid) == errno.EPERM


def test_an_unprivileged_reader_knows_less_and_never_says_otherwise() -> None:
    """What another user can read does not make the table wrong, only unknown."""
    with start(Sandbox(), SLEEP) as ours, start(Sandbox(uid=NOBODY, gid=NOBODY, groups=()), SLEEP) as theirs:
        for pid, expected in ((ours.pid, UNKNOWN), (theirs.pid, ALLOWS)):

            def answer(pid: int = pid) -> bytes:
                sides = sides_of(os.getpid(), pid)
                return f"{verdict(*sides)} {attach_and_let_go(pid).decode()}".encode()

            with start(Sandbox(uid=NOBODY, gid=NOBODY, groups=()), answer) as reader:
                said, code = reader.result(SECONDS).decode().split()
            assert said == expected or (said == UNKNOWN and expected == ALLOWS)
            assert (code == "0") == (expected == ALLOWS)


def test_the_chain_of_user_namespaces_is_read_with_its_owners() -> None:
    try:
        spec = Sandbox(namespaces=frozenset({"user"}))
        running = start(spec, SLEEP)
    except OSError as error:
        require(False, f"needs user namespaces ({error})")
        raise
    with running:
        chain = read_side(read_process(running.pid)).user_ns
        own = read_side(read_process(os.getpid())).user_ns
        assert isinstance(chain, tuple)
        assert isinstance(own, tuple)
        assert chain[1:] == own
        assert chain[0].owner == os.geteuid()


@contextlib.contextmanager
def unreadable_sleep() -> Iterator[str]:
    """A program of root that others may only execute."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        program = Path(directory, "sleep")
        shutil.copy(str(shutil.which("sleep")), program)
        program.chmod(0o711)
        yield str(program)


def test_memory_that_belongs_to_a_namespace_above() -> None:
    """An unreadable program of a user unknown to the namespace: its root has no power over the memory (would_dump)."""
    one = (IdMap(0, 1000, 1),)
    spec = Sandbox(namespaces=frozenset({"user"}), uid_map=one, gid_map=one, uid=0, gid=0)
    with unreadable_sleep() as program, start(spec, [program, "60"]) as target, target.run(forever) as beside:
        tracer, facts, world = sides_of(beside.pid, target.pid)
        assert facts.dumpable is False
        refused = [found for found in rulings(tracer, facts, world) if found.answer != ALLOWS]
        assert [(found.id, found.answer) for found in refused] == [("not-dumpable", UNKNOWN)]
        above = evolve(facts, mm_user_ns=read_side(read_process(os.getpid())).user_ns)
        assert expected_errno(tracer, above, world) == "EPERM"
        with target.run(lambda: attach_and_let_go(target.pid)) as attempt:
            assert attempt.result(SECONDS) == str(errno.EPERM).encode()
        assert verdict(sides_of(os.getpid(), target.pid)[0], facts, world) == ALLOWS
        assert attach_and_let_go(target.pid) == b"0"

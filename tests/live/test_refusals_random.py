"""Refused attaches of random make: ids, capabilities, dumpable and filters, against an oracle that is written here.

The oracle is a second reading of the kernel (kernel/ptrace.c, fs/proc/base.c, kernel/signal.c) and shares nothing with
safedlv's rules. It says which layers refuse, and, by trying every change on itself, how small the smallest change is.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import evolve, frozen

from safedlv.inquiry import diagnose
from safedlv.linux import confine
from safedlv.report.json import document
from safedlv.runtimes.sandbox import Running, Sandbox, start
from safedlv.seccomp.program import Refuse, assemble
from tests.everyone import Everyones
from tests.live.sandboxes import ARCH, forever
from tests.scenes import ANYTHING, Document, Truth, asked, judge
from tests.support import assert_unharmed, count, require

SCENES = range(200, 200 + count(400))
"""The seeds; the first 40 have every refusal, see the last test."""
SECONDS = 20.0
DAC_OVERRIDE, DAC_READ_SEARCH, KILL, NET_ADMIN, SYS_PTRACE = (1 << bit for bit in (1, 2, 5, 12, 19))
POWERS = {"sys_ptrace": SYS_PTRACE, "dac_read_search": DAC_READ_SEARCH, "kill": KILL}
BOUNDING = DAC_OVERRIDE | DAC_READ_SEARCH | KILL | NET_ADMIN | SYS_PTRACE  # and more, which no scene has
CAPABILITIES = (DAC_OVERRIDE, DAC_READ_SEARCH, KILL, NET_ADMIN, SYS_PTRACE)
STEPS = {"attach": 16, "setoptions": 0x4200, "cont": 7, "getregset": 0x4204}
USERS = (0, 1000, 2000)


@frozen
class Filter:
    """What the tracer's filter refuses, and how."""

    what: str
    number: int
    kills: bool

    def program(self) -> bytes:
        action: Any = "kill_process" if self.kills else "errno"
        if self.what == "tgkill":
            return assemble([Refuse("tgkill", errno=self.number, action=action)], ARCH)
        return assemble([Refuse("ptrace", errno=self.number, action=action, arg=(0, STEPS[self.what]))], ARCH)


@frozen
class Actor:
    """One of the two: ids are real, effective, saved."""

    uid: tuple[int, int, int]
    gid: tuple[int, int, int]
    permitted: int
    effective: int
    dumpable: bool = True
    filter: Filter | None = None

    def become(self) -> None:
        confine.set_no_new_privs()
        confine.set_keepcaps(True)
        os.setgroups([])
        os.setresgid(*self.gid)
        os.setresuid(*self.uid)
        confine.capset(self.effective, self.permitted, 0)
        if self.filter is not None:
            confine.seccomp_set_mode_filter(self.filter.program())
        confine.set_dumpable(self.dumpable)
        confine.set_pdeathsig(signal.SIGKILL)

    def may(self, capability: int) -> bool:
        return bool(self.effective & capability)


# ---------------------------------------------------------------- the oracle


def refusing(tracer: Actor, target: Actor) -> set[str]:
    """The layers of __ptrace_may_access that refuse the attach."""
    if tracer.may(SYS_PTRACE):
        return set()
    same = {*target.uid} == {tracer.uid[0]} and {*target.gid} == {tracer.gid[0]}
    found = set() if same else {"credentials"}
    found |= set() if target.dumpable else {"not-dumpable"}
    return found | ({"capability-excess"} if target.permitted & ~tracer.permitted else set())


def spoiling(tracer: Actor, target: Actor) -> set[str]:
    """What dlv lacks where the attach passes: files that are its own or that it may open, and signals."""
    owner = target.uid[1] if target.dumpable else 0
    opens = tracer.uid[1] == owner or tracer.may(DAC_OVERRIDE) or tracer.may(DAC_READ_SEARCH)
    # A file in /proc asks __ptrace_may_access again, with the filesystem ids and the effective capabilities.
    by_file = evolve(tracer, uid=(tracer.uid[1],) * 3, gid=(tracer.gid[1],) * 3, permitted=tracer.effective)
    found = set() if opens and not refusing(by_file, target) else {"proc-access"}
    signals = {*tracer.uid[:2]} & {target.uid[0], target.uid[2]} or tracer.may(KILL)
    return found | (set() if signals else {"signal-access"})


def truth_of(tracer: Actor, target: Actor) -> Truth:
    """Everything that refuses, and what the first refusal looks like."""
    refused = refusing(tracer, target)
    causes = refused or spoiling(tracer, target)
    causes |= {"seccomp"} if tracer.filter else set()
    step, number = ("attach", "EPERM") if refused else (None, None)
    if tracer.filter is not None and (tracer.filter.what == "attach" or not refused):
        what = tracer.filter.what
        answer = "SIGSYS" if tracer.filter.kills else errno.errorcode[tracer.filter.number]
        step, number = (what, answer) if what in ("attach", "setoptions", "cont") else (None, None)
    return Truth(causes, step, number, ANYTHING, may="not-go")


def changed(tracer: Actor, target: Actor, changes: tuple[str, ...]) -> Actor:
    """The tracer after some changes."""
    for change in changes:
        if change == "user":  # execve gives root all of the bounding set, and others what is ambient (capabilities(7))
            sets = 0 if target.uid[0] else BOUNDING
            uid, gid = (target.uid[0],) * 3, (target.gid[0],) * 3
            tracer = evolve(tracer, uid=uid, gid=gid, permitted=sets, effective=sets)
        elif change == "seccomp":
            tracer = evolve(tracer, filter=None)
        else:
            power = POWERS[change.removeprefix("cap:")]
            tracer = evolve(tracer, permitted=tracer.permitted | power, effective=tracer.effective | power)
    return tracer


def smallest(tracer: Actor, target: Actor) -> set[frozenset[str]]:
    """Every set of changes that lets all pass and than which none is smaller; empty where all passes already."""
    every = ["seccomp", *(f"cap:{name}" for name in POWERS)]
    if (tracer.uid[0], tracer.gid[0]) != (target.uid[0], target.gid[0]):
        every.insert(0, "user")
    for size in range(len(every) + 1):
        chosen = (
            c for c in itertools.combinations(every, size) if not truth_of(changed(tracer, target, c), target).causes
        )
        if found := {frozenset(changes) for changes in chosen}:
            return found - {frozenset()}
    raise AssertionError("nothing helps")


# ---------------------------------------------------------------- the scenes


def random_actors(seed: int) -> tuple[Actor, Actor]:
    """Tracer and target: two of a kind, but for up to three things in which they differ."""
    dice = random.Random(seed)
    differing = dice.sample(
        ["uid", "gid", "mixed", "capabilities", "effective", "dumpable", "filter"], dice.choice((0, 1, 1, 2, 2, 3))
    )

    def ids(kind: str) -> tuple[int, int, int]:
        one = dice.choice(USERS) if kind in differing else usual
        return (
            (one, dice.choice((one, *USERS)), dice.choice((one, *USERS))) if "mixed" in differing else (one, one, one)
        )

    def some() -> int:
        return sum(capability for capability in CAPABILITIES if dice.random() < 0.4)

    usual = dice.choice(USERS)
    held = dice.choice((0, some()))
    target = Actor(ids("uid"), ids("gid"), held, 0, dumpable="dumpable" not in differing)
    permitted = some() if "capabilities" in differing else held
    effective = permitted & some() if "effective" in differing else permitted
    what = dice.choice([*STEPS, "tgkill"])
    number = dice.choice((errno.EPERM, errno.EACCES, errno.ENOSYS))
    program = Filter(what, number, kills=what != "tgkill" and dice.random() < 0.3) if "filter" in differing else None
    return Actor(ids("uid"), ids("gid"), permitted, effective, filter=program), target


def known(truth: Truth, target: Actor, *, by_root: bool) -> Truth:
    """Whether memory is dumpable shows in who owns the files of /proc/PID; of root's own process nothing shows.

    Then only an attach with its ids and capabilities tells, which root can try, unless nobody's ids are the same.
    """
    shown = (target.uid[1], target.gid[1]) != (0, 0)
    tried = by_root and len({*target.uid}) == len({*target.gid}) == 1
    if shown or tried or "not-dumpable" not in truth.causes:
        return truth
    return evolve(truth, causes=truth.causes - {"not-dumpable"}, may=truth.may | {"not-dumpable"})


@contextlib.contextmanager
def on_stage(actor: Actor, then: Callable[[], bytes]) -> Iterator[Running]:
    """A process that has become the actor."""
    ready, ready_child = os.pipe()

    def run() -> bytes:
        actor.become()
        os.write(ready_child, b"r")
        return then()

    try:
        with start(Sandbox(), run) as running:
            os.close(ready_child)
            ready_child = -1
            assert select.select([ready], [], [], SECONDS)[0]
            assert os.read(ready, 1) == b"r", running.result(SECONDS)
            yield running
    finally:
        os.close(ready)
        if ready_child >= 0:
            os.close(ready_child)


def from_outside(everyones: Everyones, pid: int, tracer: int) -> Document:
    words = everyones.safedlv("doctor", "--hold-limit=1", "--json", "--tracer", f"pid:{tracer}", str(pid))
    done = subprocess.run(words, capture_output=True, check=False, timeout=SECONDS)
    answer: Document = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("seed", SCENES)
def test_a_random_scene(seed: int, everyones: Everyones, monkeypatch: pytest.MonkeyPatch) -> None:
    """From inside and from outside: exactly what the oracle says; and a change as small as the smallest one."""
    require(os.geteuid() == 0, "needs root to make the contexts")
    monkeypatch.setenv("SAFEDLV_DLV", everyones.dlv)
    tracer, target = random_actors(seed)
    truth = truth_of(tracer, target)
    go_child, go = os.pipe()
    with on_stage(target, forever) as tracee:

        def inside() -> bytes:
            os.read(go_child, 1)
            return document(diagnose(str(tracee.pid))).encode()

        with on_stage(tracer, inside) as asking:
            outer = asked(lambda: from_outside(everyones, tracee.pid, asking.pid))
            assert_unharmed(tracee.pid)
            os.write(go, b"g")
            inner = json.loads(asking.result(SECONDS))
        assert_unharmed(tracee.pid)
    os.close(go_child)
    os.close(go)
    faults = {
        "outside": fault(outer, known(truth, target, by_root=True), by_root=True),
        "inside": fault(inner, known(truth, target, by_root=False), by_root=False),
    }
    for place, text in faults.items():
        assert not text, f"from {place}: {tracer}, {target}\n{text}"
    wanted = smallest(tracer, target) if truth.causes else set()
    fix = frozenset((outer["fix"] or {"ids": ()})["ids"])
    assert fix in wanted or fix == frozenset() == frozenset().union(*wanted), (tracer, target, wanted, fix)


def fault(answer: Document, truth: Truth, *, by_root: bool) -> str:
    """What is wrong with an answer."""
    try:
        judge(answer, truth, from_outside=by_root)
    except AssertionError as error:
        return f"{error}\n{truth}"
    return ""


def test_the_scenes_have_every_refusal() -> None:
    """The seeds are not all alike: each layer refuses alone, and scenes have none, one, two and three causes."""
    truths = [truth_of(*random_actors(seed)) for seed in SCENES]
    alone = {next(iter(truth.causes)) for truth in truths if len(truth.causes) == 1}
    assert alone >= {"seccomp", "credentials", "not-dumpable", "capability-excess"}
    assert {len(truth.causes) for truth in truths} >= {0, 1, 2, 3}

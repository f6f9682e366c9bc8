"""From causes to changes: enough by the kernel's own rules, none too many, and nothing said that is not so."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from attrs import evolve
from hypothesis import assume, example, given
from hypothesis import strategies as st

from safedlv.capabilities import capability_mask
from safedlv.diagnosis.access_rules import ALLOWS, REFUSES, RULES, Side, World, rulings
from safedlv.diagnosis.advice import ADVICE
from safedlv.diagnosis.place import Place
from safedlv.diagnosis.remedies import (
    BY_CAUSE,
    BY_IDENTITY,
    KINDS,
    NOT_TO_BE_DEBUGGED,
    REMEDIES,
    RISKS,
    fix,
    proposed,
)
from safedlv.model import CapabilitySets, Ids
from safedlv.probe.changes import KINDS as CHANGE_KINDS
from tests.unit.access_sides import DOCKER, FULL, QUIET, TARGET, caps, ids, side

DEGRADED = {"wrong-process", "not-go", "no-debug-info", "optimized", "delve-version"}
YAMA = ("capability", "yama")


def test_every_blocking_cause_has_a_place_in_the_tables() -> None:
    tables = [set(BY_CAUSE), BY_IDENTITY, NOT_TO_BE_DEBUGGED, DEGRADED]
    assert set(chain(*tables)) == set(ADVICE) | {"thread-limit", "memory-limit"}
    assert sum(map(len, tables)) == len(set(chain(*tables))), "one table each"
    assert {rule.id for rule in RULES} <= set(chain(*tables))
    assert set(BY_CAUSE.values()) <= set(REMEDIES)


def test_every_kind_has_its_place_in_the_order() -> None:
    assert {change.partition(":")[0] for change in REMEDIES} == set(KINDS)
    assert [kind for kind in KINDS if kind in CHANGE_KINDS] == list(CHANGE_KINDS)


def test_every_remedy_says_its_risk_and_why() -> None:
    for remedy in REMEDIES.values():
        assert remedy.risk in RISKS
        assert remedy.words
        assert remedy.why


INSIDE = Place(pid=7, inner_pid=1, uid=1000, gid=1000, inner_uid=1000, inner_gid=1000, one_user=True, inside=True)
OUTSIDE = evolve(INSIDE, inside=False, inner_pid=7)
TABLE = {
    "the user alone": ({"credentials"}, INSIDE, ("user",)),
    "the group alone": ({"credentials"}, evolve(INSIDE, tracer_uid=1000), ("user",)),
    "a set-id program has no user": (
        {"credentials"},
        evolve(INSIDE, one_user=False, tracer_caps=DOCKER),
        ("cap:sys_ptrace",),
    ),
    "and for one without KILL": (
        {"credentials"},
        evolve(INSIDE, one_user=False),
        ("cap:sys_ptrace", "cap:dac_read_search", "cap:kill"),
    ),
    "Yama, as root in a container": ({"yama"}, evolve(INSIDE, uid=0, yama_scope=1), ("cap:sys_ptrace",)),
    "Yama, as a user there: --cap-add alone gives nothing": (
        {"yama"},
        evolve(INSIDE, yama_scope=2, tracer_uid=1000),
        ("root", "cap:sys_ptrace"),
    ),
    "Yama, on a plain host": ({"yama"}, evolve(OUTSIDE, yama_scope=1, tracer_uid=1000), ("root",)),
    "Yama at 3": ({"yama", "credentials"}, evolve(INSIDE, yama_scope=3), ("reboot",)),
    "not dumpable: its own user cannot help": (
        {"not-dumpable", "credentials"},
        evolve(OUTSIDE, tracer_uid=2000),
        ("root",),
    ),
    "a narrow capability": (
        {"capability-excess"},
        evolve(INSIDE, uid=0, gid=0, permitted=capability_mask(["net_raw"])),
        ("cap:net_raw",),
    ),
    "no narrow one": ({"capability-excess"}, evolve(INSIDE, uid=0, gid=0, permitted=DOCKER), ("cap:sys_ptrace",)),
    "root's process, as a user": ({"credentials", "capability-excess"}, evolve(INSIDE, uid=0, tracer_uid=5), ("user",)),
    "a filter as well": ({"credentials", "seccomp"}, INSIDE, ("user", "seccomp")),
    "an AppArmor profile": ({"apparmor"}, INSIDE, ("label:apparmor",)),
    "files and signals": ({"proc-access", "signal-access"}, INSIDE, ("user",)),
    "paused, and another user": ({"frozen", "credentials"}, INSIDE, ("user", "thaw")),
    "nothing to be done": ({"zombie", "credentials"}, INSIDE, ()),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_changes(name: str) -> None:
    causes, place, expected = TABLE[name]
    assert proposed(causes, place) == expected
    if expected:
        made = fix(expected, place, verified=False)
        assert (made.ids, len(made.changes), made.verified) == (expected, len(expected), False)
        assert made.risk_why


# ---------------------------------------------------------------- by the kernel's own rules


def changed(tracer: Side, target: Side, changes: tuple[str, ...], bounding: int) -> Side:
    """The tracer as an engine would start it with these changes: root has the bounding set, others nothing."""
    assert isinstance(tracer.uid, Ids)
    assert isinstance(target.uid, Ids)
    uid, gid = tracer.uid, tracer.gid
    if "user" in changes:
        uid, gid = ids(target.uid.real), target.gid
    elif "root" in changes:
        uid, gid = ids(0), ids(0)
    more = bounding | capability_mask(c.partition(":")[2] for c in changes if c.startswith("cap:"))
    return evolve(tracer, uid=uid, gid=gid, capabilities=caps(more if uid.real == 0 else 0))


def refusing(tracer: Side, target: Side, world: World) -> set[str]:
    return {r.id for r in rulings(tracer, target, world) if r.answer != ALLOWS and r.stops_attach}


users = st.sampled_from([0, 1000, 2000])
sets = st.sampled_from([0, DOCKER, capability_mask(["net_raw"]), capability_mask(["net_raw", "kill"]), FULL])


@given(users, users, users, st.booleans(), sets, st.sampled_from([0, 1, 2]))
@example(1000, 0, 0, True, DOCKER, 0)
@example(0, 1000, 2000, True, DOCKER, 1)
def test_the_changes_satisfy_the_kernels_rules(
    tracer_uid: int, uid: int, saved: int, dumpable: bool, bounding: int, scope: int
) -> None:
    """What refuses goes in, and with the changes made nothing refuses any more; with one of them left out, it does."""
    assume(bounding != FULL or tracer_uid)
    world = evolve(QUIET, modules=YAMA, yama_scope=scope)
    held = caps(bounding if uid == 0 else 0)
    target = evolve(TARGET, uid=Ids(uid, uid, saved, uid), gid=ids(uid), dumpable=dumpable, capabilities=held)
    tracer = changed(side(uid=ids(tracer_uid), gid=ids(tracer_uid)), target, (), bounding)
    causes = refusing(tracer, target, world)
    assume(causes)
    assert isinstance(tracer.capabilities, CapabilitySets)
    place = Place(
        pid=1, uid=uid, gid=uid, one_user=uid == saved, permitted=bounding if uid == 0 else 0, inside=True,
        tracer_uid=tracer_uid, tracer_gid=tracer_uid, tracer_caps=tracer.capabilities.effective,
    )  # fmt: skip
    changes = proposed(causes, place)
    assert changes
    assert not refusing(changed(tracer, target, changes, bounding), target, world), changes
    by_rule = [
        c for c in changes if c not in ("cap:kill", "cap:dac_read_search")
    ]  # these are dlv's needs, not ptrace's
    if "cap:sys_ptrace" in changes and bounding & capability_mask(["sys_ptrace"]):
        by_rule.remove("cap:sys_ptrace")  # a user does not see that root there has it already
    for less in combinations(by_rule, len(by_rule) - 1):
        assert refusing(changed(tracer, target, less, bounding), target, world), f"{changes} is more than {less}"


def test_rules_are_what_the_test_above_asks() -> None:
    """A control: without changes the same question is answered with a refusal."""
    target = evolve(TARGET, uid=ids(1000), gid=ids(1000))
    answers = [r.answer for r in rulings(side(capabilities=caps(0)), target, QUIET) if r.id == "credentials"]
    assert answers == [REFUSES]


# ---------------------------------------------------------------- what is not needed


@pytest.mark.parametrize(
    ("changes", "place", "absent"),
    [
        (("user",), INSIDE, set()),
        (("user",), evolve(INSIDE, uid=0), {"root in the container"}),
        (("root", "cap:sys_ptrace"), INSIDE, {"root in the container", "CAP_SYS_PTRACE", "a restart of the target"}),
        (("seccomp",), evolve(INSIDE, tracer_uid=1000), {"a restart of the target"}),
    ],
)
def test_what_is_not_needed_in_a_container(changes: tuple[str, ...], place: Place, absent: set[str]) -> None:
    everything = {
        *("--privileged", "seccomp=unconfined", "apparmor=unconfined", "--pid=host"),
        *("CAP_SYS_PTRACE", "root in the container", "a restart of the target"),
    }
    assert set(fix(changes, place, verified=True).not_needed) == everything - absent


def test_what_is_not_needed_on_a_host() -> None:
    assert fix(("user",), OUTSIDE, verified=False).not_needed == ("CAP_SYS_PTRACE", "root", "a restart of the target")
    yama = fix(("root",), evolve(OUTSIDE, yama_scope=1, tracer_uid=5), verified=False)
    assert yama.not_needed == ("another kernel.yama.ptrace_scope", "a restart of the target")
    assert fix(("reboot",), evolve(OUTSIDE, yama_scope=3), verified=False).not_needed == ()


def test_a_target_of_roots_own_user_is_no_low_risk() -> None:
    assert fix(("user",), INSIDE, verified=True).risk == "low"
    as_root = fix(("user",), evolve(INSIDE, uid=0, gid=0), verified=True)
    assert as_root.risk == "medium"
    assert as_root.risk_why == REMEDIES["root"].why

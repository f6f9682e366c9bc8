"""The access table: the matrix seen on a kernel with Yama and AppArmor, each row by itself, and its three values."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from safedlv.diagnosis.access_rules import (
    ALLOWS,
    DOCKER_DEFAULT,
    PTRACER_ANY,
    REFUSES,
    RULES,
    UNKNOWN,
    AppArmorProfile,
    Ruling,
    Side,
    UserNamespace,
    World,
    capable_over,
    expected_errno,
    filter_answer,
    first_refusal,
    rulings,
    supposing_same_user_namespace,
    verdict,
)
from safedlv.diagnosis.sides import INITIAL_PID_NAMESPACE
from safedlv.model import CapabilitySets, Ids, Unknown
from tests.unit.access_sides import (
    DOCKER,
    FULL,
    INIT,
    MATRIX_MODULES,
    NO_PTRACE,
    NOT_KNOWN,
    PTRACE,
    QUIET,
    TARGET,
    UNCONFINED,
    caps,
    ids,
    inner,
    side,
)


def ruling(name: str, tracer: Side, target: Side, world: World = QUIET) -> Ruling:
    return next(found for found in rulings(tracer, target, world) if found.id == name)


def answer(name: str, tracer: Side, target: Side, world: World = QUIET) -> str:
    return ruling(name, tracer, target, world).answer


# ---------------------------------------------------------------- the matrix of kernel-facts.md

CONTAINER_NS = {"pid_ns": (4026532500, INITIAL_PID_NAMESPACE)}
IN_CONTAINER = {**CONTAINER_NS, "apparmor": DOCKER_DEFAULT}
IN_OPEN = {**CONTAINER_NS, "apparmor": UNCONFINED}
USER_1000 = {"uid": ids(1000), "gid": ids(1000), "capabilities": caps(0)}
WITH_PTRACE = caps(DOCKER | PTRACE)

MATRIX: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("default, root", IN_CONTAINER, IN_CONTAINER, "W EPERM EPERM EPERM"),
    ("exec --privileged", {**IN_OPEN, "capabilities": caps(FULL)}, IN_CONTAINER, "W W W EPERM"),
    (
        "--cap-add=SYS_PTRACE, root",
        {**IN_CONTAINER, "capabilities": WITH_PTRACE},
        {**IN_CONTAINER, "capabilities": WITH_PTRACE},
        "W W W EPERM",
    ),
    ("seccomp=unconfined only", {**IN_CONTAINER, "seccomp": None}, IN_CONTAINER, "W EPERM EPERM EPERM"),
    ("apparmor=unconfined only", IN_OPEN, IN_OPEN, "W EPERM EPERM EPERM"),
    ("--user 1000, exec as 1000", {**IN_CONTAINER, **USER_1000}, {**IN_CONTAINER, **USER_1000}, "W EPERM EPERM EPERM"),
    (
        "--user 1000 --cap-add=SYS_PTRACE, exec as 1000",
        {**IN_CONTAINER, **USER_1000, "capabilities": CapabilitySets(0, 0, 0, DOCKER | PTRACE, 0)},
        {**IN_CONTAINER, **USER_1000, "capabilities": CapabilitySets(0, 0, 0, DOCKER | PTRACE, 0)},
        "W EPERM EPERM EPERM",
    ),
    (
        "--user 1000 --cap-add=SYS_PTRACE, exec as root",
        {**IN_CONTAINER, "capabilities": WITH_PTRACE},
        {**IN_CONTAINER, **USER_1000},
        "W W W EPERM",
    ),
    ("--user 1000, exec as root", IN_CONTAINER, {**IN_CONTAINER, **USER_1000}, "EPERM EPERM EPERM EPERM"),
    (
        "--cap-drop ALL with no-new-privileges, root",
        {**IN_CONTAINER, "capabilities": caps(0)},
        {**IN_CONTAINER, "capabilities": caps(0)},
        "W EPERM EPERM EPERM",
    ),
    (
        "AppArmor profile that denies ptrace, with SYS_PTRACE",
        {**CONTAINER_NS, "apparmor": NO_PTRACE, "capabilities": WITH_PTRACE},
        {**CONTAINER_NS, "apparmor": NO_PTRACE, "capabilities": WITH_PTRACE},
        "EACCES EACCES EACCES EPERM",
    ),
    (
        "sidecar --pid=container:X --cap-drop ALL --cap-add SYS_PTRACE, both root",
        {**IN_CONTAINER, "capabilities": caps(PTRACE)},
        IN_CONTAINER,
        "W W W EPERM",
    ),
    ("own child in the default container", IN_CONTAINER, {**IN_CONTAINER, "ancestors": (10, 5, 1)}, "W W EPERM EPERM"),
    ("host root", {"apparmor": UNCONFINED, "capabilities": caps(FULL)}, IN_CONTAINER, "W W W EPERM"),
]


@pytest.mark.parametrize("scope", range(4))
@pytest.mark.parametrize(("tracer", "target", "expected"), [row[1:] for row in MATRIX], ids=[row[0] for row in MATRIX])
def test_the_matrix_that_was_seen(tracer: dict[str, Any], target: dict[str, Any], expected: str, scope: int) -> None:
    default_profile = ((16, None), (0x4200, None), (7, None))
    sides = side(**{"seccomp": default_profile, **tracer}), evolve(TARGET, **target)
    world = World(MATRIX_MODULES, scope, 0)
    errno = expected.split()[scope]
    assert verdict(*sides, world) == (ALLOWS if errno == "W" else REFUSES)
    assert expected_errno(*sides, world) == (None if errno == "W" else errno)


def test_host_root_into_every_container_of_the_matrix() -> None:
    host = side(apparmor=UNCONFINED, capabilities=caps(FULL))
    for _, _, target, _ in MATRIX:
        for scope in range(4):
            errno = expected_errno(host, evolve(TARGET, **target), World(MATRIX_MODULES, scope, 0))
            assert errno == ("EPERM" if scope == 3 else None)


def test_a_sidecar_under_another_profile() -> None:
    sidecar = side(apparmor=DOCKER_DEFAULT, capabilities=caps(PTRACE))
    world = World(MATRIX_MODULES, 0, 0)
    assert expected_errno(sidecar, evolve(TARGET, apparmor=UNCONFINED), world) == "EACCES"
    assert verdict(evolve(sidecar, apparmor=UNCONFINED), evolve(TARGET, apparmor=UNCONFINED), world) == ALLOWS


# ---------------------------------------------------------------- each row by itself


ROWS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    # row, what is changed on the tracer, on the target, the answer
    ("seccomp", {"seccomp": ((16, "ENOSYS"),)}, {}, REFUSES),
    ("seccomp", {"seccomp": ((16, None),)}, {}, ALLOWS),
    ("seccomp", {"seccomp": ((7, "EPERM"),)}, {}, UNKNOWN),
    ("seccomp", {"seccomp": NOT_KNOWN}, {}, UNKNOWN),
    ("seccomp", {}, {"seccomp": ((16, "EPERM"),)}, ALLOWS),
    ("pid-namespace", {"pid_ns": (7, INITIAL_PID_NAMESPACE)}, {}, REFUSES),
    ("pid-namespace", {"pid_ns": (7,)}, {"pid_ns": (8,)}, UNKNOWN),
    ("pid-namespace", {"pid_ns": (7, 6)}, {"pid_ns": (8, 6)}, REFUSES),
    ("pid-namespace", {"pid_ns": (7, 6)}, {"pid_ns": (8, 7, 6)}, ALLOWS),
    ("pid-namespace", {}, {"pid_ns": NOT_KNOWN}, ALLOWS),
    ("pid-namespace", {"pid_ns": (7,)}, {"pid_ns": NOT_KNOWN}, UNKNOWN),
    ("pid-namespace", {"pid_ns": NOT_KNOWN}, {}, UNKNOWN),
    ("kernel-thread", {"capabilities": caps(FULL)}, {"kernel_thread": True}, REFUSES),
    ("self-attach", {"capabilities": caps(FULL)}, {"pid": 21, "tgid": 10}, REFUSES),
    ("credentials", {"uid": ids(1, 0, 0)}, {}, REFUSES),
    ("credentials", {"uid": ids(0, 1, 1)}, {}, ALLOWS),
    ("credentials", {}, {"uid": ids(0, 1, 0)}, REFUSES),
    ("credentials", {}, {"uid": ids(0, 0, 1)}, REFUSES),
    ("credentials", {}, {"uid": ids(1, 0, 0)}, REFUSES),
    ("credentials", {}, {"uid": Ids(0, 0, 0, 1)}, ALLOWS),
    ("credentials", {}, {"gid": ids(0, 0, 1)}, REFUSES),
    ("credentials", {"gid": ids(1)}, {}, REFUSES),
    ("credentials", {"gid": ids(1), "capabilities": caps(PTRACE)}, {}, ALLOWS),
    ("credentials", {"gid": ids(1), "capabilities": caps(PTRACE, 0)}, {}, REFUSES),
    ("credentials", {}, {"uid": NOT_KNOWN}, UNKNOWN),
    ("credentials", {}, {"uid": NOT_KNOWN, "gid": ids(1)}, REFUSES),
    ("credentials", {"capabilities": caps(PTRACE)}, {"uid": NOT_KNOWN, "user_ns": NOT_KNOWN}, ALLOWS),
    ("credentials", {"uid": ids(1000)}, {"user_ns": NOT_KNOWN}, UNKNOWN),
    ("credentials", {"uid": ids(1000)}, {"user_ns": inner(9, owner=1000)}, ALLOWS),
    ("credentials", {"uid": ids(1000)}, {"user_ns": inner(9, owner=1001)}, REFUSES),
    ("credentials", {"uid": ids(1000)}, {"user_ns": inner(9, owner=NOT_KNOWN)}, UNKNOWN),
    ("not-dumpable", {}, {"dumpable": False}, REFUSES),
    ("not-dumpable", {"capabilities": caps(PTRACE)}, {"dumpable": False}, ALLOWS),
    ("not-dumpable", {"capabilities": caps(PTRACE)}, {"dumpable": NOT_KNOWN}, ALLOWS),
    ("not-dumpable", {}, {"dumpable": NOT_KNOWN}, UNKNOWN),
    ("not-dumpable", {}, {"dumpable": False, "mm_user_ns": NOT_KNOWN}, REFUSES),
    ("not-dumpable", {}, {"dumpable": False, "state": "Z"}, ALLOWS),
    (
        "not-dumpable",
        {"capabilities": caps(PTRACE), "user_ns": inner(9)},
        {"dumpable": False, "user_ns": inner(9), "mm_user_ns": INIT},
        REFUSES,
    ),
    (
        "not-dumpable",
        {"capabilities": caps(PTRACE), "user_ns": inner(9)},
        {"dumpable": False, "user_ns": inner(9), "mm_user_ns": NOT_KNOWN},
        UNKNOWN,
    ),
    ("user-namespace", {"user_ns": inner(9), "capabilities": caps(FULL)}, {}, REFUSES),
    ("user-namespace", {"capabilities": caps(PTRACE)}, {"user_ns": inner(9)}, ALLOWS),
    ("user-namespace", {"capabilities": caps(0)}, {"capabilities": caps(0), "user_ns": inner(9, owner=7)}, REFUSES),
    ("user-namespace", {"user_ns": inner(8)}, {"user_ns": inner(9)}, REFUSES),
    ("user-namespace", {}, {"user_ns": NOT_KNOWN}, UNKNOWN),
    ("capability-excess", {"capabilities": caps(0)}, {}, REFUSES),
    ("capability-excess", {"capabilities": caps(DOCKER, 0)}, {}, ALLOWS),
    ("capability-excess", {"capabilities": caps(PTRACE)}, {"capabilities": caps(FULL)}, ALLOWS),
    ("capability-excess", {"capabilities": NOT_KNOWN}, {"capabilities": caps(0)}, ALLOWS),
    ("capability-excess", {"capabilities": NOT_KNOWN}, {}, UNKNOWN),
    ("capability-excess", {}, {"capabilities": NOT_KNOWN}, UNKNOWN),
    ("landlock", {"landlock": (1,)}, {}, REFUSES),
    ("landlock", {"landlock": (1,), "capabilities": caps(FULL)}, {"landlock": (2,)}, REFUSES),
    ("landlock", {"landlock": (1,)}, {"landlock": (1, 2)}, ALLOWS),
    ("landlock", {"landlock": (1, 2)}, {"landlock": (1,)}, REFUSES),
    ("landlock", {}, {"landlock": NOT_KNOWN}, ALLOWS),
    ("zombie", {"capabilities": caps(FULL)}, {"state": "Z"}, REFUSES),
    ("zombie", {}, {"state": "X"}, REFUSES),
    ("zombie", {}, {"state": "T"}, ALLOWS),
    ("already-traced", {"capabilities": caps(FULL)}, {"tracer_pid": 77}, REFUSES),
]


@pytest.mark.parametrize(("name", "tracer", "target", "expected"), ROWS)
def test_a_row(name: str, tracer: dict[str, Any], target: dict[str, Any], expected: str) -> None:
    world = evolve(QUIET, modules=("capability", "landlock"))
    found = ruling(name, side(**tracer), evolve(TARGET, **target), world)
    assert found.answer == expected
    assert (found.lacks is not None) == (expected == UNKNOWN)
    assert found.source
    assert found.why


YAMA: list[tuple[int, dict[str, Any], dict[str, Any], str]] = [
    (0, {}, {}, ALLOWS),
    (1, {}, {}, REFUSES),
    (1, {}, {"ancestors": (15, 10, 1)}, ALLOWS),
    (1, {"pid": 11}, {"ancestors": (10, 1)}, ALLOWS),  # a thread of the parent
    (1, {}, {"ancestors": NOT_KNOWN}, UNKNOWN),
    (1, {}, {"ptracer": PTRACER_ANY}, ALLOWS),
    (1, {}, {"ptracer": 10}, ALLOWS),
    (1, {}, {"ptracer": 5}, ALLOWS),  # the tracer's parent was named
    (1, {}, {"ptracer": 6}, REFUSES),
    (1, {}, {"ptracer": NOT_KNOWN}, UNKNOWN),
    (1, {"capabilities": caps(PTRACE)}, {"ptracer": NOT_KNOWN, "ancestors": NOT_KNOWN}, ALLOWS),
    (1, {"capabilities": caps(PTRACE, 0)}, {}, REFUSES),
    (1, {"capabilities": caps(PTRACE), "user_ns": inner(9)}, {}, REFUSES),
    (1, {}, {"tracer_pid": 10}, ALLOWS),
    (2, {}, {"ancestors": (10, 1), "ptracer": PTRACER_ANY}, REFUSES),
    (2, {"capabilities": caps(PTRACE)}, {}, ALLOWS),
    (2, {"capabilities": NOT_KNOWN}, {}, UNKNOWN),
    (3, {"capabilities": caps(FULL)}, {"ancestors": (10, 1), "ptracer": PTRACER_ANY}, REFUSES),
]


@pytest.mark.parametrize(("scope", "tracer", "target", "expected"), YAMA)
def test_yama(scope: int, tracer: dict[str, Any], target: dict[str, Any], expected: str) -> None:
    world = World(("capability", "yama"), scope, 0)
    found = ruling("yama", side(**tracer), evolve(TARGET, **target), world)
    assert found.answer == expected
    assert (str(scope) in found.why) == (expected != ALLOWS)


def test_yama_that_is_not_there_or_not_known() -> None:
    assert answer("yama", side(), TARGET, World(("capability",), NOT_KNOWN)) == ALLOWS
    assert answer("yama", side(), TARGET, World(NOT_KNOWN, None)) == ALLOWS
    assert answer("yama", side(capabilities=caps(FULL)), TARGET, World(NOT_KNOWN, NOT_KNOWN)) == UNKNOWN


APPARMOR: list[tuple[AppArmorProfile | Unknown | None, AppArmorProfile | Unknown | None, str]] = [
    (None, None, ALLOWS),
    (UNCONFINED, UNCONFINED, ALLOWS),
    (UNCONFINED, NO_PTRACE, ALLOWS),
    (UNCONFINED, NOT_KNOWN, ALLOWS),
    (DOCKER_DEFAULT, DOCKER_DEFAULT, ALLOWS),
    (DOCKER_DEFAULT, UNCONFINED, REFUSES),
    (NO_PTRACE, NOT_KNOWN, REFUSES),
    (DOCKER_DEFAULT, NOT_KNOWN, UNKNOWN),
    (AppArmorProfile("mine"), AppArmorProfile("mine"), UNKNOWN),
    (AppArmorProfile("mine", "complain"), UNCONFINED, ALLOWS),
    (AppArmorProfile("mine", "complain"), NO_PTRACE, REFUSES),
    (AppArmorProfile("mine", "enforce", ("*",)), NO_PTRACE, REFUSES),
    (AppArmorProfile("mine", "enforce", ("*",)), AppArmorProfile("theirs", "enforce", (), ("mine",)), ALLOWS),
    (AppArmorProfile("a//&b", "mixed", ("*",)), UNCONFINED, UNKNOWN),
    (AppArmorProfile("browser", "unconfined"), NO_PTRACE, ALLOWS),
    (NOT_KNOWN, UNCONFINED, UNKNOWN),
]


@pytest.mark.parametrize(("ours", "theirs", "expected"), APPARMOR)
def test_apparmor(
    ours: AppArmorProfile | Unknown | None, theirs: AppArmorProfile | Unknown | None, expected: str
) -> None:
    world = evolve(QUIET, modules=("capability", "apparmor"))
    sides = side(apparmor=ours, capabilities=caps(FULL)), evolve(TARGET, apparmor=theirs)
    assert answer("apparmor", *sides, world) == expected
    assert expected_errno(*sides, world) == ("EACCES" if expected == REFUSES else None)


def test_selinux() -> None:
    sides = side(selinux="container_t"), evolve(TARGET, selinux="unconfined_t")
    world = World(("capability", "selinux"), None, 0, True, False, False)
    assert answer("selinux", *sides, world) == REFUSES
    assert expected_errno(*sides, world) == "EACCES"
    assert answer("selinux", *sides, evolve(world, selinux_enforcing=False)) == ALLOWS
    assert answer("selinux", *sides, evolve(world, selinux_allows=True, selinux_enforcing=NOT_KNOWN)) == ALLOWS
    assert answer("selinux", *sides, evolve(world, selinux_enforcing=NOT_KNOWN)) == UNKNOWN
    denied = ruling("selinux", *sides, evolve(world, selinux_deny_ptrace=True, selinux_allows=NOT_KNOWN))
    assert denied.answer == UNKNOWN
    assert "deny_ptrace" in denied.why
    assert denied.satisfied_by[0] == "selinux:deny_ptrace=off"


def test_smack() -> None:
    world = World(("capability", "smack"), None, 0, smack_allows=False)
    assert answer("smack", side(smack="A"), evolve(TARGET, smack="B"), world) == REFUSES
    assert answer("smack", side(smack="A"), evolve(TARGET, smack="A"), world) == ALLOWS
    override = side(smack="A", capabilities=caps(FULL))
    assert answer("smack", override, evolve(TARGET, smack="B"), world) == UNKNOWN
    assert answer("smack", side(smack="A"), evolve(TARGET, smack="B"), evolve(world, smack_allows=True)) == ALLOWS
    assert expected_errno(side(smack="A"), evolve(TARGET, smack="B"), world) == "EACCES"


def test_hidepid_hides_files_and_does_not_stop_an_attach() -> None:
    hidden = evolve(TARGET, visible=False)
    for level, errno in ((1, "EPERM"), (2, "ENOENT"), (4, "ENOENT")):
        found = ruling("hidepid", side(), hidden, evolve(QUIET, hidepid=level))
        assert (found.answer, found.errno, found.stops_attach) == (REFUSES, errno, False)
        assert verdict(side(), hidden, evolve(QUIET, hidepid=level)) == ALLOWS
        assert first_refusal(side(), hidden, evolve(QUIET, hidepid=level)) is None
    assert answer("hidepid", side(), TARGET, evolve(QUIET, hidepid=2)) == ALLOWS
    assert answer("hidepid", side(), evolve(TARGET, visible=NOT_KNOWN), evolve(QUIET, hidepid=2)) == UNKNOWN


# ---------------------------------------------------------------- all rows together


def test_the_first_refusal_gives_the_errno() -> None:
    world = World(MATRIX_MODULES, 1, 0)
    both = side(apparmor=NO_PTRACE), evolve(TARGET, apparmor=NO_PTRACE)
    assert expected_errno(*both, world) == "EPERM"
    found = first_refusal(*both, world)
    assert found is not None
    assert found.id == "yama"
    apparmor_first = evolve(world, modules=("capability", "apparmor", "yama"))
    assert expected_errno(*both, apparmor_first) == "EACCES"
    zombie = evolve(TARGET, state="Z", apparmor=NO_PTRACE)
    assert expected_errno(both[0], zombie, evolve(world, yama_scope=0)) == "EACCES"
    assert expected_errno(evolve(both[0], seccomp=((16, "ENOSYS"),)), both[1], world) == "ENOSYS"


def test_an_unknown_before_the_refusal() -> None:
    """It matters where it would give another errno, and not where it would give the same."""
    target = evolve(TARGET, dumpable=False)
    assert expected_errno(side(uid=NOT_KNOWN), target, QUIET) == "EPERM"
    assert expected_errno(side(seccomp=NOT_KNOWN), target, QUIET) is None
    assert verdict(side(seccomp=NOT_KNOWN), target, QUIET) == REFUSES
    assert verdict(side(seccomp=NOT_KNOWN), TARGET, QUIET) == UNKNOWN
    assert expected_errno(side(pid_ns=NOT_KNOWN), target, QUIET) is None


def test_nothing_known_refuses_nothing() -> None:
    assert {found.answer for found in rulings(Side(), Side(), World())} == {UNKNOWN}
    assert expected_errno(Side(), Side(), World()) is None


def test_the_order_of_the_table_without_a_list_of_modules() -> None:
    assert [found.id for found in rulings(side(), TARGET, World())] == [rule.id for rule in RULES]
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_the_commonest_refusal_needs_a_supposition() -> None:
    user = side(uid=ids(1000), gid=ids(1000), capabilities=caps(0))
    other = evolve(TARGET, user_ns=NOT_KNOWN, mm_user_ns=NOT_KNOWN)
    assert expected_errno(user, other, QUIET) is None
    supposed = supposing_same_user_namespace(user, other)
    found = first_refusal(user, supposed, QUIET)
    assert found is not None
    assert (found.id, found.errno) == ("credentials", "EPERM")
    assert found.satisfied_by == ("cap:sys_ptrace", "exec-as:0:0", "same-uid")


def test_no_id_will_do_for_a_set_id_program() -> None:
    assert ruling("credentials", side(), evolve(TARGET, uid=ids(1000, 0, 0))).satisfied_by == ("cap:sys_ptrace",)


def test_what_a_filter_answers() -> None:
    tracer = side(seccomp=((16, None), (7, "EPERM")))
    assert filter_answer(tracer, 16) is None
    assert filter_answer(tracer, 7) == "EPERM"
    assert isinstance(filter_answer(tracer, 0x4200), Unknown)
    assert filter_answer(side(), 7) is None


def test_power_over_a_namespace_two_levels_down() -> None:
    """The owner of a child namespace has every capability over what is below it as well."""
    chain = (UserNamespace(9, 5), UserNamespace(8, 1000), *INIT)
    assert capable_over(side(uid=ids(1000), capabilities=caps(0)), chain, "sys_ptrace") is True
    assert capable_over(side(uid=ids(5), capabilities=caps(0)), chain, "sys_ptrace") is False
    assert capable_over(side(uid=ids(0, 1000, 0), capabilities=caps(0)), chain, "sys_ptrace") is True

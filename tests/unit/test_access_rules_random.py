"""The access table on random sides: unknowns stay unknown, and more capability is never less."""

from __future__ import annotations

from attrs import asdict, evolve, fields
from hypothesis import given
from hypothesis import strategies as st

from safedlv.capabilities import capability_mask
from safedlv.diagnosis.access_rules import ALLOWS, REFUSES, UNKNOWN, expected_errno, first_refusal, rulings, verdict
from safedlv.diagnosis.sides import INITIAL_PID_NAMESPACE, PTRACER_ANY, AppArmorProfile, Side, UserNamespace, World
from safedlv.model import CapabilitySets, Ids
from tests.unit.access_sides import DOCKER, FULL, INIT, NOT_KNOWN, PTRACE, caps, inner

NAMESPACES = [INIT, inner(8, owner=1000), inner(9, owner=0), (UserNamespace(10, 1000), *inner(8, owner=1000))]
MASKS = st.sampled_from([0, PTRACE, DOCKER, FULL, capability_mask(["mac_override"])])
PROFILES = st.builds(
    AppArmorProfile,
    st.sampled_from(["a", "b"]),
    st.sampled_from(["enforce", "complain", "unconfined", "mixed"]),
    st.sampled_from([(), ("a",), ("*",)]),
    st.sampled_from([(), ("a",), ("*",)]),
)
LABELS = st.sampled_from(["x", "y"])
SMALL_IDS = st.builds(Ids, *[st.sampled_from([0, 1000])] * 4)


@st.composite
def sides(draw: st.DrawFn) -> Side:
    """A process as there could be one: the memory's namespace is the process's own or above it."""
    user_ns = draw(st.sampled_from(NAMESPACES))
    permitted = draw(MASKS)
    pid = draw(st.sampled_from([10, 20, 30]))
    return Side(
        pid=pid,
        tgid=draw(st.sampled_from([pid, 10])),
        uid=draw(SMALL_IDS),
        gid=draw(SMALL_IDS),
        capabilities=caps(permitted, draw(st.sampled_from([0, permitted]))),
        user_ns=user_ns,
        mm_user_ns=user_ns[draw(st.integers(0, len(user_ns) - 1)) :],
        dumpable=draw(st.booleans()),
        kernel_thread=draw(st.booleans()),
        state=draw(st.sampled_from("SZ")),
        tracer_pid=draw(st.sampled_from([0, 10, 99])),
        ancestors=draw(st.sampled_from([(1,), (10, 1), (20, 10, 1)])),
        ptracer=draw(st.sampled_from([None, PTRACER_ANY, 10, 1])),
        seccomp=draw(st.sampled_from([None, ((16, None),), ((16, "EPERM"),), ((16, "ENOSYS"),)])),
        landlock=draw(st.sampled_from([(), (1,), (1, 2), (3,)])),
        apparmor=draw(PROFILES),
        selinux=draw(LABELS),
        smack=draw(LABELS),
        pid_ns=draw(st.sampled_from([(INITIAL_PID_NAMESPACE,), (7, INITIAL_PID_NAMESPACE)])),
        visible=draw(st.booleans()),
    )


FLAGS = st.booleans()
ALL_MODULES = ("capability", "landlock", "yama", "selinux", "smack", "apparmor")
WORLDS = st.builds(
    World, st.just(ALL_MODULES), st.integers(0, 3), st.sampled_from([0, 1, 2, 4]), FLAGS, FLAGS, FLAGS, FLAGS
)
Scene = tuple[Side, Side, World]
SCENES = st.tuples(sides(), sides(), WORLDS)


def forget(scene: Scene, forgotten: set[tuple[int, str]]) -> Scene:
    """The same with some fields unknown: (which of the three, name)."""
    tracer, target, world = scene
    unknown = [{name: NOT_KNOWN for which, name in forgotten if which == place} for place in range(3)]
    return evolve(tracer, **unknown[0]), evolve(target, **unknown[1]), evolve(world, **unknown[2])


FIELDS = [(place, f.name) for place, kind in enumerate((Side, Side, World)) for f in fields(kind)]


@given(SCENES, st.sets(st.sampled_from(FIELDS), max_size=6))
def test_forgetting_a_fact_never_changes_an_answer_but_to_unknown(
    scene: Scene, forgotten: set[tuple[int, str]]
) -> None:
    before = {found.id: found for found in rulings(*scene)}
    assert UNKNOWN not in {found.answer for found in before.values() if found.id not in ("apparmor", "smack")}
    after = rulings(*forget(scene, forgotten))
    for found in after:
        assert found.answer in (before[found.id].answer, UNKNOWN), found
    now, then = expected_errno(*forget(scene, forgotten)), expected_errno(*scene)
    assert now in (then, None)


@given(SCENES, st.sets(st.sampled_from(FIELDS), max_size=4), st.sampled_from([PTRACE, DOCKER, FULL]))
def test_more_capabilities_never_turn_a_permission_into_a_refusal(
    scene: Scene, forgotten: set[tuple[int, str]], more: int
) -> None:
    tracer, target, world = forget(scene, forgotten - {(0, "capabilities")})
    assert isinstance(tracer.capabilities, CapabilitySets)
    sets = asdict(tracer.capabilities)
    stronger = evolve(
        tracer,
        capabilities=CapabilitySets(
            **{**sets, "permitted": sets["permitted"] | more, "effective": sets["effective"] | more}
        ),
    )
    after = {found.id: found.answer for found in rulings(stronger, target, world)}
    for found in rulings(tracer, target, world):
        if found.answer == ALLOWS:
            assert after[found.id] == ALLOWS
        if after[found.id] == REFUSES:
            assert found.answer == REFUSES


@given(SCENES)
def test_a_refusal_of_a_known_world_has_an_errno(scene: Scene) -> None:
    found = first_refusal(*scene)
    assert (verdict(*scene) == REFUSES) == (found is not None)
    if found is not None:
        assert found.errno is not None
        assert found.stops_attach

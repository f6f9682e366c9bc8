"""The table of ingredients, what is left out of a group, the scope, and the table for people: pure."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from attrs import evolve

from safedlv.control import limits_in_words, scope_words, with_limits
from safedlv.controlled.group import grounds, left_out
from safedlv.controlled.ingredients import ANOTHERS, OWN, Real, Setup, ingredients, not_copied, plain
from safedlv.controlled.run import FAILS, UNTRIED, WORKS, Findings, Outcome, Row, outcome_of
from safedlv.controlled.session import told
from safedlv.diagnosis.sides import UserNamespace
from safedlv.facts.process import read_process
from safedlv.model import CapabilitySets, Cgroup, Ids, Unknown
from safedlv.report.side_by_side import column_widths, table

OURS, BELOW, BESIDE = UserNamespace(1, 0), UserNamespace(2, 1000), UserNamespace(3, 1000)
ROOMY = Cgroup("v2", "/x", False, None, 1, None, 1 << 20, None, 0)
EPERM = Unknown("EPERM", "somewhere")
SYS_PTRACE = 1 << 19


def real(**changes: Any) -> Real:
    """A target that differs from the control group in nothing."""
    facts = read_process(0)  # there is none: every fact is unknown
    status = evolve(
        facts.status, uid=Ids(0, 0, 0, 0), gid=Ids(0, 0, 0, 0), state="S", tracer_pid=0, no_new_privs=False,
        capabilities=CapabilitySets(0, 0, 0, 0, 0),
    )  # fmt: skip
    modules = evolve(facts.modules, yama_scope=None)
    facts = evolve(facts, status=status, dumpable=True, modules=modules, cgroup=ROOMY)
    same = Real(plain(0, 0).debugger, facts, ROOMY, ((OURS,), (OURS,)), ((1,), (1,)))
    for name, value in changes.items():
        if name in ("dumpable", "cgroup"):
            same = evolve(same, target=evolve(same.target, **{name: value}))
        elif name in ("state", "tracer_pid", "uid"):
            same = evolve(same, target=evolve(same.target, status=evolve(same.target.status, **{name: value})))
        else:
            same = evolve(same, **{name: value})
    return same


def rows(**changes: Any) -> dict[str, Setup | None]:
    """The ingredients of a target, and what each makes of the group's own setup."""
    found = ingredients(real(**changes), plain(0, 0), lambda number: number)
    return {row.id: row.apply(plain(0, 0)) if row.apply else None for row in found}


def test_what_does_not_differ_is_no_ingredient() -> None:
    assert rows() == {}


def test_namespaces_are_told_apart() -> None:
    """Below the debugger's, its own user's or not; beside it; and unknown is unknown."""
    debugger = evolve(plain(0, 0).debugger, uid=Ids(1000, 1000, 1000, 1000))
    below = rows(user_namespaces=((OURS,), (BELOW, OURS)), debugger=debugger)["user-namespace"]
    assert below is not None
    assert below.below == OWN
    others = rows(user_namespaces=((OURS,), (BELOW, OURS)))["user-namespace"]
    assert others is not None
    assert others.below == ANOTHERS
    apart = rows(user_namespaces=((BESIDE, OURS), (OURS,)))["user-namespace"]
    assert apart is not None
    assert apart.apart == {"user"}
    assert rows(user_namespaces=((OURS,), EPERM)) == {"user-namespace": None}
    assert rows(pid_namespaces=((1,), (2, 1))) == {}
    assert set(rows(pid_namespaces=((2, 1), (1,)))) == {"pid-namespace"}


def test_capabilities_have_no_power_out_of_a_user_namespace() -> None:
    """What the debugger holds in its own namespace is nothing over a target outside of it."""
    sets = CapabilitySets(0, SYS_PTRACE | 1, SYS_PTRACE | 1, SYS_PTRACE | 1, 0)
    debugger = plain(0, 0).debugger.with_capabilities(sets)
    there = rows(debugger=debugger)["capabilities"]
    assert there is not None
    assert there.debugger.capabilities.effective == SYS_PTRACE | 1
    beside = rows(debugger=debugger, user_namespaces=((BESIDE, OURS), (OURS,)))["capabilities"]
    assert beside is not None
    assert beside.debugger.capabilities.effective == 1


def test_an_id_that_cannot_be_had_is_said() -> None:
    found = ingredients(real(uid=Ids(7, 7, 7, 7)), plain(0, 0), lambda number: 0 if number == 0 else None)
    (ids,) = found
    assert (ids.id, ids.apply) == ("ids", None)
    assert "ordinary user" in ids.why


def test_unreadable_filters_are_not_no_filters() -> None:
    debugger = evolve(plain(0, 0).debugger, unread=("seccomp: its filters cannot be read: Permission denied",))
    assert rows(debugger=debugger) == {"seccomp": None}


def test_limits_and_freezer() -> None:
    tight = evolve(ROOMY, pids_max=9, memory_max=64 << 20)
    found = {row.id: row for row in ingredients(real(room=tight), plain(0, 0), lambda number: number)}
    assert set(found) == {"pids-limit", "memory-limit"}
    assert (found["pids-limit"].tries, found["pids-limit"].needs_dlv) == (3, True)
    assert set(rows(cgroup=evolve(ROOMY, frozen=True))) == {"frozen"}


def test_what_is_left_out_is_told() -> None:
    told_of = " ".join(not_copied(real(tracer_pid=12, state="D", dumpable=EPERM)))
    for part in ("traced by process 12", "state D", "dumpable is unknown (EPERM)"):
        assert part in told_of
    assert list(not_copied(real())) == []


def test_yama_scope_2_gives_the_debugger_what_it_asks_for() -> None:
    assert plain(0, 0, 2).debugger.capabilities.effective == SYS_PTRACE
    assert plain(0, 0, 1).debugger.capabilities.effective == 0


# ---------------------------------------------------------------- the group and the run


def test_an_ordinary_user_begins_with_a_user_namespace() -> None:
    assert all("user" in spec.namespaces or not spec.namespaces for spec in grounds(1000))
    assert "user" not in grounds(0)[0].namespaces
    assert grounds(0)[-1].namespaces == grounds(1000)[-1].namespaces == frozenset()


def test_what_could_not_be_made_is_said_with_its_own_reason() -> None:
    full, no_limits, bare = grounds(0)[:3]
    refused = [(full, OSError(errno.ENOTSUP, "no controllers")), (no_limits, OSError(errno.EROFS, "read-only"))]
    assert left_out(full, full, []) == ()
    assert left_out(full, no_limits, refused[:1]) == ("no limits in its cgroup: no controllers",)
    assert left_out(full, bare, refused) == ("no cgroup of its own: read-only",)


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ((WORKS, WORKS), "works"),
        ((WORKS, FAILS), "fails"),
        ((WORKS, UNTRIED), "undetermined"),
        ((UNTRIED, FAILS), "fails"),
    ],
)
def test_the_verdict(results: tuple[str, ...], verdict: str) -> None:
    (ingredient,) = ingredients(real(dumpable=False), plain(0, 0), lambda number: number)
    lines = tuple(Row(ingredient, Outcome(result), Outcome(result)) for result in results)
    assert Findings(Outcome(WORKS), Outcome(UNTRIED), lines, None, None).verdict == verdict
    assert Findings(Outcome(FAILS), Outcome(UNTRIED), (), None, None).verdict == "fails"


def test_dlv_does_without_process_vm_readv() -> None:
    passed = (("attach", None, 1), ("setoptions", None, 1), ("cont", None, 1))
    assert outcome_of((passed, (("process_vm_readv", "EPERM", 1),), (0, 0), True)).result == WORKS
    refused = outcome_of((passed, (("tgkill", "EPERM", 1),), (0, 0), True))
    assert (refused.result, refused.step, refused.errno) == (FAILS, "tgkill", "EPERM")


def test_what_dlv_says() -> None:
    listed = b"Type 'help' for list of commands.\n(dlv) * Thread 1 at 0x1\n"
    assert told(listed, 0) == ""
    assert told(b"Could not attach to pid 3: operation not permitted\n", 1) == (
        "dlv ended with 1: Could not attach to pid 3: operation not permitted"
    )
    assert told(listed, -9) == "dlv was killed by signal 9"
    assert told(b"", 0) == "dlv ended with 0"
    assert "\x1b" not in told(b"\x1b[31mbad\n", 1)


def test_the_limits_of_a_place_are_told_on() -> None:
    """Into a scope, which has others: those that are known, and none where there was none."""
    before = Cgroup("hybrid", "/", False, None, 5, 200, 7, Unknown("EACCES", "memory.max"), 0)
    scope = evolve(before, path="/a.scope", pids_max=4096, memory_max=4 << 30, pids_current=1)
    assert with_limits(scope, limits_in_words(before)) == evolve(before, path="/a.scope", memory_max=None)
    assert with_limits(scope, limits_in_words(None)) == evolve(scope, pids_max=None, memory_max=None)


def test_a_scope_is_asked_for_where_systemd_runs() -> None:
    assert scope_words("init", 0, "/usr/bin/systemd-run") == []
    assert scope_words("systemd", 0, None) == []
    assert "--user" in scope_words("systemd", 1000, "/usr/bin/systemd-run")
    words = scope_words("systemd", 0, "/usr/bin/systemd-run")
    assert words[:2] == ["/usr/bin/systemd-run", "--scope"]
    assert words[-1] == "--"


# ---------------------------------------------------------------- the table


def test_cells_wrap_and_columns_stay() -> None:
    lines = table(("A", "B"), [("one", "word " * 40), ("x" * 200, "two")])
    assert max(map(len, lines)) <= 80
    assert sum(line.count("word") for line in lines) == 40
    assert "".join(line.split("  ")[0] for line in lines).count("x") == 200


def test_the_widest_column_gives_way() -> None:
    assert column_widths([5, 200], 80) == [5, 73]
    assert column_widths([5, 20], 80) == [5, 20]
    assert sum(column_widths([100, 100, 100], 80)) == 76

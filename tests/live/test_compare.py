"""safedlv compare: the differences are those that were made, and what matters is what doctor says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from safedlv.runtimes.sandbox import Sandbox, capability_sets, start
from tests.everyone import Everyones
from tests.live.contexts import READ
from tests.live.sandboxes import SLEEP
from tests.live.test_control import as_user
from tests.live.test_doctor import assert_fit_for_a_terminal
from tests.support import assert_unharmed, require, wait_until

SECONDS = 60
PLAIN = Sandbox(capabilities=capability_sets("kill"))
DIFFERENCES: dict[str, tuple[Sandbox, set[str]]] = {
    "nothing": (PLAIN, set()),
    "ids": (
        Sandbox(uid=1000, gid=1001, capabilities=capability_sets("kill", ambient=True)),
        {"uid", "gid", "inheritable", "ambient"},
    ),
    "capabilities": (
        Sandbox(capabilities=capability_sets("kill", "chown")),
        {"permitted", "effective", "bounding"},
    ),
    "no_new_privs": (Sandbox(capabilities=capability_sets("kill"), no_new_privs=True), {"no_new_privs"}),
    "a filter": (
        Sandbox(capabilities=capability_sets("kill"), seccomp=READ),
        {"seccomp filters", "seccomp programs"},
    ),
    "namespaces": (
        Sandbox(frozenset({"uts", "ipc"}), capabilities=capability_sets("kill")),
        {"uts namespace", "ipc namespace"},
    ),
    "a cgroup": (
        Sandbox(capabilities=capability_sets("kill"), cgroup=True, pids_max=99),
        {"cgroup", "pids limit"},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_root() -> None:
    require(os.geteuid() == 0, "needs root to make the contexts")


def _renamed() -> bytes:
    Path("/proc/self/comm").write_bytes(b"\x1b[31mred")
    while True:
        signal.pause()


def compare(everyones: Everyones, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        everyones.safedlv("compare", "--json", *words), capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["schema"] == "safedlv.comparison/1"
    return answer


@pytest.mark.parametrize("name", DIFFERENCES)
def test_exactly_the_differences_that_were_made(name: str, everyones: Everyones) -> None:
    spec, expected = DIFFERENCES[name]
    with start(PLAIN, SLEEP) as one, start(spec, SLEEP) as other:
        answer = compare(everyones, str(one.pid), str(other.pid))
        assert_unharmed(one.pid)
        assert_unharmed(other.pid)
    assert {row["id"] for row in answer["rows"] if row["same"] is False} == expected
    for row in answer["rows"]:
        assert (row["same"] is None) == bool(row["why"])
        assert row["same"] is None or (row["a"] == row["b"]) == row["same"]


def test_equal_programs_are_seen_as_equal(everyones: Everyones) -> None:
    spec = Sandbox(capabilities=capability_sets("kill"), seccomp=(READ, READ))
    with start(spec, SLEEP) as one, start(spec, SLEEP) as other:
        answer = compare(everyones, str(one.pid), str(other.pid))
    (row,) = [row for row in answer["rows"] if row["id"] == "seccomp programs"]
    assert row["same"] is True
    assert row["a"].count("instructions") == 2


def test_what_matters_is_what_doctor_says(everyones: Everyones) -> None:
    """A user asks why it works in its own process and not in another's, whose ids and capabilities are others."""
    with start(Sandbox(uid=1000, gid=1000, groups=()), SLEEP) as own, start(Sandbox(), SLEEP) as others:
        words = as_user(everyones.safedlv("compare", "--json", str(own.pid), str(others.pid)))
        answer = json.loads(subprocess.run(words, capture_output=True, check=True, timeout=SECONDS).stdout)
    assert answer["a"]["verdict"] == "degraded"  # by not being a Go program, as both are
    assert answer["b"]["verdict"] == "blocked"
    matters = {entry["cause"]: entry["rows"] for entry in answer["matters"]}
    assert {"uid", "gid"} <= set(matters["credentials"])
    assert "permitted" in matters["capability-excess"]
    unknown = {row["id"]: row["why"] for row in answer["rows"] if row["same"] is None}
    assert "EACCES" in unknown["user namespace"]


def test_where_nothing_that_differs_matters(everyones: Everyones) -> None:
    """For root, who may trace both: other ids are only other ids."""
    with start(Sandbox(uid=1000, gid=1000, groups=()), SLEEP) as one, start(Sandbox(), SLEEP) as other:
        answer = compare(everyones, str(one.pid), str(other.pid))
    assert answer["matters"] == []
    assert "none of the differences" in answer["summary"]


def test_beside_the_one_who_asks(everyones: Everyones) -> None:
    with start(Sandbox(frozenset({"uts"}), no_new_privs=True), SLEEP) as one:
        answer = compare(everyones, str(one.pid))
    different = {row["id"] for row in answer["rows"] if row["same"] is False}
    assert {"no_new_privs", "uts namespace"} <= different
    assert (answer["b"]["named"], answer["b"]["verdict"]) == ("safedlv itself", None)


def test_the_text(everyones: Everyones) -> None:
    """Differences first, --all adds what is the same, and the line on what matters is the last."""
    with start(Sandbox(), _renamed) as one:
        wait_until(lambda: Path(f"/proc/{one.pid}/comm").read_bytes() == b"\x1b[31mred\n", "it has its name")
        texts = [
            subprocess.run(
                everyones.safedlv("compare", str(one.pid), *flags),
                capture_output=True, text=True, check=True, timeout=SECONDS,
            ).stdout
            for flags in ([], ["--all"])
        ]  # fmt: skip
    for text in texts:
        assert_fit_for_a_terminal(text)
        assert "What matters to a debugger" in text.split("\n\n")[-1]
    assert "\nThe same:\n" not in texts[0]
    assert "\nThe same:\n" in texts[1]


@pytest.mark.parametrize("words", [[], ["1", "2", "3"], ["no-such"], ["--no"]])
def test_wrong_usage(words: list[str], everyones: Everyones) -> None:
    done = subprocess.run(everyones.safedlv("compare", *words), capture_output=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (2, b"")

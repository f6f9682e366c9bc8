"""The fix as people and programs get it: the changes, their risk and why, what is not needed, what to type."""

from __future__ import annotations

import pytest
from attrs import evolve

from safedlv.diagnosis.place import Place
from safedlv.diagnosis.remedies import fix
from safedlv.model import Cause, Diagnosis, Target, Tracer
from safedlv.report.json import as_dict
from safedlv.report.text import WIDTH, report

PLACE = Place(
    7, 1, 1000, 1000, 1000, 1000, one_user=True, inside=True, runtime="docker", container="web", tracer_uid=1000
)  # fmt: skip
CAUSE = Cause("seccomp", "experiment", "a filter", ("tried",))
BARE = Diagnosis(
    Target(7, 1, "docker", "web", 1), None, None, None, Tracer("container", 0, 0, 0), None, "blocked", (CAUSE,), ()
)  # fmt: skip


def shown(*ids: str, verified: bool = True, place: Place = PLACE) -> list[str]:
    """The lines of the report from the fix on."""
    lines = report(evolve(BARE, fix=fix(ids, place, verified=verified)), colour=False).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("The smallest change"))
    return lines[start : lines.index("", start)]


def test_for_people() -> None:
    assert shown("seccomp") == [
        "The smallest change with which the probe passed:",
        "  let the seccomp filter of the debugger allow the calls that dlv makes",
        "  risk: medium: whoever runs under that filter may trace; all else that it",
        "    refuses stays refused",
        "  not needed: --privileged, seccomp=unconfined, apparmor=unconfined, --pid=host,",
        "    CAP_SYS_PTRACE, root in the container",
        "  docker:",
        "    safedlv seccomp generate --for dlv --base docker:web -o dlv-seccomp.json",
        "    docker run --security-opt seccomp=dlv-seccomp.json ...",
        "    docker exec -it web dlv attach 1",
        "  host:",
        "    sudo safedlv attach docker:web",
        "  for compose, devcontainer, podman, kubectl-debug, kubernetes: see --json or",
        "    --markdown",
    ]


def test_what_was_not_tried_says_so() -> None:
    assert shown("user", verified=False)[0] == "The smallest change that answers these causes (not tried):"


@pytest.mark.parametrize("ids", [("user",), ("seccomp", "cap:sys_ptrace"), ("label:apparmor",), ("reboot",), ("thaw",)])
def test_it_fits_beside_the_rest_of_the_report(ids: tuple[str, ...]) -> None:
    """Prose is wrapped; a command is not, since one that is broken cannot be pasted. A dozen lines or little more."""
    lines = shown(*ids)
    assert len(lines) <= 16
    for line in lines:
        assert len(line) <= WIDTH or line.startswith("    "), line


def test_a_cause_has_its_advice_where_there_is_no_fix() -> None:
    assert "to do: let the filter" in report(BARE, colour=False)
    assert "to do:" not in report(evolve(BARE, fix=fix(("seccomp",), PLACE, verified=True)), colour=False)


def test_for_programs() -> None:
    told = as_dict(evolve(BARE, fix=fix(("user",), PLACE, verified=True)))["fix"]
    assert set(told) == {"changes", "ids", "risk", "risk_why", "not_needed", "verified", "commands"}
    assert (told["ids"], told["risk"], told["verified"]) == (["user"], "low", True)
    assert next(iter(told["commands"])) == "docker"
    assert {"docker", "compose", "devcontainer", "host", "podman", "kubectl-debug"} == set(told["commands"])

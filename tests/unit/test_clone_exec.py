"""A copy whose program dlv starts: what the engine is told, and what is declared of it."""

from __future__ import annotations

from typing import Any

import pytest

from safedlv.model import Unknown
from safedlv.sibling.clone import BESIDE, Clone
from safedlv.sibling.clone_difference import differences
from safedlv.sibling.clone_exec import Debugger, debugger_of, needs_of, under_dlv
from safedlv.sibling.toolbox import Toolbox
from tests.unit.test_clone import as_inspected, container, copy_of

TOOLBOX = Toolbox(
    "safedlv-toolbox:1",
    (("/toolbox/dlv", "/usr/bin/dlv"), ("/toolbox/ld.so", "/lib/ld.so")),
    ("/toolbox/ld.so", "--library-path", "/toolbox", "/toolbox/dlv"),
)
PROGRAM = {"Path": "/app", "Args": ["-v", "--", "x"]}


def debugger() -> Debugger:
    return debugger_of(TOOLBOX, ("--api-version=2",), "/run/safedlv-1/session")


def made(config: dict[str, Any] | None = None, host: dict[str, Any] | None = None) -> tuple[dict[str, Any], Clone]:
    original = container(config, host, **PROGRAM)
    return original, under_dlv(copy_of(original, mode=BESIDE), original, debugger())


def test_the_command() -> None:
    """dlv's own place, its flags, the program, and its arguments untouched."""
    _, clone = made()
    assert [*clone.body["Entrypoint"], *clone.body["Cmd"]] == [
        *("/.safedlv/ld.so", "--library-path", "/.safedlv", "/.safedlv/dlv", "exec", "--api-version=2"),
        *("--headless=true", "--listen=unix:/.safedlv/session/dlv", "--log-dest=/.safedlv/session/log"),
        *("/app", "--", "-v", "--", "x"),
    ]


def test_dlv_itself_cannot_be_written_to() -> None:
    _, clone = made(host={"Mounts": [{"Type": "volume", "Target": "/v"}]})
    first, dlv, loader, session = clone.body["HostConfig"]["Mounts"]
    assert first == {"Type": "volume", "Target": "/v"}
    assert [mount.get("ReadOnly") for mount in (dlv, loader, session)] == [True, True, None]
    assert (session["Source"], session["Target"]) == ("/run/safedlv-1/session", "/.safedlv/session")


@pytest.mark.parametrize("policy", ["no", "always"])
def test_nothing_is_changed_but_what_is_declared(policy: str) -> None:
    original, clone = made(host={"RestartPolicy": {"Name": policy}})
    inspected = as_inspected(clone, original)
    command = [*clone.body["Entrypoint"], *clone.body["Cmd"]]
    inspected |= {"Path": command[0], "Args": command[1:]}
    paths = {change.path for change in clone.changes}
    found = {one.path for one in differences(original, inspected)}
    assert all(any(path[: len(one)] == one for one in paths) for path in found)
    assert (clone.body["HostConfig"]["RestartPolicy"]["Name"], ("HostConfig", "RestartPolicy") in paths) == (
        "no",
        policy == "always",
    )


def test_what_a_user_should_know() -> None:
    _, clone = made({"Healthcheck": {"Test": ["CMD", "/app", "ok"]}})
    assert "its health check fails" in clone.notes[-1]
    assert "its health check fails" not in made()[1].notes[-1]
    assert "its health check fails" not in made({"Healthcheck": {"Test": ["NONE"]}})[1].notes[-1]


@pytest.mark.parametrize(
    ("causes", "scope", "ids"),
    [
        (("credentials", "capability-excess", "not-dumpable"), 0, ()),
        (("yama",), 1, ()),
        (("yama", "credentials"), 2, ("cap:sys_ptrace",)),
        (("yama",), Unknown("EACCES", "there"), ()),
        (("seccomp", "memory-limit", "thread-limit"), None, ("seccomp", "limit:memory", "limit:pids")),
    ],
)
def test_what_the_tracer_of_its_own_child_needs(
    causes: tuple[str, ...], scope: int | Unknown | None, ids: tuple[str, ...]
) -> None:
    assert needs_of(causes, scope) == ids

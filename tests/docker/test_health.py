"""A container with a health check: a pause ends before the check fails, beside the target as well as from a sidecar."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.docker.sidecars import SCRATCH, Beside, Box, Headless, sidecars
from tests.support import SAFEDLV, assert_unharmed, our_directories, our_processes, require, status, wait_until

CHECKED = ("--health-cmd=/no/such/program", "--health-interval=3s", "--health-timeout=2s", "--health-retries=2")


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "attaches to containers as root")


def assert_left_alone(box: Box) -> None:
    """But for what the engine writes down of its checks."""
    wait_until(lambda: not our_processes(), "no process of ours is left")
    wait_until(lambda: not sidecars(box), "no sidecar is left")
    wait_until(lambda: not our_directories(), "no directory of ours is left")
    assert_unharmed(box.pid)
    assert "hello" in box.get()


def ended(session: Headless) -> str:
    """What it has said; fails when it did not end well."""
    _, err = session.process.communicate(timeout=30)
    assert session.process.returncode == 0, err
    return err


@pytest.mark.parametrize("beside", [False, True], ids=["directly", "sidecar"])
def test_a_pause_ends_before_the_check_fails(make_box: Callable[..., Box], newest_dlv: str, beside: bool) -> None:
    box = make_box(SCRATCH, None, *CHECKED)
    target = f"docker:{box.name}"
    session = Beside(target) if beside else Headless(*SAFEDLV, "attach", "--headless", "--api-version=2", target)
    client = session.client()
    assert status(box.pid, "State").startswith("t")
    wait_until(lambda: not status(box.pid, "State").startswith("t"), "the pause is ended")
    assert "hello" in box.get()
    client.detach()
    err = ended(session)
    why = "its container's health check (every 3 s, failed 2 times: unhealthy)"
    assert f"safedlv: a pause ends after 3 s, for {why}; --max-pause=off: never\n" in err
    assert f"safedlv: the program stood for 3 s and goes on now: {why}\n" in err
    assert_left_alone(box)


def test_who_says_off_is_let_alone(make_box: Callable[..., Box], newest_dlv: str) -> None:
    box = make_box(SCRATCH, None, *CHECKED)
    words = ("--headless", "--api-version=2", "--max-pause=off")
    session = Headless(*SAFEDLV, "attach", *words, f"docker:{box.name}")
    client = session.client()
    client.call("State", NonBlocking=True)
    client.detach()
    assert "a pause ends" not in ended(session)
    assert_left_alone(box)

"""The lab of refused attaches, asked by an editor: the dialog names the true cause, the console has the report."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from tests.clients import Dap
from tests.everyone import Everyones
from tests.live import test_refusals, test_refusals_states
from tests.live.stages import Scene, tracer_of
from tests.scenes import DEGRADING
from tests.support import require

SHOWN = 2
"""Causes that a dialog has room for."""
SCENES = {
    name: scene
    for name, scene in {
        **test_refusals.SCENES,
        **test_refusals_states.TRACED_AND_FROZEN,
        **test_refusals_states.NAMESPACES,
        **test_refusals_states.MODULES_AND_MEANS,
    }.items()
    if (scene.inside or scene.truth).step and scene.dlv and not scene.under
}


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "the lab takes root")


@pytest.mark.parametrize("name", SCENES)
def test_the_dialog_names_the_cause(name: str, everyones: Everyones, public_server: Path) -> None:
    scene: Scene = SCENES[name]
    truth = scene.inside or scene.truth
    with scene.stage(scene, everyones, public_server) as target:
        near, far = socket.socketpair()
        words = ["sh", "-c", 'exec "$0" "$@" <&1', *everyones.safedlv("dap", "--stdio")]
        with near, far, tempfile.TemporaryFile() as errors, scene.during(target):
            with tracer_of(scene, target, words, stdout=far.fileno(), stderr=errors.fileno()) as running:
                far.close()
                near.settimeout(20)
                client = Dap(near)
                client.initialize()
                text = client.refused("attach", mode="local", processId=target.pid)
                report = client.event("output")["body"]["output"]
                client.request("disconnect")
                client.event("terminated")
                client.close()
                running.wait(20)
            errors.seek(0)
            assert b"Traceback" not in errors.read()
        target.check()
    wanted = truth.causes - truth.may
    assert all(f"\n{cause} (" in report for cause in wanted), report
    named = {line.partition(":")[0] for line in text.splitlines()[1:]}
    assert len(wanted & named) >= min(SHOWN, len(wanted - DEGRADING)), text
    assert 2 <= len(text.splitlines()) <= SHOWN + 3
    assert all(line.isprintable() for line in text.splitlines())

"""The one start of the virtual machine that all tests of this directory look at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support import LONG, ROOT, build_go, new_dlv, require
from tests.vm import lab as vm_lab
from tests.vm import machine

Found = dict[str, Any]
PLAYING = pytest.StashKey["Playing"]()
collect_ignore = [] if LONG else ["test_observe.py", "test_watch.py"]
"""What the long run alone plays: it takes a busy machine that is emulated too long."""
POLITE = 10  # nice(2): the tests that run meanwhile come first


class Playing:
    """The machine at work, from the end of the collection on: the other directories' tests need not wait for it."""

    def __init__(self) -> None:
        self.made = tempfile.mkdtemp(prefix="vm-lab-")
        for path in (vm_lab.found(), vm_lab.explained()):
            path.unlink(missing_ok=True)
        server = build_go(ROOT / "examples/server", Path(self.made) / "server", environment={"CGO_ENABLED": "0"})
        command = [sys.executable, "-m", "tests.vm.lab", str(server), str(new_dlv())]
        with (Path(self.made) / "said").open("wb") as said:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, process_group=0)
        os.setpriority(os.PRIO_PGRP, self.process.pid, POLITE)

    def result(self) -> str:
        """The lines that were found, when all is played."""
        self.process.wait(machine.SECONDS)
        assert self.process.returncode == 0, (Path(self.made) / "said").read_text("utf-8", "replace")
        return vm_lab.found().read_text()

    def end(self) -> None:
        """Leave no machine behind."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        shutil.rmtree(self.made)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the machine where a test will ask for it."""
    wanted = any("lab" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly and not machine.lacking() and new_dlv():
        session.config.stash[PLAYING] = Playing()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Whatever became of the tests."""
    if PLAYING in config.stash:
        config.stash[PLAYING].end()


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> dict[str, Found]:
    """What was found in every scene."""
    require(not machine.lacking(), machine.lacking())
    require(new_dlv(), "needs a dlv on the PATH")
    text = request.config.stash[PLAYING].result()
    found = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    explained = vm_lab.explained().read_text()
    assert found, explained
    return {scene["scene"]: scene for scene in found} | {"": {"explained": explained}}

"""The README's transcripts are what the demo prints, but for numbers and for what differs between machines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, new_dlv, require

README = (ROOT / "README.md").read_text()
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")


def transcript(name: str) -> str:
    found = re.search(rf"<!-- transcript: {name} -->\n```\n(.*?)```\n", README, re.DOTALL)
    assert found, f"the README has no transcript {name!r}"
    return found.group(1)


def plain(text: str) -> str:
    """Without what differs from run to run: numbers, temporary paths, R or S, the width that lines are folded at."""
    text = re.sub(r"^State:\t[RS] .*$", "State: S", text, flags=re.MULTILINE)
    text = re.sub(r"/\S*/", "/", re.sub(r"0x[0-9a-f]+|\d+(\.\d+)*", "N", text))
    return " ".join(text.split())


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the demo prints here."""
    here, dlv = os.path.dirname(sys.executable), new_dlv()
    require(os.path.exists(f"{here}/safedlv"), "needs safedlv installed beside Python")
    require(dlv, "needs a dlv on the PATH")
    directory = tmp_path_factory.mktemp("dlv")
    (directory / "dlv").symlink_to(str(dlv))
    environment = {**os.environ, "PATH": f"{here}:{directory}:{os.environ['PATH']}"}
    words = [sys.executable, str(ROOT / "examples" / "demo")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_demo(story: str) -> None:
    """Every step of the demo is told in the same words, in the same order."""
    told = [plain(line) for line in story.splitlines()]
    steps = [
        plain(line)
        for line in transcript("make demo").splitlines()
        if line.startswith(("==", "$ safe", "$ TERM", "(dlv)"))
    ]
    at = -1
    for step in steps:
        assert step in told[at + 1 :], step
        at = told.index(step, at + 1)


def test_denied(story: str) -> None:
    """A denied attach, from the refusal to the end, word for word but for what ``...`` stands for."""
    require(os.geteuid() == 0, "needs root, to make the place")
    require(not YAMA.exists() or YAMA.read_text().strip() == "0", "needs kernel.yama.ptrace_scope 0")
    rest = plain(story)
    for part in transcript("denied").split("\n...\n"):
        _, found, rest = rest.partition(plain(part))
        assert found, part

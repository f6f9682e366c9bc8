"""The README's transcripts are what the commands print, but for numbers and for what differs between machines."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.support import ROOT, SAFEDLV, Server, require, status, wait_until

README = (ROOT / "README.md").read_text()


def transcript(name: str) -> str:
    found = re.search(rf"<!-- transcript: {name} -->\n```\n(.*?)```\n", README, re.DOTALL)
    assert found, f"the README has no transcript {name!r}"
    return found.group(1)


def plain(text: str) -> str:
    """Without what differs from run to run: numbers, paths of temporary files, the width that lines are folded at."""
    text = re.sub(r"/\S*/", "/", re.sub(r"0x[0-9a-f]+|\d+(\.\d+)*", "N", text))
    return " ".join(text.split())


def until_layers(text: str) -> str:
    return text.partition("The layers that the kernel asks")[0].partition("What the layers state:")[0]


def test_refused(newest_dlv: str, server: Server) -> None:
    strace = subprocess.Popen(["strace", "-f", "-o", os.devnull, "-p", str(server.pid)], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: status(server.pid, "TracerPid") != "0", "strace holds the server")
        done = subprocess.run(
            [*SAFEDLV, "attach", "--headless", str(server.pid)], capture_output=True, text=True, check=False
        )
    finally:
        strace.terminate()
        strace.wait()
    assert done.returncode == 1
    said = transcript("refused").partition("\n")[2]  # after the command itself
    assert plain(until_layers(said)) == plain(until_layers(done.stderr))


def test_demo(newest_dlv: str) -> None:
    """Every step of the demo is told in the same words, in the same order."""
    here, there = os.path.dirname(sys.executable), os.path.dirname(newest_dlv)
    require(os.path.exists(f"{here}/safedlv"), "needs safedlv installed beside Python")
    require(os.path.exists(f"{there}/dlv"), "needs a dlv of that name")
    environment = {**os.environ, "PATH": f"{here}:{there}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = [plain(line) for line in done.stdout.splitlines()]
    steps = [plain(line) for line in transcript("make demo").splitlines() if line.startswith(("==", "$ safe", "(dlv)"))]
    at = -1
    for step in [step for step in steps if not step.startswith(("== making", "== fetching", "== installing"))]:
        assert step in told[at + 1 :], step
        at = told.index(step, at + 1)

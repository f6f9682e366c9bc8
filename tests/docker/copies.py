"""What the tests of sessions in copies share: ``safedlv`` under way, its copy, and what must be left afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.docker.sidecars import GET, PORT, Box, Headless
from tests.docker.test_relaunch import told
from tests.support import SAFEDLV, assert_unharmed, our_directories, our_processes, wait_until

LABELS = {"Config.Labels.safedlv.copy", "Config.Labels.safedlv.record"}


class InACopy(Headless):
    """A session in a copy, headless: what is said, and the copy."""

    def __init__(self, box: Box, *words: str) -> None:
        self.box = box
        target = f"docker:{box.name}" if words[0] == "attach" else box.name
        super().__init__(*SAFEDLV, words[0], "--headless", *words[1:], target)

    def document(self) -> Any:
        """What docker inspect tells about the copy."""
        return document_of_copy(self.box)

    def visit(self) -> threading.Thread:
        """A request to the copy's server, in the background, made again until it listens."""
        return visit_copy(self.box)

    def end(self, within: float = 60) -> tuple[int, str]:
        """Its exit code, and what it has said."""
        _, err = self.process.communicate(timeout=within)
        return self.process.returncode, err


def document_of_copy(box: Box) -> Any:
    """What docker inspect tells about the one copy of a target."""
    (name,) = copies(box)
    return json.loads(box.engine.docker("inspect", name).stdout)[0]


def visit_copy(box: Box) -> threading.Thread:
    """A request to the server in a target's copy, in the background, made again until it listens, or has ended."""
    words = [sys.executable, "-S", "-c", GET % PORT]
    pid = document_of_copy(box)["State"]["Pid"]
    enter = ["nsenter", f"--net=/proc/{pid}/ns/net"]

    def answered() -> bool:
        if not Path(f"/proc/{pid}").exists():
            return True
        try:
            done = subprocess.run([*enter, *words], capture_output=True, check=False, timeout=60)
        except subprocess.TimeoutExpired:
            return False
        return b"hello" in done.stdout

    thread = threading.Thread(target=wait_until, args=(answered, "an answer", 40))
    thread.start()
    return thread


def copies(box: Box) -> list[str]:
    """The names of the copies of a target."""
    words = ["ps", "--all", "--format", "{{.Names}}", "--filter", "label=safedlv.copy", "--filter", f"name={box.name}"]
    return box.engine.docker(*words).stdout.decode().split()


def records() -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(Path(os.environ["XDG_STATE_HOME"]) / "safedlv" / "swaps")
    return []


def assert_nothing_is_left(box: Box, why: object = "") -> None:
    """No process, directory, copy, sidecar, snapshot or record of ours."""
    wait_until(lambda: not our_processes(), f"no process of ours is left {why}", 45)
    wait_until(lambda: not our_directories(), f"no directory of ours is left {why}", 45)
    listed = box.engine.docker("ps", "--all", "--format", "{{.Names}}", "--filter", f"name={box.name}-").stdout
    assert (copies(box), listed, sidecars_of_this_run(box), snapshots(box), records()) == ([], b"", [], [], []), why


def sidecars_of_this_run(box: Box) -> list[str]:
    """Those that have a session's directory in our TMPDIR."""
    words = ["ps", "--all", "--no-trunc", "--format", "{{.Mounts}}", "--filter", "label=safedlv.sidecar"]
    listed = box.engine.docker(*words).stdout.decode().split()
    return [mounts for mounts in listed if os.environ["TMPDIR"] in mounts]


def snapshots(box: Box) -> list[str]:
    """Images of the target's files. One of another run's may go while they are looked at."""
    images = box.engine.docker("image", "ls", "--quiet", "safedlv-snapshot").stdout.decode().split()
    made_of = "{{.Container}}"
    found = [box.engine.docker("inspect", "--format", made_of, image, check=False).stdout.decode() for image in images]
    return [container for container in found if container.strip() == box.before["Id"]]


def assert_swapped_back(box: Box, why: object = "") -> None:
    """After a swap: the original runs again, and is what it was but for what a start changes."""
    after = box.document()
    assert after["State"]["Running"], why
    assert told(after) == told(box.before), why
    assert_unharmed(after["State"]["Pid"])

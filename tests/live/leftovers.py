"""What a command that a test ran has left behind: told by a mark in its environment, so other runs do not matter."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import status, wait_until

MARK = "SAFEDLV_TEST_MARK"


@pytest.fixture
def nothing_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for sessions; at the end no process that a command started lives, and the directory is empty."""
    mark = uuid.uuid4().hex
    directory = Path(tempfile.mkdtemp(prefix="st-", dir="/tmp"))  # short: a unix socket's path has 108 bytes
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    yield directory
    try:
        wait_until(lambda: not marked(mark), "no process is left", 5)
        wait_until(lambda: not os.listdir(directory), "no directory of a session is left", 5)
    finally:
        shutil.rmtree(directory)


def marked(mark: str) -> list[int]:
    """Processes that carry the mark. The test's own children are its own to end."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid() or status(int(name), "PPid") == str(os.getpid()):
            continue
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes()
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in environment.split(b"\0"):
            found.append(int(name))
    return found

"""What the scenes of refused attaches share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.everyone import Everyones


@pytest.fixture(scope="session")
def public_server(everyones: Everyones, server_binary: Path) -> Path:
    """The example server where every user may run it."""
    path = everyones.directory / "server"
    if not path.exists():
        shutil.copy(server_binary, path)
        path.chmod(0o755)
    return path

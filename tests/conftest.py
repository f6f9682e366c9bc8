"""Fixtures that tests of every kind share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, Server, build_go, new_dlv, old_dlv, require


@pytest.fixture(scope="session")
def server_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example server, built with -N -l."""
    return build_go(ROOT / "examples" / "server", tmp_path_factory.mktemp("server") / "server")


@pytest.fixture
def server(server_binary: Path) -> Iterator[Server]:
    """The example server, running."""
    running = Server(server_binary)
    yield running
    running.stop()


@pytest.fixture(params=["new", "old"])
def dlv(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each dlv in turn: the newest, and the oldest that safedlv supports. safedlv uses it too."""
    path = new_dlv() if request.param == "new" else old_dlv()
    require(path, "needs a dlv on the PATH" if request.param == "new" else "needs dlv 1.20 in $SAFEDLV_TEST_DLV_OLD")
    monkeypatch.setenv("SAFEDLV_DLV", str(path))
    return str(path)


@pytest.fixture
def newest_dlv(monkeypatch: pytest.MonkeyPatch) -> str:
    """The newest dlv only. safedlv uses it too."""
    path = new_dlv()
    require(path, "needs a dlv on the PATH")
    monkeypatch.setenv("SAFEDLV_DLV", str(path))
    return str(path)

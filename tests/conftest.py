"""Fixtures that tests of every kind share."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import comparison
from tests.everyone import Everyones, for_everyone
from tests.support import ROOT, Server, build_go, new_dlv, old_dlv, require


def pytest_configure(config: pytest.Config) -> None:
    """A file for the rows of the comparison with other tools, see tests/comparison.py.

    Ctrl-C means something to what is started here, even where a shell without job control started us with it ignored.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    descriptor, name = tempfile.mkstemp(prefix="comparison-")
    os.close(descriptor)
    os.environ[comparison.FILE] = name


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of the comparison, where there were scenes for it."""
    rows = comparison.recorded(Path(os.environ[comparison.FILE]))
    if rows:
        terminalreporter.section("what is said of a refused attach")
        terminalreporter.write_line(comparison.plain(rows))
        page = ROOT / ".cache" / "comparison.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(comparison.markdown(rows), "utf-8")
        terminalreporter.write_line(f"written to {page.relative_to(ROOT)}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The rows are in the table by now."""
    Path(os.environ.pop(comparison.FILE)).unlink()


@pytest.fixture(scope="session", autouse=True)
def own_tmpdir() -> Iterator[None]:
    """A TMPDIR of this run's own, short enough for the path of a unix socket, so that what is left can be seen; and a
    place for histories that is not the user's.
    """
    directory = tempfile.mkdtemp(prefix="t-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XDG_RUNTIME_DIR", raising=False)
        patch.setenv("TMPDIR", directory)
        patch.setenv("XDG_STATE_HOME", f"{directory}/state")
        yield
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def server_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example server, built with -N -l."""
    return build_go(ROOT / "examples" / "server", tmp_path_factory.mktemp("server") / "server")


@pytest.fixture(scope="session")
def everyones() -> Iterator[Everyones]:
    """safedlv, dlv and a Python that every user may start."""
    with for_everyone() as made:
        yield made


@pytest.fixture(scope="session")
def old_server_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the debug information of Go before 1.25 (DWARF 4), which is all that dlv 1.20 can read."""
    output = tmp_path_factory.mktemp("server") / "old-server"
    return build_go(ROOT / "examples" / "server", output, environment={"GOEXPERIMENT": "nodwarf5"})


@pytest.fixture
def server(request: pytest.FixtureRequest, server_binary: Path) -> Iterator[Server]:
    """The example server, running."""
    spec = getattr(request.node, "callspec", None)
    old = spec is not None and spec.params.get("dlv") == "old"
    running = Server(request.getfixturevalue("old_server_binary") if old else server_binary)
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

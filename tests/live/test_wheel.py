"""What users install: the wheel, built here, in an environment of its own, used from a directory that is not ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

import pytest

import safedlv
from tests.clients import JsonRpc
from tests.support import ROOT, Server, assert_unharmed, our_directories, wait_until

PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
ENTRY_POINT = "[console_scripts]\nsafedlv = safedlv.cli:main\n"


def run(*words: str | Path, cwd: Path, good: tuple[int, ...] = (0,)) -> str:
    """What a command printed; the test fails with all of it when the command does."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(words, cwd=cwd, env=clean, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in good, f"{words} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as a packager would: from the tree alone, in isolation."""
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", ".", ROOT, cwd=directory)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment with nothing but the wheel and what it depends on."""
    environment = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", environment, cwd=environment)
    run(environment / "bin" / "python", *PIP, "install", "pip>=25.1", cwd=environment)
    run(environment / "bin" / "python", *PIP, "install", wheel.name, cwd=wheel.parent)
    return environment / "bin"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A directory from which nothing of the source tree can be imported, with a decoy that must not be."""
    (tmp_path / "safedlv.py").write_text("raise SystemExit('the decoy was imported')\n")
    return tmp_path


@pytest.mark.timeout(600)
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        metadata = next(name for name in held if name.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(archive.read(metadata).decode())
        entry_points = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("safedlv/**/*.py")} | {"safedlv/py.typed"}
    engines = ("docker", "containerd", "podman")
    data = {f"safedlv/seccomp/{engine}-default.{kind}" for engine in engines for kind in ("json", "LICENSE")}
    data |= {f"safedlv/shims/{name}" for name in ("dlv", "launcher/main.go", "launcher/go.mod")}
    assert {name for name in held if ".dist-info/" not in name} == sources | data
    assert headers["Name"] == "safedlv"
    assert headers["Version"] == safedlv.__version__
    assert headers["Requires-Python"] == ">=3.11"
    assert entry_points.strip() == ENTRY_POINT.strip()


@pytest.mark.timeout(600)
def test_the_installed_command_is_the_wheels(installed: Path, foreign: Path) -> None:
    assert run(installed / "safedlv", "version", cwd=foreign) == f"safedlv {safedlv.__version__}\n"
    where = "import safedlv; print(safedlv.__file__)"
    assert run(installed / "python", "-P", "-c", where, cwd=foreign).startswith(str(installed.parent))
    run(installed / "python", *PIP, "check", cwd=foreign)


@pytest.mark.timeout(600)
def test_the_installed_command_starts_without_re(installed: Path) -> None:
    """re and what it imports take a tenth of an attach's start-up: no console script of pip 25.1 and later needs it."""
    assert "import re\n" not in (installed / "safedlv").read_text()


@pytest.fixture
def child() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.mark.timeout(600)
def test_the_installed_doctor(installed: Path, foreign: Path, child: int, newest_dlv: str) -> None:
    said = run(installed / "safedlv", "doctor", "--json", str(child), cwd=foreign, good=(11,))
    document = json.loads(said)
    assert document["schema"] == "safedlv.diagnosis/1"
    assert document["verdict"] == "degraded"
    assert [cause["id"] for cause in document["causes"]] == ["not-go"]
    assert document["probe"]["failed_step"] is None
    assert_unharmed(child)


@pytest.mark.timeout(600)
def test_the_installed_attach(installed: Path, foreign: Path, server: Server, newest_dlv: str) -> None:
    words = [str(installed / "safedlv"), "attach", "--headless", str(server.pid)]
    session = subprocess.Popen(words, cwd=foreign, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert session.stdout is not None
        line = session.stdout.readline()
        assert line.startswith("API server listening at: "), line + session.communicate()[1]
        client = JsonRpc(line.partition(": ")[2].strip())
        client.use_version_2()
        assert client.call("CreateBreakpoint", Breakpoint={"functionName": "main.greeting"})["Breakpoint"]["id"] == 1
        client.call("ClearBreakpoint", Id=1)
        client.detach()
        session.communicate(timeout=20)
        assert session.returncode == 0
    finally:
        session.kill()
        session.communicate()
    wait_until(lambda: not our_directories(), "no directory of ours is left")
    assert_unharmed(server.pid)
    assert "hello" in server.get()

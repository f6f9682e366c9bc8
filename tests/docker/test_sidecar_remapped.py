"""Sidecars under an engine that gives its containers a user namespace of their own (dockerd --userns-remap).

The engine is a second one, of the test's own. /etc/subuid says which ids it has; it sees another file in its place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.conftest import START_SECONDS, Engine, answers
from tests.docker.sidecars import PORT, SERVER, Beside, Box, hit_a_breakpoint, line_of, scratch_archive
from tests.support import left_as_found, require, status, wait_until

SOURCE = SERVER / "main.go"
LINE = line_of(SOURCE, "text := fmt.Sprintf")
IMAGE = "safedlv-test-remapped:given"
FIRST = 200000
"""The id on this machine that is root's in the containers."""
DOCKERD = """\
set -e
for file in /etc/subuid /etc/subgid; do [ -e $file ] || touch $file; mount --bind {directory}/ids $file; done
exec dockerd --userns-remap=daemon --data-root={directory}/data --exec-root={directory}/exec \
  --host={host} --pidfile={directory}/pid --bridge=none --iptables=false
"""


@pytest.fixture(scope="module")
def remapping_engine(running_engine: None) -> Iterator[str]:
    """The DOCKER_HOST of such an engine, with an image of a static server."""
    require(os.geteuid() == 0 and shutil.which("dockerd"), "needs root and dockerd, to start an engine")
    directory = Path(tempfile.mkdtemp(prefix="remap-", dir="/tmp"))
    directory.chmod(0o755)  # root of the containers is somebody else, who must come through
    host = f"unix://{directory}/socket"
    (directory / "ids").write_text(f"daemon:{FIRST}:65536\n")
    (directory / "script").write_text(DOCKERD.format(directory=directory, host=host))
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCKER_HOST", host)
    # A network namespace, too: --bridge=none takes docker0 away, which is another engine's here.
    words = ["unshare", "--net", "--mount", "--propagation", "slave", "sh", str(directory / "script")]
    with (directory / "log").open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, start_new_session=True)
        try:
            wait_until(lambda: process.poll() is not None or answers(), "the engine", START_SECONDS)
            assert process.poll() is None, (directory / "log").read_text()[-400:]
            Engine().docker("import", "-", IMAGE, given=scratch_archive(directory))
            yield host
        finally:
            patch.undo()
            process.terminate()
            process.wait(timeout=START_SECONDS)
            shutil.rmtree(directory)


@pytest.fixture
def engine(remapping_engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Engine]:
    monkeypatch.setenv("DOCKER_HOST", remapping_engine)
    monkeypatch.setenv("SAFEDLV_AUDIT", str(tmp_path / "audit.log"))
    made = Engine()
    yield made
    made.remove_containers()


@pytest.mark.parametrize(
    ("options", "uid"),
    [((), FIRST), (("--user", "1000:1000", "--cap-drop", "ALL"), FIRST + 1000), (("--userns", "host"), 0)],
    ids=["root", "non-root", "--userns=host"],
)
def test_session(engine: Engine, newest_dlv: str, options: tuple[str, ...], uid: int) -> None:
    box = Box(engine, IMAGE, ["/server", f"127.0.0.1:{PORT}"], *options)
    assert status(box.pid, "Uid").split()[0] == str(uid)
    session = Beside(f"docker:{box.name}")
    assert hit_a_breakpoint(session.client(), SOURCE, LINE, box.visit)["text"].startswith("hello /you")
    assert session.end() == (0, "", left_as_found(box.pid))
    box.assert_left_alone()

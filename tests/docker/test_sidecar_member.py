"""A sidecar for one who is not root: a member of the engine's group, who may neither trace nor read the target."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients import JsonRpc
from tests.docker.sidecars import PORT, SCRATCH, SERVER, Box, hit_a_breakpoint, line_of
from tests.everyone import NOBODY, Everyones
from tests.support import left_as_found, require, wait_until

SOURCE = SERVER / "main.go"
LINE = line_of(SOURCE, "text := fmt.Sprintf")
SOCKET = "/var/run/docker.sock"
PACKAGES = ("docker", "requests", "urllib3", "idna", "certifi", "pexpect", "ptyprocess", "prompt_toolkit", "wcwidth")
MakeBox = Callable[..., Box]


@pytest.fixture
def member(everyones: Everyones, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[str]]]:
    """The words that run safedlv as such a one, with a directory of his own."""
    require(os.geteuid() == 0, "becomes another user")
    home = Path("/tmp") / f"t-member-{os.getpid()}"
    home.mkdir()
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        assert found is not None
        assert found.origin is not None
        shutil.copytree(Path(found.origin).parent, home / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in home.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (home / "tmp").mkdir()
    os.chown(home / "tmp", NOBODY, NOBODY)

    def words(*words: str) -> list[str]:
        clean, *rest = everyones.safedlv(*words)
        settings = [f"TMPDIR={home}/tmp", f"HOME={home}/tmp"]
        rest = [f"{word}:{home}" if word.startswith("PYTHONPATH=") else word for word in rest]
        group = os.stat(SOCKET).st_gid
        who = [f"--reuid={NOBODY}", f"--regid={NOBODY}", f"--groups={group}", "--inh-caps=-all", "--bounding-set=-all"]
        return ["setpriv", *who, clean, rest[0], *settings, *rest[1:]]

    yield words
    assert {path.name for path in (home / "tmp").iterdir()} <= {".local", ".config"}  # the audit, dlv's own settings
    shutil.rmtree(home)


@pytest.mark.parametrize("user", ["0:0", "1000:1000"])
@pytest.mark.parametrize("end", ["in order", "killed"])
def test_session(make_box: MakeBox, newest_dlv: str, member: Callable[..., list[str]], user: str, end: str) -> None:
    box = make_box(SCRATCH, ["/server", f"127.0.0.1:{PORT}"], "--user", user)
    words = member("attach", "--headless", "--via=sidecar", "--only-same-user=false", f"docker:{box.name}")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("API server listening at: "), process.communicate()[1]
    client = JsonRpc(line.partition(": ")[2].strip())
    client.use_version_2()
    if end == "in order":
        assert hit_a_breakpoint(client, SOURCE, LINE, box.visit)["text"].startswith("hello")
        unread = left_as_found(box.pid).replace("as in", "not compared with")  # it is not the member's to read
        assert process.communicate(timeout=30)[1] == unread
        assert process.returncode == 0
    else:
        client.call("CreateBreakpoint", Breakpoint={"file": str(SOURCE), "line": LINE})
        process.send_signal(signal.SIGKILL)
        process.communicate()
        client.close()
    wait_until(lambda: not list(Path("/tmp").glob(f"t-member-{os.getpid()}/tmp/safedlv-*")), "its directory is gone")
    box.assert_left_alone()

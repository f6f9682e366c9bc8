"""Where there can be no sidecar a true sentence says why, the exit code is 1, and nothing was made."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from safedlv import target
from safedlv.command_line import parse
from safedlv.errors import SafedlvError
from safedlv.runtimes.docker import Engine as Docker
from safedlv.runtimes.engine import EngineError
from safedlv.sibling import needs, sidecar, toolbox
from tests.docker.conftest import Engine
from tests.docker.sidecars import Box, packed, refused, sidecars
from tests.everyone import NOBODY, Everyones
from tests.support import SAFEDLV, Server, assert_unharmed, old_dlv, our_directories, require, wait_until

MakeBox = Callable[..., Box]


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "enters containers as root")


@pytest.fixture
def box(make_box: MakeBox, newest_dlv: str) -> Iterator[Box]:
    """A target that is as it was when the test is over."""
    made = make_box()
    yield made
    made.assert_left_alone()


def sentence(text: str, hint: str = "") -> str:
    return f"safedlv: {text}\n" + (f"  {hint}\n" if hint else "")


def test_paused(box: Box, docker_engine: Engine) -> None:
    docker_engine.docker("pause", box.name)
    try:
        said = refused("--via=sidecar", f"docker:{box.name}")
    finally:
        docker_engine.docker("unpause", box.name)
    assert said == sentence(f"container {box.name} is paused", f"docker unpause {box.name}")


def test_a_dlv_that_cannot_start(box: Box, docker_engine: Engine) -> None:
    """What it said, and its exit code: busybox is no dlv."""
    busybox, name = shutil.which("busybox"), "safedlv-test-no-dlv:given"
    require(busybox, "needs busybox-static")
    docker_engine.docker("import", "-", name, given=packed({"usr/local/bin/dlv": Path(str(busybox))}))
    try:
        said = refused("--via=sidecar", f"--toolbox-image={name}", f"docker:{box.name}")
    finally:
        docker_engine.docker("image", "rm", "--force", name)
    assert said == sentence("the sidecar ended at once with exit code 127: dlv: applet not found")


def test_ended(docker_engine: Engine, sidecar_images: dict[str, str], newest_dlv: str) -> None:
    docker_engine.run(sidecar_images["scratch"], "/server")
    docker_engine.docker("kill", docker_engine.last)
    said = refused("--via=sidecar", f"docker:{docker_engine.last}")
    assert f"container {docker_engine.last} does not run: it is exited" in said


def test_a_process_without_a_container(server: Server, newest_dlv: str) -> None:
    assert refused("--via=sidecar", str(server.pid)) == sentence(
        "a sidecar stands beside a container", "name the target as docker:NAME"
    )
    assert_unharmed(server.pid)


def test_without_a_relay(box: Box) -> None:
    assert "--no-proxy cannot be had with a sidecar" in refused("--via=sidecar", "--no-proxy", f"docker:{box.name}")


def test_an_old_dlv(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    require(old_dlv(), "needs dlv 1.20 in $SAFEDLV_TEST_DLV_OLD")
    monkeypatch.setenv("SAFEDLV_DLV", str(old_dlv()))
    said = refused("--via=sidecar", f"docker:{box.name}")
    assert said.startswith("safedlv: dlv 1.20")
    assert "does not listen on unix sockets, and there is no other way out of a sidecar" in said


def test_a_dlv_for_other_programs(server: Server) -> None:
    """dlv's own table of the Go that it supports is asked."""
    require(old_dlv(), "needs dlv 1.20 in $SAFEDLV_TEST_DLV_OLD")
    found = target.find(server.pid)
    with pytest.raises(SafedlvError, match=r"dlv 1\.20\.\d supports Go 1\.\d+ to 1\.20, and .* was built by go1\.2"):
        needs.require_supported_go(str(old_dlv()), found)
    found.close()


def test_an_engine_elsewhere(box: Box) -> None:
    with forwarded() as port:
        said = refused("--via=sidecar", f"docker:{box.name}", environment={"DOCKER_HOST": f"tcp://127.0.0.1:{port}"})
    assert said == sentence(
        "the Docker Engine is reached over a network: a sidecar's socket would lie on its machine", "run safedlv there"
    )


@contextlib.contextmanager
def forwarded() -> Iterator[int]:
    """The engine on a TCP port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=_serve, args=(door,), daemon=True).start()
        yield int(door.getsockname()[1])
        door.shutdown(socket.SHUT_RDWR)


def _serve(door: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = door.accept()
            engine = socket.socket(socket.AF_UNIX)
            engine.connect("/var/run/docker.sock")
            for source, sink in ((client, engine), (engine, client)):
                threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError), contextlib.closing(source):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def test_no_engine(newest_dlv: str) -> None:
    said = refused("--via=sidecar", "docker:web", environment={"DOCKER_HOST": "unix:///nonexistent/docker.sock"})
    assert said == sentence(
        "no Docker Engine answers at unix:///nonexistent/docker.sock", "start it, or name another one with DOCKER_HOST"
    )


def test_no_permission(box: Box, everyones: Everyones) -> None:
    words = everyones.safedlv("attach", "--headless", "--via=sidecar", f"docker:{box.name}")
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *words]
    done = subprocess.run(as_nobody, capture_output=True, text=True, check=False, timeout=60, cwd="/")
    assert done.returncode == 1
    assert "no permission to talk to the Docker Engine at unix:///var/run/docker.sock" in done.stderr


# ---------------------------------------------------------------- the image


def test_no_such_image(box: Box) -> None:
    said = refused("--via=sidecar", "--toolbox-image=nobody/has:this", f"docker:{box.name}")
    assert said == sentence("there is no image nobody/has:this", "docker pull nobody/has:this")


def test_an_image_without_dlv(box: Box, sidecar_images: dict[str, str], tmp_path: Path) -> None:
    """Known only when it is started: the socket for clients, which is there by then, goes too."""
    words = ["--via=sidecar", f"--listen=unix:{tmp_path}/socket", f"--toolbox-image={sidecar_images['scratch']}"]
    said = refused(*words, f"docker:{box.name}")
    assert not (tmp_path / "socket").exists()
    assert said.startswith("safedlv: the Docker Engine did not start the sidecar: ")
    assert '"dlv": executable file not found' in said


def test_a_dlv_that_ends_at_once(box: Box, docker_engine: Engine) -> None:
    """Its last words are shown, with no name of ours before them where it had been heard."""
    busybox = shutil.which("busybox")
    require(busybox, "needs busybox-static")
    name = "safedlv-test-broken:given"
    docker_engine.docker("import", "-", name, given=packed({"bin/dlv": Path(str(busybox))}))
    try:
        words = ["--via=sidecar", f"--toolbox-image={name}", f"docker:{box.name}"]
        words = [*SAFEDLV, "attach", "--headless", *words]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    finally:
        docker_engine.docker("image", "rm", "--force", name)
    assert done.returncode in (1, 127)  # as safedlv found it: ended already, or ending
    assert "dlv: applet not found" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_image_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, newest_dlv: str) -> None:
    """The engine says so after it has answered 200."""
    monkeypatch.setattr(toolbox, "write_archive", lambda _toolbox, archive: archive.write(b"no archive" * 1000))
    made = evolve(toolbox.toolbox_of(newest_dlv), tag="safedlv-test-none:none")
    with Docker() as engine:
        with pytest.raises(EngineError, match="did not import the image safedlv-test-none:none"):
            toolbox.ensure(engine, made)
        assert not toolbox.is_there(engine, made)


# ---------------------------------------------------------------- start


def test_a_name_that_is_taken(box: Box, docker_engine: Engine, newest_dlv: str) -> None:
    """What has the name is not ours to remove."""
    with pytest.raises(SafedlvError, match="is already in use by container"):
        start(box, newest_dlv, name=box.name)


def test_a_container_that_does_not_start(box: Box, newest_dlv: str) -> None:
    """The engine made it and cannot start it: it is removed."""
    with pytest.raises(SafedlvError, match="the Docker Engine did not start the sidecar"):
        start(box, newest_dlv, command=("/toolbox/none",))


def start(box: Box, dlv: str, **changes: Any) -> None:
    """Prepare a sidecar, change its plan, start it."""
    line = parse(["--headless", "--via=sidecar", f"docker:{box.name}"])
    found = target.resolve(line.args[0])
    try:
        prepared = sidecar.prepare(found, dlv, line)
        prepared.plan = evolve(prepared.plan, **changes)
        sidecar.start(prepared, found, lambda: None)
    finally:
        found.close()
        prepared.engine.__exit__()


def test_an_address_that_is_taken(box: Box, tmp_path: Path) -> None:
    """In dlv's words on stdout; whoever has it keeps it."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/socket")
        words = ["attach", "--headless", "--via=sidecar", f"--listen=unix:{tmp_path}/socket", f"docker:{box.name}"]
        done = subprocess.run([*SAFEDLV, *words], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    said = f"couldn't start listener: listen unix {tmp_path}/socket: bind: address already in use\n"
    assert done.stdout == said
    assert (tmp_path / "socket").exists()


def test_a_directory_that_cannot_be_made(box: Box, docker_engine: Engine, newest_dlv: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SafedlvError, match=r"cannot make the session's directory .*/file/of: Not a directory"):
        start(box, newest_dlv, directory=f"{tmp_path}/file/of/session")
    wait_until(lambda: not sidecars(box), "no sidecar is left")
    assert not our_directories()


def test_what_it_says_before(box: Box, newest_dlv: str, docker_engine: Engine) -> None:
    """The plan's words, and what is true of them: nothing is made yet, and an image only where there is none."""
    line = parse(["--headless", "--via=sidecar", f"docker:{box.name}"])
    found = target.resolve(line.args[0])
    prepared = sidecar.prepare(found, newest_dlv, line)
    text = "\n".join(prepared.describe())
    assert "uid 0, gid 0, with SYS_PTRACE, no network, a read-only root, no new privileges" in text
    assert "the probe passes from there" in text
    images = docker_engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.decode().split()
    assert ("make the image" in text) == (prepared.plan.image not in images)
    assert not sidecars(box)
    assert not our_directories()
    found.close()
    prepared.engine.__exit__()

"""A refused attach in containers, played: the target, somebody who would trace it, and the answer from both places.

From *inside* ``safedlv doctor`` is what docker exec starts, with Python and safedlv mounted read-only; from the *host*
root asks for that place. Containers are started once for all the scenes that need one like that.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import Factory, frozen

from tests import comparison
from tests.docker.conftest import Engine
from tests.everyone import Everyones
from tests.scenes import EXIT_CODES, Document, Truth, ids
from tests.support import answer_of, assert_unharmed, status, wait_until

PORT = 8080  # of each container's own loopback


@frozen
class Box:
    """How a container is started."""

    run: tuple[str, ...] = ()
    profile: str | None = None
    """The seccomp profile; None: the engine's own."""
    program: str = "/server"
    """/unreadable is the same, for its user to run and not to read; sh is a shell that has started it."""
    scratch: bool = False
    """Nothing but the program is in it: no shell, no library."""


@frozen
class Scene:
    """Who would trace whom, and what is true of it."""

    box: Box
    truth: Truth = Factory(Truth)
    exec: tuple[str, ...] = ()
    """Options of docker exec, which starts the tracer; ``-u`` is asked for from the host by --tracer, too."""
    sidecar: Box | None = None
    """The tracer is in a container of its own, and there in the target's PID namespace if ``joined``."""
    joined: bool = True
    during: str = ""
    """``paused`` or ``held`` (by strace)."""
    inside: Truth | None = None
    """What can be known from inside, where that differs."""
    dlv: bool = True
    """False: the tracer has no dlv."""


# ---------------------------------------------------------------- the stage


@frozen
class Container:
    """One that runs; its first process as this machine numbers it."""

    name: str
    pid: int


class Stand:
    """The containers of this module: one for each :class:`Box`, and one beside for each sidecar."""

    def __init__(self, images: dict[bool, str], everyones: Everyones, directory: Path) -> None:
        self.engine = Engine()
        self.images, self.everyones, self.directory = images, everyones, directory
        self.running: dict[tuple[Box, str], Container] = {}

    @contextlib.contextmanager
    def cast(self, scene: Scene) -> Iterator[tuple[Container, Container]]:
        """The target, and where the tracer runs. A target that something went wrong with is not used again."""
        target = self._container(scene.box, "")
        beside = f"container:{target.name}" if scene.joined else "private"
        tracer = target if scene.sidecar is None else self._container(scene.sidecar, beside)
        try:
            yield target, tracer
        except BaseException:
            del self.running[scene.box, ""]
            raise

    def _container(self, box: Box, beside: str) -> Container:
        if (box, beside) not in self.running:
            self.running[box, beside] = self._started(box, beside)
        return self.running[box, beside]

    def _started(self, box: Box, beside: str) -> Container:
        words = ["--label", "safedlv-test", *box.run]
        words += ["--pid", beside] if beside.startswith("container:") else []
        words += [] if box.scratch else self.everyones.mounts()
        if box.profile is not None:
            path = self.directory / f"{uuid.uuid4().hex}.json"
            path.write_text(box.profile)
            words += ["--security-opt", f"seccomp={path}"]
        program = ["sleep", "infinity"] if beside else [box.program, f"127.0.0.1:{PORT}"]
        if box.program == "sh":
            program = ["sh", "-c", '/server "$0" & wait', f"127.0.0.1:{PORT}"]
        pid = self.engine.run(*words, self.images[box.scratch], *program)
        container = Container(self.engine.last, pid)
        said = "" if beside else "serving"
        wait_until(lambda: said in self.logs(container), f"{program[0]} of {box} runs", 30)
        return container

    def logs(self, container: Container) -> str:
        done = self.engine.docker("logs", container.name)
        return (done.stdout + done.stderr).decode()

    def exec(self, container: Container, options: tuple[str, ...], words: list[str]) -> tuple[int, str, str]:
        done = self.engine.docker("exec", *options, container.name, *words, check=False)
        return done.returncode, done.stdout.decode(), done.stderr.decode()


def archive(server: Path, *, scratch: bool) -> bytes:
    """A root directory: the program alone, or with the places where a system is mounted."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, mode in (("server", 0o755), ("unreadable", 0o711)):
            entry = tar.gettarinfo(server, name)
            entry.mode, entry.uid, entry.gid = mode, 0, 0
            tar.addfile(entry, io.BytesIO(server.read_bytes()))
        for name in () if scratch else ("bin", "sbin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
    return output.getvalue()


@contextlib.contextmanager
def happening(stand: Stand, scene: Scene, target: Container) -> Iterator[None]:
    """What is done to the target while the questions are asked."""
    if scene.during == "paused":
        stand.engine.docker("pause", target.name)
        try:
            yield
        finally:
            stand.engine.docker("unpause", target.name)
    elif scene.during == "held":
        words = ["strace", "-f", "-o", "/dev/null", "-p", str(target.pid)]
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as holder:
            try:
                wait_until(lambda: status(target.pid, "TracerPid") == str(holder.pid), "strace holds it")
                yield
            finally:
                holder.terminate()
    else:
        yield


GET = (
    "import socket; c = socket.create_connection(('127.0.0.1', %d), 10); c.sendall(b'GET /you HTTP/1.0\\r\\n\\r\\n'); "
    "print(c.makefile().read())"
)


def assert_serves(target: Container) -> None:
    """Its first process is as it was, and what listens in the container answers."""
    assert_unharmed(target.pid)
    words = ["nsenter", f"--net=/proc/{target.pid}/ns/net", sys.executable, "-c", GET % PORT]
    assert "hello" in subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout


# ---------------------------------------------------------------- the two questions


def number_of(scene: Scene, target: Container) -> int:
    """The target's PID as the tracer would write it."""
    return 1 if scene.sidecar is None or scene.joined else target.pid


def from_inside(stand: Stand, scene: Scene, target: Container, tracer: Container) -> Document:
    words = ["doctor", "--json", "--probe-timeout", "0.4", str(number_of(scene, target))]
    code, out, err = stand.exec(tracer, scene.exec, stand.everyones.safedlv(*words, dlv=scene.dlv))
    assert err == ""
    answer: Document = json.loads(out)
    assert code == EXIT_CODES[answer["verdict"]]
    return answer


def named(scene: Scene, target: Container, tracer: Container) -> tuple[str, str]:
    """The target, and whose place it is asked from, as safedlv is told them on the host."""
    if scene.sidecar is not None:
        return str(target.pid), f"pid:{tracer.pid}"
    return f"docker:{target.name}/1", ":".join(["container", *scene.exec[1:]])


def from_the_host(stand: Stand, scene: Scene, target: Container, tracer: Container) -> Document:
    text, who = named(scene, target, tracer)
    words = ["doctor", "--hold-limit=1", "--json", "--probe-timeout", "0.4", text, "--tracer", who]
    environment = {"SAFEDLV_DLV": stand.everyones.dlv if scene.dlv else "/nonexistent"}
    code, answer = answer_of(*words, environment=environment)
    assert code == EXIT_CODES[answer["verdict"]]
    assert answer["target"]["pid"] == target.pid
    return answer


def compare(name: str, stand: Stand, scene: Scene, target: Container, tracer: Container, answer: Document) -> None:
    """Ask dlv, gdb and strace in the very same place. One that had to be killed may leave a SIGSTOP behind."""
    said: dict[str, Any] = {}
    for tool in comparison.TOOLS:
        words = stand.everyones.tool(*comparison.command(tool, stand.everyones.dlv, number_of(scene, target)))
        code, out, err = stand.exec(tracer, scene.exec, words)
        said[tool] = comparison.told(out + err, code)
        os.kill(target.pid, signal.SIGCONT)
    truth = scene.inside or scene.truth
    causes = truth.causes or scene.truth.causes
    comparison.record("docker", name, causes, safedlv=ids(answer) - (truth.may - causes), **said)

"""What the tests of sidecars share: targets in containers, sessions beside them, and what must be left afterwards."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.clients import JsonRpc
from tests.docker.conftest import Engine
from tests.support import (
    ROOT,
    SAFEDLV,
    assert_unharmed,
    build_go,
    our_directories,
    our_processes,
    require,
    status,
    wait_until,
)

SERVER = ROOT / "examples" / "server"
GREETER = Path(__file__).parent / "greeter"
PORT = 8080  # of each container's own loopback
SCRATCH, DEBIAN = "scratch", "debian"
GET = (
    "import socket; c = socket.create_connection(('127.0.0.1', %d), 20); c.sendall(b'GET /you HTTP/1.0\\r\\n\\r\\n'); "
    "print(c.makefile().read())"
)
HERE = {"GoroutineID": -1, "Frame": 0}
LOAD = {
    "FollowPointers": True,
    "MaxVariableRecurse": 1,
    "MaxStringLen": 64,
    "MaxArrayValues": 64,
    "MaxStructFields": -1,
}


def line_of(source: Path, text: str) -> int:
    return next(number for number, line in enumerate(source.read_text().splitlines(), 1) if text in line)


# ---------------------------------------------------------------- images


def scratch_archive(directory: Path) -> bytes:
    """Nothing but a static server; /unreadable is the same, for its user to run and not to read."""
    program = build_go(SERVER, directory / "static", environment={"CGO_ENABLED": "0"})
    return packed({"server": program, "unreadable": program})


def debian_archive(directory: Path) -> bytes:
    """A cgo program, a library of its own in /opt, the system's libraries where Debian has them, and a shell."""
    busybox = Path("/bin/busybox")
    require(busybox.exists(), "needs busybox-static")
    library = directory / "libgreet.so"
    words = ["gcc", "-shared", "-fPIC", "-g", "-O0", "-o", str(library), str(GREETER / "greet" / "greet.c")]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    flags = {"CGO_ENABLED": "1", "CGO_LDFLAGS": f"-L{directory} -Wl,-rpath,/opt/greet"}
    program = build_go(GREETER, directory / "greeter", environment=flags)
    files = {"greeter": program, "opt/greet/libgreet.so": library, "bin/busybox": busybox}
    files["server"] = build_go(SERVER, directory / "static", environment={"CGO_ENABLED": "0"})
    return packed({**files, **_libraries(program, directory)}, {"bin/sh": "busybox"})


def dlv_archive(dlv: str) -> bytes:
    """dlv on the usual PATH, and the libraries that it links where Debian has them."""
    return packed({"usr/local/bin/dlv": Path(dlv), **_libraries(Path(dlv), Path("/"))})


def _libraries(program: Path, directory: Path) -> dict[str, Path]:
    """The system's libraries that a program links, and its loader (ldd(1)); ``directory``: where others may be."""
    words = ["ldd", str(program)]
    # check: a static program is none for ldd
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={"LD_LIBRARY_PATH": str(directory)})
    return {path.lstrip("/"): Path(path) for path in re.findall(r"\s(/(?:lib|usr)\S+) \(", done.stdout)}


def packed(files: dict[str, Path], links: dict[str, str] | None = None) -> bytes:
    """A root directory as an archive: files, and symbolic links."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, path in files.items():
            data = path.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o711 if name == "unreadable" else 0o755, len(data)
            tar.addfile(entry, io.BytesIO(data))
        for name, goal in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, goal
            tar.addfile(link)
    return output.getvalue()


# ---------------------------------------------------------------- targets


class Box:
    """A target in a container."""

    def __init__(self, engine: Engine, image: str, program: list[str], *run: str) -> None:
        self.engine = engine
        self.first = engine.run("--stop-timeout", "1", *run, image, *program)  # a shell as PID 1 ignores SIGTERM
        self.name = engine.last
        wait_until(lambda: "serving" in self.logs(), f"{program} serves", 30)
        self.pid = next(pid for pid in family(self.first) if status(pid, "Name") in ("server", "unreadable", "greeter"))
        self.before = self.document()

    def logs(self) -> str:
        done = self.engine.docker("logs", self.name)
        return (done.stdout + done.stderr).decode()

    def document(self) -> Any:
        return json.loads(self.engine.docker("inspect", self.name).stdout)[0]

    def get(self) -> str:
        words = ["nsenter", f"--net=/proc/{self.first}/ns/net", sys.executable, "-S", "-c", GET % PORT]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=40).stdout

    def visit(self) -> threading.Thread:
        """A request in the background; it may find the target stopped for longer than it waits."""
        thread = threading.Thread(target=self.get)
        thread.start()
        return thread

    def assert_left_alone(self, within: float = 20.0) -> None:
        """The target is as before, and nothing of ours is left: no process, directory, container."""
        wait_until(lambda: not our_processes(), "no process of ours is left", within)
        wait_until(lambda: not sidecars(self), "no sidecar is left", within)
        wait_until(lambda: not our_directories(), "no directory of ours is left", within)
        assert_unharmed(self.pid)
        assert "hello /you" in self.get()
        assert_unharmed(self.pid)
        assert self.document() == self.before


def family(pid: int) -> list[int]:
    """A process and those below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(below for child in children for below in family(int(child)))]


def sidecars(box: Box) -> list[str]:
    """The names of the sidecars of a target."""
    words = ["ps", "--all", "--format", "{{.Names}}", "--filter", f"label=safedlv.sidecar={box.before['Id']}"]
    return box.engine.docker(*words).stdout.decode().split()


# ---------------------------------------------------------------- sessions


class Headless:
    """A headless session of safedlv's under way."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def address(self) -> str:
        """Where it listens; fails with what it said when it does not."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("API server listening at: "), line + self.process.communicate()[1]
        return line.partition(": ")[2].strip()

    def client(self) -> JsonRpc:
        client = JsonRpc(self.address())
        client.use_version_2()
        return client


class Beside(Headless):
    """``safedlv attach --headless --via sidecar`` under way."""

    def __init__(self, target: str, *flags: str, under: tuple[str, ...] = ()) -> None:
        super().__init__(*under, *SAFEDLV, "attach", "--headless", "--via", "sidecar", *flags, target)

    def end(self, within: float = 30) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=within)
        return self.process.returncode, out, err


def refused(*words: str, environment: dict[str, str] | None = None) -> str:
    """The sentence with which ``safedlv attach`` ends; nothing else may be said, and the exit code is 1."""
    done = subprocess.run(
        [*SAFEDLV, "attach", "--headless", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    return done.stderr


def hit_a_breakpoint(client: JsonRpc, source: Path, line: int, visit: Callable[[], threading.Thread]) -> dict[str, str]:
    """Stop at a line that a request comes by, step once, look at the locals, clear the breakpoint; detach."""
    breakpoint_ = client.call("CreateBreakpoint", Breakpoint={"file": str(source), "line": line})["Breakpoint"]
    request = visit()
    state = client.command("continue")
    assert state["currentThread"]["function"]["name"] == "main.greeting"
    client.command("next")
    variables = client.call("ListLocalVars", Scope=HERE, Cfg=LOAD)["Variables"]
    client.call("ClearBreakpoint", Id=breakpoint_["id"])
    client.detach()
    request.join()
    return {variable["name"]: variable["value"] for variable in variables}

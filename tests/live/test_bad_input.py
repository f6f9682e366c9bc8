"""Words and files that are wrong: a sentence and the contract's exit code, in time; nothing is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.live.leftovers import MARK, nothing_left_behind  # noqa: F401  pytest finds fixtures by their names here
from tests.support import SAFEDLV, Server, assert_unharmed, require, status, threads, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind", "newest_dlv")

WITHIN = 2.0
"""Seconds for a refusal, from exec to exit."""
EVIL = "\x1b[31mred\x1b]0;title\x07\nnext\r\x9b2J\u202etxt"


class Refused:
    def __init__(self, *words: str, within: float = WITHIN) -> None:
        began = time.monotonic()
        done = subprocess.run(
            [*SAFEDLV, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=within + 20, check=False
        )
        self.took = time.monotonic() - began
        self.code, self.out, self.err = done.returncode, done.stdout.decode(), done.stderr.decode()
        assert self.took < within, f"it took {self.took:.1f} s"
        for text in (self.out, self.err):
            assert "Traceback" not in text
            assert "internal error" not in text
            assert not [c for c in text if not c.isprintable() and c not in "\n\t"], text


@contextlib.contextmanager
def process(*words: str | Path, ready: str = "S") -> Iterator[int]:
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    with subprocess.Popen([os.fspath(word) for word in words], stdout=subprocess.DEVNULL, env=environment) as running:
        try:
            wait_until(lambda: status(running.pid, "State")[:1] in ready, f"{words[0]} is in state {ready}")
            yield running.pid
        finally:
            running.kill()


# ---------------------------------------------------------------- numbers that are no process

NO_PROCESS = ["99999999999", "4194305"]
NO_NUMBER = ["abc", "", " 1", "1_0", "0x1", "1.5", "٢", "9" * 5000, "podman:web"]
NO_PID = ["0", "-1", "-99999999999"]


@pytest.mark.parametrize("text", NO_PROCESS)
def test_no_such_process(text: str) -> None:
    said = Refused("attach", "--headless", text)
    assert (said.code, said.out) == (1, "")
    assert f"there is no process {text}" in said.err
    assert Refused("doctor", text).code == 10


@pytest.mark.parametrize("text", NO_NUMBER + NO_PID)
def test_no_target(text: str) -> None:
    said = Refused("attach", "--headless", "--", text)
    assert (said.code, said.out) == (1, "")
    assert said.err
    said = Refused("doctor", "--", text)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("safedlv: ")


def test_a_negative_number_without_dashes_before_it() -> None:
    assert Refused("doctor", "-1").code == 2
    assert Refused("attach", "-1").code == 0, "to dlv it is a flag, and wrong usage ends with 0"


def test_a_thread_is_no_process(server: Server) -> None:
    thread = next(tid for tid in threads(server.pid) if tid != server.pid)
    said = Refused("attach", "--headless", str(thread))
    assert (said.code, said.out) == (1, "")
    assert f"{thread} is a thread of process {server.pid}" in said.err
    assert Refused("doctor", str(thread)).code == 2
    assert_unharmed(server.pid)


DELAYS = [milliseconds / 1000 for milliseconds in range(0, 120, 8)]


def test_a_process_that_ends_while_doctor_looks() -> None:
    """It may be there, be a zombie, or be gone, at any moment of the probe: there is always an answer."""
    for delay in DELAYS:
        with subprocess.Popen(["sleep", str(delay)]) as target:
            assert Refused("doctor", "--probe-timeout=1", str(target.pid)).code in (3, 10, 11)


def test_a_process_that_ends_while_attach_looks(tmp_path: Path) -> None:
    """The same; one that lives on is held by a session, which is ended."""
    said = tmp_path / "said"
    for delay in DELAYS:
        with (
            said.open("wb") as output,
            subprocess.Popen(["sleep", str(delay)]) as target,
            subprocess.Popen(
                [*SAFEDLV, "attach", "--headless", str(target.pid)], stdout=output, stderr=output
            ) as attach,
        ):
            wait_until(lambda: attach.poll() is not None or b"listening" in said.read_bytes(), "an answer", 5)
            if attach.poll() is None:
                attach.terminate()
            assert attach.wait(20) in (0, 1), said.read_text()
        text = said.read_text()
        assert text
        assert "Traceback" not in text
        assert "internal error" not in text


# ---------------------------------------------------------------- executables that are no program


def elf_header(section_offset: int, sections: int, size: int = 64) -> bytes:
    """The header of a 64-bit x86-64 executable, with a section table as given."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    return ident + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0x400000, 64, section_offset, 0, 64, 56, 0, size, sections, 1
    )


def spoil(sleep: bytes, how: str) -> bytes:
    """A copy of sleep(1) that still runs, but whose section headers lie: the kernel does not look at them."""
    data = bytearray(sleep)
    if how == "sections beyond the end":
        data[0x28:0x30] = struct.pack("<Q", 2**62)
    elif how == "many sections":
        data[0x3C:0x3E] = struct.pack("<H", 0xFFFF)
    elif how == "huge sections":
        at = struct.unpack_from("<Q", data, 0x28)[0]
        for index in range(struct.unpack_from("<H", data, 0x3C)[0]):
            data[at + index * 64 + 32 : at + index * 64 + 40] = struct.pack("<Q", 2**63 - 1)
    elif how == "bad names":
        data[0x3E:0x40] = struct.pack("<H", 0xFFFE)
    return bytes(data)


@pytest.mark.parametrize("how", ["sections beyond the end", "many sections", "huge sections", "bad names", "huge file"])
def test_a_corrupt_executable(tmp_path: Path, how: str) -> None:
    program = tmp_path / "program"
    program.write_bytes(spoil(Path(str(shutil.which("sleep"))).read_bytes(), how))
    if how == "huge file":
        os.truncate(program, 2**40)  # sparse
    program.chmod(0o755)
    with process(program, "600") as pid:
        said = Refused("doctor", str(pid))
        assert said.err == ""
        if how == "huge file":
            assert said.code == 11
            assert "\nnot-go (observed)" in said.out
        else:  # nobody knows whether it is a Go program, so that is held against nobody
            assert said.code == 0
            assert "go-binary: not known" in said.out
        assert_unharmed(pid)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", elf_header(2**63, 0xFFFF), b"#!/bin/sh\nexit 3\n", b"\0" * 4096])
def test_a_dlv_that_is_none(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """An attach with it fails, with a sentence; doctor answers whatever it is."""
    dlv = tmp_path / "dlv"
    dlv.write_bytes(content)
    dlv.chmod(0o755)
    monkeypatch.setenv("SAFEDLV_DLV", str(dlv))
    assert Refused("doctor", str(server.pid)).code in (0, 10, 11)
    said = Refused("attach", "--headless", str(server.pid), within=5)
    assert said.code != 0
    assert said.err or content.startswith(b"#!"), "that one says nothing itself"
    assert_unharmed(server.pid)


@pytest.mark.parametrize("path", ["/nonexistent/dlv", "/", "/dev/null", "dlv-nowhere", "."])
def test_a_dlv_that_is_not_there(server: Server, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("SAFEDLV_DLV", path)
    said = Refused("attach", "--headless", str(server.pid))
    assert (said.code, said.out) == (1, "")
    assert path in said.err
    assert Refused("doctor", str(server.pid)).code == 10
    assert_unharmed(server.pid)


# ---------------------------------------------------------------- hostile names


def test_a_refused_attach_to_a_process_with_a_hostile_name(server: Server) -> None:
    """A zombie with escape codes for a name, and a tracer with escape codes in its command line."""
    rename = f"import ctypes, os; ctypes.CDLL(None).prctl(15, {EVIL.encode()[:15]!r}); os._exit(0)"
    with subprocess.Popen([sys.executable, "-c", rename]) as ended:
        wait_until(lambda: status(ended.pid, "State").startswith("Z"), "it is a zombie")
        assert Refused("attach", "--headless", str(ended.pid)).code == 1
        assert Refused("doctor", str(ended.pid)).code == 10
    hold = (
        "import ctypes, os, sys, time; libc = ctypes.CDLL(None)\n"
        "libc.ptrace(16, int(sys.argv[1]), None, None); os.waitpid(int(sys.argv[1]), 0x40000000); time.sleep(600)"
    )
    assert ctypes.sizeof(ctypes.c_void_p) == 8
    with process(sys.executable, "-c", hold, str(server.pid), EVIL) as tracer:
        wait_until(lambda: status(server.pid, "TracerPid") == str(tracer), "it is traced")
        said = Refused("attach", "--headless", str(server.pid))
        assert said.code == 1
        assert f"is being traced by\n  {tracer}" in said.err or f"traced by {tracer}" in " ".join(said.err.split())
    assert_unharmed(server.pid)


@pytest.mark.parametrize("text", [EVIL, f"name:{EVIL}[", f"docker:{EVIL}", f"name:{EVIL}"])
def test_hostile_words(text: str) -> None:
    assert Refused("doctor", text).code in (2, 3)


# ---------------------------------------------------------------- sockets, commands, flags


def test_a_unix_path_that_cannot_be_reached(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (
        tmp_path / "missing" / "s",
        tmp_path / "file" / "s",
        tmp_path,
        Path("/proc/s"),
        tmp_path / ("x" * 200),
    ):
        said = Refused("attach", "--headless", f"--listen=unix:{path}", str(server.pid))
        assert said.code == 1
        assert f"couldn't start listener: listen unix {path}: bind: " in said.out + said.err
    assert os.listdir(tmp_path) == ["file"]
    assert_unharmed(server.pid)


def test_a_unix_path_without_permission(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "needs root to become somebody else")
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    script = (
        "import os; from safedlv.errors import SafedlvError; from safedlv.session.listen import listen\n"
        "os.setgroups([]); os.setresuid(65534, 65534, 65534)\n"
        f"try: listen('unix:{closed}/s')\n"
        "except SafedlvError as error: print(error.sentence)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == f"couldn't start listener: listen unix {closed}/s: bind: permission denied\n"


@pytest.mark.parametrize(
    "words",
    [
        ["nosuchcommand"],
        ["-x"],
        ["--nonsense"],
        [EVIL],
        ["doctor", "--nonsense"],
        ["doctor", "1", "2"],
        ["doctor", "--tracer", "nonsense", "1"],
        ["doctor", "--tracer"],
        ["doctor", "--probe-timeout", "nan", "1"],
        ["doctor", "--probe-timeout", "-1", "1"],
        ["doctor", "--probe-timeout", "inf", "1"],
        ["doctor", "--probe-timeout", "x", "1"],
    ],
)
def test_wrong_usage(words: list[str]) -> None:
    said = Refused(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["version"], ["--version"], ["doctor", "--help"]])
def test_right_usage(words: list[str]) -> None:
    said = Refused(*words)
    assert (said.code, said.err) == (0, "")
    assert said.out.strip()
    if words == []:
        assert all(len(line) <= 120 for line in said.out.splitlines())


def test_output_that_nobody_reads(server: Server) -> None:
    """A closed pipe, a full disk, and no standard output at all."""
    for shell in ("{} | true", "{} > /dev/full", "{} >&-", "{} 2>&-", "{} <&-"):
        command = shell.format(" ".join([*SAFEDLV, "doctor", str(server.pid)]))
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=20, check=False)
        assert "Traceback" not in done.stderr, command
        assert "Exception ignored" not in done.stderr, command
        assert_unharmed(server.pid)


# ---------------------------------------------------------------- containers


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    where = f"unix://{tmp_path}/none.sock"
    monkeypatch.setenv("DOCKER_HOST", where)
    return where


@pytest.mark.parametrize("text", ["docker:web", "docker:web/7"])
def test_no_engine(no_engine: str, text: str) -> None:
    said = Refused("attach", "--headless", text)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"safedlv: no Docker Engine answers at {no_engine}\n")
    said = Refused("doctor", text)
    assert (said.code, said.out) == (3, "")
    assert said.err.startswith(f"safedlv: no Docker Engine answers at {no_engine}\n")


@pytest.mark.parametrize(
    "text", ["docker:", "docker:/7", "docker:web/", "docker:web/x", "docker:web/7/8", "docker:web/-1"]
)
def test_no_container_name(no_engine: str, text: str) -> None:
    assert Refused("doctor", text).code == 2
    assert Refused("attach", "--headless", text).code == 1


class Engine(HTTPServer):
    """A Docker Engine that knows one container, over a unix socket."""

    address_family = socket.AF_UNIX
    state: dict[str, Any] | bytes | None = None
    """What State of container ``web`` is; bytes are sent as they are; None closes the connection."""

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)


class Api(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        import json

        assert isinstance(self.server, Engine)
        if self.path.endswith("/version"):
            self.answer(200, json.dumps({"ApiVersion": "1.44", "MinAPIVersion": "1.24"}).encode())
        elif "/containers/web/json" not in self.path:
            self.answer(404, json.dumps({"message": f"No such container: {self.path}"}).encode())
        elif self.server.state is None:
            self.close_connection = True
        elif isinstance(self.server.state, bytes):
            self.answer(200, self.server.state)
        else:
            self.answer(200, json.dumps({"Id": "abc", "State": self.server.state}).encode())

    def answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Engine]:
    path = f"{tmp_path}/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with Engine(path, Api) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_container_is_its_first_process(engine: Engine, server: Server) -> None:
    engine.state = {"Status": "running", "Pid": server.pid}
    done = subprocess.run([*SAFEDLV, "doctor", "docker:web", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f'"pid": {server.pid},' in done.stdout
    assert '"container": "web"' in done.stdout
    assert_unharmed(server.pid)


def test_a_pid_inside_a_container(engine: Engine) -> None:
    """Processes of another PID namespace with the same number, and those outside with it, are passed over."""
    require(os.geteuid() == 0, "makes namespaces as root")
    from safedlv.runtimes.docker import container_process

    script = "sleep 600 & exec sleep 600"
    words = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    with process(*words) as one, process(*words) as other:
        for outer in (one, other):
            children = wait_until(lambda pid=outer: family(pid), "it has two children")  # type: ignore[misc]
            first, second = sorted(children, key=lambda pid: int(status(pid, "NSpid").split()[-1]))
            engine.state = {"Status": "running", "Pid": first}
            assert container_process("web") == first
            assert container_process("web/1") == first
            inner = status(second, "NSpid").split()[-1]
            assert container_process(f"web/{inner}") == second
            assert Refused("doctor", "docker:web/4000").code == 3


def family(pid: int) -> list[int]:
    """The two sleeps below an unshare, once both run."""
    first = [int(name) for name in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    second = [int(name) for one in first for name in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
    found = first + second
    return found if len(found) == 2 and all(status(one, "Name") == "sleep" for one in found) else []


@pytest.mark.parametrize(
    ("state", "sentence", "code"),
    [
        ({"Status": "exited", "Pid": 0}, "container web does not run: it is exited", 3),
        ({"Status": "exi\x1b[2Jted", "Pid": 0}, r"it is exi\x1b[2Jted", 3),
        ({}, "container web does not run", 3),
        ({"Status": "running", "Pid": 4194305}, "is process 4194305, which is not there", 3),
        (b"not json", "the Docker Engine at unix://", 3),
        (b"[]", "the Docker Engine", 3),
        (b'{"State": 7}', "the Docker Engine", 3),
        (None, "the Docker Engine at unix://", 3),
    ],
)
def test_what_an_engine_may_say(engine: Engine, state: Any, sentence: str, code: int) -> None:
    engine.state = state
    said = Refused("doctor", "docker:web")
    assert (said.code, said.out) == (code, "")
    assert sentence in said.err
    assert Refused("attach", "--headless", "docker:web").code == 1


def test_no_such_container(engine: Engine) -> None:
    said = Refused("doctor", "docker:other")
    assert (said.code, said.err.splitlines()[0]) == (2, "safedlv: there is no container other")
    assert Refused("attach", "--headless", "docker:other").code == 1


def test_an_engine_without_permission(engine: Engine, tmp_path: Path) -> None:
    require(os.geteuid() == 0, "needs root to become somebody else")
    script = (
        "import os, docker, requests.exceptions; from safedlv.runtimes.docker import container_process\n"
        "os.setgroups([]); os.setresuid(65534, 65534, 65534)\n"
        "try: container_process('web')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert re.match("SafedlvError no permission to talk to the Docker Engine at unix://", done.stdout), done

"""In the virtual machine: targets that serve, agents in the place of tracers, and a scene between the two."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import docker

from tests.vm import agent, beside_strace

Spec = dict[str, Any]
PORT = 8000
IMAGE = "base"  # links to /usr, which is mounted
ENVIRONMENT = {"PYTHONPATH": "/in/lib:/in", "SAFEDLV_DLV": "/in/dlv", "PYTHONDONTWRITEBYTECODE": "1"}
# The machine's network, which is but a loopback: one of its own costs two seconds a container under emulation.
BOX = {"detach": True, "network_mode": "host", "volumes": ["/usr:/usr:ro", "/in:/in:ro"], "environment": ENVIRONMENT}
AGENT = ["python3", "-m", "tests.vm.agent"]
SECONDS = 60.0
SIGSTOP_BIT = 1 << (signal.SIGSTOP - 1)
PATIENCE = "0.5"  # seconds for which all attempts may hold the target, where every call takes ten times as long


def wait_until(condition: Callable[[], Any], what: str, within: float = SECONDS) -> Any:
    """The condition's value, as soon as it has one. Raises TimeoutError."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within} s in vain for {what}")
        time.sleep(0.02)
    return value


def call(*words: str, given: bytes | None = None) -> None:
    """A command that has to succeed. Raises RuntimeError with what it said when it fails."""
    done = subprocess.run(words, input=given, capture_output=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.decode(errors='replace')}")


def engine() -> Any:
    """A connection to the Docker Engine of this thread's own."""
    return docker.from_env(timeout=SECONDS)


# ---------------------------------------------------------------- targets


class Target:
    """A process that serves, in a container or on the machine itself."""

    def __init__(self, name: str, spec: Spec, number: int) -> None:
        self.name, self.spec, self.port = name, spec, PORT + number
        self.machine: list[str] | None = spec["machine"]
        self.waits = "{tracer}" in " ".join(self.machine or ())
        self.pid = 0

    def start(self, tracer: int = 0) -> None:
        """Run it and wait until it serves. ``tracer``: what ``{tracer}`` stands for in its words."""
        program = [*self.spec["program"], f"127.0.0.1:{self.port}"]
        if self.machine is None:
            box = engine().containers.run(IMAGE, program, name=self.name, **BOX, **self.spec["options"])
            box.reload()
            self.pid = box.attrs["State"]["Pid"]
        else:
            words = [word.replace("{tracer}", str(tracer)) for word in self.machine]
            self.pid = subprocess.Popen([*words, *program], stdout=subprocess.DEVNULL).pid
        wait_until(lambda: serves(self.port), f"{self.name} to serve")


def serves(port: int) -> bool:
    """Whether a server answers there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /you HTTP/1.0\r\n\r\n")
        return b"hello /you" in b"".join(iter(lambda: connection.recv(4096), b""))
    return False


def harm(pid: int) -> str:
    """What is not as it should be with a process and its threads; empty when all is well."""
    try:
        for tid in os.listdir(f"/proc/{pid}/task"):
            fields = status(f"{pid}/task/{tid}")
            if fields["TracerPid"] != "0":
                return f"thread {tid} is traced by {fields['TracerPid']}"
            if fields["State"][0] in "TtZX":
                return f"thread {tid} is in state {fields['State']}"
            if int(fields["SigPnd"], 16) & SIGSTOP_BIT:
                return f"a SIGSTOP is pending on thread {tid}"
    except (FileNotFoundError, ProcessLookupError, KeyError):
        return f"process {pid} has ended"
    return ""


def status(path: str) -> dict[str, str]:
    """/proc/PATH/status."""
    lines = Path("/proc", path, "status").read_text("utf-8", "replace").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


# ---------------------------------------------------------------- tracers


class Tracer:
    """An agent in the tracer's place."""

    def __init__(self, spec: Spec, target: Target, name: str) -> None:
        self.spec, self.target, self.name = spec, target, name
        where = "" if spec["kind"] == "machine" else target.name
        self.key = json.dumps([where, spec], sort_keys=True)
        """The same for two stages whose tracers stand in the same place."""
        self.pid = 0

    def start(self) -> None:
        """Start the agent and find its PID on this machine."""
        for way in ("in", "out"):
            os.mkfifo(f"/in/talk/{self.name}.{way}")
            os.chmod(f"/in/talk/{self.name}.{way}", 0o666)
        self.requests, self.answers = (os.open(f"/in/talk/{self.name}.{way}", os.O_RDWR) for way in ("in", "out"))
        words = [*AGENT, self.name]
        if self.spec["kind"] == "exec":
            box = engine().containers.get(self.target.name)
            box.exec_run(words, detach=True, **self.spec["options"])
        elif self.spec["kind"] == "sidecar":
            space = f"container:{self.target.name}"
            engine().containers.run(IMAGE, words, pid_mode=space, **BOX, **self.spec["options"])
        else:
            subprocess.Popen([*self.spec["machine"], *words])
        self.ask({"tool": ["true"]})
        self.pid = self._find(words)

    def _find(self, words: list[str]) -> int:
        wanted = [word.encode() for word in words]
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if Path("/proc", name, "cmdline").read_bytes().split(b"\0")[:-1] == wanted:
                    return int(name)
        raise RuntimeError(f"there is no process {words}")

    def ask(self, request: Spec) -> Spec:
        """One request. Raises RuntimeError when there is no answer in time."""
        os.write(self.requests, json.dumps(request).encode() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self.answers], [], [], SECONDS)[0]:
                raise RuntimeError(f"{self.name} does not answer")
            line += os.read(self.answers, 1 << 16)
        answer: Spec = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


# ---------------------------------------------------------------- scenes


class Stage:
    """A target and a tracer."""

    def __init__(self, spec: Spec, target: Target, tracer: Tracer) -> None:
        self.spec, self.target, self.tracer = spec, target, tracer
        self.child = bool(tracer.spec["child"])
        self.inner = self.outer = self.port = 0

    def prepare(self) -> None:
        """The target's PID, seen inside and here; in a stage with a child it is the agent's."""
        self.outer, self.port = self.target.pid, self.target.port
        inside = self.target.machine is None and self.tracer.spec["kind"] != "machine"
        self.inner = 1 if inside else self.target.pid
        if self.child:
            self.port = PORT - 1
            started = self.tracer.ask({"start": [*self.target.spec["program"], f"127.0.0.1:{self.port}"]})
            children = Path(f"/proc/{self.tracer.pid}/task/{self.tracer.pid}/children").read_text().split()
            self.inner, self.outer = started["pid"], int(children[-1])
            wait_until(lambda: serves(self.port), "the agent's child to serve")

    def play(self, scene: Spec) -> Spec:
        """One scene: what is answered inside and outside, what other tools say, and how the target is afterwards."""
        found: Spec = {"scene": scene["name"]}
        with meanwhile(self.spec["meanwhile"], self.target):
            if scene["inside"]:
                found["inside"] = timed(self._inside)
                found["harm_inside"] = "" if self.spec["meanwhile"] else self._harm()
            if scene["outside"]:
                found["outside"] = timed(self._outside)
            if scene["plainly"]:
                found["plainly"] = self._plainly()
            if scene["observed"]:
                found["observation"] = beside_strace.compared(*self._named())
        found["harm_outside"] = self._harm()
        if scene["tools"]:
            found["tools"] = self._tools(scene["tools"])
            found["harm_tools"] = self._harm()
        return found

    def _inside(self) -> Spec:
        return self.tracer.ask({"doctor": ["--json", str(self.inner)], "here": self.child})

    def _plainly(self) -> str:
        """What the command itself answers, started as a user would start it."""
        words = ["python3", "-m", "safedlv", "doctor", "--json", str(self.inner)]
        box = engine().containers.get(self.target.name)
        output: bytes = box.exec_run(words, **self.tracer.spec["options"]).output
        return output.decode()

    def _outside(self) -> Spec:
        who, named = self._named()
        return agent.command(["doctor", "--json", "--hold-limit", PATIENCE, "--tracer", who, named])

    def _named(self) -> tuple[str, str]:
        """What ``--tracer`` says of the tracer, and a target's name."""
        if self.spec["who"] == "pid":
            return f"pid:{self.tracer.pid}", str(self.outer)
        return self.spec["who"], f"docker:{self.target.name}"

    def _harm(self) -> str:
        """What is not as it should be, some time after; empty when all is well."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not harm(self.outer), "it to be as it was", within=5)
        return harm(self.outer) or ("" if serves(self.port) else "it does not answer")

    def _tools(self, asked: dict[str, list[str]]) -> dict[str, Spec]:
        """What other tools say. One that does not end is ended from here: in there signals may be refused."""
        with meanwhile(self.spec["meanwhile"], self.target):
            said = {name: timed(partial(self._tool, words)) for name, words in asked.items()}
        for pid in descendants(self.tracer.pid) - {self.outer}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.kill(self.outer, signal.SIGCONT)  # for the stop that one leaves which was killed while it waited
        return said

    def _tool(self, words: list[str]) -> Spec:
        return self.tracer.ask({"tool": [word.replace("{pid}", str(self.inner)) for word in words]})


def descendants(pid: int) -> set[int]:
    """All processes below one."""
    with contextlib.suppress(OSError):
        children = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
        return children.union(*map(descendants, children))
    return set()


def timed(ask: Callable[[], Spec]) -> Spec:
    """The answer, and the milliseconds that it took."""
    began = time.monotonic()
    return {**ask(), "ms": round((time.monotonic() - began) * 1000)}


# ---------------------------------------------------------------- meanwhile


@contextlib.contextmanager
def meanwhile(what: str, target: Target) -> Iterator[None]:
    """Something that is done to the target while the question is asked."""
    if what == "paused":
        box = engine().containers.get(target.name)
        box.pause()
        try:
            yield
        finally:
            box.unpause()
    elif what in ("strace", "gdb"):
        words = {"strace": ["strace", "-f", "-o", "/dev/null"], "gdb": ["gdb", "-nx", "-q"]}[what]
        with traced(target.pid, words):
            yield
    elif what:
        with limited(target.pid, what):
            yield
    else:
        yield


@contextlib.contextmanager
def traced(pid: int, words: list[str]) -> Iterator[None]:
    """By another tool, which root started."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*words, "-p", str(pid)], **streams) as tool:  # type: ignore[call-overload]
        try:
            wait_until(lambda: status(str(pid))["TracerPid"] == str(tool.pid), f"{words[0]} to attach")
            yield
        finally:
            tool.kill()


@contextlib.contextmanager
def limited(pid: int, what: str) -> Iterator[None]:
    """``few pids``, ``little memory``: room for a few more in its cgroup, and for no debugger."""
    path = Path(f"/proc/{pid}/cgroup").read_text().split("::")[1].strip()
    cgroup = Path(f"/sys/fs/cgroup{path}")
    name, room = {"few pids": ("pids", 5), "little memory": ("memory", 8 << 20)}[what]
    (cgroup / f"{name}.max").write_text(str(int((cgroup / f"{name}.current").read_text()) + room))
    try:
        yield
    finally:
        (cgroup / f"{name}.max").write_text("max")

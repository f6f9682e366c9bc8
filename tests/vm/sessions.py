"""In the virtual machine: whole sessions with containers that are hard to debug in, beside them and in their place.

What is right is not decided here (tests/vm/hard_cases.py, tests/vm/test_hard_cases.py): each play tells what was said
and seen, how the target was afterwards, and what was left behind.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from tests.clients import JsonRpc
from tests.vm.stage import BOX, ENVIRONMENT, IMAGE, SECONDS, Spec, descendants, engine, harm, status, wait_until

SAFEDLV = ["python3", "-m", "safedlv"]
SCRATCH = "scratch"
GET = (
    "import socket; c = socket.create_connection(('127.0.0.1', %d), 60); c.sendall(b'GET /you HTTP/1.0\\r\\n\\r\\n'); "
    "print(c.makefile().read())"
)
HERE = {"GoroutineID": -1, "Frame": 0}
LOAD = {"MaxVariableRecurse": 1, "MaxStringLen": 64, "MaxArrayValues": 64, "MaxStructFields": -1}
AT_ONCE = 2
TOGETHER = 8  # containers at a time: the machine's memory is small


def play_all(spec: Spec, report: Callable[[Spec], None], scope_to: Callable[[int], None]) -> None:
    """Every play of every container, a few containers at a time, scope by scope."""
    if not spec["boxes"]:
        return
    make_scratch()
    boxes = [Box(name, one, spec) for name, one in spec["boxes"].items()]
    for number in range(0, len(boxes), TOGETHER):
        batch = boxes[number : number + TOGETHER]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(Box.start, batch))
            for scope in (1, 2):
                scope_to(scope)
                for found in pool.map(lambda box, now=scope: box.play(now), batch):
                    for one in found:
                        report(one)
            list(pool.map(Box.remove, batch))
    scope_to(0)


def make_scratch() -> None:
    """An image with nothing but the server."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add("/in/server", "server")
    engine().api.import_image_from_data(archive.getvalue(), repository=SCRATCH)


class Box:
    """A container and what is played with it."""

    def __init__(self, name: str, spec: Spec, all_: Spec) -> None:
        self.name, self.spec = name, spec
        self.source, self.line = all_["source"], all_["line"]
        self.problem = ""

    def start(self) -> None:
        """Run it until it serves; what goes wrong is told in the plays."""
        try:
            plain = {"detach": True, "network_mode": "host"} if self.spec["image"] == SCRATCH else BOX
            image = SCRATCH if self.spec["image"] == SCRATCH else IMAGE
            engine().containers.run(image, self.spec["program"], name=self.name, **{**plain, **self.spec["options"]})
            wait_until(lambda: b"serving" in self.box().logs(), f"{self.name} to serve")
        except Exception as error:
            self.problem = repr(error)

    def remove(self) -> None:
        with contextlib.suppress(Exception):
            self.box().remove(force=True, v=True)

    def play(self, scope: int) -> list[Spec]:
        """All that is played with it at this scope."""
        found = []
        for one in self.spec["plays"]:
            if one["scope"] == scope:
                try:
                    assert not self.problem, self.problem
                    found.append({"scene": one["scene"], **self._session(one["via"])})
                except Exception as error:
                    found.append({"scene": one["scene"], "error": repr(error)})
        return found

    def _session(self, via: str) -> Spec:
        with tempfile.TemporaryDirectory(prefix=self.name) as directory:
            return self._session_in(directory, via)

    def _session_in(self, directory: str, via: str) -> Spec:
        began = time.monotonic()
        if self.spec["during"]:
            self.box().pause()
        before = self.box().attrs
        found = (beside if via == "sidecar" else in_its_place)(self, directory)
        found["inspect"] = [before, self.box().attrs]
        if self.spec["during"]:
            self.box().unpause()
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self.left(directory), "nothing to be left", 20)
        found["left"] = self.left(directory)
        found["harm"] = harm(self.server()) or ("" if "hello /you" in self.get() else "it does not answer")
        return {**found, "seconds": round(time.monotonic() - began)}

    # -------------------------------------------------- what is looked at

    def box(self) -> Any:
        return engine().containers.get(self.name)

    def server(self) -> int:
        """The PID of the server in it."""
        first: int = self.box().attrs["State"]["Pid"]
        return next(pid for pid in (first, *descendants(first)) if status(str(pid))["Name"] == "server")

    def get(self) -> str:
        """One request, in the network of the container."""
        network = f"--net=/proc/{self.box().attrs['State']['Pid']}/ns/net"
        words = ["nsenter", network, "python3", "-S", "-c", GET % self.spec["port"]]
        return subprocess.run(words, capture_output=True, text=True, timeout=SECONDS * 2, check=False).stdout

    def left(self, directory: str) -> list[str]:
        """What of ours is still there: containers, session directories, processes."""
        everything = engine().containers.list(all=True, ignore_removed=True)  # others come and go
        ours = [box.name for box in everything if self.name in box.name and box.name != self.name]
        beside = [box.name for box in everything if box.labels.get("safedlv.sidecar") == self.box().id]
        return [*ours, *beside, *files_below(directory), *processes_of(directory)]

    def hit_a_breakpoint(self, address: str) -> Spec:
        """Stop where a request comes by, step, look at the locals; clear the breakpoint and leave."""
        client = wait_until(lambda: connected(address), "somebody to listen")
        client.use_version_2()
        where = {"file": self.source, "line": self.line}
        number = client.call("CreateBreakpoint", Breakpoint=where)["Breakpoint"]["id"]
        visit = threading.Thread(target=self.get)
        visit.start()
        function = client.command("continue")["currentThread"]["function"]["name"]
        client.command("next")
        variables = client.call("ListLocalVars", Scope=HERE, Cfg=LOAD)["Variables"]
        client.call("ClearBreakpoint", Id=number)
        client.detach()
        visit.join()
        return {"function": function, "locals": {one["name"]: one["value"] for one in variables}}


def connected(address: str) -> JsonRpc | None:
    """A client; None as long as nobody listens there."""
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
        return JsonRpc(address, timeout=SECONDS)
    return None


def files_below(directory: str) -> list[str]:
    """Files and sockets; directories alone are none."""
    return [os.path.join(path, name) for path, _, names in os.walk(directory) for name in names]


def processes_of(directory: str) -> list[str]:
    """Processes that were started with this TMPDIR."""
    found, mark = [], f"TMPDIR={directory}".encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if mark in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                found.append(f"process {name}")
    return found


# ---------------------------------------------------------------- the two ways


def beside(box: Box, directory: str) -> Spec:
    """``safedlv attach --via sidecar``: a whole session, or what was said."""
    words = ["attach", "--headless", "--via", "sidecar", f"--listen=unix:{directory}/socket", f"docker:{box.name}"]
    with safedlv(words, directory, stdout=subprocess.PIPE) as process:
        found: Spec = {}
        if "listening at" in next_line(process.stdout):
            found = box.hit_a_breakpoint(f"{directory}/socket")
        said = process.communicate(timeout=SECONDS)[1]
    return {**found, "code": process.returncode, "said": said}


def in_its_place(box: Box, directory: str) -> Spec:
    """``safedlv relaunch --debuggable --swap``: dlv started by docker exec in the copy; then back, or what was said."""
    words = ["relaunch", "--debuggable", "--swap", "--yes", box.name]
    found: Spec = {}
    with open(f"{directory}/stdout", "w+") as output, safedlv(words, directory, stdout=output.fileno()) as process:
        lines = []
        while line := next_line(process.stderr):
            lines.append(line)
            if "Ctrl-C" in line:
                found = in_the_copy(box) if box.spec["image"] != SCRATCH else {"copy": "no dlv is in it"}
                process.send_signal(signal.SIGINT)
        process.wait(SECONDS)
        output.seek(0)
        lines += output.readlines()
    os.unlink(output.name)
    return {**found, "code": process.returncode, "said": "".join(lines)}


def in_the_copy(box: Box) -> Spec:
    """What `docker exec --user 0 COPY dlv attach` can do."""
    copy = box.box()
    inside = status(str(box.server()))["NSpid"].split()[-1]
    dlv = ["/in/dlv", "attach", "--headless", "--api-version=2", "--listen=unix:/dev/shm/dlv", inside]
    copy.exec_run(dlv, user="0", detach=True, environment={"HOME": "/dev/shm"})
    return box.hit_a_breakpoint(f"/proc/{copy.attrs['State']['Pid']}/root/dev/shm/dlv")


@contextlib.contextmanager
def safedlv(words: list[str], directory: str, stdout: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """The command, with everything that it writes below ``directory``; ended in order when the block fails."""
    place = {"TMPDIR": directory, "XDG_STATE_HOME": directory, "SAFEDLV_AUDIT": "/run/audit"}
    environment = {**os.environ, **ENVIRONMENT, **place}
    streams = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": subprocess.PIPE}
    with subprocess.Popen([*SAFEDLV, *words], env=environment, text=True, **streams) as process:  # type: ignore[call-overload]
        watchdog = threading.Timer(SECONDS * 2, process.terminate)
        watchdog.start()
        try:
            yield process
        except BaseException:
            process.terminate()
            raise
        finally:
            watchdog.cancel()


def next_line(stream: IO[str] | None) -> str:
    """Its next line; "" at its end."""
    assert stream is not None
    return stream.readline()

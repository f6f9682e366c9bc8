"""What a sidecar and a swap cost, beside what the engine takes for the same by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import docker

from safedlv.runtimes.docker import Engine as Ours
from safedlv.sibling.toolbox import Toolbox, ensure, toolbox_of, write_archive
from tests.bench.tools import CACHE, build_static, safedlv_command, scratch_image, show, timed
from tests.clients import JsonRpc
from tests.docker.conftest import Engine, answers


def measure(dlv: str, rounds: int) -> None:
    """All of it, where an engine answers."""
    if os.geteuid() != 0 or not answers():
        print("  (no Docker Engine answers here, or not root: sidecar, image and swap are left out)")
        return
    engine = Engine()
    with TemporaryDirectory(dir=CACHE) as directory:
        image = scratch_image(engine, build_static(Path(directory)))
        toolbox = toolbox_of(dlv)
        there = bool(engine.docker("images", "--quiet", toolbox.tag).stdout)
        try:
            making_the_image(engine, toolbox, Path(directory), max(rounds // 4, 3))
            engine.run(image, "/server")
            until_a_sidecar_listens(engine.last, toolbox, rounds)
            swapping(engine.last, Path(directory), max(rounds // 2, 3))
        finally:
            engine.remove_containers()
            engine.docker("rmi", image, *([] if there else [toolbox.tag]), check=False)


# ------------------------------------------------------------ the image


def making_the_image(engine: Engine, toolbox: Toolbox, directory: Path, rounds: int) -> None:
    """The image with dlv, under a name of the bench's own, beside ``docker import`` of the same files by hand."""
    tag = f"safedlv-bench-toolbox:{os.getpid()}"
    own = Toolbox(tag, toolbox.files, toolbox.entry)
    with (directory / "toolbox.tar").open("wb") as archive:
        write_archive(own, archive)
    plain, ours = [], []
    with Ours() as connection:
        for _ in range(rounds):
            plain.append(timed(lambda: by_hand(directory / "toolbox.tar", tag)))
            engine.docker("rmi", tag)
            ours.append(timed(lambda: ensure(connection, own)))
            engine.docker("rmi", tag)
    one, other = statistics.median(plain), statistics.median(ours)
    show("docker import of dlv and its libraries, by hand", one * 1e3, "ms")
    show("safedlv makes that image", other * 1e3, "ms", f"{other / one:.2f} times that (bound: 3 s)")


def by_hand(archive: Path, tag: str) -> None:
    with archive.open("rb") as file:
        subprocess.run(["docker", "import", "-", tag], stdin=file, stdout=subprocess.DEVNULL, check=True)


# ------------------------------------------------------------ a sidecar


def until_a_sidecar_listens(name: str, toolbox: Toolbox, rounds: int) -> None:
    """From exec to "listening", beside ``docker run`` of the same image until it prints a line: the image is there."""
    bare = ["docker", "run", "--rm", toolbox.tag, *toolbox.entry, "version"]
    alone = ["docker", "run", "--rm", "--network", "none", toolbox.tag, *toolbox.entry, "version"]
    sidecar = [*safedlv_command(), "attach", "--headless", "--via", "sidecar", f"docker:{name}"]
    first_line(sidecar, detach)  # makes the image, and the bytecode
    times: dict[str, list[float]] = {"bare": [], "alone": [], "sidecar": []}
    for _ in range(rounds):
        times["bare"].append(first_line(bare))
        times["alone"].append(first_line(alone))
        times["sidecar"].append(first_line(sidecar, detach))
    one, two, ours = (statistics.median(times[which]) for which in ("bare", "alone", "sidecar"))
    show("docker run of an image until it prints a line", one * 1e3, "ms")
    show("the same without a network (--network none)", two * 1e3, "ms")
    note = f"{ours / one:.2f} times docker run, {ours / two:.2f} times the one without a network (bound: 2)"
    show("safedlv attach --via sidecar until it listens", ours * 1e3, "ms", note)


def first_line(words: list[str], then: Callable[[str], object] = lambda line: None) -> float:
    """Seconds from exec to its first line; ``then`` ends it in order."""
    began = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        taken = time.perf_counter() - began
        assert line, f"{words[0]} has failed"
        then(line)
    return taken


def detach(line: str) -> None:
    JsonRpc(line.partition(": ")[2].strip()).detach()


# ------------------------------------------------------------ a swap


def swapping(name: str, state: Path, rounds: int) -> None:
    """For how long a container's service is away: from its stop's first signal to its, or the copy's, start."""
    with events() as seen:
        container = docker.from_env().containers.get(name)
        for _ in range(rounds):
            container.stop()
            container.start()
            swap_and_back(name, state)
        times = away(seen, 3 * rounds)
    one, other, last = (statistics.median(times[which::3]) for which in range(3))
    show("a container's own stop and start", one * 1e3, "ms")
    show("its copy in its place (relaunch --swap)", other * 1e3, "ms", f"{other / one:.2f} times that (bound: 1.10)")
    show("and back", last * 1e3, "ms", f"{last / one:.2f} times that")


def swap_and_back(name: str, state: Path) -> None:
    words = ["relaunch", "--debuggable", "--swap", "--yes", "--change", "cap:sys_ptrace", name]
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    with subprocess.Popen([*safedlv_command(), *words], stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "Ctrl-C" in line:
                process.send_signal(signal.SIGINT)
    assert process.returncode == 0


@contextmanager
def events() -> Iterator[list[tuple[str, int]]]:
    """The engine's events of containers: (what happened, nanoseconds), as they come."""
    seen: list[tuple[str, int]] = []
    client = docker.from_env()
    stream = client.events(decode=True, filters={"type": "container", "event": ["kill", "start"]})

    def listen() -> None:
        with contextlib.suppress(Exception):  # it is closed at the end
            one: dict[str, Any]
            for one in stream:
                seen.append((one["Action"], one["timeNano"]))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield seen
    finally:
        stream.close()
        client.close()


def away(seen: list[tuple[str, int]], times: int) -> list[float]:
    """Seconds from the first signal to the start after it, once so many are known."""
    deadline = time.monotonic() + 10
    while len(found := _away(seen)) < times:
        assert time.monotonic() < deadline, seen
        time.sleep(0.01)
    return found


def _away(seen: list[tuple[str, int]]) -> list[float]:
    found: list[float] = []
    begun = 0
    for what, at in list(seen):
        if what == "kill":
            begun = begun or at
        elif begun:
            found.append((at - begun) / 1e9)
            begun = 0
    return found

"""In the virtual machine: ``safedlv watch``, and a session, while things happen to a target's cgroup of version 2.

What is right is not decided here (tests/vm/test_watch.py): each play tells what was said, in order. A few plays
go on at a time, each in a cgroup of its own.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.live.groups import eat
from tests.live.watches import GROWS, Watch, grow
from tests.vm.sessions import connected, safedlv
from tests.vm.stage import PORT, Spec, harm, serves, wait_until

ROOT = Path("/sys/fs/cgroup")
BUSY = ("sh", "-c", "while :; do :; done")
PERIOD = "10000 100000"  # microseconds on a processor, of so many
MIB = 1 << 20
FEW, NEARLY = 24 * MIB, 23  # bytes that a cgroup may use; and MiB that come close
EVERY = "0.5"
AT_ONCE = 2  # the control groups are made meanwhile


def play_all(report: Callable[[Spec], None]) -> None:
    """Every play, a few at a time."""
    (ROOT / "cgroup.subtree_control").write_text("+cpu +memory")

    def run(play: Play) -> None:
        name = f"watch: {play.__name__.replace('_', ' ')}"
        with tempfile.TemporaryDirectory(prefix="watch-") as directory:
            try:
                began = time.monotonic()
                report({"scene": name, **play(Path(directory)), "seconds": round(time.monotonic() - began)})
            except Exception:
                report({"scene": name, "error": traceback.format_exc()})

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run, PLAYS))


class Group:
    """A cgroup below another, and what was started in it."""

    def __init__(self, name: str, above: Path = ROOT) -> None:
        self.path = above / name
        self.path.mkdir()
        self.started: list[subprocess.Popen[bytes]] = []

    def set(self, **files: str) -> None:
        """``memory_max="max"`` for memory.max."""
        for name, value in files.items():
            (self.path / name.replace("_", ".", 1)).write_text(value)

    def take(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """A process that begins in it."""
        enter = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.path / "cgroup.procs")]
        process = subprocess.Popen([*enter, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.started.append(process)
        return process

    def close(self) -> None:
        """End what was started and remove it."""
        (self.path / "cgroup.kill").write_text("1")
        for process in self.started:
            process.communicate()
        wait_until(self._removed, f"{self.path} to be empty")

    def _removed(self) -> bool:
        with contextlib.suppress(OSError):
            self.path.rmdir()
        return not self.path.exists()


@contextlib.contextmanager
def group(name: str, above: Path = ROOT) -> Iterator[Group]:
    made = Group(name, above)
    try:
        yield made
    finally:
        made.close()


class Watched:
    """A watch of a process, from its first line on."""

    def __init__(self, pid: int, directory: Path) -> None:
        self.watch = Watch(pid, directory / f"said-{pid}", every=EVERY)
        self.until("begin")

    def until(self, about: str, count: int = 1) -> None:
        """Wait until it has said so much about something."""
        wait_until(lambda: len(self.watch.lines(about)) >= count, f"{count} lines about {about}")

    def end(self) -> Spec:
        """What it has said, when it has ended by itself."""
        err = self.watch.process.communicate(timeout=60)[1]
        return {"lines": self.watch.lines(), "code": self.watch.process.returncode, "stderr": err.decode()}


# ---------------------------------------------------------------- the plays

Play = Callable[[Path], Spec]


def squeeze(limited: Group, inner: Group, target: subprocess.Popen[bytes], watched: Watched) -> None:
    """Freeze and thaw a cgroup, throttle it, have its memory nearly full. ``inner``: the target's own, it or below."""
    limited.set(cgroup_freeze="1")
    watched.until("frozen")
    limited.set(cgroup_freeze="0")
    watched.until("frozen", 2)
    limited.set(cpu_max=PERIOD)
    busy = inner.start(*BUSY)
    watched.until("throttling")
    limited.set(cpu_max="max")
    busy.kill()
    limited.set(memory_max=str(FEW))
    grow(target, NEARLY)
    watched.until("memory")


def its_own_cgroup(directory: Path) -> Spec:
    """Frozen and thawed; throttled; memory nearly full; another process of it killed; then itself."""
    with group("watch-own") as own:
        target = own.start(sys.executable, "-S", "-c", GROWS)
        watched = Watched(target.pid, directory)
        squeeze(own, own, target, watched)
        eat(own.path, first=True).wait()
        watched.until("oom")
        target.stdin.write(b"24\n")  # type: ignore[union-attr]
        return watched.end()


def below_what_is_limited(directory: Path) -> Spec:
    """Its own cgroup has no controller: all happens to the one above."""
    with group("watch-above") as above, group("inner", above.path) as inner:
        target = inner.start(sys.executable, "-S", "-c", GROWS)
        watched = Watched(target.pid, directory)
        squeeze(above, inner, target, watched)
        target.stdin.write(b"24\n")  # type: ignore[union-attr]
        return watched.end()


def moved(directory: Path) -> Spec:
    """To where the processor is short; then to where all is frozen."""
    with group("watch-busy") as busy, group("watch-cold") as cold:
        busy.set(cpu_max=PERIOD)
        busy.start(*BUSY)
        cold.set(cgroup_freeze="1")
        with subprocess.Popen(["sleep", "600"]) as target:
            watched = Watched(target.pid, directory)
            busy.take(target.pid)
            watched.until("throttling")
            cold.take(target.pid)
            watched.until("frozen")
            target.kill()
            return watched.end()


def short_of_memory(directory: Path) -> Spec:
    """Something in its cgroup is over memory.high, and made to wait."""
    with group("watch-short") as short:
        short.set(memory_high=str(8 * MIB))
        target = short.start("sleep", "600")
        watched = Watched(target.pid, directory)
        eater = short.start(sys.executable, "-S", "-c", GROWS)
        eater.stdin.write(b"32\n")  # type: ignore[union-attr]
        watched.until("pressure")
        eater.kill()
        target.kill()
        return watched.end()


def a_session(directory: Path) -> Spec:
    """The session's own words on stderr, while the target runs under dlv."""
    port = PORT - 2
    with group("watch-session") as first, group("watch-session-2") as second:
        target = first.start("/in/server", f"127.0.0.1:{port}")
        wait_until(lambda: serves(port), "it to serve")
        words = ["attach", "--headless", f"--listen=unix:{directory}/dlv", str(target.pid)]
        with safedlv(words, str(directory)) as session:
            client = wait_until(lambda: connected(f"{directory}/dlv"), "dlv to listen")
            client.use_version_2()
            client.send("Command", name="continue")
            assert session.stderr is not None
            first.set(cgroup_freeze="1")
            said = [session.stderr.readline()]
            first.set(cgroup_freeze="0")
            said.append(session.stderr.readline())
            second.take(target.pid)
            said.append(session.stderr.readline())
            served = serves(port)
            session.send_signal(signal.SIGINT)
            said += session.communicate(timeout=60)[1].splitlines(keepends=True)
        return {"said": said, "code": session.returncode, "served": served, "harm": harm(target.pid), "pid": target.pid}


PLAYS: tuple[Play, ...] = (short_of_memory, its_own_cgroup, below_what_is_limited, moved, a_session)

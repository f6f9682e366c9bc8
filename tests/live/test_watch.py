"""``safedlv watch`` beside real cgroups, tracers, debuggers and Go programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safedlv.facts.cgroup import V2
from safedlv.session.loop import Loop
from safedlv.session.prompt_watch import Throttled
from safedlv.session.watching import Watching
from tests.everyone import NOBODY, Everyones
from tests.live.groups import Group, eat
from tests.live.watches import GROWS, Watch, grow
from tests.support import SAFEDLV, build_go, require, status, wait_until

PROGRAM = Path(__file__).parent / "programs" / "traced"
BUSY = [sys.executable, "-S", "-c", "while True: pass"]
IDLE = ["sleep", "600"]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a process; it is killed after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: str, **options: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(words, **options))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watch]]:
    """Watches a process; returns when the beginning was said."""
    begun: list[Watch] = []

    def begin(pid: int, *words: str) -> Watch:
        begun.append(Watch(pid, tmp_path / f"said-{len(begun)}", *words))
        begun[-1].waits_for("begin")
        return begun[-1]

    yield begin
    for one in begun:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def group() -> Iterator[Callable[[str], Group]]:
    """Makes a cgroup; it goes after the test."""
    made: list[Group] = []

    def make(controller: str) -> Group:
        made.append(Group(controller))
        return made[-1]

    yield make
    for one in made:
        one.remove()


Start = Callable[..., subprocess.Popen[bytes]]
Begin = Callable[..., Watch]
Make = Callable[[str], Group]


def test_the_beginning_and_the_end(start: Start, watch: Begin) -> None:
    target = start(*IDLE)
    watched = watch(target.pid)
    target.kill()
    begin, end = watched.end()
    assert begin["schema"] == "safedlv.watch/1"
    assert f"watching process {target.pid}: 1 thread, untraced" in begin["text"]
    assert (begin["facts"]["threads"], begin["facts"]["frozen"]) == (1, "")
    assert (end["event"], end["reason"], end["text"]) == ("end", "ended", f"process {target.pid} has ended")


def test_for_people_and_for_a_time(start: Start) -> None:
    target = start(*IDLE)
    words = [*SAFEDLV, "watch", "--for", "0.3", "--interval=0.1", str(target.pid)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    begin, end = done.stdout.splitlines()
    assert begin[8:].startswith(f" watching process {target.pid}: 1 thread, untraced, ")
    assert end[8:] == " the time is up"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "there is no target to watch"),
        ("1 2", "one word too many: 2"),
        ("--interval 0 1", "--interval is in seconds"),
        ("--for nan 1", "--for is in seconds"),
        ("--nonsense 1", "there is no flag --nonsense"),
        ("abc", '"abc" is no target'),
        ("4194305", "there is no process 4194305"),
    ],
)
def test_wrong_words(words: str, sentence: str) -> None:
    done = subprocess.run([*SAFEDLV, "watch", *words.split()], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == (1 if "no process" in sentence else 2)
    assert done.stderr.startswith(f"safedlv: {sentence}")
    assert done.stdout == ""


def test_throttling(start: Start, watch: Begin, group: Make) -> None:
    limited = group("cpu")
    limited.set("cpu.cfs_quota_us", "cpu.max", 10_000)
    target = start(*BUSY)
    limited.take(target.pid)
    watched = watch(target.pid)
    told = watched.waits_for("throttling")["text"]
    assert re.match(r"CPU throttling: in [1-9]\d* of [1-9]\d* periods of the last ", told)
    assert "its cgroup had used up its quota" in told
    before = looks(watched)
    wait_until(lambda: looks(watched) > before + 5, "it looks again")
    assert len(watched.lines("throttling")) == 1  # a line in half a minute, not one for every sample


def test_throttling_in_the_status_line(start: Start, group: Make) -> None:
    """A program that wants a processor and gets a tenth of it stands most of the time; one that has ended never."""
    limited = group("cpu")
    limited.set("cpu.cfs_quota_us", "cpu.max", 10_000)
    target = start(*BUSY)
    throttled = Throttled(target.pid)
    limited.take(target.pid)

    def percent() -> float:
        throttled.look()
        return throttled.percent or 0.0

    wait_until(lambda: percent() > 50, "it is throttled")
    target.kill()
    target.wait()
    assert percent() == 0


def looks(watched: Watch) -> int:
    """How often it has gone to sleep, once after every look."""
    return int(status(watched.process.pid, "voluntary_ctxt_switches"))


@pytest.mark.parametrize("controller", ["freezer", V2])
def test_frozen_and_thawed(start: Start, watch: Begin, group: Make, controller: str) -> None:
    frozen = group(controller)
    on, off = ("FROZEN", "THAWED") if frozen.v1 else ("1", "0")
    target = start(*IDLE)
    frozen.take(target.pid)
    watched = watch(target.pid)
    frozen.set("freezer.state", "cgroup.freeze", on)
    assert watched.waits_for("frozen")["text"].startswith(f"its cgroup was frozen ({frozen.path})")
    again = watch(target.pid)
    assert again.waits_for("frozen")  # whoever comes later is told as well
    frozen.set("freezer.state", "cgroup.freeze", off)
    assert "thawed" in watched.waits_for("frozen", 2)["text"]


def test_moved_to_another_cgroup(start: Start, watch: Begin, group: Make) -> None:
    target, other = start(*IDLE), group(V2)
    watched = watch(target.pid)
    other.take(target.pid)
    told = watched.waits_for("cgroup")["text"]
    assert told.startswith("it was moved to another cgroup: from /")
    assert told.endswith(f"/{other.path.name} (v2)")


def test_memory_runs_out(start: Start, watch: Begin, group: Make) -> None:
    """Another process of its cgroup is killed, and then itself."""
    limited = group("memory")
    limited.set("memory.limit_in_bytes", "memory.max", 64 << 20)
    target = start(sys.executable, "-S", "-c", GROWS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    limited.take(target.pid)
    watched = watch(target.pid)
    grow(target, 61)
    assert "of 64 MiB of its cgroup's limit are used" in watched.waits_for("memory")["text"]
    assert eat(limited.path, first=True).wait(15) == -signal.SIGKILL
    assert watched.waits_for("oom")["text"] == "the OOM killer has killed 1 process of its cgroup"
    target.stdin.write(b"64\n")  # type: ignore[union-attr]
    assert target.wait(15) == -signal.SIGKILL
    assert [line["about"] for line in watched.end() if "about" in line][-1] == "oom"
    assert watched.lines()[-1]["reason"] == "ended"


def test_tracers(start: Start, watch: Begin) -> None:
    """Who traces it; and a debugger that was started for it as well, and stays there."""
    strace, gdb = shutil.which("strace"), shutil.which("gdb")
    require(strace and gdb, "needs strace and gdb")
    target = start(*IDLE)
    watched = watch(target.pid)
    tracer = start(str(strace), "-p", str(target.pid), stderr=subprocess.DEVNULL)
    assert watched.waits_for("tracer")["text"] == f"it is traced by strace (process {tracer.pid}) now"
    second = start(str(gdb), "-nx", "-q", "-p", str(target.pid), stdin=subprocess.PIPE, stdout=-3, stderr=-3)
    told = watched.waits_for("debuggers")["text"]
    assert told.startswith(f"gdb (process {second.pid}) was started for it, and does not trace it")
    tracer.terminate()
    tracer.wait()
    assert watched.waits_for("tracer", 2)["text"] == f"strace (process {tracer.pid}) does not trace it any more"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_go(PROGRAM, tmp_path_factory.mktemp("traced") / "traced", environment={"CGO_ENABLED": "0"})


def test_threads_and_a_go_trace(start: Start, watch: Begin, program: Path, tmp_path: Path) -> None:
    target = start(str(program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert target.stdin is not None
    assert target.stdout is not None
    assert target.stdout.readline() == b"ready\n"
    (tmp_path / "not-one").write_bytes(b"go 1.26 trace\0\0\0")  # what nobody has open is no trace of the target's
    watched = watch(target.pid)
    target.stdin.write(b"threads 60\n")
    assert target.stdout.readline() == b"started\n"
    assert watched.waits_for("threads")["text"].startswith("it has ")
    assert not watched.lines("go-trace")
    trace = tmp_path / "trace.out"
    target.stdin.write(b"trace %s\n" % os.fsencode(trace))
    assert target.stdout.readline() == b"tracing <nil>\n"
    told = watched.waits_for("go-trace")["text"]
    assert told.startswith(f"it writes a Go execution trace ({trace})")
    assert "worthless" in told


def test_what_cannot_be_read_is_unknown(start: Start, everyones: Everyones) -> None:
    """Another user does not see root's open files: said once, and not taken for none."""
    require(os.geteuid() == 0, "becomes another user")
    target = start(*IDLE)
    command = everyones.safedlv("watch", "--json", "--interval=0.1", "--for=0.6", str(target.pid))
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, user=NOBODY)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["facts"]["go-trace"]["unknown"] == "EACCES"
    assert [line["about"] for line in lines[1:-1]] == ["unknown"]
    assert f"Go execution traces in files (EACCES, /proc/{target.pid}/fd)" in lines[1]["text"]


def test_ctrl_c(start: Start, watch: Begin) -> None:
    watched = watch(start(*IDLE).pid)
    watched.process.send_signal(signal.SIGINT)
    assert watched.process.communicate(timeout=15)[1] == b""
    assert watched.process.returncode == 130


# ---------------------------------------------------------------- in a session


class Said:
    """A session that keeps what is said in it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_as_a_duty_of_a_session(newest_dlv: str, start: Start, group: Make, program: Path) -> None:
    """What a session itself does to its target is no news; what others do is."""
    target = start(str(program), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    dlv = start(newest_dlv, "attach", str(target.pid), "--headless", stdout=subprocess.DEVNULL)
    wait_until(lambda: status(target.pid, "TracerPid") != "0", "dlv has attached")
    said, loop, other = Said(), Loop(), group(V2)
    watching = Watching(target.pid, lambda line: said.say(line.text), ours=frozenset((dlv.pid,)), every=0.05)
    loop.duties.all.append(watching)
    while watching.last is None:
        loop.round()
    other.take(target.pid)
    while not said.lines:
        loop.round()
    dlv.terminate()
    dlv.wait()
    target.kill()
    while not watching.ended:
        loop.round()
    assert loop.duties.wait() is None
    assert len(said.lines) == 1
    assert said.lines[0].endswith(f"/{other.path.name} (v2)")

"""SIGKILL at random moments of a sidecar's life: the target runs on, and no container, directory or socket is left."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from attrs import evolve

from safedlv.facts.cgroup import directory
from safedlv.facts.procfs import ProcDir
from safedlv.model import Unknown
from safedlv.runtimes.docker import Engine as Docker
from safedlv.sibling.sweep import sweep
from tests.clients import JsonRpc
from tests.docker.conftest import Engine
from tests.docker.sidecars import SCRATCH, SERVER, Beside, Box, line_of, sidecars
from tests.live import survival
from tests.live.groups import out_of_memory
from tests.live.survival import Worker
from tests.support import (
    ROOT,
    SAFEDLV,
    assert_unharmed,
    build_go,
    count,
    left_as_found,
    our_directories,
    our_processes,
    require,
    status,
    wait_until,
)

WORKER = ROOT / "tests" / "live" / "programs" / "worker"
SOURCE = SERVER / "main.go"
LINE = line_of(SOURCE, "text := fmt.Sprintf")
MakeBox = Callable[..., Box]
KILLED = 128 + signal.SIGKILL
STARTS = 0.6  # seconds, about, from the command to a dlv that has attached


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "enters containers as root")


def a_session(process: subprocess.Popen[str], box: Box) -> None:
    """What a client does until the connection breaks: a breakpoint, hits, steps."""
    assert process.stdout is not None
    address = process.stdout.readline().partition(": ")[2].strip()
    if not address:
        return
    with contextlib.suppress(OSError, RuntimeError, ValueError), contextlib.closing(JsonRpc(address)) as client:
        client.call("CreateBreakpoint", Breakpoint={"file": str(SOURCE), "line": LINE})
        while True:
            request = box.visit()
            client.command("continue")
            client.command("next")
            client.command("next")
            client.send("Command", name="continue")
            request.join()
            client.command("halt")
            client.answer()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", ["start", "session"])
def test_kill_of_safedlv(make_box: MakeBox, newest_dlv: str, tmp_path: Path, part: str) -> None:
    """50 times while it is made and started, and 50 times at any moment of a session."""
    box = make_box()
    moments = random.Random(f"sidecar {part}")
    path = tmp_path / "socket"
    for trial in range(count(50)):
        session = Beside(f"docker:{box.name}", f"--listen=unix:{path}")
        client = threading.Thread(target=a_session, args=(session.process, box))
        client.start()
        time.sleep(moments.uniform(0.1, STARTS) if part == "start" else STARTS + moments.uniform(0, 3.0))  # the moment
        session.process.send_signal(signal.SIGKILL)
        client.join()
        session.process.communicate()
        wait_until(lambda: not path.exists(), f"trial {trial}: the socket is gone", 45)
        box.assert_left_alone(45)
    survival.record(f"safedlv, dlv in a sidecar: {part}", "-", f"{count(50)} of {count(50)}")


@pytest.mark.timeout(600)
def test_kill_of_the_terminal(make_box: MakeBox, newest_dlv: str) -> None:
    box = make_box()
    moments = random.Random("sidecar's terminal")
    for _ in range(count(20)):
        words = [*SAFEDLV[1:], "attach", "--via", "sidecar", f"docker:{box.name}"]
        terminal = pexpect.spawn(SAFEDLV[0], words, timeout=20)
        terminal.sendline(f"break {SOURCE}:{LINE}")
        terminal.sendline("continue")
        time.sleep(STARTS + moments.uniform(0, 1.5))
        terminal.kill(signal.SIGKILL)
        terminal.close(force=True)
        box.assert_left_alone(45)


def keeper_of(session: Beside) -> int:
    """The one child of safedlv that stays."""
    return int(Path(f"/proc/{session.process.pid}/task/{session.process.pid}/children").read_text().split()[0])


def swept(name: str, *, dry: bool = False) -> list[str]:
    """What a sweep says of one sidecar; there may be others, of another run of the tests."""
    with Docker() as engine:
        return [line for line in sweep(engine, dry=dry) if name in line]


@pytest.mark.parametrize("hit", [False, True], ids=["nobody had come", "a breakpoint is set"])
def test_kill_of_both(make_box: MakeBox, docker_engine: Engine, newest_dlv: str, hit: bool) -> None:
    """The guard is left, and brings the target home; the container goes when the next session begins."""
    box = make_box()
    session = Beside(f"docker:{box.name}", "--accept-multiclient")
    address = session.address()
    wait_until(lambda: survival.guard_of(tracer_of(box.pid)), "dlv is guarded")  # before that nobody would be left
    client = JsonRpc(address) if hit else None
    if client:
        client.call("CreateBreakpoint", Breakpoint={"file": str(SOURCE), "line": LINE})
    for pid in (keeper_of(session), session.process.pid):
        os.kill(pid, signal.SIGKILL)
    session.process.communicate()
    if client:
        client.close()
    wait_until(lambda: not our_processes(), "no process of ours is left")
    assert_unharmed(box.pid)
    (left,) = sidecars(box)
    assert swept(left, dry=True) == [f"would end sidecar {left}, whose safedlv was killed"]
    assert sidecars(box) == [left]
    following = Beside(f"docker:{box.name}")
    following.client().detach()
    code, _, err = following.end()
    assert code == 0
    assert f"safedlv: ended sidecar {left}, whose safedlv was killed\n" in err
    box.assert_left_alone()


def test_a_live_session_is_not_swept(make_box: MakeBox, docker_engine: Engine, newest_dlv: str) -> None:
    """Nor one whose keeper alone was killed, nor one of another PID namespace."""
    box = make_box()
    session = Beside(f"docker:{box.name}")
    client = session.client()
    (name,) = sidecars(box)
    assert not swept(name)
    os.kill(keeper_of(session), signal.SIGKILL)
    assert not swept(name)
    elsewhere = ["unshare", "--pid", "--fork", *SAFEDLV[:1], "-c", SWEEP]
    assert name not in subprocess.run(elsewhere, capture_output=True, text=True, check=True, timeout=60).stdout
    assert sidecars(box) == [name]
    client.call("State", NonBlocking=True)
    client.detach()
    assert session.end()[0] == 0
    assert_unharmed(box.pid)
    assert swept(name) == [f"ended sidecar {name}, whose safedlv was killed"]
    assert not sidecars(box)
    assert not our_directories()
    assert "hello" in box.get()


SWEEP = "from safedlv.runtimes.docker import Engine; from safedlv.sibling.sweep import sweep; print(sweep(Engine()))"


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("user", ["0", "1000"])
def test_kill_of_dlv(make_box: MakeBox, newest_dlv: str, user: str) -> None:
    """In its sidecar, with a breakpoint that is hit: the guard brings the target home, and all of ours goes."""
    moments = random.Random(f"dlv {user}")
    box = make_box(SCRATCH, None, "--user", user)
    trials = count(100, short=2)
    for _ in range(trials):
        session = Beside(f"docker:{box.name}")
        client = session.client()
        client.call("CreateBreakpoint", Breakpoint={"file": str(SOURCE), "line": LINE})
        client.send("Command", name="continue")
        visitor = box.visit()
        time.sleep(moments.uniform(0, 0.2))  # the moment, not a hope
        os.kill(tracer_of(box.pid), signal.SIGKILL)
        code, _, err = session.end()
        client.close()
        assert code == KILLED
        assert "its target was brought home and runs on" in err
        assert err.endswith(left_as_found(box.pid))
        visitor.join()
        box.assert_left_alone()
    survival.record(f"dlv in a sidecar (a server of user {user})", "-", f"{trials} of {trials}")


def tracer_of(pid: int) -> int:
    """The process whose thread traces ``pid``."""
    tid = wait_until(lambda: int(status(pid, "TracerPid")), "dlv has attached")
    return int(status(tid, "Tgid"))


# ---------------------------------------------------------------- the OOM killer


class Contained(Worker):
    """The busy program as the first process of a container."""

    def __init__(self, engine: Engine, image: str, program: Path) -> None:
        self.engine, self.program = engine, program
        self.pid = engine.run("--stop-timeout", "1", image, "/worker", "4")
        self.name = engine.last
        wait_until(self.results, "the worker's first results")

    def end(self) -> str:
        return "" if status(self.pid, "State")[:1] not in ("", "Z") else "its container has ended"

    def last_words(self) -> str:
        return self.engine.docker("logs", "--tail", "20", self.name).stdout.decode("utf-8", "replace")

    def results(self) -> tuple[int, int] | None:
        pairs = [line.split() for line in self.last_words().splitlines()]
        return next(((int(a), int(b)) for a, b in reversed(pairs) if a.isdigit() and b.isdigit()), None)

    def close(self) -> None:
        self.engine.remove_containers()


def of_memory(pid: int) -> tuple[Path, bool]:
    """The memory cgroup of a process, and whether it is v1's."""
    with ProcDir(pid) as procdir:
        v1 = directory(procdir, "memory")
        found = directory(procdir) if isinstance(v1, Unknown) else v1
    assert not isinstance(found, Unknown), found
    return Path(found), not isinstance(v1, Unknown)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("row", [row for row in survival.ROWS if "OOM" in row.name], ids=lambda row: row.name)
def test_the_oom_killer(
    make_image: Callable[[Path], str],
    docker_engine: Engine,
    newest_dlv: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    row: survival.Row,
) -> None:
    """dlv comes to its container's limit of memory: it dies, and the target does not. Beside it, plain dlv."""
    monkeypatch.setenv("SAFEDLV_AUDIT", str(tmp_path_factory.mktemp("audit") / "log"))
    program = build_go(WORKER, tmp_path_factory.mktemp("worker") / "worker", environment={"CGO_ENABLED": "0"})
    image, moments = make_image(program), random.Random(f"sidecar {row.name}")

    def failures(times: int, *, ours: bool) -> list[str]:
        found = []
        for _ in range(times):
            worker = Contained(docker_engine, image, program)
            try:
                if said := one_trial(row, worker, moments, ours=ours):
                    found.append(f"{said}\n{worker.last_words()}")
            finally:
                worker.close()
            wait_until(lambda: not our_processes() and not our_directories(), "nothing of ours is left", 45)
        return found

    times = count(100, short=1)
    ours, theirs = failures(times, ours=True), failures(times if times > 1 else 0, ours=False)
    plain = f"{times - len(theirs)} of {times}" if times > 1 else "-"
    survival.record(f"{row.name}, in a sidecar", plain, f"{times - len(ours)} of {times}")
    assert not ours, f"{len(ours)} of {times} did not survive; the first: {ours[0]}"


def one_trial(row: survival.Row, worker: Contained, moments: random.Random, *, ours: bool) -> str:
    """The row with dlv in a sidecar, whose own cgroup runs out of memory; else with plain dlv, in a cgroup for that."""
    if not ours:
        return survival.trial(row, worker, survival.plain, moments)

    def kill(_session: subprocess.Popen[str]) -> None:
        dlv = tracer_of(worker.pid)
        where, v1 = of_memory(dlv)
        out_of_memory(dlv, where, v1=v1)

    return survival.trial(evolve(row, kill=kill), worker, lambda _: survival.beside(worker.name), moments)

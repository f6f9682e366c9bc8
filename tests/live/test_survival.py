"""Whoever is killed, the target lives: trials beside plain dlv, and their table (.cache/survival.md)."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from attrs import evolve

from tests.clients import JsonRpc
from tests.live import survival
from tests.live.survival import ROWS, Row, Session, Worker, trial
from tests.support import LONG, assert_unharmed, build_go, count, our_directories, our_processes, status, wait_until

PROGRAM = Path(__file__).parent / "programs" / "worker"
AT_ONCE = 4
HOT = next(row for row in ROWS if "conditional" in row.name)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("worker")
    return {
        kind: build_go(PROGRAM, directory / kind, environment={"CGO_ENABLED": str(int(kind == "cgo"))})
        for kind in ("static", "cgo")
    }


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("row", "kind"),
    [
        *((row, "static") for row in ROWS),
        *((row, "cgo") for row in ROWS if row.goroutines == 4 and (LONG or not row.short)),
    ],
    ids=lambda value: value.name if isinstance(value, Row) else value,
)
def test_survival(newest_dlv: str, programs: dict[str, Path], row: Row, kind: str) -> None:
    trials = count(100, short=1 if row.short else 3 if kind == "cgo" or row.goroutines > 4 else 0)
    moments = random.Random(f"{row.name} {kind} {os.environ.get('SAFEDLV_SEED', '')}")
    figures = []
    for session, times in ((survival.plain, trials if trials > 10 else min(trials, 2)), (survival.guarded, trials)):

        def one(_number: int, session: Session = session) -> str:
            worker = Worker(programs[kind], row.goroutines)
            try:
                said = trial(row, worker, session, moments)
                return f"{said}\n{worker.last_words()}" if said else ""
            finally:
                worker.close()

        with ThreadPoolExecutor(AT_ONCE) as pool:
            failures = [said for said in pool.map(one, range(times)) if said]
        figures.append(f"{times - len(failures)} of {times}")
    if not row.promised:  # nobody was left to remove the sessions' directories
        wait_until(lambda: not our_processes(), "no process of ours is left")
        for name in our_directories():
            shutil.rmtree(Path(os.environ["TMPDIR"]) / name)
    survival.record(f"{row.name}; {kind}", *figures)
    assert not (failures and row.promised), f"{len(failures)} of {trials} did not survive; the first: {failures[0]}"


def test_what_others_wrote_stays(newest_dlv: str, programs: dict[str, Path]) -> None:
    """A breakpoint that was there before the session is somebody else's: it is not taken out with dlv's."""
    worker = Worker(programs["static"])
    try:
        address = address_of(programs["static"], "main.never")
        write(worker.pid, address, b"\xcc")
        said = trial(HOT, worker, survival.guarded, random.Random(1), intact=False)
        assert not said
        assert read(worker.pid, address, 1) == b"\xcc"
        write(worker.pid, address, b"\x90")
        assert survival.changed_text(worker)  # so the comparison with the file sees one byte
    finally:
        worker.close()


def test_a_keeper_without_a_processor(newest_dlv: str, programs: dict[str, Path]) -> None:
    """dlv does not attach before it has looked: what dlv writes would be taken for the target's own."""
    worker = Worker(programs["static"])
    try:
        row = evolve(HOT, kill=survival.kill_guarded_delve)
        assert not trial(row, worker, survival.slowed(survival.SLOW_KEEPER), random.Random(1))
    finally:
        worker.close()


def test_a_guard_without_a_processor(newest_dlv: str, programs: dict[str, Path]) -> None:
    """No client is heard before dlv is guarded: a breakpoint of its would be left in the target."""
    worker = Worker(programs["static"])
    try:
        assert not trial(HOT, worker, survival.slowed(survival.SLOW_GUARD), random.Random(1))
    finally:
        worker.close()


def test_a_stopped_target_stays_stopped(newest_dlv: str, programs: dict[str, Path]) -> None:
    """By job control before the session, and by dlv's death in it."""
    worker = Worker(programs["static"])
    try:
        os.kill(worker.pid, signal.SIGSTOP)
        wait_until(lambda: status(worker.pid, "State").startswith("T"), "it is stopped")
        with survival.guarded(worker) as process:
            assert process.stdout is not None
            client = JsonRpc(process.stdout.readline().partition(": ")[2].strip())
            client.call("GetVersion")
            os.kill(survival.delve_of(process), signal.SIGKILL)
            process.wait(30)
            client.close()
        assert_unharmed(worker.pid, stopped=True)
        assert not survival.changed_text(worker)
        os.kill(worker.pid, signal.SIGCONT)
        assert not survival.survives(worker)
    finally:
        worker.close()


def address_of(program: Path, function: str) -> int:
    listed = subprocess.run(["go", "tool", "nm", str(program)], capture_output=True, text=True, check=True).stdout
    return next(int(line.split()[0], 16) for line in listed.splitlines() if line.split()[-1] == function)


def write(pid: int, address: int, data: bytes) -> None:
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as mem:
        mem.seek(address)
        mem.write(data)


def read(pid: int, address: int, size: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        mem.seek(address)
        return mem.read(size)

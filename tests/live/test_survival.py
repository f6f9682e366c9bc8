"""Whoever is killed, the target lives: trials beside plain dlv, and their table (.cache/survival.md)."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.live import survival
from tests.live.survival import ROWS, Row, Worker, trial
from tests.support import ROOT, build_go, count

PROGRAM = Path(__file__).parent / "programs" / "worker"
TABLE = ROOT / ".cache" / "survival.md"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("worker")
    return {
        kind: build_go(PROGRAM, directory / kind, environment={"CGO_ENABLED": str(int(kind == "cgo"))})
        for kind in ("static", "cgo")
    }


@pytest.fixture(scope="module", autouse=True)
def table() -> None:
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("| killed | plain dlv | safedlv |\n|---|---|---|\n", "utf-8")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("row", "kind"),
    [*((row, "static") for row in ROWS), *((row, "cgo") for row in ROWS if row.goroutines == 4)],
    ids=lambda value: value.name if isinstance(value, Row) else value,
)
def test_survival(newest_dlv: str, programs: dict[str, Path], row: Row, kind: str) -> None:
    trials = count(100)
    moments = random.Random(f"{row.name} {kind} {os.environ.get('SAFEDLV_SEED', '')}")
    figures = []
    for session, times in ((survival.plain, trials if trials == 100 else 2), (survival.guarded, trials)):
        failures = []
        for _ in range(times):
            worker = Worker(programs[kind], row.goroutines)
            try:
                if said := trial(row, worker, session, moments):
                    failures.append(f"{said}\n{worker.last_words()}")
            finally:
                worker.close()
        figures.append(f"{times - len(failures)} of {times}")
    with TABLE.open("a", encoding="utf-8") as file:
        file.write(f"| {row.name}; {kind} | {figures[0]} | {figures[1]} |\n")
    assert not failures, f"{len(failures)} of {trials} did not survive; the first: {failures[0]}"

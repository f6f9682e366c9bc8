"""What the measurements share."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.docker.conftest import Engine
from tests.support import ROOT

CACHE = ROOT / ".cache" / "bench"


def show(what: str, value: float, unit: str, note: str = "") -> None:
    print(f"  {what:<52} {value:9.1f} {unit:<5} {note}", flush=True)


def safedlv_command() -> list[str]:
    """The console script, as users start it."""
    script = Path(sys.executable).parent / "safedlv"
    return [str(script)] if script.exists() else [sys.executable, "-m", "safedlv"]


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@contextmanager
def no_ptrace(directory: Path) -> Iterator[Path]:
    """A seccomp profile that allows all but ptrace."""
    rule = {"names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    path = directory / "profile.json"
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    yield path


def build_static(directory: Path) -> Path:
    path = directory / "server"
    words = ["go", "build", "-buildvcs=false", "-gcflags=all=-N -l", "-o", str(path), "."]
    subprocess.run(words, cwd=ROOT / "examples" / "server", env={**os.environ, "CGO_ENABLED": "0"}, check=True)
    return path


def scratch_image(engine: Engine, program: Path) -> str:
    """An image with one file in it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(program, "server")
    name = f"safedlv-bench-{os.getpid()}"
    engine.docker("import", "-", name, given=archive.getvalue())
    return name

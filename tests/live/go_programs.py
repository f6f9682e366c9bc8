"""Small Go programs for tests, built once per set of flags, and processes that run them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from safedlv.facts.go_binary import Contents, contents_of
from safedlv.facts.procfs import ProcDir
from tests.support import require

PURE = 'package main\n\nimport "time"\n\nfunc main() {\n\ttime.Sleep(time.Hour)\n}\n'
CGO = PURE.replace('import "time"', '// static int one(void) { return 1; }\nimport "C"\nimport "time"').replace(
    "time.Hour)", "time.Hour * time.Duration(C.one()))"
)
DEBUG = "-gcflags=all=-N -l"
NO_CGO = {"CGO_ENABLED": "0"}


class Builder:
    """Builds a program once per set of flags."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.built: dict[tuple[str, ...], Path] = {}

    def __call__(self, *flags: str, source: str = PURE, **env: str) -> Path:
        require(shutil.which("go") is not None, "Go is not installed")
        key = (source, *flags, *(f"{name}={value}" for name, value in env.items()))
        if key not in self.built:
            module = self.directory / str(len(self.built))
            module.mkdir()
            (module / "go.mod").write_text("module example.com/sleeper\n\ngo 1.18\n")
            (module / "main.go").write_text(source)
            command = ["go", "build", "-buildvcs=false", "-o", "sleeper", *flags, "."]
            subprocess.run(command, cwd=module, check=True, timeout=300, env={**os.environ, "GOFLAGS": "", **env})
            self.built[key] = module / "sleeper"
        return self.built[key]


@contextlib.contextmanager
def running(*command: str | Path, **options: object) -> Iterator[ProcDir]:
    """A process that has executed its program, and its /proc directory."""
    process = subprocess.Popen([str(word) for word in command], **options)  # type: ignore[call-overload]
    try:
        with ProcDir(process.pid) as procdir:
            yield procdir
    finally:
        process.kill()
        process.wait()


def read_contents(path: Path) -> Contents:
    with path.open("rb") as file:
        return contents_of(file.fileno(), str(path))

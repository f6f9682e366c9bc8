"""What ``safedlv dap`` costs beside ``dlv dap``: from F5 to the first stop, per request, per byte of a long answer."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.tools import CACHE, safedlv_command, show
from tests.clients import Dap
from tests.support import build_go

SAYS = "DAP server listening at: "
LONG = 10 << 20
PROGRAM = f"""
package main

import (
	"fmt"
	"strings"
	"time"
)

var long = strings.Repeat("a", {LONG})

func main() {{
	fmt.Println("ready")
	for {{
		time.Sleep(time.Second)
	}}
}}
"""


def editors(dlv: str, pid: int, rounds: int) -> None:
    """Both in turns, session by session."""
    ours = safedlv_command()
    plain, through = [], []
    first_stop(ours, pid)
    for _ in range(rounds):
        plain.append(first_stop([dlv], pid))
        through.append(first_stop(ours, pid))
    # The mean: dlv sleeps for 200 ms in about every second attach, so a median jumps between the two.
    one, other = statistics.mean(plain), statistics.mean(through)
    show("F5 to the first stop, dlv dap", one * 1e3, "ms")
    show("F5 to the first stop, safedlv dap", other * 1e3, "ms", f"{(other - one) * 1e3:.0f} ms more")
    with long_string(CACHE) as target:
        talk([dlv], ours, target)


def talk(dlv: list[str], ours: list[str], pid: int) -> None:
    """Short and long answers."""
    small: dict[bool, list[float]] = {False: [], True: []}
    large: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(6):
        for through in (False, True):
            with session(ours if through else dlv, pid, maxStringLen=LONG) as client:
                small[through].append(statistics.median(answered(client, "threads") for _ in range(300)))
                large[through].append(
                    statistics.median(answered(client, "evaluate", expression="main.long") for _ in range(5))
                )
    one, other = (statistics.median(small[through]) for through in (False, True))
    show("DAP request, direct", one * 1e6, "us")
    show("DAP request, through safedlv", other * 1e6, "us", f"{(other - one) * 1e6:.0f} us more")
    one, other = (LONG / statistics.median(large[through]) for through in (False, True))
    show(f"answer of {LONG >> 20} MiB, direct", one / 1e6, "MB/s")
    show(f"answer of {LONG >> 20} MiB, through safedlv", other / 1e6, "MB/s", f"{other / one:.2f} of direct")


def answered(client: Dap, command: str, **arguments: object) -> float:
    """Seconds until the last byte of the answer is here; nothing is decoded."""
    began = time.perf_counter()
    client.send(command, **arguments)
    length = 0
    while (line := client.file.readline()) != b"\r\n":
        length = int(line.partition(b":")[2])
    client.file.read(length)
    return time.perf_counter() - began


def first_stop(command: list[str], pid: int) -> float:
    began = time.perf_counter()
    with session(command, pid):
        return time.perf_counter() - began


@contextmanager
def session(command: list[str], pid: int, **arguments: object) -> Iterator[Dap]:
    """Attached and stopped, as by F5 with stopOnEntry."""
    process = subprocess.Popen([*command, "dap"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    client = Dap(process.stdout.readline().removeprefix(SAYS).strip())
    client.initialize()
    client.request("attach", mode="local", processId=pid, stopOnEntry=True, **arguments)
    client.event("initialized")
    client.request("configurationDone")
    client.event("stopped")
    yield client
    client.request("disconnect")
    client.close()
    process.communicate(timeout=60)


@contextmanager
def long_string(directory: Path) -> Iterator[int]:
    """A program with a long string in it; its PID."""
    source = directory / "long"
    source.mkdir(exist_ok=True)
    (source / "go.mod").write_text("module example.com/long\n\ngo 1.19\n")
    (source / "main.go").write_text(PROGRAM)
    with subprocess.Popen([build_go(source, source / "program")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()

"""What the guard costs: the same session with and without it."""

from __future__ import annotations

import statistics
import subprocess
import time

from tests.bench.tools import safedlv_command, show
from tests.clients import JsonRpc
from tests.support import ROOT, build_go

HITS = 200


def measure(rounds: int) -> None:
    """A breakpoint, continued to 200 times, with steps and locals."""
    program = build_go(
        ROOT / "tests" / "live" / "programs" / "worker",
        ROOT / ".cache" / "bench" / "worker",
        environment={"CGO_ENABLED": "0"},
    )
    worker = subprocess.Popen([str(program)], stdout=subprocess.DEVNULL)
    try:
        without, with_it = [], []
        for _ in range(max(rounds // 2, 3)):
            without.append(_session(worker.pid, "off"))
            with_it.append(_session(worker.pid, "on"))
    finally:
        worker.kill()
        worker.wait()
    one, other = statistics.median(without), statistics.median(with_it)
    show(f"a session of {HITS} hits, --guard=off", one * 1e3, "ms")
    show("the same with the guard", other * 1e3, "ms", f"{other / one:.2f} times that")


def _session(pid: int, guard: str) -> float:
    words = [*safedlv_command(), "attach", str(pid), "--headless", f"--guard={guard}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        client = JsonRpc(process.stdout.readline().partition(": ")[2].strip())
        client.call("CreateBreakpoint", Breakpoint={"name": "work", "functionName": "main.work"})
        began = time.perf_counter()
        for hit in range(HITS):
            client.command("continue")
            if hit % 10 == 0:
                client.command("next")
                client.call("ListLocalVars", Scope={"GoroutineID": -1}, Cfg={"FollowPointers": True})
        took = time.perf_counter() - began
        client.call("ClearBreakpoint", Name="work")
        client.detach()
    return took

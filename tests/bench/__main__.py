"""What safedlv costs beside dlv itself, measured in one run: ``make bench`` (python -m tests.bench).

Every figure is a median (of F5: the mean) over rounds in which safedlv and dlv take turns, printed beside what it is
compared with. Nothing here passes or fails: times belong to the machine they were measured on, ratios travel better.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from safedlv import target
from safedlv.facts.process import list_processes
from safedlv.probe import runner
from tests.bench import dap, filters, guard, siblings
from tests.bench.tools import CACHE, build_static, no_ptrace, safedlv_command, scratch_image, show, timed
from tests.clients import JsonRpc
from tests.docker.conftest import Engine, answers
from tests.support import ROOT, Server, build_go, new_dlv, status


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("-n", "--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    dlv = new_dlv()
    if dlv is None:
        sys.exit("bench: needs a dlv on the PATH or in $SAFEDLV_TEST_DLV")
    os.environ["SAFEDLV_DLV"] = dlv
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed safedlv has its bytecode beside it
    CACHE.mkdir(parents=True, exist_ok=True)
    server = Server(build_go(ROOT / "examples" / "server", CACHE / "server"))
    try:
        start_up(dlv, server.pid, rounds)
        with large_program() as large:
            first_answer(dlv, large, rounds)
        probe_stops(server.pid, rounds * 50)
        every_process(rounds)
        container_with_two_causes(rounds)
        siblings.measure(dlv, rounds)
        relayed(dlv, server.pid)
        guard.measure(rounds)
        dap.editors(dlv, server.pid, rounds)
        filters.measure(rounds)
        memory(server.pid)
    finally:
        server.stop()
    return 0


# ------------------------------------------------------------ start-up


def start_up(dlv: str, pid: int, rounds: int) -> None:
    """From exec to "API server listening"."""
    python, plain, ours = [], [], []
    until_listening(safedlv_command(), pid)  # writes the bytecode
    for _ in range(rounds):
        python.append(timed(lambda: subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)))
        plain.append(until_listening([dlv], pid))
        ours.append(until_listening(safedlv_command(), pid))
    bare, dlv_time, our_time = (statistics.median(times) for times in (python, plain, ours))
    show("python -I -c pass", bare * 1e3, "ms")
    show("dlv attach until it listens (small server)", dlv_time * 1e3, "ms")
    more = (our_time - dlv_time) / bare
    show("safedlv attach until it listens", our_time * 1e3, "ms", f"{more:.2f} bare Pythons more than dlv")


def until_listening(command: list[str], pid: int) -> float:
    began = time.perf_counter()
    with attached(command, pid) as address:
        taken = time.perf_counter() - began
        JsonRpc(address).detach()
    return taken


def first_answer(dlv: str, pid: int, rounds: int) -> None:
    """From exec to the first answer, on a large program."""
    plain, ours = [], []
    for _ in range(rounds):
        plain.append(until_answer([dlv], pid))
        ours.append(until_answer(safedlv_command(), pid))
    dlv_time, our_time = statistics.median(plain), statistics.median(ours)
    show("dlv attach until its first answer (Go's compiler)", dlv_time * 1e3, "ms")
    show("safedlv attach until the first answer", our_time * 1e3, "ms", f"{our_time / dlv_time:.3f} of dlv's time")


def until_answer(command: list[str], pid: int) -> float:
    began = time.perf_counter()
    with attached(command, pid) as address:
        client = JsonRpc(address)
        client.call("GetVersion")
        taken = time.perf_counter() - began
        client.detach()
    return taken


@contextmanager
def attached(command: list[str], pid: int) -> Iterator[str]:
    process = subprocess.Popen([*command, "attach", "--headless", str(pid)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().partition(": ")[2].strip()
    process.communicate(timeout=60)


@contextmanager
def large_program() -> Iterator[int]:
    """Go's own compiler, built with debug information: hundreds of thousands of lines. It waits for its input."""
    compiler = CACHE / "compile"
    if not compiler.exists():
        print("  building Go's compiler as a large program (about a minute) ...", flush=True)
        subprocess.run(["go", "build", "-gcflags=all=-N -l", "-o", str(compiler), "cmd/compile"], check=True)
    with TemporaryDirectory() as directory:
        os.mkfifo(f"{directory}/in.go")
        process = subprocess.Popen([str(compiler), "-p", "main", "-o", os.devnull, f"{directory}/in.go"])
        try:
            while not status(process.pid, "State").startswith("S"):
                time.sleep(0.01)
            yield process.pid
        finally:
            process.kill()
            process.wait()


# ------------------------------------------------------------ the probe


def probe_stops(pid: int, times: int) -> None:
    """For how long the probe holds the target."""
    leader, others = [], []
    for _ in range(times):
        found = target.find(pid)
        _, _, (held, held_threads), _ = runner.start(pid, found.procdir, found.before, 2.0).result()
        found.close()
        leader.append(held)
        others.append(held_threads)
    last = sorted(leader)[int(times * 0.99)]
    show(f"the probe holds the target ({times} probes)", statistics.median(leader), "us", f"99th percentile {last} us")
    show("and its other threads, one at a time, in all", statistics.median(others), "us")


# ------------------------------------------------------------ the list of all processes


def every_process(rounds: int) -> None:
    """``doctor --all`` with about 100 and with about 1,000 processes on the machine, in turns."""
    few: list[float] = []
    many: list[float] = []
    present = [0, 0]
    for _ in range(max(rounds // 4, 3)):
        for which, (number, times) in enumerate(((100, few), (1000, many))):
            with sleepers(number) as present[which]:
                times.append(timed(list_all))
    some, most = statistics.median(few), statistics.median(many)
    per_process = (most - some) / (present[1] - present[0])
    show(f"safedlv doctor --all, {present[0]} processes", some * 1e3, "ms")
    note = f"{per_process * 1e6:.0f} us for one more; per process {most / present[1] / (some / present[0]):.2f} of that"
    show(f"safedlv doctor --all, {present[1]} processes", most * 1e3, "ms", note)


def container_with_two_causes(rounds: int) -> None:
    """``doctor --json`` of a container under a filter, from another uid, beside ``docker inspect`` of it."""
    if os.geteuid() != 0 or not answers():
        print("  (no Docker Engine answers here, or not root: doctor beside docker inspect is left out)")
        return
    engine = Engine()
    with TemporaryDirectory(dir=CACHE) as directory, no_ptrace(Path(directory)) as profile:
        image = scratch_image(engine, build_static(Path(directory)))
        try:
            engine.run("--user", "1000", "--security-opt", f"seccomp={profile}", image, "/server")
            inspect = ["docker", "inspect", engine.last]
            ask = [*safedlv_command(), "doctor", "--json", "--tracer", "container:0", f"docker:{engine.last}"]
            plain, ours = [], []
            subprocess.run(ask, stdout=subprocess.DEVNULL, check=False)
            for _ in range(rounds):
                plain.append(timed(lambda: subprocess.run(inspect, stdout=subprocess.DEVNULL, check=True)))
                ours.append(timed(lambda: subprocess.run(ask, stdout=subprocess.DEVNULL, check=False)))
        finally:
            engine.remove_containers()
            engine.docker("rmi", image)
    one, other = statistics.median(plain), statistics.median(ours)
    show("docker inspect of a container", one * 1e3, "ms")
    show("safedlv doctor --json of it, with two causes", other * 1e3, "ms", f"{other / one:.1f} times that")


def list_all() -> None:
    subprocess.run([*safedlv_command(), "doctor", "--all", "--json"], stdout=subprocess.DEVNULL, check=True)


@contextmanager
def sleepers(total: int) -> Iterator[int]:
    """Enough ``sleep``s that there are ``total`` processes, kernel threads included; gives how many there are."""
    present = len(list(list_processes()))
    started = [subprocess.Popen(["sleep", "600"]) for _ in range(total - present)]
    try:
        yield present + len(started)
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


# ------------------------------------------------------------ the relay


@contextmanager
def session(dlv: str | None, pid: int) -> Iterator[JsonRpc]:
    command = [dlv] if dlv else safedlv_command()
    with attached(command, pid) as address:
        client = JsonRpc(address)
        client.call("GetVersion")
        yield client
        client.detach()


def relayed(dlv: str, pid: int) -> None:
    """Requests and large answers, direct and through safedlv, session by session in turns."""
    small: dict[str | None, list[float]] = {dlv: [], None: []}
    large: dict[str | None, list[float]] = {dlv: [], None: []}
    for _ in range(6):
        for which in (dlv, None):
            with session(which, pid) as client:
                small[which].append(requests(client, 200))
                large[which].append(bulk(client, 5))
    plain, through = statistics.median(small[dlv]), statistics.median(small[None])
    show("JSON-RPC request, direct", plain * 1e6, "us")
    show("JSON-RPC request, through safedlv", through * 1e6, "us", f"{(through - plain) * 1e6:.0f} us more")
    plain, through = statistics.median(large[dlv]), statistics.median(large[None])
    show("bulk answer, direct", plain / 1e6, "MB/s")
    show("bulk answer, through safedlv", through / 1e6, "MB/s", f"{through / plain:.2f} of direct")


def requests(client: JsonRpc, times: int) -> float:
    return statistics.median(timed(lambda: client.call("State", NonBlocking=True)) for _ in range(times))


def bulk(client: JsonRpc, times: int) -> float:
    """Bytes per second of large answers: the list of all functions, asked for several times over."""

    def once() -> int:
        client.send("ListFunctions", Filter="", FollowCalls=0)
        return len(client.file.readline())

    size = once()
    return size / statistics.median(timed(once) for _ in range(times))


def memory(pid: int) -> None:
    """Resident memory of the relay with ten clients."""
    command = [*safedlv_command(), "attach", "--headless", "--accept-multiclient", str(pid)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().partition(": ")[2].strip()
    clients = [JsonRpc(address) for _ in range(10)]
    for client in clients:
        client.call("GetVersion")
    show("resident memory of the relay, ten clients", int(status(process.pid, "VmRSS").split()[0]) / 1024, "MiB")
    for client in clients[1:]:
        client.close()
    clients[0].detach()
    process.communicate(timeout=60)


if __name__ == "__main__":
    sys.exit(main())

"""``safedlv dap`` when dlv is killed: the client is told, and the target is brought home by the guard."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients import Dap
from tests.live.adapters import Adapter, adapters, attach, leave
from tests.live.survival import SLOW_GUARD, Worker, delve_of, guard_of, survives
from tests.support import ROOT, build_go, status, wait_until

PROGRAM = ROOT / "tests" / "live" / "programs" / "worker"
HOT = [{"name": "main.work", "condition": "n == 101"}]
Start = Callable[..., Adapter]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_go(PROGRAM, tmp_path_factory.mktemp("worker") / "worker", environment={"CGO_ENABLED": "0"})


@pytest.fixture
def worker(program: Path) -> Iterator[Worker]:
    worker = Worker(program)
    yield worker
    worker.close()


@pytest.fixture
def start(newest_dlv: str, worker: Worker) -> Iterator[Start]:
    with adapters() as starter:
        yield starter


def run_hot(client: Dap) -> None:
    """Let it run, by a breakpoint whose condition is asked again and again and never holds."""
    client.request("setFunctionBreakpoints", breakpoints=HOT)
    client.request("configurationDone")


def kill(adapter: Adapter) -> None:
    os.kill(delve_of(adapter.process), signal.SIGKILL)


def the_rest(client: Dap) -> list[str]:
    """What comes until the connection ends: events by name, answers by their command."""
    said = []
    with pytest.raises(ConnectionError):
        while True:
            message = client.read()
            client.events.append(message)
            said.append(message.get("event") or f"{message['command']} {message['success']}")
    client.close()
    return said


def consoled(client: Dap) -> str:
    return "".join(one["body"]["output"] for one in client.events if one.get("event") == "output")


def test_a_dlv_that_is_killed(start: Start, worker: Worker) -> None:
    """What is outstanding fails, the console says what was done, then ``terminated``; and the target runs on."""
    adapter = start()
    client = adapter.client()
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the last request is to be there in time
    attach(client, worker.pid)
    run_hot(client)
    dlv = delve_of(adapter.process)
    wait_until(lambda: guard_of(dlv), "it is guarded")
    os.kill(dlv, signal.SIGSTOP)
    wait_until(lambda: status(dlv, "State")[:1] in ("T", "t"), "dlv is stopped, and answers no more")
    client.send("evaluate", expression="1")
    client.send("threads")
    os.kill(dlv, signal.SIGKILL)
    said = [one for one in the_rest(client) if one not in ("continued", "thread")]
    assert said == ["output", "output", "evaluate False", "threads False", "terminated"]
    assert "safedlv: dlv died; its target was brought home and runs on" in consoled(client)
    code, _, err = adapter.end()
    assert code == 137
    assert "brought home" in err
    assert not survives(worker)


def test_a_guard_without_a_processor(start: Start, worker: Worker) -> None:
    """The client is not told that it may set breakpoints before dlv is guarded."""
    adapter = start(under=[sys.executable, "-c", SLOW_GUARD, "dap"])
    client = adapter.client()
    attach(client, worker.pid)
    assert guard_of(delve_of(adapter.process))
    run_hot(client)
    kill(adapter)
    the_rest(client)
    adapter.end()
    assert not survives(worker)


def test_without_a_guard(start: Start, worker: Worker) -> None:
    """``"guard": "off"`` means it: dlv is not watched, and a kill harms the target."""
    adapter = start()
    client = adapter.client()
    attach(client, worker.pid, safedlv={"guard": "off"})
    run_hot(client)
    assert guard_of(delve_of(adapter.process)) == 0
    kill(adapter)
    said = the_rest(client)
    assert said[-1] == "terminated"
    assert "brought home" not in consoled(client)
    adapter.end()
    assert survives(worker)


def test_a_target_that_was_waited_for(start: Start, program: Path, tmp_path: Path) -> None:
    """It is guarded as any other."""
    path = tmp_path / "awaited"
    path.symlink_to(program)
    adapter = start()
    client = adapter.client()
    number = client.send("attach", mode="local", waitFor=str(path))
    waits = client.send("threads")  # answered after it, as dlv would
    with ThreadPoolExecutor() as threads:
        starting = threads.submit(Worker, path)  # which is not done before the program is let run
        assert client.response(number)["success"]
        assert client.response(waits)["success"]
        run_hot(client)
        wait_until(lambda: guard_of(delve_of(adapter.process)), "it is guarded")
        kill(adapter)
        assert the_rest(client)[-1] == "terminated"
        adapter.end()
    worker = starting.result()
    worker.program = program
    try:
        assert not survives(worker)
    finally:
        worker.close()


@pytest.mark.parametrize("how", ["disconnect", "vanish", "SIGTERM"])
def test_nobody_waits_for_ever(start: Start, how: str) -> None:
    """A wait for what never comes ends when the client wants, or we are to end."""
    adapter = start()
    client = adapter.client()
    number = client.send("attach", waitFor="/no/such/program anywhere")
    wait_until(lambda: len(children(adapter.process.pid)) > 2, "it waits")
    if how == "disconnect":
        leave(client)
    elif how == "vanish":
        client.close()
    else:
        adapter.process.send_signal(signal.SIGTERM)
        assert not client.response(number)["success"]
        client.close()
    assert adapter.end()[0] == 0


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()


def test_the_guard_follows_to_another_target(start: Start, worker: Worker) -> None:
    """An attach that passes here and that dlv refuses, then another one: that target is the one to be brought home."""
    adapter = start()
    client = adapter.client()
    with subprocess.Popen(["sleep", "60"]) as process:
        assert "stopOnEntry" in client.refused("attach", processId=process.pid, stopOnEntry="no")
        process.kill()
    attach(client, worker.pid)
    run_hot(client)
    wait_until(lambda: guard_of(delve_of(adapter.process)), "it is guarded")
    kill(adapter)
    assert the_rest(client)[-1] == "terminated"
    assert "brought home" in consoled(client)
    adapter.end()
    assert not survives(worker)

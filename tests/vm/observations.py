"""In the virtual machine: ``safedlv observe`` in a tracer's place, and the same dlv there under strace.

What is right is not decided here (tests/vm/observe_cases.py, tests/vm/test_observe.py).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.live import observed, straced
from tests.vm import agent
from tests.vm.stage import PORT, Spec, harm, serves, status, wait_until

DLV = "/in/dlv"
CONFIGURATION = Path("/root/.config/dlv/config.yml")
"""The first dlv of root makes it, and its calls fail until then."""
USER = 1000


def play_all(cases: list[Spec], report: Callable[[Spec], None]) -> None:
    """All these, one after the other, with one target."""
    CONFIGURATION.parent.mkdir(parents=True, exist_ok=True)
    CONFIGURATION.touch()
    with target() as pid:
        for case in cases:
            try:
                found = play(case["tracer"], pid)
            except Exception as error:
                found = {"error": repr(error)}
            report({"scene": case["name"], **found, "harm": harm(pid)})


@contextlib.contextmanager
def target() -> Iterator[int]:
    """A server of user 1000."""
    port = PORT - 3
    with subprocess.Popen(["/in/server", f"127.0.0.1:{port}"], stdout=subprocess.DEVNULL, user=USER, group=USER) as it:
        try:
            wait_until(lambda: serves(port), "it to serve")
            yield it.pid
        finally:
            it.kill()


def play(place: list[str], pid: int) -> Spec:
    """The gist of what observe answers, and what came of dlv there under strace."""
    with subprocess.Popen([*place, "sleep", "600"]) as tracer, tempfile.TemporaryDirectory() as directory:
        try:
            wait_until(lambda: status(str(tracer.pid))["Name"] == "sleep", "the tracer to stand")
            who = f"pid:{tracer.pid}"
            said = agent.command(["observe", "--json", "--tracer", who, str(pid)])
            by_strace = straced.play(DLV, who, str(pid), Path(directory) / "log")
        finally:
            tracer.kill()
    answer = json.loads(said["stdout"])
    return {
        "verdict": answer["verdict"],
        "first": observed.first(answer),
        "lacks": answer["lacks"],
        "code": said["code"],
        "stderr": said["stderr"],
        "observe": plain(observed.failed(answer), *observed.outcome(answer)),
        "strace": plain(by_strace.failed, by_strace.code, by_strace.stderr),
    }


def plain(failed: straced.Failed, code: int, stderr: list[str]) -> Spec:
    """What came of dlv, as JSON has it."""
    return {"code": code, "stderr": stderr, "failed": {" ".join(call): count for call, count in failed.items()}}

"""In the virtual machine: ``safedlv observe`` in the places of tests/vm/observe_cases.py, beside strace.

What is right is not decided here (tests/vm/observe_cases.py, tests/vm/test_observe.py).
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator

from tests.vm.beside_strace import compared
from tests.vm.stage import PORT, Spec, harm, serves, status, wait_until

USER = 1000


def play_all(cases: list[Spec], report: Callable[[Spec], None]) -> None:
    """All these, one after the other, with one target."""
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
    with subprocess.Popen([*place, "sleep", "600"]) as tracer:
        try:
            wait_until(lambda: status(str(tracer.pid))["Name"] == "sleep", "the tracer to stand")
            return compared(f"pid:{tracer.pid}", str(pid))
        finally:
            tracer.kill()

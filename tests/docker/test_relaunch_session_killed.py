"""kill -9 of safedlv at any moment of a session in a copy: ``clean`` leaves the original as it was, and no more."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from safedlv.runtimes.docker import Engine
from safedlv.sibling.clone_record import restore
from tests.clients import JsonRpc
from tests.docker.copies import InACopy, assert_nothing_is_left, assert_swapped_back
from tests.docker.sidecars import Box
from tests.docker.test_relaunch_session import EXEC, WAIT, state
from tests.support import count

__all__ = ["state"]
MakeBox = Callable[..., Box]
LONGEST = 3.0
"""Seconds, about, from the command to a breakpoint in the copy."""


def a_session(session: InACopy) -> None:
    """What a client does until the connection breaks: a breakpoint, steps, requests."""
    assert session.process.stdout is not None
    address = session.process.stdout.readline().partition(": ")[2].strip()
    if not address:
        return
    with contextlib.suppress(OSError, RuntimeError, ValueError), contextlib.closing(JsonRpc(address)) as client:
        client.call("CreateBreakpoint", Breakpoint={"functionName": "runtime.mallocgc"})
        while True:
            client.command("continue")
            client.command("next")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "words",
    [EXEC, (*EXEC, "--swap"), (*WAIT, "--swap", "--snapshot"), ("attach", "--via", "clone")],
    ids=["exec beside", "exec in its place", "waitfor in its place", "attach --via clone"],
)
def test_killed(make_box: MakeBox, newest_dlv: str, tmp_path: Path, words: tuple[str, ...]) -> None:
    box = make_box()
    seed = random.randrange(1 << 30)
    moments = random.Random(seed)
    socket = tmp_path / "socket"
    for trial in range(count(30)):
        session = InACopy(box, *words, f"--listen=unix:{socket}")
        client = threading.Thread(target=a_session, args=(session,))
        client.start()
        moment = moments.uniform(0.1, LONGEST)
        time.sleep(moment)  # a random moment is what this is about
        session.process.kill()
        client.join()
        session.process.communicate()
        with Engine() as engine:
            said = restore(engine)
        why = f"seed {seed}, trial {trial}, killed after {moment:.3f} s; {said}"
        assert_nothing_is_left(box, why)
        assert not socket.exists(), why
        if "--swap" in words:
            assert_swapped_back(box, why)
        else:
            box.assert_left_alone()

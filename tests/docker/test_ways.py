"""The offer after a refusal, on a terminal: one who may neither trace nor read the target chooses a way, and has it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from tests.docker.copies import assert_nothing_is_left, copies
from tests.docker.sidecars import PORT, SCRATCH, Box, sidecars
from tests.docker.test_sidecar_member import member
from tests.support import wait_until

__all__ = ["member"]
MakeBox = Callable[..., Box]


@pytest.mark.parametrize("answer", ["n", "2", "3"])
def test_chosen(
    make_box: MakeBox,
    newest_dlv: str,
    member: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/nonexistent")
    box = make_box(SCRATCH, ["/server", f"127.0.0.1:{PORT}"])
    words = member("attach", f"docker:{box.name}")
    terminal = pexpect.spawn(words[0], words[1:], timeout=30, encoding="utf-8", dimensions=(60, 120), cwd="/")
    terminal.expect_exact("blocked at PTRACE_ATTACH with EPERM")
    terminal.expect_exact(f"$ sudo safedlv attach docker:{box.name}")
    terminal.expect_exact("Take which way? [2/3/n]")
    assert (copies(box), sidecars(box)) == ([], [])
    terminal.send(f"{answer}\r")
    if answer != "n":
        terminal.expect_exact("(dlv) ")
        assert (len(copies(box)), len(sidecars(box))) == ((1, 0) if answer == "3" else (0, 1))
        terminal.sendline("break main.greeting")
        terminal.expect("Breakpoint 1 .*set at")
        terminal.sendline("quit")
        terminal.expect_exact("Would you like to kill the process?")  # without TERM it is dlv's own terminal
        terminal.sendline("n")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == (1 if answer == "n" else 0)
    wait_until(lambda: not list(Path("/tmp").glob(f"t-member-{os.getpid()}/tmp/safedlv-*")), "its directory is gone")
    assert_nothing_is_left(box)
    box.assert_left_alone()

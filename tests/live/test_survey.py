"""safedlv doctor --all: which processes are listed, with which verdict, and that nothing is touched unless asked."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safedlv.facts.process import read_cmdline
from safedlv.facts.procfs import ProcDir
from safedlv.runtimes.sandbox import Sandbox
from tests.live.leftovers import nothing_left_behind  # noqa: F401  pytest finds fixtures by their names here
from tests.live.sandboxes import needs_root  # noqa: F401
from tests.live.test_doctor import assert_fit_for_a_terminal, boxed, call, refusal
from tests.support import ROOT, SAFEDLV, Server, assert_unharmed, harmed, require, status, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind", "newest_dlv")

NOBODY = 65534


def ask(*flags: str, only: int | None = None, uid: int | None = None) -> str:
    """What ``doctor --all`` prints; ``only``: on a machine where no other process is (so a probe stops no other)."""
    lines = ["import os, sys, safedlv.cli, safedlv.doctor, safedlv.survey, safedlv.report.survey"]
    if only is not None:
        lines.append(f"safedlv.survey.list_processes = lambda: sorted([os.getpid(), {only}])")
    if uid is not None:  # by now all is imported, from directories that may be closed to that user
        lines += ["safedlv.doctor._options([])", f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})"]
    lines.append("sys.exit(safedlv.cli.main(['doctor', '--all', *sys.argv[1:]]))")
    command = [sys.executable, "-c", "\n".join(lines), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def listing(*flags: str, only: int | None = None, uid: int | None = None) -> dict[str, Any]:
    """The list as JSON, held against the contract."""
    document: dict[str, Any] = json.loads(ask("--json", *flags, only=only, uid=uid))
    assert document["schema"] == "safedlv.processes/1"
    assert document["probed"] is ("--probe" in flags)
    pids = [line["pid"] for line in document["processes"]]
    assert pids == sorted(set(pids))
    return document


def line_of(pid: int, *flags: str) -> dict[str, Any]:
    found = listing(*flags, only=pid if "--probe" in flags else None)
    return next(line for line in found["processes"] if line["pid"] == pid)


def outcome(pid: int, *flags: str) -> tuple[str, list[str]]:
    line = line_of(pid, *flags)
    return line["verdict"], line["causes"]


def text(*flags: str, only: int | None = None) -> list[str]:
    """The list for people; the first line is the summary."""
    out = ask(*flags, only=only)
    assert_fit_for_a_terminal(out)
    return out.splitlines()


def text_line(pid: int, *flags: str) -> list[str]:
    lines = text(*flags, only=pid if "--probe" in flags else None)
    return next(line.split(None, 4) for line in lines if line.split()[:1] == [str(pid)])


def traced(calls: str, log: Path, *flags: str) -> tuple[dict[str, Any], list[str]]:
    """The list, and the system calls of these names that the command and its children made for it."""
    require(shutil.which("strace"), "needs strace")
    command = ["strace", "-f", "-qq", "-s", "200", "-e", f"trace={calls}", "-e", "signal=none", "-o", str(log)]
    done = subprocess.run(
        [*command, *SAFEDLV, "doctor", "--all", "--json", *flags], capture_output=True, timeout=60, check=True
    )
    return json.loads(done.stdout), log.read_text().splitlines()


@contextlib.contextmanager
def held_by_strace(pid: int) -> Iterator[None]:
    require(shutil.which("strace"), "needs strace")
    null = subprocess.DEVNULL
    with subprocess.Popen(
        ["strace", "-f", "-o", "/dev/null", "-p", str(pid)], stdin=null, stdout=null, stderr=null
    ) as holder:
        try:
            wait_until(lambda: status(pid, "TracerPid") == str(holder.pid), "strace holds it", 30)
            yield
        finally:
            holder.terminate()


@contextlib.contextmanager
def sleepers(number: int) -> Iterator[list[int]]:
    running = [subprocess.Popen(["sleep", "600"]) for _ in range(number)]
    try:
        for process in running:
            wait_until(lambda p=process: os.readlink(f"/proc/{p.pid}/exe").endswith("sleep"), "it sleeps")  # type: ignore[misc]
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize("flags", [(), ("--probe",)])
def test_a_server_is_ok(server: Server, flags: tuple[str, ...]) -> None:
    line = line_of(server.pid, *flags)
    assert (line["verdict"], line["causes"], line["uid"]) == ("ok", [], os.getuid())
    assert line["go_version"].startswith("go1.")
    with ProcDir(server.pid) as procdir:
        words = read_cmdline(procdir)
    assert isinstance(words, tuple)
    assert line["command"] == " ".join(words)
    shown = text_line(server.pid, *flags)
    assert shown[:4] == [str(server.pid), str(os.getuid()), "ok", "-"]
    assert words[0].startswith(shown[4].removesuffix("...").split()[0])
    assert_unharmed(server.pid)
    assert "hello" in server.get()


@pytest.mark.parametrize("flags", [(), ("--probe",)])
def test_one_that_is_held_by_another_tracer(server: Server, flags: tuple[str, ...]) -> None:
    with held_by_strace(server.pid):
        assert outcome(server.pid, *flags) == ("blocked", ["already-traced"])
        assert text_line(server.pid, *flags)[2:4] == ["blocked", "already-traced"]
    assert_unharmed(server.pid)
    assert "hello" in server.get()


@pytest.mark.parametrize("flags", [(), ("--probe",)])
def test_a_stopped_one_stays_stopped(server: Server, flags: tuple[str, ...]) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    wait_until(lambda: not harmed(server.pid, stopped=True), "it is stopped")
    assert outcome(server.pid, *flags) == ("ok", [])
    assert_unharmed(server.pid, stopped=True)
    os.kill(server.pid, signal.SIGCONT)
    assert "hello" in server.get()


@pytest.mark.usefixtures("needs_root")
def test_a_frozen_one(server_binary: Path) -> None:
    with boxed(server_binary, Sandbox(cgroup=True)) as target:
        assert outcome(target.pid) == ("ok", [])
        target.running.freeze()
        assert outcome(target.pid) == ("blocked", ["frozen"])
        assert outcome(target.pid, "--probe", "--probe-timeout", "0.3") == ("blocked", ["frozen"])
        target.running.thaw()
        assert_unharmed(target.pid)


# ---------------------------------------------------------------- what is listed


def test_what_runs_no_go_program_is_not_listed(server: Server) -> None:
    with subprocess.Popen(["true"]) as zombie, sleepers(1) as others:
        wait_until(lambda: status(zombie.pid, "State").startswith("Z"), "it is a zombie")
        listed = {line["pid"] for line in listing()["processes"]}
    assert server.pid in listed
    assert not listed & {2, os.getpid(), zombie.pid, *others}


def test_the_summary_says_that_nothing_was_probed(server: Server) -> None:
    assert re.match(r"\d+ Go process(es)?: .*; nothing was probed$", text()[0])
    assert re.match(r"\d+ Go process(es)?: .*; each was probed$", text("--probe", only=server.pid)[0])
    assert_unharmed(server.pid)


def test_a_hostile_command_line(server_binary: Path) -> None:
    """Escape codes and newlines are shown as text; a line is a line."""
    hostile = b"\x1b[2J\r\n999 0 ok - \xff\xfe\xe2\x80\xae" + b"x" * 100
    words = [hostile, b"127.0.0.1:0"]
    with subprocess.Popen(words, executable=server_binary, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            running.stdout.readline()
            shown = text_line(running.pid)
            assert shown[4].startswith("\\x1b[2J\\r\\n999 0 ok - ")
            assert shown[4].endswith("...")
            assert os.fsencode(line_of(running.pid)["command"]) == b" ".join(words)
        finally:
            running.kill()


@pytest.mark.usefixtures("needs_root")
def test_executables_that_cannot_be_read_are_counted(server: Server) -> None:
    """Seen by nobody, the processes of root may be anything; nothing is said of them but their number."""
    with sleepers(3):
        seen_by_root = listing()
        seen_by_nobody = listing(uid=NOBODY)
    assert server.pid not in {line["pid"] for line in seen_by_nobody["processes"]}
    assert seen_by_nobody["unreadable"] >= seen_by_root["unreadable"] + 4


def test_the_command_itself(server: Server) -> None:
    code, out, err = call("--all", "--json")
    assert (code, err) == (0, "")
    assert server.pid in {line["pid"] for line in json.loads(out)["processes"]}


# ---------------------------------------------------------------- what it does and costs


def test_nothing_is_stopped_unless_asked(server: Server, tmp_path: Path) -> None:
    calls = "ptrace,kill,tkill,tgkill,pidfd_send_signal"
    document, made = traced(calls, tmp_path / "log")
    assert server.pid in {line["pid"] for line in document["processes"]}
    assert made == []
    assert_unharmed(server.pid)


def test_each_process_costs_the_same(tmp_path: Path) -> None:
    """300 more of a program: one directory and one stat each, and its executable is opened once for all."""
    with sleepers(300) as pids:
        _, made = traced("openat,newfstatat,readlinkat,read,pread64,ioctl", tmp_path / "log")
    work: dict[int, list[str]] = {}
    current: list[str] = []
    for line in made:
        opened = re.search(r'openat\(AT_FDCWD, "/proc/(\d+)", .*O_PATH', line)
        if opened:
            current = work.setdefault(int(opened[1]), [])
        current.append(line)
    costs = sorted(len(work[pid]) for pid in pids)
    assert costs[:-1] == [2] * 299
    assert costs[-1] < 40


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize(
    "words", [("--all", "1"), ("--all", "name:x"), ("--all", "--tracer", "self"), ("--probe",), ("--probe", "1")]
)
def test_wrong_usage(words: tuple[str, ...]) -> None:
    assert "--all" in refusal(*words)

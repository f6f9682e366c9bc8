"""The probe on real processes: it reports what the kernel did, and the target does not notice."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from safedlv import target
from safedlv.probe import runner
from tests.support import Server, assert_unharmed, count, require, status, wait_until

PROGRAMS = Path(__file__).parent / "programs"


class Program:
    """One of the programs beside this file, running and ready."""

    def __init__(self, name: str, *words: str) -> None:
        # A group of its own with its parent in another: SIGTSTP does not stop an orphaned process group (setpgid(2)).
        command = [sys.executable, str(PROGRAMS / name), *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.pid = self.process.pid

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def run() -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def start(name: str, *words: str) -> Program:
        programs.append(Program(name, *words))
        return programs[-1]

    yield start
    for program in programs:
        program.stop()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    path = tmp_path / "count"
    path.write_bytes(bytes(16))
    return path


def probe(pid: int, timeout: float = 2.0) -> runner.RawAttempt:
    found = target.find(pid)
    try:
        return runner.start(pid, found.procdir, found.before, timeout).result()
    finally:
        found.close()


def assert_passed(attempt: runner.RawAttempt) -> None:
    steps, needs, _, left_as_found = attempt
    assert [name for name, _, _ in steps] == ["attach", "setoptions", "cont"]
    assert not [step for step in (*steps, *needs) if step[1]]
    assert left_as_found


def counts(path: Path) -> tuple[int, int]:
    return struct.unpack("QQ", path.read_bytes())


def wait_for_state(pid: int, letters: str) -> None:
    wait_until(lambda: status(pid, "State")[:1] in letters, f"state {letters} of process {pid}")


def test_all_steps_pass_on_a_go_server(server: Server) -> None:
    attempt = probe(server.pid)
    assert_passed(attempt)
    needs = {name for name, _, _ in attempt[1]}
    assert needs == {
        "tgkill", "getregset", "peekdata", "pokedata", "threads", "auxv", "maps", "exe", "process_vm_readv", "mem",
    }  # fmt: skip
    assert attempt[2][0] > 0
    assert "hello" in server.get()
    assert_unharmed(server.pid)


@pytest.mark.timeout(600)
def test_no_signal_is_lost_or_added(run: Callable[..., Program], shared: Path) -> None:
    """A thousand probes of a target that gets SIGUSR1 a thousand times a second: every one is counted."""
    program = run("counter.py", str(shared), "--sigcont")
    sender = subprocess.Popen(
        [sys.executable, str(PROGRAMS / "sender.py"), str(program.pid), str(shared)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for _ in range(count(1000)):
        assert_passed(probe(program.pid))
    out, err = sender.communicate(timeout=30)
    assert sender.returncode == 0, err
    assert counts(shared) == (int(out), 0)
    assert int(out) > 100
    assert_unharmed(program.pid)


@pytest.mark.timeout(900)
def test_a_thousand_threads(run: Callable[..., Program]) -> None:
    program = run("threads.py", "1000")
    for _ in range(count(1000)):
        assert_passed(probe(program.pid, 20))
    assert_unharmed(program.pid)


@pytest.mark.timeout(600)
def test_threads_that_come_and_go(run: Callable[..., Program]) -> None:
    program = run("threads.py", "churn")
    for _ in range(count(1000)):
        assert_passed(probe(program.pid))
    wait_until(lambda: status(program.pid, "State"), "the target lives")
    assert_unharmed(program.pid)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGTSTP])
def test_a_stopped_target_stays_stopped(run: Callable[..., Program], shared: Path, signum: signal.Signals) -> None:
    program = run("counter.py", str(shared), "--sigcont")
    os.kill(program.pid, signum)
    wait_for_state(program.pid, "T")
    os.kill(program.pid, signal.SIGUSR1)  # waits until the target runs again
    for _ in range(count(1000)):
        assert_passed(probe(program.pid))
        assert_unharmed(program.pid, stopped=True)
    assert counts(shared) == (0, 0), "it ran while it was stopped"
    os.kill(program.pid, signal.SIGCONT)
    wait_until(lambda: counts(shared) == (1, 1), "both signals are counted once it runs again")


def test_a_stopped_target_with_threads(run: Callable[..., Program]) -> None:
    program = run("threads.py", "20")
    os.kill(program.pid, signal.SIGSTOP)
    wait_for_state(program.pid, "T")
    for _ in range(20):
        assert_passed(probe(program.pid))
        assert_unharmed(program.pid, stopped=True)
    os.kill(program.pid, signal.SIGCONT)
    assert_unharmed(program.pid)


def test_a_vfork_parent_is_given_up(tmp_path: Path) -> None:
    """It cannot stop before its child execs or exits: the probe gives up, and takes its SIGSTOP back."""
    script = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "print('ready', flush=True)\n"
        "if libc.vfork() == 0:\n"
        "    libc.sleep(60)\n"
        "    libc._exit(0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    try:
        wait_for_state(process.pid, "D")
        began = time.monotonic()
        steps, needs, _, left_as_found = probe(process.pid, 0.3)
        assert time.monotonic() - began < 3
        assert [(name, errno) for name, errno, _ in steps] == [("attach", "TIMEOUT")]
        assert not needs
        assert left_as_found
        assert status(process.pid, "SigPnd") == "0" * 16
        assert status(process.pid, "ShdPnd") == "0" * 16
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_traced_target_is_left_to_its_tracer(run: Callable[..., Program]) -> None:
    program = run("threads.py", "2")
    strace = subprocess.Popen(["strace", "-f", "-o", "/dev/null", "-p", str(program.pid)], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: status(program.pid, "TracerPid") not in ("0", ""), "strace holds it")
        steps, _, _, left_as_found = probe(program.pid)
        assert [(name, errno) for name, errno, _ in steps] == [("attach", "EPERM")]
        assert left_as_found
    finally:
        strace.terminate()
        strace.wait()
    assert_unharmed(program.pid)


def test_a_process_that_ends_meanwhile(run: Callable[..., Program]) -> None:
    for _ in range(10):
        program = run("threads.py", "2")
        found = target.find(program.pid)
        os.kill(program.pid, signal.SIGKILL)
        steps, _, _, left_as_found = runner.start(program.pid, found.procdir, found.before, 2.0).result()
        assert steps[0][0] == "attach"
        assert steps[-1][1] in ("ESRCH", "EPERM")
        assert left_as_found
        found.close()


def test_a_recycled_pid_is_never_touched(run: Callable[..., Program]) -> None:
    """The open /proc/PID belongs to a process that has gone; its number belongs to another one."""
    gone = run("threads.py", "1")
    found = target.find(gone.pid)
    gone.stop()
    other = run("threads.py", "1")
    steps, needs, held, _ = runner.start(other.pid, found.procdir, found.before, 2.0).result()
    assert [(name, errno) for name, errno, _ in steps] == [("attach", "ESRCH")]
    assert not needs
    assert held == (0, 0)
    assert_unharmed(other.pid)
    found.close()


def test_numbers_agree_with_python_ptrace() -> None:
    """The requests and options of our own edge are python-ptrace's."""
    from ptrace.binding import func

    from safedlv.linux import tracing

    for name in ("PEEKDATA", "POKEDATA", "CONT", "ATTACH", "DETACH", "SETOPTIONS", "GETSIGINFO", "GETREGSET"):
        assert getattr(tracing, f"PTRACE_{name}") == getattr(func, f"PTRACE_{name}")
    assert tracing.PTRACE_O_TRACECLONE == func.PTRACE_O_TRACECLONE
    assert tracing.WALL == func.THREAD_TRACE_FLAGS
    assert (tracing.SIGSTOP, tracing.SIGCONT) == (signal.SIGSTOP, signal.SIGCONT)


def test_root_is_not_needed_for_ones_own(run: Callable[..., Program]) -> None:
    require(os.geteuid() == 0, "needs root to become somebody else")
    program = subprocess.Popen(["setpriv", "--reuid", "65534", "--clear-groups", "sleep", "60"])
    script = (
        "import os; from safedlv import target; from safedlv.probe import runner\n"
        "os.setgroups([]); os.setuid(65534)\n"
        f"f = target.find({program.pid}); print(runner.start(f.pid, f.procdir, f.before, 2.0).result())"
    )
    wait_until(lambda: status(program.pid, "Uid").startswith("65534"), "the target runs as nobody")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    program.kill()
    program.wait()
    assert "('cont', None" in done.stdout, done.stderr

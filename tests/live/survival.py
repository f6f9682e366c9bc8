"""Trials of survival: a busy program is debugged, somebody is killed at a random moment, and the program is looked at.

A session is plain dlv's or safedlv's; what is done in it, and who is killed when, is a :class:`Row`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen

from tests.clients import JsonRpc
from tests.live.groups import Group, out_of_memory
from tests.support import ROOT, SAFEDLV, harmed, new_dlv, status, threads, wait_until

Session = Callable[["Worker"], contextlib.AbstractContextManager[subprocess.Popen[str]]]
"""A debugger's session with a worker, as long as the context lasts: the process whose stdout says where it listens."""

TABLE = ROOT / ".cache" / "survival.md"
_recorded: list[str] = []
SETTLED_WITHIN = 10.0
"""Seconds in which a target has to be as before, when somebody was killed."""


class Worker:
    """The busy program, running."""

    def __init__(self, program: Path, goroutines: int = 4) -> None:
        self.said = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
        self.program = program
        self.process = subprocess.Popen([str(program), str(goroutines)], stdout=self.said, stderr=subprocess.STDOUT)
        self.pid = self.process.pid
        wait_until(self.results, "the worker's first results")

    def end(self) -> str:
        """How it has ended; empty while it runs."""
        return "" if self.process.poll() is None else f"it died of {self.process.returncode}"

    def results(self) -> tuple[int, int] | None:
        """How many results it has, and how many of them are wrong."""
        said = os.pread(self.said.fileno(), 1 << 20, max(0, os.fstat(self.said.fileno()).st_size - 256))
        lines = said.rpartition(b"\n")[0].splitlines()  # the rest is being written
        pairs = [line.split() for line in lines[1:] or lines]
        numbers = (list(map(int, pair)) for pair in reversed(pairs) if len(pair) == 2 and all(map(bytes.isdigit, pair)))
        return next(((results, wrong) for results, wrong in numbers), None)

    def last_words(self) -> str:
        return os.pread(self.said.fileno(), 1 << 16, 0).decode("utf-8", "replace")[-1500:]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.said.close()


def survives(worker: Worker, *, intact: bool = True) -> str:
    """Empty when it runs on, gives right results, is untraced, not stopped, and (``intact``) its text is the file's."""
    deadline, harm = time.monotonic() + SETTLED_WITHIN, "it was not looked at"
    before = worker.results() or (0, 0)
    while harm and time.monotonic() < deadline:
        if ended := worker.end():
            return ended
        now = worker.results() or (0, 0)
        harm = harmed(worker.pid) or (changed_text(worker) if intact else "")
        if not harm and now[0] < before[0] + 20:
            harm = "it gives no results"
        time.sleep(0.01)
    return harm or ("its results are wrong" if (worker.results() or (0, 1))[1] else "")


def changed_text(worker: Worker) -> str:
    """Where the text in memory differs from the file, by reading both."""
    try:
        maps = Path(f"/proc/{worker.pid}/maps").read_text("utf-8").splitlines()
        with open(f"/proc/{worker.pid}/mem", "rb") as mem, worker.program.open("rb") as file:
            for line in maps:
                if " r-xp " in line and line.endswith(f"/{worker.program.name}"):
                    start, end = (int(word, 16) for word in line.split()[0].split("-"))
                    mem.seek(start)
                    file.seek(int(line.split()[2], 16))
                    ours = mem.read(end - start)
                    theirs = file.read(end - start)
                    if ours[: len(theirs)] != theirs:
                        return "its text is not the file's"
    except OSError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------- sessions


@contextlib.contextmanager
def plain(worker: Worker) -> Iterator[subprocess.Popen[str]]:
    """``dlv attach``, listening."""
    yield from _session([str(new_dlv()), "attach", str(worker.pid), "--headless", "--api-version=2"])


@contextlib.contextmanager
def guarded(worker: Worker) -> Iterator[subprocess.Popen[str]]:
    """``safedlv attach``, listening."""
    yield from _session([*SAFEDLV, "attach", str(worker.pid), "--headless", "--api-version=2"])


@contextlib.contextmanager
def beside(container: str) -> Iterator[subprocess.Popen[str]]:
    """``safedlv attach --via sidecar``, listening."""
    yield from _session([*SAFEDLV, "attach", f"docker:{container}", "--via=sidecar", "--headless", "--api-version=2"])


SLOW_KEEPER = """
import sys, time
from safedlv import cli
from safedlv.session import guard, rescue

def look_late(pid):
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and not (target := rescue.hold_on_to(pid)).before:
        target.close()
        time.sleep(0.01)
    return rescue.hold_on_to(pid)

guard.hold_on_to = look_late
sys.exit(cli.main(sys.argv[1:]))
"""
"""A safedlv whose keeper looks at the target when dlv has written into it, or when nobody has for two seconds."""


SLOW_GUARD = """
import sys, time
from safedlv import cli
from safedlv.session import guard

def seize_late(self, tid, seize=guard.Guard._seize):
    time.sleep(1)
    return seize(self, tid)

guard.Guard._seize = seize_late
sys.exit(cli.main(sys.argv[1:]))
"""
"""A safedlv whose guard takes a second to take hold of dlv, which has attached long before."""


def slowed(script: str) -> Session:
    """``safedlv attach`` of which a part has no processor when it needs one."""

    @contextlib.contextmanager
    def session(worker: Worker) -> Iterator[subprocess.Popen[str]]:
        yield from _session([sys.executable, "-c", script, "attach", str(worker.pid), "--headless", "--api-version=2"])

    return session


def _session(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def delve_of(session: subprocess.Popen[str]) -> int:
    """The dlv of a session: its process, or the child of it that is one."""

    def found() -> int:
        for pid in (session.pid, *_children(session.pid)):
            with contextlib.suppress(OSError):
                if "dlv" in os.readlink(f"/proc/{pid}/exe").rpartition("/")[2]:
                    return pid
        return 0

    return wait_until(found, "a dlv")


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except OSError:
        return []


def guard_of(dlv: int) -> int:
    """Who traces a thread of dlv."""
    return next((int(found) for tid in threads(dlv) if (found := status(dlv, "TracerPid", tid)) not in ("0", "")), 0)


# ---------------------------------------------------------------- what is done, and who is killed


@frozen
class Row:
    """One line of the table: ``act`` is what goes on in the session, ``kill`` who is killed then."""

    name: str
    act: Callable[[JsonRpc | None, random.Random], None]
    kill: Callable[[subprocess.Popen[str]], None]
    connects: bool = True
    goroutines: int = 4
    short: bool = False
    """One trial will do, where the table is not to be made."""
    promised: bool = True
    """Every target survives; else the table tells how many did."""


def _kill_delve(session: subprocess.Popen[str]) -> None:
    os.kill(delve_of(session), signal.SIGKILL)


def kill_guarded_delve(session: subprocess.Popen[str]) -> None:
    """As soon as it has a guard."""
    wait_until(lambda: guard_of(delve_of(session)), "a guard")
    _kill_delve(session)


def _kill_session(session: subprocess.Popen[str]) -> None:
    session.kill()


def _kill_session_and_keeper(session: subprocess.Popen[str]) -> None:
    for pid in [child for child in _children(session.pid) if child != delve_of(session)]:
        os.kill(pid, signal.SIGKILL)
    session.kill()


def _kill_delve_by_oom(session: subprocess.Popen[str]) -> None:
    """It is alone in a cgroup whose memory runs out: moved there now, with the little that it takes from now on."""
    group = Group("memory")
    try:
        dlv = delve_of(session)
        group.take(dlv)
        out_of_memory(dlv, group.path, v1=group.v1)
    finally:
        group.remove()


def _kill_guard_and_leave(session: subprocess.Popen[str]) -> None:
    """Then the session is ended in order."""
    dlv = delve_of(session)
    if guard := guard_of(dlv):
        os.kill(guard, signal.SIGKILL)
    session.send_signal(signal.SIGTERM)


def _kill_guard_then_delve(session: subprocess.Popen[str]) -> None:
    dlv = delve_of(session)
    guard = guard_of(dlv)
    if guard:
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: guard_of(dlv) not in (0, guard), "another guard")
    os.kill(dlv, signal.SIGKILL)


def _breakpoint(client: JsonRpc | None, **about: object) -> JsonRpc:
    assert client is not None
    client.call("CreateBreakpoint", Breakpoint=about)
    return client


def _at_a_breakpoint(client: JsonRpc | None, moments: random.Random) -> None:
    _breakpoint(client, functionName="main.work").command("continue")
    time.sleep(moments.uniform(0, 0.05))


def _running(client: JsonRpc | None, moments: random.Random) -> None:
    _breakpoint(client, functionName="main.never").send("Command", name="continue")
    time.sleep(moments.uniform(0, 0.3))


def _hot(client: JsonRpc | None, moments: random.Random) -> None:
    _breakpoint(client, functionName="main.work", Cond="n == 101").send("Command", name="continue")
    time.sleep(moments.uniform(0.05, 0.5))


def _stepping(client: JsonRpc | None, moments: random.Random) -> None:
    client = _breakpoint(client, functionName="main.work")
    client.command("continue")
    for _ in range(moments.randint(0, 5)):
        state = client.command(moments.choice(("next", "step")))
        if state.get("NextInProgress"):  # another goroutine came to the breakpoint meanwhile
            client.call("CancelNext")
    client.send("Command", name=moments.choice(("next", "step", "stepOut")))
    time.sleep(moments.uniform(0, 0.01))


def _attaching(_client: JsonRpc | None, moments: random.Random) -> None:
    time.sleep(moments.uniform(0, 0.2))


def _detaching(client: JsonRpc | None, moments: random.Random) -> None:
    client = _breakpoint(client, functionName="main.work")
    client.command("continue")
    client.send("Detach", Kill=False)
    time.sleep(moments.uniform(0, 0.01))


ROWS = (
    Row("dlv, at a breakpoint", _at_a_breakpoint, _kill_delve),
    Row("dlv, running with a cold breakpoint", _running, _kill_delve),
    Row("dlv, with a hot conditional breakpoint", _hot, _kill_delve),
    Row("dlv, in next or step", _stepping, _kill_delve),
    Row("dlv, while it attaches", _attaching, _kill_delve, connects=False),
    Row("dlv, while it detaches", _detaching, _kill_delve),
    Row("dlv, hot, 200 threads", _hot, _kill_delve, goroutines=200),
    Row("dlv, by the OOM killer, at a breakpoint", _at_a_breakpoint, _kill_delve_by_oom, short=True),
    Row("dlv, by the OOM killer, hot", _hot, _kill_delve_by_oom, short=True),
    Row("safedlv (or dlv, where there is none)", _hot, _kill_session),
    Row("safedlv and its keeper (or dlv)", _hot, _kill_session_and_keeper, short=True, promised=False),
    Row("the guard; then SIGTERM ends the session", _hot, _kill_guard_and_leave, short=True),
    Row("the guard, then dlv", _hot, _kill_guard_then_delve),
)


def record(name: str, plain: str, ours: str) -> None:
    """A line of the table, which is begun anew by every run of the tests."""
    if not _recorded:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text("| killed | plain dlv | safedlv |\n|---|---|---|\n", "utf-8")
    _recorded.append(name)
    with TABLE.open("a", encoding="utf-8") as file:
        file.write(f"| {name} | {plain} | {ours} |\n")


def trial(
    row: Row,
    worker: Worker,
    session: Session,
    moments: random.Random,
    *,
    intact: bool = True,
) -> str:
    """One trial; empty when the target survived it, else what became of it."""
    with session(worker) as process:
        assert process.stdout is not None
        address = process.stdout.readline().partition(": ")[2].strip()
        client = JsonRpc(address) if row.connects else None
        try:
            if client is not None:
                client.call("GetVersion")
            row.act(client, moments)
            row.kill(process)
            return survives(worker, intact=intact)
        finally:
            if client is not None:
                client.close()

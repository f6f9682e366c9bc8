"""safedlv doctor on real processes: verdict, exit code, step, errno and causes; and the target is unharmed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safedlv.facts.process import descendants, process_tree
from safedlv.linux.tracing import PTRACE_SEIZE, ptrace
from safedlv.runtimes.sandbox import Running, Sandbox, start
from safedlv.seccomp.program import Refuse, assemble
from tests.live.leftovers import MARK, nothing_left_behind  # noqa: F401  pytest finds fixtures by their names here
from tests.live.sandboxes import ARCH, needs_root  # noqa: F401
from tests.support import (
    ROOT,
    SAFEDLV,
    Server,
    assert_unharmed,
    build_go,
    go_tool,
    harmed,
    old_dlv,
    require,
    status,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("nothing_left_behind", "newest_dlv")

PROGRAMS = Path(__file__).parent / "programs"
SOURCE = ROOT / "examples" / "server"
WIDTH = 80
STEPS = ["attach", "setoptions", "cont"]
ANYWHERE = "127.0.0.1:0"


class Answer:
    """What ``doctor --json`` said."""

    def __init__(self, code: int, document: dict[str, Any]) -> None:
        self.code = code
        self.document = document
        self.verdict = document["verdict"]
        self.causes = {cause["id"]: cause for cause in document["causes"]}
        assert len(self.causes) == len(document["causes"]), "a cause is listed twice"
        self.probe = document["probe"]

    @property
    def ids(self) -> set[str]:
        return set(self.causes)

    @property
    def failed(self) -> tuple[str | None, str | None]:
        assert self.probe is not None, "it was not probed"
        assert self.probe["left_as_found"] is True
        return self.probe["failed_step"], self.probe["errno"]

    @property
    def failed_needs(self) -> dict[str, str]:
        return {step["step"]: step["errno"] for step in self.probe["needs"] if not step["ok"]}


def call(*words: str, within: float = 20) -> tuple[int, str, str]:
    done = subprocess.run(
        [*SAFEDLV, "doctor", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def doctor(target: int | str | None, *flags: str) -> Answer:
    """Ask twice, as JSON and as text, and hold both answers against each other and against the contract."""
    words = [] if target is None else [str(target)]
    code, out, err = call(*words, "--json", *flags)
    assert err == ""
    answer = Answer(code, json.loads(out))
    assert answer.document["schema"] == "safedlv.diagnosis/1"
    assert answer.code == {"ok": 0, "blocked": 10, "degraded": 11, "undetermined": 3}[answer.verdict]
    code, text, err = call(*words, *flags)
    assert (code, err) == (answer.code, "")
    assert_fit_for_a_terminal(text)
    assert text.startswith(answer.verdict)
    for cause in answer.ids:
        assert f"\n{cause} (" in text
    return answer


def assert_fit_for_a_terminal(text: str) -> None:
    """No control character but the newline, and 80 columns but for one long word."""
    assert text.endswith("\n")
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    for line in text.splitlines():
        assert len(line) <= WIDTH or len(line.split()) == 1, line


def refusal(*words: str) -> str:
    """The sentence of wrong usage."""
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    return err


# ---------------------------------------------------------------- targets


@contextlib.contextmanager
def process(*words: str | Path, ready: Callable[[int], object] = lambda pid: True) -> Iterator[int]:
    """A process, and what it starts, for the length of a test."""
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    with subprocess.Popen(
        [str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment
    ) as running:
        try:
            wait_until(lambda: ready(running.pid), f"{words[0]} is ready", 60)
            yield running.pid
        finally:
            for pid in [*descendants(process_tree(), running.pid), running.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def python(script: str, *words: str) -> contextlib.AbstractContextManager[int]:
    """A Python program that sleeps once it has run ``script``."""
    lines = [script, "import time", "print('ready', flush=True)", "time.sleep(600)"]
    return process(sys.executable, "-c", "\n".join(lines), *words, ready=lambda pid: status(pid, "State")[:1] == "S")


def runs(path: Path) -> Callable[[int], int]:
    """The child of a process that runs a program, once there is one."""

    def child_of(pid: int) -> int:
        return next((child for child in descendants(process_tree(), pid) if exe(child).endswith(str(path))), 0)

    return child_of


def exe(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


class Boxed:
    """The example server in a sandbox of its own."""

    def __init__(self, running: Running, port: int) -> None:
        self.running = running
        self.pid = running.pid
        self.port = port

    get = Server.get


@contextlib.contextmanager
def boxed(binary: Path, spec: Sandbox | None = None) -> Iterator[Boxed]:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as output, start(spec or Sandbox(), [str(binary), ANYWHERE], stdout=write_end) as running:
        os.close(write_end)
        yield Boxed(running, int(output.readline().rpartition(":")[2]))


def assert_serves(server: Server | Boxed) -> None:
    assert_unharmed(server.pid)
    assert "hello" in server.get()  # type: ignore[misc]


# ---------------------------------------------------------------- it works


def test_ok(server: Server) -> None:
    answer = doctor(server.pid)
    assert answer.verdict == "ok"
    assert answer.failed == (None, None)
    assert [step["step"] for step in answer.probe["steps"]] == STEPS
    assert not answer.ids
    assert not answer.failed_needs
    assert answer.document["target"]["comm"] == "server"
    assert answer.document["target"]["exe"] == exe(server.pid)
    assert answer.document["tracer"]["who"] == "self"
    assert_serves(server)


def test_a_stopped_target_stays_stopped(server: Server) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    wait_until(lambda: not harmed(server.pid, stopped=True), "it is stopped")
    answer = doctor(server.pid)
    assert (answer.verdict, answer.failed, answer.ids) == ("ok", (None, None), set())
    assert_unharmed(server.pid, stopped=True)
    os.kill(server.pid, signal.SIGCONT)
    assert_serves(server)


def test_without_a_target() -> None:
    answer = doctor(None)
    assert answer.verdict == "ok"
    assert answer.document["target"] is None
    assert answer.failed == (None, None)
    assert not answer.ids


# ---------------------------------------------------------------- nothing there that can be traced


def test_no_such_process() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in (gone.pid, 4194305, 99999999999):
        answer = doctor(pid)
        assert (answer.verdict, answer.ids, answer.probe) == ("blocked", {"no-such-process"}, None)


def test_zombie() -> None:
    with subprocess.Popen(["true"]) as ended:
        wait_until(lambda: status(ended.pid, "State").startswith("Z"), "it is a zombie")
        answer = doctor(ended.pid)
        assert (answer.verdict, answer.ids) == ("blocked", {"zombie"})
        assert answer.failed == ("attach", "EPERM")
        assert str(os.getpid()) in answer.causes["zombie"]["summary"]
        assert status(ended.pid, "State").startswith("Z")


def test_kernel_thread() -> None:
    require(status(2, "Name") == "kthreadd", "needs to see the kernel's threads")
    answer = doctor(2)
    assert (answer.verdict, answer.ids) == ("blocked", {"kernel-thread"})
    assert answer.failed == ("attach", "EPERM")


@pytest.mark.parametrize("flags", [["--json"], []])
def test_self_attach(flags: list[str]) -> None:
    """In a process without children: one with a Go program below it would be a wrapper besides."""
    code = "import os, sys; from safedlv.doctor import doctor; sys.exit(doctor([str(os.getpid()), *sys.argv[1:]]))"
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (10, "")
    if not flags:
        assert_fit_for_a_terminal(done.stdout)
        return
    answer = Answer(done.returncode, json.loads(done.stdout))
    assert (answer.verdict, answer.probe, answer.ids) == ("blocked", None, {"self-attach", "not-go"})


# ---------------------------------------------------------------- held by somebody else


@pytest.mark.parametrize("tracer", ["strace", "gdb"])
def test_already_traced(server: Server, tracer: str) -> None:
    require(shutil.which(tracer), f"needs {tracer}")
    words = {
        "strace": ["strace", "-f", "-o", "/dev/null", "-p", str(server.pid)],
        "gdb": ["gdb", "-nx", "-q", "-iex", "set debuginfod enabled off", "-p", str(server.pid)],
    }[tracer]
    null = subprocess.DEVNULL
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=null, stderr=null, start_new_session=True) as holder:
        try:
            wait_until(lambda: status(server.pid, "TracerPid") == str(holder.pid), f"{tracer} holds it", 30)
            answer = doctor(server.pid)
            assert (answer.verdict, answer.ids) == ("blocked", {"already-traced"})
            assert answer.failed == ("attach", "EPERM")
            cause = answer.causes["already-traced"]
            assert cause["detail"]["tracer_pid"] == holder.pid
            assert f"{holder.pid} ({tracer}" in cause["summary"]
            assert status(server.pid, "TracerPid") == str(holder.pid)
        finally:
            if tracer == "strace":
                holder.terminate()
            holder.communicate(b"detach\nquit\n", 30)
    assert_serves(server)


# ---------------------------------------------------------------- accepted, but it can never stop


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_frozen(server_binary: Path, version: str) -> None:
    with boxed(server_binary, Sandbox(cgroup=True)) as target:
        try:
            target.running.freeze(version)
        except OSError as error:
            require(error.errno != errno.ENOTSUP, f"needs a {version} freezer")
            raise
        answer = doctor(target.pid, "--probe-timeout", "0.3")
        assert (answer.verdict, answer.ids) == ("blocked", {"frozen"})
        assert answer.failed == ("attach", "TIMEOUT")
        assert answer.causes["frozen"]["proof"] == "observed"
        assert "safedlv-" in answer.causes["frozen"]["detail"]["cgroup"]
        target.running.thaw()
        assert_serves(target)
        assert not pending(target.pid)


@pytest.mark.usefixtures("needs_root")
def test_frozen_and_it_would_hear_sigcont(tmp_path: Path) -> None:
    """There would be no way to take a SIGSTOP back unheard: it is not touched at all."""
    shared = tmp_path / "count"
    shared.write_bytes(bytes(16))
    read_end, write_end = os.pipe()
    words = [sys.executable, str(PROGRAMS / "counter.py"), str(shared), "--sigcont"]
    with os.fdopen(read_end) as output, start(Sandbox(cgroup=True), words, stdout=write_end) as running:
        os.close(write_end)
        assert output.readline() == "ready\n"
        running.freeze()
        before = untouched(running.pid)
        answer = doctor(running.pid, "--probe-timeout", "0.3")
        assert (answer.verdict, answer.probe) == ("blocked", None)
        assert answer.ids == {"frozen", "not-go"}
        assert untouched(running.pid) == before
        running.thaw()
        assert_unharmed(running.pid)
        os.kill(running.pid, signal.SIGUSR1)
        wait_until(lambda: shared.read_bytes()[0] == 1, "it counts again")
        assert shared.read_bytes()[8] == 0, "it heard a SIGCONT"


def test_uninterruptible() -> None:
    script = "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.vfork() or (libc.sleep(600), libc._exit(0))"
    words = (sys.executable, "-c", script)
    with process(*words, ready=lambda pid: status(pid, "State").startswith("D")) as pid:
        answer = doctor(pid, "--probe-timeout", "0.3")
        assert (answer.verdict, answer.ids) == ("blocked", {"uninterruptible", "not-go"})
        assert answer.failed == ("attach", "TIMEOUT")
        assert "vfork" in answer.causes["uninterruptible"]["summary"]
        assert not pending(pid)
        assert status(pid, "TracerPid") == "0"
        os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]), signal.SIGKILL)
        wait_until(lambda: status(pid, "State")[:1] in ("", "Z"), "it ran on, to its end")


def untouched(pid: int) -> str:
    """All that /proc/PID/status says, but for the number of signals that are queued for its user anywhere."""
    return re.sub(r"SigQ:.*", "", Path(f"/proc/{pid}/status").read_text())


def pending(pid: int) -> int:
    return int(status(pid, "SigPnd") or "0", 16) | int(status(pid, "ShdPnd") or "0", 16)


# ---------------------------------------------------------------- a filter on the tracer

REQUESTS = {"attach": 16, "setoptions": 0x4200, "cont": 7, "getregset": 0x4204, "peekdata": 2, "pokedata": 5}
REQUESTS |= {"getsiginfo": 0x4202, "detach": 17}
CALLS = {"tgkill": "tgkill", "process_vm_readv": "process_vm_readv", "kill": "kill"}


def refuse(what: str, action: str, number: int) -> bytes:
    rule = (
        Refuse(CALLS[what], action=action, errno=number)  # type: ignore[arg-type]
        if what in CALLS
        else Refuse("ptrace", arg=(0, REQUESTS[what]), action=action, errno=number)  # type: ignore[arg-type]
    )
    return assemble([rule], ARCH)


def doctor_under(program: bytes, target: Boxed, tmp_path: Path) -> Answer:
    """``safedlv doctor --json`` where a seccomp filter holds for it, and not for its target."""
    answers = []
    for flags in (["--json"], []):
        out, err = tmp_path / "out", tmp_path / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            words = [*SAFEDLV, "doctor", *flags, "--probe-timeout", "1", str(target.pid)]
            with target.running.run(words, seccomp=program, stdout=stdout.fileno(), stderr=stderr.fileno()) as tracer:
                answers.append((tracer.wait(20), out.read_text(), err.read_text()))
    (code, document, said), (text_code, text, text_said) = answers
    assert (said, text_said) == ("", "")
    assert text_code == code
    assert_fit_for_a_terminal(text)
    return Answer(code, json.loads(document))


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("what", STEPS)
@pytest.mark.parametrize(
    ("action", "number", "expected"),
    [
        ("errno", errno.EPERM, "EPERM"),
        ("errno", errno.EACCES, "EACCES"),
        ("errno", errno.ENOSYS, "ENOSYS"),
        ("kill_process", 0, "SIGSYS"),
        ("kill_thread", 0, "SIGSYS"),
        ("trap", 0, "SIGSYS"),
    ],
)
def test_a_filter_refuses_a_step(
    server_binary: Path, tmp_path: Path, what: str, action: str, number: int, expected: str
) -> None:
    with boxed(server_binary) as target:
        answer = doctor_under(refuse(what, action, number), target, tmp_path)
        assert (answer.code, answer.verdict) == (10, "blocked")
        assert answer.failed == (what, expected)
        # A refused SETOPTIONS ends nothing: CONT is tried all the same.
        last = "cont" if what == "setoptions" and action == "errno" else what
        assert [step["step"] for step in answer.probe["steps"]] == STEPS[: STEPS.index(last) + 1]
        assert answer.ids == {"seccomp"}
        assert_serves(target)


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("what", ["getregset", "peekdata", "pokedata", "tgkill"])
@pytest.mark.parametrize(("action", "expected"), [("errno", "EPERM"), ("kill_process", "SIGSYS"), ("trap", "SIGSYS")])
def test_a_filter_refuses_what_else_dlv_needs(
    server_binary: Path, tmp_path: Path, what: str, action: str, expected: str
) -> None:
    with boxed(server_binary) as target:
        answer = doctor_under(refuse(what, action, errno.EPERM), target, tmp_path)
        assert (answer.code, answer.verdict) == (10, "blocked")
        assert answer.failed == (None, None), "all three calls passed"
        assert answer.failed_needs[what] == expected
        assert answer.ids == {"seccomp"}
        assert_serves(target)


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("what", ["getsiginfo", "detach", "kill"])
@pytest.mark.parametrize("action", ["errno", "kill_process"])
def test_a_filter_refuses_what_only_the_probe_needs(
    server_binary: Path, tmp_path: Path, what: str, action: str
) -> None:
    """Whatever it says then, the target is unharmed."""
    program = refuse(what, action, errno.EPERM)
    with boxed(server_binary) as target:
        if (what, action) == ("kill", "kill_process"):  # safedlv itself dies of it, before it touches anything
            with target.running.run([*SAFEDLV, "doctor", str(target.pid)], seccomp=program) as tracer:
                assert tracer.wait(20) == -signal.SIGSYS
        else:
            assert doctor_under(program, target, tmp_path).probe["left_as_found"] is True
        assert_serves(target)


# ---------------------------------------------------------------- it would attach, but to what?


@pytest.mark.parametrize("words", [["sleep", "600"], [sys.executable, "-c", "import time; time.sleep(600)"]])
def test_not_go(words: list[str]) -> None:
    with process(*words, ready=lambda pid: status(pid, "State").startswith("S")) as pid:
        answer = doctor(pid)
        assert (answer.verdict, answer.ids) == ("degraded", {"not-go"})
        assert answer.failed == (None, None)
        assert_unharmed(pid)


@pytest.mark.parametrize("wrapper", ["sh", "tini", "dumb-init"])
def test_wrong_process(server_binary: Path, wrapper: str) -> None:
    require(shutil.which(wrapper), f"needs {wrapper}")
    words = {
        "sh": ["sh", "-c", '"$0" "$1" & wait', str(server_binary), ANYWHERE],
        "tini": ["tini", "-s", "--", str(server_binary), ANYWHERE],
        "dumb-init": ["dumb-init", "--", str(server_binary), ANYWHERE],
    }[wrapper]
    child_of = runs(server_binary)
    with process(*words, ready=child_of) as pid:
        assert_wrong_process(pid, child_of(pid))


@pytest.mark.timeout(300)
def test_go_run_is_a_wrapper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require(go_tool(), "needs the Go tool chain")
    monkeypatch.setenv("GOTMPDIR", str(tmp_path))
    child_of = runs(Path("server"))  # in a temporary directory, or since Go 1.24 in the build cache
    words = [str(go_tool()), "-C", str(SOURCE), "run", "-gcflags=all=-N -l", ".", ANYWHERE]
    with process(*words, ready=child_of) as pid:
        # go run links without debug information (cmd/go/internal/run: OmitDebug)
        assert_wrong_process(pid, child_of(pid), {"no-debug-info"})


def assert_wrong_process(pid: int, child: int, child_causes: set[str] | None = None) -> None:
    answer = doctor(pid)
    assert (answer.verdict, answer.ids) == ("degraded", {"wrong-process"})
    assert answer.failed == (None, None)
    cause = answer.causes["wrong-process"]
    assert cause["detail"]["go_pid"] == child
    assert str(child) in cause["summary"]
    assert doctor(child).ids == (child_causes or set())
    assert_unharmed(pid)
    assert_unharmed(child)


@pytest.fixture(scope="session")
def stripped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_go(SOURCE, tmp_path_factory.mktemp("stripped") / "server", "-ldflags=-s -w")


@pytest.fixture(scope="session")
def optimised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_go(SOURCE, tmp_path_factory.mktemp("optimised") / "server", "-trimpath")


@pytest.mark.parametrize(("fixture", "cause"), [("stripped", "no-debug-info"), ("optimised", "optimized")])
def test_a_poor_build(request: pytest.FixtureRequest, fixture: str, cause: str) -> None:
    server = Server(request.getfixturevalue(fixture))
    try:
        answer = doctor(server.pid)
        assert (answer.verdict, answer.ids) == ("degraded", {cause})
        assert answer.failed == (None, None)
        assert_serves(server)
    finally:
        server.stop()


def test_a_poor_build_refuses_nothing(optimised: Path) -> None:
    """Of an attach that is refused it is told, but neither first nor as the reason."""
    server = Server(optimised)
    try:
        ptrace(PTRACE_SEIZE, server.pid)
        assert list(doctor(server.pid).causes) == ["already-traced", "optimized"]
        said = subprocess.run([*SAFEDLV, "doctor", str(server.pid)], capture_output=True, text=True, check=False).stdout
        headline, _, rest = said.partition("\n\n")
        assert headline.startswith("blocked at PTRACE_ATTACH with EPERM")
        assert "traced" in headline
        assert "optimis" not in headline
        assert "optimized (observed)" in rest
    finally:
        server.stop()


# ---------------------------------------------------------------- the dlv to hand off to


def test_delve_missing(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SAFEDLV_DLV")
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = doctor(server.pid)
    assert (answer.verdict, answer.ids) == ("blocked", {"delve-missing"})
    assert answer.failed == (None, None)
    assert_serves(server)
    context = doctor(None)
    assert (context.verdict, context.ids) == ("blocked", {"delve-missing"})


def test_delve_version(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    require(old_dlv(), "needs dlv 1.20 in $SAFEDLV_TEST_DLV_OLD")
    monkeypatch.setenv("SAFEDLV_DLV", str(old_dlv()))
    answer = doctor(server.pid)
    assert (answer.verdict, answer.ids) == ("degraded", {"delve-version"})
    assert "1.18 to 1.20" in answer.causes["delve-version"]["summary"]
    assert_serves(server)


# ---------------------------------------------------------------- targets by name


def test_name_of_one_process(server: Server) -> None:
    pattern = f"^{re.escape(exe(server.pid))} {ANYWHERE}$"
    answer = doctor(f"name:{pattern}")
    assert (answer.verdict, answer.document["target"]["pid"]) == ("ok", server.pid)
    assert_serves(server)


def test_name_of_several_processes() -> None:
    token = f"token-{os.getpid()}"
    with python("", token) as one, python("", token) as other:
        said = refusal(f"name:{token}")
        assert said.startswith(f"safedlv: 2 processes match '{token}'")
        assert {int(line.split()[0]) for line in said.splitlines()[1:3]} == {one, other}
        assert_unharmed(one)
        assert_unharmed(other)


def test_name_of_no_process() -> None:
    assert "no process has a command line" in refusal("name:no-such-[p]rogram-anywhere")
    assert "is no pattern" in refusal("name:[")


# ---------------------------------------------------------------- text of other people

EVIL = "\x1b[31mred\x1b]0;title\x07\nnext line\r\x9b2J\u202etxt\udcff"
RENAME = f"import ctypes; ctypes.CDLL(None).prctl(15, {b'evil' + chr(27).encode() + b'[2J' + chr(10).encode()!r})"


def test_a_hostile_name_and_command_line() -> None:
    with python(RENAME, EVIL) as pid:
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_bytes().startswith(b"evil"), "it renamed itself")
        answer = doctor(pid)
        assert answer.document["target"]["comm"].startswith("evil")
        assert answer.ids == {"not-go"}


def test_a_hostile_child_of_a_wrapper(server_binary: Path) -> None:
    child_of = runs(server_binary)
    script = '"$0" "$1" "$2" & wait'
    with process("sh", "-c", script, str(server_binary), ANYWHERE, EVIL, ready=child_of) as pid:
        assert doctor(pid).ids == {"wrong-process"}


def test_a_hostile_path(stripped: Path, tmp_path: Path) -> None:
    path = tmp_path / EVIL.replace("/", "") / "server"
    path.parent.mkdir()
    shutil.copy(stripped, path)
    server = Server(path)
    try:
        assert doctor(server.pid).ids == {"no-debug-info"}
    finally:
        server.stop()


def test_a_hostile_tracer(server: Server) -> None:
    script = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.ptrace(16, int(sys.argv[1]), None, None); os.waitpid(int(sys.argv[1]), 0x40000000)\n"
    )
    assert ctypes.sizeof(ctypes.c_long) == 8
    with python(script, str(server.pid), EVIL) as pid:
        wait_until(lambda: status(server.pid, "TracerPid") == str(pid), "it is traced")
        assert doctor(server.pid).ids == {"already-traced"}
    assert_serves(server)


def test_several_hostile_processes_by_name() -> None:
    token = f"hostile-{os.getpid()}"
    with python("", token, EVIL), python("", token, EVIL):
        said = refusal(f"name:{token}")
        assert not [c for c in said if not c.isprintable() and c != "\n"]
        assert len(said.splitlines()) == 4


def test_a_report_for_a_terminal_that_knows_only_ascii(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    path = tmp_path / "schläfer"
    shutil.copy(str(shutil.which("sleep")), path)
    with process(path, "600", ready=lambda pid: status(pid, "State").startswith("S")) as pid:
        code, text, err = call(str(pid))
        assert (code, err) == (11, "")
        assert text.isascii()
        assert "schl\\xe4fer is no" in " ".join(text.split())

"""``safedlv observe``: it agrees with strace on the calls that failed, changes nothing, and harms nobody."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from safedlv.observing.own_root import enter_own_root
from safedlv.runtimes.sandbox import Sandbox
from safedlv.runtimes.sandbox import start as sandbox
from safedlv.seccomp.program import Refuse, assemble
from tests.everyone import Everyones
from tests.live import straced, test_refusals, test_refusals_states
from tests.live.observed import agreed, first, observe, outcome
from tests.live.sandboxes import ARCH, forever, needs_root  # noqa: F401
from tests.live.stages import Scene, Staged, as_the_tracer, tracer_of
from tests.scenes import Truth
from tests.support import SAFEDLV, Server, assert_unharmed, count, require

pytestmark = pytest.mark.usefixtures("needs_root", "newest_dlv")

SCENES = {
    **test_refusals.SCENES,
    # Where the target has no PID dlv is not started; see below.
    **{n: s for n, s in test_refusals_states.NAMESPACES.items() if "pid-namespace" not in s.truth.causes},
}
FIRST = {
    "another uid, no capability": ("fails", "ptrace", "PTRACE_ATTACH", "EPERM"),
    "another uid, SYS_PTRACE alone": ("fails", "openat", None, "EACCES"),
    "only SETOPTIONS is refused: dlv alone would look healthy": ("spoilt", "ptrace", "PTRACE_SETOPTIONS", "EPERM"),
    "only wait4 is refused, so no stop is ever seen": ("fails", "wait4", None, "EPERM"),
    "another uid, and a filter that kills the process": ("fails", "ptrace", "PTRACE_ATTACH", "SIGSYS"),
    "another uid, all three that a sidecar needs": ("works", None, None, None),
    "not dumpable": ("fails", "ptrace", "PTRACE_ATTACH", "EPERM"),
    "only CONT is refused": ("spoilt", "ptrace", "PTRACE_CONT", "EPERM"),
    "process_vm_readv is refused, which dlv does without": ("works", None, None, None),
    "a filter that kills the thread at SETOPTIONS": ("fails", "ptrace", "PTRACE_SETOPTIONS", "SIGSYS"),
    "a filter that traps CONT": ("fails", "ptrace", "PTRACE_CONT", "SIGSYS"),
    "a filter that says ENOSYS": ("fails", "ptrace", "PTRACE_ATTACH", "ENOSYS"),
}
"""The verdict, and the first call that matters, of the scenes in which it differs."""
COMPARED = [*FIRST, *(SCENES.keys() - FIRST.keys())][: count(len(SCENES), 6)]


@pytest.mark.parametrize("name", COMPARED)
def test_it_agrees_with_strace(
    name: str, everyones: Everyones, public_server: Path, newest_dlv: str, tmp_path: Path
) -> None:
    """The same calls failed with the same errnos as in a run under strace; and dlv said and ended the same."""
    scene = SCENES[name]
    with scene.stage(scene, everyones, public_server) as target:
        with tracer_of(scene, target, ["sleep", "600"]) as tracer:
            answer = agreed(newest_dlv, tmp_path / "log", str(target.pid), f"pid:{tracer.pid}")
        assert_unharmed(target.pid)
        target.check()
    if name in FIRST:
        assert (answer["verdict"], *first(answer)) == FIRST[name]
        assert answer["on"] == "stand-in"


@pytest.mark.parametrize("name", ["another uid, no capability", "same uid, both without"])
def test_nothing_changes_by_being_watched(
    name: str, everyones: Everyones, public_server: Path, newest_dlv: str
) -> None:
    """dlv says and ends the same when nobody looks."""
    scene = SCENES[name]
    with scene.stage(scene, everyones, public_server) as target:
        with tracer_of(scene, target, ["sleep", "600"]) as tracer:
            who = f"pid:{tracer.pid}"
            unwatched = straced.play(newest_dlv, who, str(target.pid), None)
            answer = observe("--tracer", who, str(target.pid))
        target.check()
    assert outcome(answer) == (unwatched.code, unwatched.stderr)


def test_a_healthy_server(server: Server, dlv: str) -> None:
    """From where we stand: it works, on a stand-in and on the real one, and the harmless calls are hidden."""
    answer = observe(str(server.pid))
    assert (answer["verdict"], answer["first"], answer["lacks"]) == ("works", None, [])
    assert answer["harmless"] == len(answer["calls"]) > 10
    assert answer["calls_made"] > 1000
    assert all(call["effect"] for call in answer["calls"])
    answer = observe("--real", str(server.pid))
    assert (answer["verdict"], answer["on"], answer["brought_home"]) == ("works", "real", None)
    assert_unharmed(server.pid)
    assert server.get().startswith("hello /you")


LATE = """
import sys, time
from types import SimpleNamespace
from safedlv import cli
from safedlv.observing import session
late = 0.0

def take_all(self, take_all=session.Following.take_all):
    global late
    came = take_all(self)
    late += 3 if came else 0
    return came

session.Following.take_all = take_all
session.time = SimpleNamespace(monotonic=lambda: time.monotonic() + late)
session.LONGEST = float("inf")
sys.exit(cli.main(sys.argv[1:]))
"""
"""A safedlv that needs three seconds, on its own clock, each time that it takes dlv's stops."""


def test_on_a_slow_machine(server: Server) -> None:
    """dlv does not hang while it waits for us."""
    words = [sys.executable, "-c", LATE, "observe", "--json", str(server.pid)]
    said = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    answer = json.loads(said.stdout)
    assert (answer["verdict"], answer["dlv"]["exit_code"], said.stderr) == ("works", 0, "")


def test_a_target_stopped_by_job_control(server: Server) -> None:
    """It is stopped afterwards; its stand-in was stopped, too."""
    os.kill(server.pid, 19)
    answer = observe(str(server.pid))
    assert answer["verdict"] == "works"
    answer = observe("--real", str(server.pid))
    assert answer["verdict"] == "works"
    assert_unharmed(server.pid, stopped=True)
    os.kill(server.pid, 18)
    assert server.get().startswith("hello /you")


def test_for_people(server: Server) -> None:
    """A line with the verdict, the calls with what they did, and where to go on; nothing of the environment."""
    words = [*SAFEDLV, "observe", str(server.pid)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "SECRET": "s3cr3t"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("works: dlv attached")
    assert "of them harmless (--all shows them)" in done.stdout
    done = subprocess.run([*words, "--all"], capture_output=True, text=True, check=True)
    assert "an optional file that is not there" in done.stdout
    assert not [c for c in done.stdout if not c.isprintable() and c != "\n"]
    assert "s3cr3t" not in done.stdout


def test_dlv_refused_in_the_middle_leaves_a_real_target_running(
    everyones: Everyones, public_server: Path, newest_dlv: str
) -> None:
    """A filter that kills dlv while it holds the target, or lets it see no stop: the target is brought home."""
    for refusal in (Refuse("ptrace", arg=(0, 0x4200), action="kill_process"), Refuse("wait4", errno=1)):
        scene = Scene({"seccomp": assemble([refusal], ARCH), "no_new_privs": True}, Truth())
        with scene.stage(scene, everyones, public_server) as target:
            with tracer_of(scene, target, ["sleep", "600"]) as tracer:
                answer = observe("--real", "--tracer", f"pid:{tracer.pid}", str(target.pid))
            assert answer["verdict"] == "fails"
            assert_unharmed(target.pid)
            target.check()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ([], 2, "observe whom?"),
        (["1", "2"], 2, "one word too many"),
        (["--tracer", "nobody", "SELF"], 2, "names nobody"),
        (["999999999"], 1, "there is no process"),
        (["--real", "--tracer", "self", "2"], 3, "cannot be observed"),
        (["2"], 3, "no stand-in can be made"),
    ],
)
def test_words_that_do_not_fit(words: list[str], code: int, sentence: str) -> None:
    words = [str(os.getpid()) if word == "SELF" else word for word in words]
    done = subprocess.run([*SAFEDLV, "observe", *words], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_start_imports_nothing_of_it() -> None:
    """observe's tracer is loaded for observe only."""
    script = "import sys; import safedlv.cli; print('ptrace' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_root_of_its_own(tmp_path: Path) -> None:
    """What those who live in a container could see of dlv's root is dlv, and nothing of ours."""
    files = (("/toolbox/dlv", "/bin/true"),)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            enter_own_root(str(tmp_path), files, (1000, 1000))
            mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
            os.write(writer, repr((sorted(os.listdir("/")), sorted(mounts), os.stat("/run").st_uid)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as told:
        assert told.read().decode() == repr((["dev", "proc", "run", "toolbox"], ["/", "/dev/null", "/proc"], 1000))
    os.waitpid(child, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def observers(everyones: Everyones) -> Everyones:
    """What every user may start, with what observe needs besides."""
    found = importlib.util.find_spec("ptrace")
    assert found is not None
    assert found.origin is not None
    copy = everyones.directory / "ptrace"
    if not copy.exists():
        shutil.copytree(Path(found.origin).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return everyones


def from_inside(scene: Scene, target: Staged, observers: Everyones, *flags: str) -> tuple[int, str, str]:
    return as_the_tracer(scene, target, observers.safedlv("observe", *flags, str(target.pid)))


def test_as_an_ordinary_user(observers: Everyones, public_server: Path) -> None:
    """A process of one's own: a stand-in and the real one; another's process is for root."""
    mine = Scene({"uid": 1000, "gid": 1000}, Truth(), Sandbox(uid=1000, gid=1000, groups=()))
    with mine.stage(mine, observers, public_server) as target:
        for flags in ((), ("--real",)):
            code, out, err = from_inside(mine, target, observers, *flags)
            assert (code, err) == (0, "")
            assert out.startswith("works: dlv attached")
        others = Scene({"uid": 1001, "gid": 1001}, Truth())
        code, out, err = from_inside(others, target, observers)
        assert (code, out) == (3, "")
        assert "no stand-in can be made" in err
        target.check()


def test_where_safedlv_itself_may_not_trace(observers: Everyones, public_server: Path) -> None:
    """Under a filter against ptrace it says so, and where to ask from; nothing was touched."""
    scene = Scene({"seccomp": assemble([Refuse("ptrace", errno=1)], ARCH), "no_new_privs": True}, Truth())
    with scene.stage(scene, observers, public_server) as target:
        for flags in ((), ("--real",)):
            code, out, err = from_inside(scene, target, observers, *flags)
            assert (code, out) == (3, "")
            assert "Operation not permitted" in err
            assert "Traceback" not in err
        assert_unharmed(target.pid)
        target.check()


def test_a_target_that_has_no_name_there(everyones: Everyones, public_server: Path) -> None:
    """From another PID namespace the target cannot be named."""
    scene = Scene({}, Truth())
    with scene.stage(scene, everyones, public_server) as target:
        with sandbox(Sandbox(namespaces=frozenset({"pid", "mnt"})), ["sleep", "60"]) as elsewhere:
            answer = observe("--tracer", f"pid:{elsewhere.pid}", str(target.pid))
        target.check()
    assert (answer["verdict"], answer["dlv"]["target_pid"], answer["calls"]) == ("hidden", None, [])


@pytest.mark.parametrize("kinds", ["pid mnt", "user pid mnt"])
def test_in_namespaces_of_their_own(everyones: Everyones, public_server: Path, kinds: str) -> None:
    """dlv brings what it needs, and reaches nothing of ours; the stand-in is in the target's namespaces."""
    scene = Scene({}, Truth(), Sandbox(namespaces=frozenset(kinds.split())))
    with scene.stage(scene, everyones, public_server) as target:
        with tracer_of(scene, target, ["sleep", "60"]) as tracer:
            for flags in ((), ("--real",)):
                answer = observe("--tracer", f"pid:{tracer.pid}", str(target.pid), *flags)
                assert answer["verdict"] == "works", answer
                assert answer["dlv"]["target_pid"] < target.pid
        assert_unharmed(target.pid)
        target.check()


def test_where_dlv_cannot_be_executed(everyones: Everyones, public_server: Path) -> None:
    """The filter is dlv's own, from the execve(2) on: that is what it shows."""
    require(ARCH == "x86_64", "the number of execve(2) is x86_64's")
    scene = Scene({}, Truth())
    with scene.stage(scene, everyones, public_server) as target:
        with sandbox(Sandbox(seccomp=assemble([Refuse(59, errno=13)], ARCH)), forever) as place:
            answer = observe("--tracer", f"pid:{place.pid}", str(target.pid))
        target.check()
    assert (answer["verdict"], first(answer)) == ("fails", ("execve", None, "EACCES"))

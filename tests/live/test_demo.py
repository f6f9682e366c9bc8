"""`make demo`'s story, run whole: as root, as an ordinary user, where an attach is refused, and where things fail.

That the acts of denied attaches are mended by what the diagnosis names shows where another diagnosis is put in.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, build_go, count, go_tool, new_dlv, require, wait_until

NOBODY = 65534
SAFEDLV = """\
#!/bin/sh
export PYTHONPATH={directory}
exec {python} -m safedlv "$@"
"""
REFUSES = """\
#!/bin/sh
if [ "$1" = doctor ]; then echo 'blocked at PTRACE_ATTACH with EPERM'; exit 10; fi
exit 1
"""
REWRITES = """\
#!/bin/sh
case " $* " in *" --json "*)
    answer=$({real} "$@")
    code=$?
    printf '%s\\n' "$answer" | sed '{change}'
    exit $code
esac
exec {real} "$@"
"""
SUDO = """\
#!/bin/sh
echo "sudo was asked: $*"
"""


class Stage:
    """A copy of what the demo needs that every user may read, and a PATH with exactly that."""

    def __init__(self, directory: Path, python: str) -> None:
        self.directory, self.python = directory, python
        self.bin = directory / "bin"
        self.home = directory / "home"
        self.tmp = directory / "tmp"
        self.bin.mkdir()
        self.home.mkdir()
        self.tmp.mkdir()
        self.tmp.chmod(0o1777)
        for name in ("safedlv", "examples"):
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        for module in ("attr", "attrs", "elftools", "pexpect", "ptrace", "ptyprocess"):
            package = Path(str(importlib.import_module(module).__file__)).parent
            shutil.copytree(package, directory / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        self.put("safedlv", SAFEDLV.format(directory=directory, python=python))
        self.put("docker", "#!/bin/sh\nexit 1\n")  # no engine: tests/docker/test_demo.py has the act that needs one

    @property
    def demo(self) -> Path:
        return self.directory / "examples" / "demo"

    def put(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),
            "GOCACHE": str(self.home / "go-build"),
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
            "PYTHONPATH": str(self.directory),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(self, *prefix: str) -> subprocess.Popen[str]:
        words = [*prefix, self.python, str(self.demo)]
        return subprocess.Popen(
            words, cwd="/", env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def told(self, *prefix: str, code: int = 0) -> str:
        process = self.start(*prefix)
        story = process.communicate(timeout=280)[0]
        assert process.returncode == code, story
        assert not left(self), story
        return story


def left(stage: Stage) -> list[str]:
    """What a demo on this stage left behind: processes, found by their environment, and temporary files."""
    found = [path.name for path in stage.tmp.iterdir()]
    for entry in Path("/proc").iterdir():
        try:
            if os.fsencode(stage.bin) in (entry / "environ").read_bytes():
                found.append(f"process {entry.name}")
        except OSError:
            continue
    return found


def python_for_everyone() -> str | None:
    """A Python that an ordinary user may start; the tests' own may lie in root's home."""
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        # By way of a shell: setpriv itself still has root's capabilities when it looks the program up.
        words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sh", "-c", 'exec "$0" -c "$1"']
        check = "import sys; sys.exit(sys.version_info < (3, 11))"
        if not subprocess.run([*words, python, check], cwd="/", capture_output=True, check=False).returncode:
            return python
    return None


@pytest.fixture
def stage() -> Iterator[Stage]:
    require(os.geteuid() == 0 and shutil.which("setpriv"), "needs root and setpriv, to become an ordinary user")
    python = python_for_everyone()
    require(python, "needs a Python of at least 3.11 that everyone may start")
    go, dlv = go_tool(), new_dlv()
    require(go and dlv, "needs Go and dlv")
    directory = Path(tempfile.mkdtemp(prefix="stage-"))
    directory.chmod(0o755)
    made = Stage(directory, str(python))
    shutil.copy(str(dlv), made.bin / "dlv")
    (made.bin / "go").symlink_to(os.path.realpath(str(go)))
    yield made
    subprocess.run(["rm", "-rf", str(directory)], check=True)  # Go's cache is read-only in places


def an_ordinary_user(stage: Stage) -> list[str]:
    os.chown(stage.home, NOBODY, NOBODY)
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def may_attach() -> bool:
    """Whether an ordinary user may attach to a process of theirs that is not their child."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return not scope.exists() or scope.read_text().strip() == "0"


@pytest.mark.timeout(300)
@pytest.mark.long
@pytest.mark.parametrize("who", ["root", "nobody"][: count(2)])
def test_the_whole_story(stage: Stage, who: str) -> None:
    if who == "nobody":
        require(may_attach(), "needs kernel.yama.ptrace_scope 0")
    prefix = an_ordinary_user(stage) if who == "nobody" else []
    story = stage.told(*prefix)
    pid = re.search(r"^\$ safedlv doctor (\d+)$", story, re.MULTILINE)
    assert pid, story
    assert ("\ndenied> " in story) == (who == "root")
    if who == "nobody":
        assert "\n== 6. to 8. Three denied attaches: only root, with all of its capabilities, can make" in story
        assert f"\n  sudo env PATH={stage.bin}:/usr/bin:/bin {stage.python} {stage.demo}\n" in story
    for line in (
        f"$ TERM=dumb safedlv attach {pid[1]}",
        '"/you"',
        "The request that stood still meanwhile: GET /you -> hello /you, you are visitor 2",
        "GET /you -> hello /you, you are visitor 3",
        "TracerPid:\t0",
        "No Docker Engine answers here, and this act needs one.",
        "== What to type next",
    ):
        assert f"\n{line}\n" in story
    assert re.search(r"^ok: a debugger can attach to process ", story, re.MULTILINE)
    sessions = {"root": 4, "nobody": 1}[who]
    assert len(re.findall(r"^\(dlv\) break main\.go:\d+$", story, re.MULTILINE)) == sessions  # each shown once
    assert "\x1b" not in story
    assert "\r" not in story


def quick(stage: Stage) -> None:
    """Trials of what goes wrong need not build the server anew each time."""
    built = stage.directory / "built"
    if not built.exists():
        source = stage.directory / "examples" / "server"
        build_go(source, built, "-buildvcs=false", "-gcflags=all=-N -l", environment={"CGO_ENABLED": "0"})
    (stage.bin / "go").unlink()
    stage.put("go", f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp {built} "$2"\n')


# ---------------------------------------------------------------- denied attaches


class Act:
    """What one act of a denied attach showed."""

    def __init__(self, story: str, number: int) -> None:
        found = re.search(rf"^== {number}\. .*?(?=^== )", story, re.MULTILINE | re.DOTALL)
        assert found, story
        self.text = found[0]
        self.refused, asked, rest = self.text.partition("-- Root asks")
        self.diagnosed, mended, self.attached = rest.partition("-- The same place")
        assert asked, story
        assert mended, story
        server = re.search(r"^-- The server is user 1000's process (\d+):$", self.text, re.MULTILINE)
        assert server, story
        self.server = server[1]

    @property
    def proved(self) -> set[str]:
        """The causes that experiments have shown."""
        line = re.search(r"^-- It names the causes: (.*)$", self.diagnosed, re.MULTILINE)
        assert line, self.text
        return set(re.findall(r"(\S+) \(experiment\)", line[1]))

    @property
    def fix(self) -> str:
        line = re.search(r"^-- and the smallest change that passed: (.*)$", self.diagnosed, re.MULTILINE)
        assert line, self.text
        return line[1]

    @property
    def places(self) -> list[tuple[str, int, str]]:
        """Before and after: the uid, the effective capabilities, how many filters; as the kernel says."""
        found = re.findall(r"^Uid:\t(\d+).*?^CapEff:\t(\w+)$\n^Seccomp_filters:\t(\d+)$", self.text, re.M | re.S)
        assert len(found) == 2, self.text
        return [(uid, int(mask, 16), filters) for uid, mask, filters in found]

    def assert_made_in_the_end(self) -> None:
        """The attach in the mended place: a breakpoint, a variable, an answer, and the server as it was."""
        told = (
            rf"^mended> safedlv attach {self.server}$.*"
            r"^> \[Breakpoint 1\] main\.greeting.*"
            r'^"/you"$.*'
            r"^The request that stood still meanwhile: GET /you -> hello /you, you are visitor 1$.*"
            r"^GET /you -> hello /you, you are visitor 2$.*"
            r"^State:\t[SR] .*^TracerPid:\t0$"
        )
        assert re.search(told, self.attached, re.MULTILINE | re.DOTALL), self.text


SYS_PTRACE = 1 << 19
FEW, NONE = 0xA80425FB, 0


@pytest.mark.timeout(300)
def test_the_denied_attaches(stage: Stage) -> None:
    require(may_attach(), "needs kernel.yama.ptrace_scope 0, or there is one cause more")
    quick(stage)
    for name in ("bin", "examples", "safedlv"):
        (stage.directory / name).chmod(0o700)  # as in root's home, where the servers' user may not go
    story = stage.told("sh", "-c", 'umask 077; exec "$0" "$@"')
    one, two, silent = acts = [Act(story, number) for number in (6, 7, 8)]
    for act in acts:
        assert re.search(rf"^denied> safedlv attach (--headless )?{act.server}\b", act.refused, re.MULTILINE), act.text
        assert "The smallest change with which the probe passed:" in act.diagnosed
        act.assert_made_in_the_end()
    for act, step in ((one, "ATTACH"), (two, "ATTACH"), (silent, "SETOPTIONS")):
        assert f"\nblocked at PTRACE_{step} with EPERM " in act.refused
        assert f"\nblocked at PTRACE_{step} with EPERM " in act.diagnosed

    assert (one.proved, one.fix) == ({"credentials"}, "user")
    assert one.places == [("0", FEW, "0"), ("1000", NONE, "0")]
    assert "\nWhat the layers state:\n" in one.refused  # a whole report
    assert (two.proved, two.fix) == ({"credentials", "seccomp"}, "user, seccomp")
    assert two.places == [("0", FEW, "1"), ("1000", NONE, "1")]  # the filter stays; it lets dlv's calls through
    assert (silent.proved, silent.fix) == ({"seccomp"}, "seccomp")
    before, after = silent.places
    assert before == after
    assert before[2] == "1"
    assert_healthy_by_dlv(silent)


def assert_healthy_by_dlv(act: Act) -> None:
    """dlv alone listens and answers, where only SETOPTIONS is refused; ended in order it leaves the server well."""
    told = (
        rf"^denied> dlv attach --headless --api-version=2 {act.server}$\n"
        r"^API server listening at: 127\.0\.0\.1:\d+$\n"
        rf'^-- It answers an editor, too: RPCServer\.State says \{{"Pid": {act.server}, .*'
        r"^\$ kill -TERM \d+$\n"
        r"^\$ grep .*^State:\t[SR] .*^TracerPid:\t0$\n"
        rf"^denied> safedlv attach --headless {act.server} "
    )
    assert re.search(told, act.refused, re.MULTILINE | re.DOTALL), act.text


def another_diagnosis(stage: Stage, change: str) -> None:
    """`safedlv doctor --json` says something else; ``change`` is for sed."""
    quick(stage)
    (stage.bin / "safedlv").rename(stage.bin / "real-safedlv")
    stage.put("safedlv", REWRITES.format(real=stage.bin / "real-safedlv", change=change))


@pytest.mark.timeout(300)
def test_the_mend_is_what_the_diagnosis_names(stage: Stage) -> None:
    another_diagnosis(stage, 's/^      "user"/"cap:sys_ptrace"/')
    story = stage.told()
    for number, filters in ((6, "0"), (7, "1")):
        act = Act(story, number)
        assert act.fix == "cap:sys_ptrace" + (", seccomp" if number == 7 else "")
        assert act.places == [("0", FEW, filters), ("0", FEW | SYS_PTRACE, filters)]
        act.assert_made_in_the_end()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ('s/^      "user"//', "the doctor knows no change that would help here"),
        ('s/^      "user"/"reboot"/', "the doctor asks for the change 'reboot', which this demo cannot make"),
        ('s/^      "user"/"cap:kill"/', "the attach was refused in the mended place, too"),
    ],
)
def test_a_diagnosis_that_does_not_help(stage: Stage, change: str, why: str) -> None:
    another_diagnosis(stage, change)
    assert stage.told(code=1).endswith(f"\nThe demo stopped: {why}.\n")


@pytest.mark.timeout(300)
def test_root_without_its_capabilities(stage: Stage) -> None:
    quick(stage)
    story = stage.told("setpriv", "--bounding-set=-sys_admin")
    assert "\n== 6. to 8. Three denied attaches: only root, with all of its capabilities, can make" in story
    assert "denied> " not in story


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("sign", "line"),
    [
        (signal.SIGINT, "denied> safedlv attach"),
        (signal.SIGTERM, "(dlv) print v.Path"),
        (signal.SIGINT, "API server listening"),
    ],
)
def test_interrupted_in_a_place(stage: Stage, sign: signal.Signals, line: str) -> None:
    quick(stage)
    told = interrupted(stage, sign, line, after="== 6.")
    assert told.endswith("The demo stopped: interrupted.\n")


# ---------------------------------------------------------------- where things fail


@pytest.mark.timeout(300)
def test_where_an_attach_is_refused(stage: Stage) -> None:
    quick(stage)
    stage.put("safedlv", REFUSES)
    story = stage.told(code=1)
    assert "blocked at PTRACE_ATTACH with EPERM" in story
    assert story.endswith("an attach would be refused here; the doctor's report above says by what.\n")

    prefix = an_ordinary_user(stage)
    stage.put("sudo", SUDO)
    story = stage.told(*prefix)
    assert re.search(rf"^sudo was asked: env PATH=\S+ {re.escape(stage.python)} {stage.demo}$", story, re.MULTILINE), (
        story
    )


@pytest.mark.timeout(300)
def test_a_debugger_that_fails(stage: Stage) -> None:
    quick(stage)
    (stage.bin / "dlv").unlink()
    assert "The demo stopped: " in stage.told(code=1)

    stage.put("safedlv", '#!/bin/sh\n[ "$1" = doctor ] || { echo no >&2; exit 1; }\n')
    assert "The demo stopped: the debugger ended before it said '(dlv) '." in stage.told(code=1)

    (stage.bin / "go").unlink()
    story = stage.told(code=1)
    assert "The demo stopped: there is no go on the PATH; `make demo` finds or installs it." in story


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_session(stage: Stage, sign: signal.Signals) -> None:
    quick(stage)
    stage.put("safedlv", '#!/bin/sh\n[ "$1" = doctor ] || { echo here; exec sleep 100; }\n')
    story = interrupted(stage, sign, "here")
    assert story.endswith("The demo stopped: interrupted.\n")


def interrupted(stage: Stage, sign: signal.Signals, line: str, after: str = "== 4.") -> str:
    """The story of a demo that got a signal once it had shown a line that begins so; nothing is left of it."""
    process = stage.start()
    watchdog = threading.Timer(200, process.kill)
    watchdog.start()
    assert process.stdout is not None
    story = ""
    for wanted in (after, line):
        while shown := process.stdout.readline():
            story += shown
            if shown.startswith(wanted):
                break
    process.send_signal(sign)
    story += process.communicate()[0]
    watchdog.cancel()
    assert process.returncode == 130, story
    wait_until(lambda: not left(stage), "the servers and the debuggers have ended")
    return story

"""`make demo`'s story, run whole: as root, as an ordinary user, where an attach is refused, and where things fail."""

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

from tests.support import ROOT, go_tool, new_dlv, require, wait_until

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
        self.bin.mkdir()
        self.home.mkdir()
        for name in ("safedlv", "examples"):
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        for module in ("attr", "attrs", "elftools", "pexpect", "ptrace", "ptyprocess"):
            package = Path(str(importlib.import_module(module).__file__)).parent
            shutil.copytree(package, directory / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        self.put("safedlv", SAFEDLV.format(directory=directory, python=python))

    def put(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def start(self, *prefix: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.home),
            "GOCACHE": str(self.home / "go-build"),
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
            "PYTHONPATH": str(self.directory),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        words = [*prefix, self.python, str(self.directory / "examples" / "demo.py")]
        return subprocess.Popen(
            words, cwd="/", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def told(self, *prefix: str, code: int = 0) -> str:
        process = self.start(*prefix)
        story = process.communicate(timeout=280)[0]
        assert process.returncode == code, story
        assert not left(self.directory), story
        return story


def left(directory: Path) -> list[int]:
    """Processes that a demo on this stage left behind, found by their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if f"HOME={directory}/home".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except (OSError, ValueError):
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
@pytest.mark.parametrize("who", ["root", "nobody"])
def test_the_whole_story(stage: Stage, who: str) -> None:
    if who == "nobody":
        require(may_attach(), "needs kernel.yama.ptrace_scope 0")
    prefix = an_ordinary_user(stage) if who == "nobody" else []
    story = stage.told(*prefix)
    pid = re.search(r"^\$ safedlv doctor (\d+)$", story, re.MULTILINE)
    assert pid, story
    for line in (
        f"$ safedlv attach {pid[1]}",
        '"/you"',
        "The request that stood still meanwhile: GET /you -> hello /you, you are visitor 2",
        "GET /you -> hello /you, you are visitor 3",
        "TracerPid:\t0",
        "== What to type next",
    ):
        assert f"\n{line}\n" in story
    assert re.search(r"^ok: a debugger can attach to process ", story, re.MULTILINE)
    assert len(re.findall(r"^\(dlv\) break main\.go:\d+$", story, re.MULTILINE)) == 1  # typed once, shown once
    assert "\x1b" not in story
    assert "\r" not in story


def quick(stage: Stage) -> None:
    """Trials of what goes wrong need not build the server anew each time."""
    built = stage.directory / "built"
    if not built.exists():
        source = stage.directory / "examples" / "server"
        subprocess.run([str(go_tool()), "build", "-o", str(built), "."], cwd=source, check=True, timeout=300)
    (stage.bin / "go").unlink()
    stage.put("go", f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp {built} "$2"\n')


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
    demo = stage.directory / "examples" / "demo.py"
    assert re.search(rf"^sudo was asked: env PATH=\S+ {re.escape(stage.python)} {demo}$", story, re.MULTILINE), story


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
    process = stage.start()
    watchdog = threading.Timer(100, process.kill)
    watchdog.start()
    assert process.stdout is not None
    story = ""
    while "\nhere\n" not in story and (line := process.stdout.readline()):
        story += line
    process.send_signal(sign)
    story += process.communicate()[0]
    watchdog.cancel()
    assert process.returncode == 130, story
    assert story.endswith("The demo stopped: interrupted.\n")
    wait_until(lambda: not left(stage.directory), "the server and the debugger have ended")

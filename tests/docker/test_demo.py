"""The act of `make demo` that needs a Docker Engine: told where one answers, offered where none does."""

from __future__ import annotations

import os
import re
import shutil
import signal
import site
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.docker.conftest import Engine
from tests.live.test_demo import Stage, interrupted, left, python_for_everyone, quick
from tests.support import count, go_tool, new_dlv, require

SAFEDLV = """\
#!/bin/sh
export PYTHONPATH={path}
exec {python} -m safedlv "$@"
"""
INSTALLS = """\
#!/bin/sh
echo "$1 was asked for" >>{log}
ln -sf {docker} {bin}/docker
"""
INSTALL, START = "Install docker.io (apt-get)? [y/N] ", "Start dockerd for this act? [y/N] "
NOT_THERE = "No Docker Engine answers here, and this act needs one."


@pytest.fixture
def stage(running_engine: None) -> Iterator[Stage]:
    require(os.geteuid() == 0, "root makes the acts before it")
    python, go, dlv = python_for_everyone(), go_tool(), new_dlv()
    require(python and go and dlv, "needs a Python that everyone may start, Go and dlv")
    directory = Path(tempfile.mkdtemp(prefix="stage-"))
    directory.chmod(0o755)
    made = Stage(directory, str(python))
    shutil.copy(str(dlv), made.bin / "dlv")
    (made.bin / "go").symlink_to(os.path.realpath(str(go)))
    path = os.pathsep.join([str(directory), *site.getsitepackages()])
    made.put("safedlv", SAFEDLV.format(path=path, python=made.python))
    yield made
    subprocess.run(["rm", "-rf", str(directory)], check=True)  # Go's cache is read-only in places


def with_engine(stage: Stage) -> Stage:
    (stage.bin / "docker").unlink()
    (stage.bin / "docker").symlink_to(str(shutil.which("docker")))
    return stage


def ours(*more: str) -> set[str]:
    """The container and the image that the act makes, and what else these words list."""
    engine = Engine()
    words = [
        ("ps", "--all", "--quiet", "--filter", "name=safedlv-demo"),
        ("images", "--quiet", "--filter", "reference=safedlv-demo*"),
    ]
    return {name for one in (*words, more) if one for name in engine.docker(*one).stdout.decode().split()}


TOOLBOXES = ("images", "--quiet", "--filter", "label=safedlv.toolbox")


@pytest.mark.timeout(300)
def test_the_container_that_refuses(stage: Stage) -> None:
    before = ours(*TOOLBOXES)
    quick(with_engine(stage))
    story = stage.told()
    act = story.partition("\n== 9. ")[2].partition("\n== What to type next")[0]
    name = re.search(r"safedlv attach --via sidecar docker:(\S+)\n", act)
    assert name, story
    for line in (
        "blocked at PTRACE_ATTACH with EPERM",
        r"\(dlv\) continue\n> \[Breakpoint 1\] main\.greeting",
        r'"/you"$',
        "The request that stood still meanwhile: GET /you -> hello /you, you are visitor 2$",
        "-- The sidecar is gone, and the server is as it was, in the same process:",
        r"State:\t[SR] .*\nTracerPid:\t0\nGET /you -> hello /you, you are visitor 3$",
    ):
        assert re.search(f"^{line}", act, re.MULTILINE), act
    assert ours(*TOOLBOXES) == before


@pytest.mark.timeout(300)
def test_nothing_is_installed_unasked(stage: Stage, tmp_path: Path) -> None:
    """Where there is no terminal the act is left out; at one, only a yes installs."""
    quick(stage)
    log = installer(stage, tmp_path)
    story = stage.told()
    assert NOT_THERE in story
    assert "[y/N]" not in story
    assert NOT_THERE in at_a_terminal(stage, INSTALL, "n")
    assert not log.exists()

    story = at_a_terminal(stage, INSTALL, "y")
    assert log.read_text() == "engine was asked for\n"
    assert "\n-- The sidecar is gone, and the server is as it was" in story


@pytest.mark.timeout(300)
def test_an_engine_is_started_and_ended(stage: Stage) -> None:
    """The stand-in for dockerd only lets docker answer; that it has ended at_a_terminal sees."""
    quick(stage)
    stage.put("dockerd", f"#!/bin/sh\nln -sf {shutil.which('docker')} {stage.bin}/docker\nexec sleep 1000\n")
    story = at_a_terminal(stage, START, "y")
    assert "\n$ dockerd &\n" in story
    assert "\n-- The sidecar is gone, and the server is as it was" in story


def installer(stage: Stage, tmp_path: Path) -> Path:
    """A stand-in for tests/tools.sh, and where it writes what it was asked; apt-get is there, dockerd is not."""
    log, script = tmp_path / "log", stage.directory / "tests" / "tools.sh"
    script.parent.mkdir()
    script.write_text(INSTALLS.format(log=log, docker=shutil.which("docker"), bin=stage.bin))
    script.chmod(0o755)
    stage.put("apt-get", "#!/bin/sh\nexit 1\n")
    return log


def at_a_terminal(stage: Stage, question: str, answer: str) -> str:
    terminal = pexpect.spawn(
        stage.python,
        [str(stage.demo)],
        env=stage.environment(),
        cwd="/",
        timeout=120,
        encoding="utf-8",
        dimensions=(40, 200),
    )
    terminal.expect_exact(question)
    before = terminal.before
    terminal.sendline(answer)
    terminal.expect(pexpect.EOF)
    story = str(before) + str(terminal.before)
    terminal.close()
    assert terminal.exitstatus == 0, story
    assert not left(stage)
    return story.replace("\r", "")


@pytest.mark.timeout(300)
@pytest.mark.long
@pytest.mark.parametrize("line", ["$ docker port", "(dlv) print v.Path"][: count(2)])
def test_interrupted(stage: Stage, line: str) -> None:
    before = ours()
    quick(with_engine(stage))
    assert interrupted(stage, signal.SIGINT, line, after="== 9.").endswith("The demo stopped: interrupted.\n")
    assert ours() == before


@pytest.mark.timeout(300)
def test_an_engine_that_fails(stage: Stage) -> None:
    before = ours()
    quick(stage)
    stage.put("docker", f'#!/bin/sh\n[ "$1" = run ] && exit 125\nexec {shutil.which("docker")} "$@"\n')
    story = stage.told()
    assert "\nThis act is left out.\n" in story
    assert "via sidecar" not in story
    assert ours() == before

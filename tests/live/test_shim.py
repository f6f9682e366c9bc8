"""shims/dlv where an editor starts dlv: not to be told from dlv but in `attach` and `dap`, and never in the way."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safedlv.facts.delve_path import find_delve
from tests.clients import JsonRpc
from tests.live.leftovers import nothing_left_behind  # noqa: F401  pytest finds fixtures by their names here
from tests.live.test_wheel import installed, run, wheel  # noqa: F401
from tests.support import ROOT, Server, assert_unharmed, go_tool, left_as_found, new_dlv, require, wait_until

SHIM = ROOT / "shims" / "dlv"
LAUNCHER = ROOT / "shims" / "launcher"
PYTHON = Path("/usr/bin/python3")

STAND_IN = f"""#!{sys.executable} -IS
import json, os, sys
fds = {{}}
for fd in range(3, 10):
    try:
        fds[fd] = os.readlink(f"/proc/self/fd/{{fd}}")
    except OSError:
        pass
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
with open("/proc/self/environ", "rb") as file:
    environment = file.read()
sys.stdout.write(json.dumps({{
    "args": [os.fsencode(word).hex() for word in sys.argv[1:]], "pid": os.getpid(), "fds": fds, "cwd": os.getcwd(),
    "signals": [status[name].strip() for name in ("SigBlk", "SigIgn")], "environment": environment.hex(),
}}))
sys.exit(int(os.environ.get("CODE", 0)))
"""
"""Stands where the real dlv would and says how it was started."""


@pytest.fixture(autouse=True)
def runs_here() -> None:
    require(PYTHON.exists(), "needs /usr/bin/python3, the shim's own")


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A dlv that says how it was started, in a directory of its own."""
    path = tmp_path / "real" / "dlv"
    path.parent.mkdir()
    path.write_text(STAND_IN)
    path.chmod(0o755)
    return path


def started(*words: str | bytes, dlv: Path, shim: Path = SHIM, **more: Any) -> dict[str, Any]:
    """What the stand-in says when it is started through the shim."""
    more.setdefault("env", {"PATH": str(dlv.parent)})
    done = subprocess.run([shim, *words], stdout=subprocess.PIPE, timeout=20, check=True, **more)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def shim_module() -> dict[str, Any]:
    return runpy.run_path(str(SHIM))


# ------------------------------------------------------------ as if it were not there


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["version", "-v"],
        ["help", "attach"],
        ["--help", "attach"],
        ["debug", "--headless", "./x", "--", "attach", "1"],
        ["--log", "--listen", "attach", "exec", "/bin/true"],
        ["-l", "dap", "test"],
        ["--new-flag", "attach", "new-command"],
        ["--", "attach", "1"],
        ["new-command", "attach"],
        ["connect", b"\xff\xfe not text", "", " ", "\n"],
    ],
)
def test_what_it_has_no_opinion_on_goes_to_dlv_word_for_word(words: list[str | bytes], stand_in: Path) -> None:
    assert started(*words, dlv=stand_in)["args"] == [os.fsencode(word).hex() for word in words]


@pytest.mark.parametrize(
    ("words", "at"),
    [
        (["attach", "1"], 0),
        (["--headless", "attach", "1"], 1),
        (["--listen", ":0", "dap"], 2),
        (["-l:0", "--log=true", "dap"], 2),
        (["-l", ":0", "", "-", "attach"], 4),
        (["dap", "--", "x"], 0),
        (["attached"], None),
        (["--attach"], None),
    ],
)
def test_where_the_command_stands(words: list[str], at: int | None) -> None:
    assert shim_module()["command_at"](words) == at


def test_the_process_is_the_same_and_so_are_its_descriptors(stand_in: Path, tmp_path: Path) -> None:
    """vscode-go reads dlv's log from descriptor 3."""
    log = tmp_path / "log"
    found, direct = (
        json.loads(subprocess.check_output(["sh", "-c", 'exec "$0" version 3>"$1"', dlv, log], cwd=tmp_path, env=env))
        for env in [{"PATH": f"{stand_in.parent}:/bin"}]
        for dlv in (SHIM, stand_in)
    )
    assert found["fds"] == direct["fds"] == {"3": str(log)}
    assert found["cwd"] == direct["cwd"]


def test_the_pid_is_that_of_the_program_started(stand_in: Path) -> None:
    with subprocess.Popen([SHIM], env={"PATH": str(stand_in.parent)}, stdout=subprocess.PIPE) as process:
        out, _ = process.communicate(timeout=20)
    assert json.loads(out)["pid"] == process.pid


@pytest.mark.parametrize("locale", [{}, {"LC_CTYPE": "C.UTF-8"}, {"LC_ALL": "C"}, {"LANG": "xx_XX.latin1"}])
def test_the_environment_is_the_same(stand_in: Path, locale: dict[str, str]) -> None:
    """Also where Python would add LC_CTYPE for its children (PEP 538), and for names that a shell would drop."""
    given = {"PATH": str(stand_in.parent), "a.b": "1", "BASH_FUNC_f%%": "() { :; }", "PYTHONPATH": "/nowhere", **locale}
    found = bytes.fromhex(started("version", dlv=stand_in, env=given)["environment"])
    assert sorted(found.split(b"\0")[:-1]) == sorted(f"{key}={value}".encode() for key, value in given.items())


def test_signals_are_as_they_were(stand_in: Path) -> None:
    """Python ignores SIGPIPE and SIGXFSZ; a program that it becomes would, too."""
    direct = json.loads(subprocess.check_output([stand_in, "version"]))
    assert started("version", dlv=stand_in)["signals"] == direct["signals"]


@pytest.mark.parametrize("code", ["0", "1", "77"])
def test_the_exit_code_is_dlvs(stand_in: Path, code: str) -> None:
    env = {"PATH": str(stand_in.parent), "CODE": code}
    assert subprocess.run([SHIM, "exec"], env=env, stdout=subprocess.DEVNULL, check=False).returncode == int(code)


@pytest.mark.parametrize("words", [["version"], ["substitute-path-guess-helper"], ["help", "attach"], ["nonsense"], []])
def test_the_real_dlv_says_the_same(words: list[str], newest_dlv: str) -> None:
    through, direct = (subprocess.run([dlv, *words], capture_output=True, check=False) for dlv in (SHIM, newest_dlv))
    assert (through.returncode, through.stdout, through.stderr) == (direct.returncode, direct.stdout, direct.stderr)


def test_a_signal_reaches_dlv(newest_dlv: str, server_binary: Path) -> None:
    """dlv ends what it started when it is interrupted, and then itself."""
    codes = []
    for dlv in (SHIM, newest_dlv):
        words = [dlv, "exec", "--headless", "--listen=127.0.0.1:0", str(server_binary), "--", "127.0.0.1:0"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("API server listening at: ")
            client = JsonRpc(line.partition(": ")[2].strip())
            client.use_version_2()  # it answers, so it hears signals
            process.send_signal(signal.SIGINT)
            codes.append(process.wait(20))
            client.close()
    assert codes[0] == codes[1] == 0


# ------------------------------------------------------------ which dlv


def test_it_never_finds_itself(stand_in: Path, tmp_path: Path) -> None:
    """Not in its own directory, nor as a link, a copy, or the launcher; nor does safedlv."""
    places = [SHIM.parent]
    for name in ("link", "copy", "launcher", "unreadable"):
        (tmp_path / name).mkdir()
        places.append(tmp_path / name)
    (tmp_path / "link" / "dlv").symlink_to(SHIM)
    shutil.copy(SHIM, tmp_path / "copy" / "dlv")
    built = tmp_path / "dlv-launcher"
    built.write_bytes(b"\x7fELF")
    built.chmod(0o755)
    (tmp_path / "launcher" / "dlv").symlink_to(built)
    (tmp_path / "unreadable" / "dlv").write_text("no program")
    path = ":".join([".", "", *map(str, places), *map(str, places), str(stand_in.parent)])
    for shim in (SHIM, tmp_path / "link" / "dlv", tmp_path / "copy" / "dlv"):
        assert started("version", dlv=stand_in, shim=shim, env={"PATH": path})["args"] == [b"version".hex()]
    assert find_delve(path, None) == str(stand_in)


@pytest.mark.parametrize("named", ["/nowhere/dlv", "nowhere", str(SHIM)])
def test_where_the_named_dlv_is_none_it_says_so(stand_in: Path, named: str) -> None:
    env = {"PATH": str(stand_in.parent), "SAFEDLV_DLV": named}
    done = subprocess.run([SHIM, "version"], env=env, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr == f"safedlv: SAFEDLV_DLV names {named!r}, which is no other dlv\n"
    assert find_delve(env["PATH"], named) is None


def test_the_named_dlv_goes_first(stand_in: Path, tmp_path: Path) -> None:
    for named in (str(stand_in), "dlv-real"):
        (tmp_path / "dlv-real").unlink(missing_ok=True)
        (tmp_path / "dlv-real").symlink_to(stand_in)
        env = {"PATH": f"/nowhere:{tmp_path}", "SAFEDLV_DLV": named}
        assert started("version", dlv=stand_in, env=env)["args"] == [b"version".hex()]


def test_without_a_dlv_it_says_so() -> None:
    done = subprocess.run([SHIM, "version"], env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr == "safedlv: there is no dlv on the PATH\n"


# ------------------------------------------------------------ attach and dap


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    """A checkout whose .venv is the Python of these tests."""
    (tmp_path / "checkout" / ".venv" / "bin").mkdir(parents=True)
    for name in ("safedlv", "shims"):
        (tmp_path / "checkout" / name).symlink_to(ROOT / name)
    script = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    (tmp_path / "checkout" / ".venv" / "bin" / "python").write_text(script)
    (tmp_path / "checkout" / ".venv" / "bin" / "python").chmod(0o755)
    copy = tmp_path / "checkout" / "copied-shims"
    copy.mkdir()
    shutil.copy(SHIM, copy / "dlv")
    return copy / "dlv"


@pytest.mark.usefixtures("nothing_left_behind")
def test_attach_goes_through_safedlv(complete: Path, server: Server, newest_dlv: str) -> None:
    words = [str(complete), "--headless", "attach", str(server.pid)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        line = session.stdout.readline()
        assert line.startswith("API server listening at: "), line + session.communicate()[1]
        client = JsonRpc(line.partition(": ")[2].strip())
        client.use_version_2()
        client.detach()
        assert session.wait(20) == 0
        assert session.stderr is not None
        assert session.stderr.read() == left_as_found(server.pid)
    assert_unharmed(server.pid)


@pytest.mark.usefixtures("nothing_left_behind", "newest_dlv")
def test_a_refused_attach_is_explained(complete: Path) -> None:
    done = subprocess.run([complete, "attach", "--headless", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "PIDs begin at 1" in done.stderr


def without_safedlv(tmp_path: Path) -> Path:
    """A copy with no package beside it, started by a Python that has none."""
    (tmp_path / "alone").mkdir()
    return Path(shutil.copy(SHIM, tmp_path / "alone" / "dlv"))


def with_broken_package(tmp_path: Path) -> Path:
    (tmp_path / "broken" / "shims").mkdir(parents=True)
    (tmp_path / "broken" / "safedlv").mkdir()
    (tmp_path / "broken" / "safedlv" / "__init__.py").write_text("syntax error\n")
    (tmp_path / "broken" / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "broken" / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "broken" / ".venv" / "pyvenv.cfg").write_text(Path(sys.prefix, "pyvenv.cfg").read_text())
    (tmp_path / "broken" / ".venv" / "lib").symlink_to(Path(sys.prefix, "lib"))
    return Path(shutil.copy(SHIM, tmp_path / "broken" / "shims" / "dlv"))


def in_an_old_python(tmp_path: Path) -> Path:
    """The same file with the oldest Python that will do set to one that there is not yet."""
    (tmp_path / "old").mkdir()
    path = tmp_path / "old" / "dlv"
    path.write_text(SHIM.read_text().replace("OLDEST = (3, 11)", "OLDEST = (4, 0)"))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("broken", [without_safedlv, with_broken_package, in_an_old_python])
@pytest.mark.parametrize("words", [["attach", "1"], ["--log", "dap", "--listen=:0"]])
def test_a_broken_installation_is_plain_dlv(broken: Any, words: list[str], stand_in: Path, tmp_path: Path) -> None:
    shim = broken(tmp_path)
    env = {"PATH": str(stand_in.parent)}
    done = subprocess.run([shim, *words], env=env, capture_output=True, text=True, timeout=20, check=False)
    assert json.loads(done.stdout)["args"] == [word.encode().hex() for word in words]
    (line,) = done.stderr.splitlines()
    assert line.startswith("safedlv: ")
    assert line.endswith("; this is dlv without it")


def test_it_knows_what_safedlv_needs() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        words = tomllib.load(file)["project"]["dependencies"]
    packages = {word.partition(">=")[0] for word in words}
    names = {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if {owner.lower().replace("_", "-") for owner in owners} & packages and not module.startswith("_")
    }
    needs = set(shim_module()["NEEDS"])
    assert needs <= names
    assert len(needs) == len(packages)


def test_an_old_python_can_read_it() -> None:
    ast.parse(SHIM.read_text(), feature_version=(3, 7))


# ------------------------------------------------------------ the launcher, and the wheel


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The launcher, built by the line in its source, beside a copy of the shim."""
    require(go_tool(), "needs the Go tool chain")
    directory = tmp_path_factory.mktemp("launcher") / "shims"
    shutil.copytree(ROOT / "shims", directory)
    text = (LAUNCHER / "main.go").read_text()
    line = next(line.strip("/ \t") for line in text.splitlines() if "go build -C" in line)
    subprocess.run(line.split(), cwd=directory.parent, check=True, timeout=300)
    yield directory / "dlv-launcher"
    shutil.rmtree(directory)


def test_the_launcher_is_a_go_program_for_the_extension(launcher: Path) -> None:
    """What golang/vscode-go asks of a tool (goInstallTools.ts: inspectGoToolVersion), and what it must not find."""
    said = subprocess.run(
        [str(go_tool()), "version", "-m", launcher], capture_output=True, text=True, check=True
    ).stdout
    lines = said.split("\n")
    version = subprocess.run([str(go_tool()), "version"], capture_output=True, text=True, check=True).stdout.split()[2]
    assert lines[0].split()[1] == version
    assert lines[2].split()[-1] == "(devel)"  # a version below v1.8.3 would be called too old for `dlv dap`
    script = subprocess.run([str(go_tool()), "version", "-m", SHIM], capture_output=True, text=True, check=False)
    assert script.stdout == ""


def test_the_launcher_becomes_the_script(launcher: Path, stand_in: Path, tmp_path: Path) -> None:
    words = ["debug", "--", "a b", ""]
    assert started(*words, dlv=stand_in, shim=launcher)["args"] == [word.encode().hex() for word in words]
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "dlv").symlink_to(launcher)
    env = {"PATH": f"{tmp_path}/first:{stand_in.parent}"}
    assert started("version", dlv=stand_in, shim=tmp_path / "first" / "dlv", env=env)["args"] == [b"version".hex()]


def test_a_launcher_without_its_script_says_so(launcher: Path, tmp_path: Path) -> None:
    for name in ("dlv", "dlv-launcher"):
        shutil.copy(launcher, tmp_path / name)
        (tmp_path / "dlv").unlink() if name == "dlv-launcher" else None
        done = subprocess.run([tmp_path / name], capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 127
        assert done.stderr.startswith("safedlv: ")


@pytest.mark.timeout(600)
def test_the_installed_shim(installed: Path, tmp_path: Path) -> None:  # noqa: F811
    """From the wheel, in an environment of its own: the file it carries, and one written for its Python."""
    dlv = new_dlv()
    require(dlv, "needs a dlv")
    carried = Path(run(installed / "safedlv", "shim", cwd=tmp_path).strip())
    written = Path(run(installed / "safedlv", "shim", ".", cwd=tmp_path).strip())
    assert written == tmp_path / "dlv"
    for shim in (carried, written):
        env = {"SAFEDLV_DLV": str(dlv), "PATH": "/nowhere"}
        done = subprocess.run([shim, "attach", "--headless", "0"], env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, "PIDs begin at 1" in done.stderr) == (1, True), done.stderr
        assert subprocess.check_output([shim, "version"], env=env, text=True).startswith("Delve Debugger")


def test_it_does_not_write_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "dlv").write_text("mine")
    words = [sys.executable, "-m", "safedlv", "shim", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "is there already" in done.stderr) == (1, True)
    assert (tmp_path / "dlv").read_text() == "mine"


def test_the_launcher_is_gone() -> None:
    """Nothing that was built here is left in the tree."""
    wait_until(lambda: not (ROOT / "shims" / "dlv-launcher").exists(), "no launcher in the tree", 1)

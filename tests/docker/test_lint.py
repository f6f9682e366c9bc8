"""``safedlv seccomp lint`` says what then happens: the files of its table run, and debugged, as found and as mended.

Compose services of the table become one project, each under a name of its own; scripts run as they are, with a
``docker`` on the PATH that writes down what the shell makes of them. All that is changed of either is what a test has
not: the images, and the programs in them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from safedlv.lint.tree import blanked
from safedlv.lint_command import lint
from tests.docker.conftest import PROBER, Engine
from tests.docker.sidecars import _libraries, packed
from tests.docker.test_context import all_capabilities
from tests.docker.test_doctor import errnos
from tests.support import ROOT, build_go, new_dlv, require
from tests.unit.lint_files import COMPOSE, DEVCONTAINERS, SCRIPTS, Case

SERVER = ["/server", "127.0.0.1:0"]
Document = dict[str, Any]


def linted(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """Its containers, and whether a debugger can attach."""
    lint([str(path), "--json", *words])
    told = json.loads(capsys.readouterr().out)
    return {str(one["name"]): str(one["attach"]) for one in told["files"][0]["containers"]}


def write(directory: Path, name: str, case: Case) -> Path:
    directory.mkdir()
    for other, text in case.beside.items():
        (directory / other).write_text(text)
    (directory / name).write_text(case.text)
    return directory / name


def attaches(engine: Engine, container: str) -> bool:
    """Whether what ``docker exec`` starts there can trace the first process; dlv does without process_vm_readv."""
    answers = errnos(engine, container)
    answers.pop("process_vm_readv", None)
    return set(answers.values()) == {0}


def dlv_attaches(engine: Engine, container: str) -> bool:
    """Whether dlv attaches there and sets a breakpoint."""
    words = ("exec", "-i", container, "/dlv", "attach", "1", "--allow-non-terminal-interactive=true")
    done = engine.docker(*words, check=False, given=b"break main.greeting\nclearall\nexit -c\n")
    return b"Breakpoint 1 set" in done.stdout


# ---------------------------------------------------------------- Compose

RUN = (
    *("hardened, and debuggable", "as every article says", "every capability", "a strict profile"),
    *("a profile that allows it", "the engine's own, by name", "the last profile holds", "a step down"),
)
KEPT = {"user", "read_only", "cap_drop", "cap_add", "security_opt", "privileged", "init"}
STEP_DOWN = {"gosu", "su-exec", "shell", "able"}
"""Services of the table whose program becomes another user."""
STEP = ["/busybox", "start-stop-daemon", "-S", "-c", "1000:1000", "-x"]  # what of that kind Debian's busybox has


class Project:
    """Services of many files in one project; profiles of one name are the same."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine, self.directory, self.name = engine, directory, f"safedlv-test-{uuid.uuid4().hex[:8]}"
        program = build_go(PROBER, directory / "prober", environment={"CGO_ENABLED": "0"})
        busybox = Path("/bin/busybox")
        require(busybox.exists(), "needs busybox-static")
        (directory / "passwd").write_text("root:x:0:0::/:/x\napp:x:1000:1000::/:/x\n")
        files = {"prober": program, "busybox": busybox, "etc/passwd": directory / "passwd"}
        engine.docker("import", "-", f"{self.name}:given", given=packed(files))

    def compose(self, *words: str) -> None:
        command = ["docker", "compose", "-p", self.name, "-f", str(self.directory / "all.json"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    def up(self, files: list[Path]) -> dict[str, str]:
        """Starts the services of the files; by name of the service, that of its container."""
        services: Document = {}
        for path in files:
            for profile in path.parent.glob("*.json"):
                (self.directory / profile.name).write_text(profile.read_text())
            for name, service in yaml.safe_load(path.read_text())["services"].items():
                services[f"{path.parent.name}-{name}"] = self.runnable(name, service)
        (self.directory / "all.json").write_text(json.dumps({"services": services}))
        self.compose("up", "--detach", "--timeout", "0")
        return {name: f"{self.name}-{name}-1" for name in services}

    def runnable(self, name: str, service: Document) -> Document:
        """What lint looks at, as it is."""
        command = [*STEP, "/prober", "--", "sleep"] if name in STEP_DOWN else ["/prober", "sleep"]
        rest = {"image": f"{self.name}:given", "command": command, "network_mode": "none"}
        return {key: value for key, value in service.items() if key in KEPT} | rest


@pytest.fixture
def project(newer_engine: Engine, tmp_path: Path) -> Iterator[Project]:
    require(os.geteuid() == 0, "starts engines")
    made = Project(newer_engine, tmp_path)
    yield made
    made.compose("down", "--timeout", "0")
    newer_engine.docker("image", "rm", "--force", f"{made.name}:given")


def test_services(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each service of the table: what lint says of it is what happens; and mended, every one can be debugged."""
    files = [write(tmp_path / f"n{number}", "compose.yaml", COMPOSE[name]) for number, name in enumerate(RUN)]
    found, started = of_services(files, capsys), project.up(files)
    assert {name: attaches(project.engine, container) for name, container in started.items()} == found
    assert set(found.values()) == {True, False}
    for path in files:
        linted(path, capsys, "--fix")
    mended, started = of_services(files, capsys), project.up(files)
    assert {name: attaches(project.engine, container) for name, container in started.items()} == mended
    refused = [name for name, can in mended.items() if not can]
    assert {name.partition("-")[2] for name in refused} == STEP_DOWN - {"able"}
    for name in refused:  # nothing in the file has to change
        assert attaches_as(project.engine, "1000:1000", started[name])


OVERRIDDEN = (*("as every article says", "a strict profile", "anchors and merges", "extends", "limits"),)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_compose_merges_an_override(
    newer_engine: Engine, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file with its override is to Compose what the mended file is."""
    path = write(tmp_path / "project", "compose.yaml", COMPOSE[name])
    monkeypatch.setenv("LIMIT", "200m")

    def read(*files: str) -> Any:
        words = [word for file in files for word in ("--file", str(path.parent / file))]
        done = newer_engine.docker("compose", *words, "config", "--format", "json")
        return said(json.loads(done.stdout)["services"])

    found = read("compose.yaml")
    linted(path, capsys, "--fix", "--override")
    overridden = read("compose.yaml", "compose.debug.yaml")
    linted(path, capsys, "--fix")
    assert read("compose.yaml") == overridden != found


def said(value: Any) -> Any:
    """Without what is empty or false, which says nothing; security options and capabilities have no order."""
    if isinstance(value, dict):
        kept = {key: said(one) for key, one in value.items()}
        return {key: one for key, one in kept.items() if one not in (None, False, [], {})}
    return sorted(map(str, value)) if isinstance(value, list) else value


def of_services(files: list[Path], capsys: pytest.CaptureFixture[str]) -> dict[str, bool]:
    return {
        f"{path.parent.name}-{name.removeprefix('service ')}": verdict == "allowed"
        for path in files
        for name, verdict in linted(path, capsys).items()
    }


def attaches_as(engine: Engine, user: str, container: str) -> bool:
    answers = errnos(engine, "--user", user, container)
    answers.pop("process_vm_readv", None)
    return set(answers.values()) == {0}


# ---------------------------------------------------------------- docker run, devcontainer.json

Ran = list[tuple[list[str], bool]]
"""The options that docker run gets, and whether lint says that a debugger can attach."""
SHIMS = {
    "docker": 'for word; do printf "%s\\0" "$word" >> "$WORDS"; done; echo >> "$WORDS"',
    "sudo": 'exec "$@"',
    "ssh": 'shift; exec sh -c "$*"',
}


@pytest.fixture(scope="session")
def debugged_image(running_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The static example server, the prober, and dlv with its libraries."""
    directory, engine, name = (
        tmp_path_factory.mktemp("debugged"),
        Engine(),
        f"safedlv-test-lint:{uuid.uuid4().hex[:12]}",
    )
    dlv, static = Path(new_dlv() or "dlv"), {"CGO_ENABLED": "0"}
    require(dlv.exists(), "needs a dlv on the PATH")
    files = {
        "server": build_go(ROOT / "examples" / "server", directory / "server", environment=static),
        "prober": build_go(PROBER, directory / "prober", environment=static),
        **_libraries(dlv, Path("/")),
    }
    engine.docker("import", "-", name, given=packed({**files, "dlv": dlv}))
    yield name
    engine.docker("image", "rm", "--force", name)


def of_script(path: Path, capsys: pytest.CaptureFixture[str]) -> Ran:
    """The script run, with the words that docker gets written down."""
    for name, text in SHIMS.items():
        shim = path.parent / "bin" / name
        shim.parent.mkdir(exist_ok=True)
        shim.write_text(f"#!/bin/sh\n{text}\n")
        shim.chmod(0o755)
    words = path.parent / "words"
    words.unlink(missing_ok=True)
    environment = {"PATH": f"{path.parent}/bin:{os.environ['PATH']}", "WORDS": str(words)}
    subprocess.run(["sh", str(path)], env=environment, cwd=path.parent, check=True, timeout=20)
    got = [line.split("\0")[:-1] for line in words.read_text().splitlines()]
    options = [line[line.index("run" if "run" in line else "create") + 1 :] for line in got]
    images = [max(at for at, word in enumerate(line) if re.fullmatch(r"(\S+/)?web(:\S+)?", word)) for line in options]
    verdicts = told(path, capsys)
    assert len(verdicts) == len(options)
    return [(line[:at], can) for line, at, can in zip(options, images, verdicts, strict=True)]


def of_devcontainer(path: Path, capsys: pytest.CaptureFixture[str]) -> Ran:
    """As the reference says: runArgs, and a property for each of three options."""
    document = yaml.safe_load(blanked(path.read_text()))
    options = list(document.get("runArgs", []))
    options += [f"--cap-add={name}" for name in document.get("capAdd", [])]
    options += [f"--security-opt={one}".replace("${localWorkspaceFolder}", str(path.parent))
                for one in document.get("securityOpt", [])]  # fmt: skip
    options += ["--privileged"] if document.get("privileged") else []
    return [(options, can) for can in told(path, capsys)]


def told(path: Path, capsys: pytest.CaptureFixture[str]) -> list[bool]:
    lint([str(path), "--json"])
    return [one["attach"] == "allowed" for one in json.loads(capsys.readouterr().out)["files"][0]["containers"]]


EVERYTHING = {"--privileged", "--cap-add=ALL"}
Attaches = Callable[[Engine, str], bool]
RUNS: dict[str, tuple[str, Case, Callable[[Path, pytest.CaptureFixture[str]], Ran], Attaches]] = {
    "a script": ("run.sh", SCRIPTS["several lines"], of_script, attaches),
    "a remote shell": ("run.sh", SCRIPTS["a remote shell"], of_script, attaches),
    "a script's limits": ("run.sh", SCRIPTS["limits, short options"], of_script, dlv_attaches),
    "a dev container": ("devcontainer.json", DEVCONTAINERS["properties"], of_devcontainer, attaches),
    "a dev container's profile": ("devcontainer.json", DEVCONTAINERS["a profile"], of_devcontainer, attaches),
    "a dev container's limits": ("devcontainer.json", DEVCONTAINERS["limits"], of_devcontainer, dlv_attaches),
}


@pytest.mark.parametrize("name", RUNS)
def test_run(
    docker_engine: Engine, debugged_image: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require(os.geteuid() == 0, "starts engines")
    file, case, of_file, try_it = RUNS[name]
    path = write(tmp_path / "project", file, case)
    program = SERVER if try_it is dlv_attaches else ["/prober", "sleep"]

    def check() -> list[bool]:
        ran = of_file(path, capsys)
        for options, can in ran:
            if EVERYTHING & set(options) and not all_capabilities():
                continue  # then this machine's engine does not start it
            docker_engine.run(*[word for word in options if word not in ("--name", "web")], debugged_image, *program)
            assert try_it(docker_engine, docker_engine.last) == can, options
        return [can for _, can in ran]

    check()
    linted(path, capsys, "--fix")
    assert all(check())


def test_a_container_that_sets_yama_does_not_start(docker_engine: Engine, debugged_image: str) -> None:
    done = docker_engine.docker("run", "--sysctl", "kernel.yama.ptrace_scope=0", debugged_image, check=False)
    assert done.returncode == 125
    assert b"kernel.yama.ptrace_scope" in done.stderr

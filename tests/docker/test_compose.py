"""Services of a real Compose project: copied or swapped, and Compose knows them as before; and the remedies as files.

docker compose, as it comes with the newer engine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safedlv.cli import main
from tests.docker.conftest import PROBER, Engine
from tests.docker.sidecars import packed
from tests.docker.test_context import profile, rule
from tests.docker.test_relaunch import told
from tests.support import SAFEDLV, assert_unharmed, build_go, require

Document = dict[str, Any]
SERVICES = """\
services:
  db:
    image: IMAGE
    command: [/prober, sleep]
    networks: {back: {aliases: [database]}}
    healthcheck: {test: [CMD, /prober, "1"], interval: 1s, start_interval: 100ms, start_period: 5s}
  web:
    image: IMAGE
    command: [/prober, sleep]
    depends_on: {db: {condition: service_healthy}}
    networks: {back: {aliases: [www]}, front: {priority: 10}}
    volumes: ["data:/named", "/anonymous"]
    labels: {org.example.of: web}
    environment: {SECRET: of-mine}
    ports: ["127.0.0.1:43997:7000"]
    restart: always
    stop_grace_period: 2s
networks: {back: {}, front: {}}
volumes: {data: {}}
"""
REFUSING = """\
services:
  web:
    image: IMAGE
    command: [/unreadable, sleep]
    user: "1000:1000"
    network_mode: none
    security_opt: ["seccomp=./strict.json"]
"""


class Project:
    """A Compose project in a directory of its own."""

    def __init__(self, engine: Engine, directory: Path, text: str) -> None:
        self.engine, self.directory, self.name = engine, directory, f"safedlv-test-{uuid.uuid4().hex[:8]}"
        program = build_go(PROBER, directory / "prober", environment={"CGO_ENABLED": "0"})
        image = f"{self.name}:given"
        engine.docker("import", "-", image, given=packed({"prober": program, "unreadable": program}))
        (directory / "compose.yaml").write_text(f"name: {self.name}\n{text.replace('IMAGE', image)}")

    def compose(self, *words: str) -> str:
        return self.typed(["docker", "compose", *words])

    def typed(self, words: list[str]) -> str:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, cwd=self.directory)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def up(self) -> None:
        self.compose("up", "--detach", "--wait")

    def known(self) -> dict[str, str]:
        """The services that Compose says to run, and their containers."""
        listed = [json.loads(line) for line in self.compose("ps", "--format", "json").splitlines()]
        return {one["Service"]: one["ID"] for one in listed}

    def inspect(self, name: str) -> Document:
        found: Document = json.loads(self.engine.docker("inspect", "--type", "container", name).stdout)[0]
        return {**found, "Mounts": sorted(found["Mounts"], key=lambda mount: str(mount["Destination"]))}


@pytest.fixture
def project(request: pytest.FixtureRequest, newer_engine: Engine, newest_dlv: str, tmp_path: Path) -> Iterator[Project]:
    require(os.geteuid() == 0, "enters containers as root")
    made = Project(newer_engine, tmp_path, getattr(request, "param", SERVICES))
    yield made
    made.compose("down", "--volumes", "--timeout", "1", "--remove-orphans")


@pytest.mark.parametrize("mode", ["--beside", "--swap"])
def test_compose_knows_its_service_afterwards(project: Project, mode: str) -> None:
    project.up()
    before, known = project.inspect(f"{project.name}-web-1"), project.known()
    words = [*SAFEDLV, "relaunch", "--debuggable", f"{project.name}-web-1", "--yes", mode, "--change", "cap:sys_ptrace"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any("Ctrl-C" in line for line in process.stderr)
            copy = project.inspect(f"{project.name}-web-1{'' if mode == '--swap' else '-debug'}")
            assert copy["Id"] != before["Id"]
            assert copy["HostConfig"]["CapAdd"] == ["SYS_PTRACE"]
            assert_unharmed(copy["State"]["Pid"])
            assert project.known() == {name: known[name] for name in (["db"] if mode == "--swap" else ["db", "web"])}
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    after = project.inspect(f"{project.name}-web-1")
    assert told(after) == told(before)
    project.up()
    again = project.inspect(f"{project.name}-web-1")
    assert project.known() == known
    assert (again["Id"], again["State"]["StartedAt"]) == (before["Id"], after["State"]["StartedAt"])
    listed = project.compose("ps", "--all", "--quiet").split()
    assert [container[:12] for container in listed] == list(known.values())


@pytest.mark.parametrize("project", [REFUSING], indirect=True)
def test_the_remedy_as_it_stands(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, and commands in its comments: typed, and the probe passes; nothing is changed but dlv's name."""
    monkeypatch.chdir(project.directory)
    Path("strict.json").write_text(profile(rule("SCMP_ACT_ERRNO")))
    project.up()
    name = f"{project.name}-web-1"
    text = doctor(name, 10)["fix"]["commands"]["compose"]
    comments = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#")]
    Path(comments[0]).write_text(text)
    generate, up, attach = (shlex.split(line) for line in comments[1:])
    assert main(generate[1:]) == 0
    project.typed(up)
    assert attach[:3] == ["docker", "compose", "exec"]
    assert attach[-4:] == ["web", "dlv", "attach", "1"]
    answers = project.typed([*attach[:3], "-T", *attach[3:-3], "/prober", "1"]).splitlines()
    assert {line.split()[1] for line in answers} == {"0"}, answers
    user = re.search(r"--user (\S+)", comments[3])
    assert doctor(name, 0, f"container:{user[1]}" if user else "container")["verdict"] == "ok"


def doctor(name: str, code: int, who: str = "container") -> Document:
    """The diagnosis, which ends with this exit code."""
    words = [*SAFEDLV, "doctor", "--hold-limit=1", "--json", f"docker:{name}", "--tracer", who]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    answer: Document = json.loads(done.stdout)
    return answer

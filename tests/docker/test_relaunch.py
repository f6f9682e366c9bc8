"""``safedlv relaunch --debuggable``: the copy is what was declared, and after a swap the original is what it was.

Containers with all the options that an engine without a registry, a GPU or a cluster can be given. The comparison
with the original as it was before is over the raw ``docker inspect``, without the code under test.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pexpect
import pytest
from attrs import Factory, frozen

from safedlv.sibling.clone_difference import differences
from tests.docker.conftest import Engine
from tests.docker.test_context import profile, rule
from tests.support import SAFEDLV, assert_unharmed, require

Document = dict[str, Any]
LABELS = {"Config.Labels.safedlv.copy", "Config.Labels.safedlv.record"}
SUBNET, SECOND_SUBNET = "10.213.7.0/24", "10.213.8.0/24"


class Stage:
    """An engine, two networks, an image with a configuration of its own, another container, and what is started."""

    def __init__(self, engine: Engine, images: tuple[str, str], directory: Path) -> None:
        self.engine, self.directory = engine, directory
        self.ident = uuid.uuid4().hex[:8]
        self.words = {
            "IMAGE": images[0],
            "FULL": images[1],
            "NET1": f"safedlv-test-a-{self.ident}",
            "NET2": f"safedlv-test-b-{self.ident}",
            "VOLUME": f"safedlv-test-v-{self.ident}",
            "OTHER": f"safedlv-test-other-{self.ident}",
            "DIR": str(directory),
        }
        self.name = f"safedlv-test-{self.ident}"
        self.relaunches: list[subprocess.Popen[str]] = []
        self.state = directory / "state"

    def start(self, options: str, image: str = "IMAGE", command: str = "/prober sleep") -> Document:
        """Start a container with these options; what the engine tells about it."""
        text = f"run --detach --name {self.name} {options} {image} {command}"
        if "NET1" in options:
            for name, subnet in (("NET1", SUBNET), ("NET2", SECOND_SUBNET)):
                self.docker(f"network create --subnet {subnet} {name}")
        if "OTHER" in options:
            self.docker("run --detach --name OTHER --ipc shareable --volume /of-the-other IMAGE /prober sleep")
        self.docker(text)
        self.engine.containers += [self.name]
        return self.inspect(self.name)

    def docker(self, text: str) -> str:
        words = shlex.split(re.sub(r"\b[A-Z]+[12]?\b", lambda found: self.words.get(found[0], found[0]), text))
        return self.engine.docker(*words).stdout.decode()

    def inspect(self, name: str) -> Document:
        """The engine's document; it tells mounts in another order each time."""
        found: Document = json.loads(self.engine.docker("inspect", "--type", "container", name).stdout)[0]
        return {**found, "Mounts": sorted(found["Mounts"], key=lambda mount: str(mount["Destination"]))}

    def environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_STATE_HOME": str(self.state)}

    def relaunch(self, *flags: str) -> subprocess.Popen[str]:
        words = [*SAFEDLV, "relaunch", "--debuggable", self.name, "--yes", *flags]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=self.environment())
        self.relaunches.append(process)
        return process

    def relaunched(self, *flags: str) -> subprocess.Popen[str]:
        """Wait until the copy runs, and was tried."""
        process = self.relaunch(*flags)
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "Ctrl-C" in line:
                return process
        pytest.fail("".join(said))

    def says(self, *flags: str) -> tuple[int, str]:
        words = [*SAFEDLV, "relaunch", "--debuggable", self.name, *flags]
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
        )
        return done.returncode, done.stdout + done.stderr

    def records(self) -> list[str]:
        with suppress(FileNotFoundError):
            return os.listdir(self.state / "safedlv" / "swaps")
        return []

    def ours(self) -> str:
        """Containers of ours, by label and by name, running or not."""
        by_label = self.docker(f"ps --all --quiet --filter label=safedlv.copy --filter name={self.ident}")
        return by_label + self.docker(f"ps --all --quiet --filter name={self.ident}-safedlv")

    def close(self) -> None:
        for process in self.relaunches:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
        for text in ("ps --all --quiet --filter name=" + self.ident,):
            if found := self.docker(text).split():
                self.engine.docker("rm", "--force", "--volumes", *found)
        self.engine.containers = []
        networks = self.docker(f"network ls --quiet --filter name={self.ident}").split()
        volumes = self.docker(f"volume ls --quiet --filter name={self.ident}").split()
        if networks:
            self.engine.docker("network", "rm", *networks)
        if volumes:
            self.engine.docker("volume", "rm", *volumes)


@pytest.fixture(scope="session")
def full_image(prober_image: str) -> Iterator[str]:
    """An image that says for itself all that an image can say."""
    engine = Engine()
    name = f"safedlv-test-full:{uuid.uuid4().hex[:12]}"
    changes = (
        'ENTRYPOINT ["/prober"]',
        'CMD ["sleep"]',
        "ENV OF_IMAGE=secret-of-the-image",
        "EXPOSE 7000 7001/udp",
        "VOLUME /of-the-image",
        "LABEL of-image=yes",
        "USER 1000",
        "WORKDIR /work-of-the-image",
        'HEALTHCHECK --interval=1h CMD ["/prober", "1"]',
    )
    container = engine.docker("create", "--stop-signal", "SIGINT", prober_image, "/prober").stdout.decode().strip()
    engine.docker("commit", *(word for change in changes for word in ("--change", change)), container, name)
    engine.docker("rm", container)
    yield name
    engine.docker("image", "rm", "--force", name)


@pytest.fixture
def stage(
    docker_engine: Engine, prober_image: str, full_image: str, tmp_path: Path, newest_dlv: str
) -> Iterator[Stage]:
    require(os.geteuid() == 0, "enters containers as root")
    made = Stage(docker_engine, (prober_image, full_image), tmp_path)
    yield made
    made.close()


# ---------------------------------------------------------------- the same but for what was declared


@frozen
class Case:
    options: str
    differs: frozenset[str] = frozenset()
    """Where docker inspect differs besides the labels and CapAdd, in a swap."""
    after: tuple[str, ...] = ()
    """docker commands after the start."""
    image: str = "IMAGE"
    command: str = "/prober sleep"
    chosen: tuple[str, ...] = Factory(tuple)
    """What the engine chooses anew at each start."""


ONE_OFF = frozenset({"Config.Labels.com.docker.compose.oneoff"})
BINDS = frozenset({"HostConfig.Binds"})
COMPOSE = " ".join(
    f"--label com.docker.compose.{label}"
    for label in ("project=shop", "service=web", "oneoff=False", "container-number=1", "config-hash=0f")
)
CASES = {
    "default": Case(""),
    "user and groups": Case("--user 1000:1000 --group-add 44 --group-add 2000"),
    "capabilities": Case("--cap-drop ALL --cap-add NET_BIND_SERVICE --cap-add CHOWN"),
    "security options": Case(
        "--security-opt no-new-privileges --security-opt seccomp=DIR/profile.json --security-opt apparmor=unconfined"
    ),
    "read-only": Case("--read-only --tmpfs /tmp:size=1m,mode=1777 --mount type=tmpfs,dst=/run,tmpfs-size=65536"),
    "volumes": Case(
        "-v VOLUME:/named:nocopy -v DIR:/bound:ro,rprivate -v /anonymous --mount type=volume,dst=/without-source "
        "--mount type=volume,src=VOLUME,dst=/again,readonly --mount type=bind,src=DIR,dst=/mounted",
        BINDS | {"HostConfig.Mounts./without-source.Source"},
    ),
    "of another container": Case("--volumes-from OTHER:ro --link OTHER:o --network bridge"),
    "joined to another": Case("--network container:OTHER --pid container:OTHER --ipc container:OTHER"),
    "the image's own": Case("", BINDS, image="FULL", command=""),
    "other than the image's": Case(
        "--entrypoint '' -e OF_IMAGE -e OWN=secret=of=mine -e EMPTY= --user 0 -w / --no-healthcheck "
        "-v DIR:/of-the-image",
        image="FULL",
    ),
    "an entrypoint alone": Case("--entrypoint /prober --label of-image=no", BINDS, image="FULL", command="sleep"),
    "health": Case("--health-cmd '/prober 1' --health-interval 1h --health-retries 7 --health-start-period 5s"),
    "limits": Case(
        "--memory 512m --memory-swap 700m --memory-reservation 100m --cpus 0.5 --cpuset-cpus 0 --cpu-shares 100 "
        "--pids-limit 100 --ulimit nofile=100:200 --ulimit core=0 --shm-size 1m --oom-score-adj 100"
    ),
    "names": Case(
        "--hostname inner --domainname example.org --add-host a.example:10.0.0.1 --dns 10.0.0.2 "
        "--dns-search example.org --dns-option ndots:3 --network bridge"
    ),
    "ports": Case("-p 127.0.0.1:43917:7000 -p 43918:7001/udp -p 43919:7002 --expose 7003 --network bridge"),
    "ports that the engine chooses": Case("-p 7000 -P --expose 7003", chosen=("Ports",)),
    "networks": Case(
        "--network NET1 --ip 10.213.7.77 --network-alias web --network-alias www",
        after=("network connect --ip 10.213.8.78 --alias inner --link OTHER:o NET2 NAME",),
    ),
    "another network than at first": Case(
        "--network NET1", after=("network connect --ip 10.213.8.79 NET2 NAME", "network disconnect NET1 NAME")
    ),
    "no network any more": Case("--network NET1", after=("network disconnect NET1 NAME",)),
    "the machine's network": Case("--network host --uts host --pid host --ipc host --userns host --cgroupns host"),
    "a service of Compose": Case(f"--network NET1 --network-alias web {COMPOSE}", ONE_OFF),
    "stopping and restarting": Case("--restart on-failure:3 --stop-signal SIGINT --stop-timeout 3"),
    "restarted always": Case("--restart always --log-driver json-file --log-opt max-size=1m --log-opt max-file=2"),
    "logs and terminal": Case("-it --log-driver none --detach-keys ctrl-x"),
    "init and sysctls": Case("--init --ipc shareable --sysctl net.ipv4.ip_forward=1"),
    "devices": Case(
        "--device /dev/null:/dev/nothing:r --device-cgroup-rule 'c 1:3 r'"
    ),
}  # fmt: skip


def begin(stage: Stage, case: Case) -> Document:
    (stage.directory / "profile.json").write_text(profile(rule("SCMP_ACT_LOG")))
    others = " --label for=OTHER" if "OTHER" in "".join(case.after) else ""
    stage.start(case.options + others, case.image, case.command)
    for text in case.after:
        stage.docker(text.replace("NAME", stage.name))
    return stage.inspect(stage.name)


@pytest.mark.parametrize("name", CASES)
def test_swapped_and_back(stage: Stage, name: str) -> None:
    case = CASES[name]
    before = begin(stage, case)
    process = stage.relaunched("--swap", "--change", "cap:sys_ptrace")
    copy = stage.inspect(stage.name)
    assert copy["Id"] != before["Id"]
    assert copy["State"]["Running"]
    assert {".".join(one.path) for one in differences(before, copy)} == LABELS | {"HostConfig.CapAdd"} | case.differs
    assert sorted(copy["HostConfig"]["CapAdd"]) == sorted([*(before["HostConfig"]["CapAdd"] or []), "SYS_PTRACE"])
    assert {mount.get("Name") for mount in copy["Mounts"]} == {mount.get("Name") for mount in before["Mounts"]}
    assert stage.inspect(f"{stage.name}-safedlv-original")["State"]["Status"] == "exited"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    after = stage.inspect(stage.name)
    assert told(after, case.chosen) == told(before, case.chosen)
    assert after["State"]["Running"]
    assert_unharmed(after["State"]["Pid"])
    assert (stage.ours(), stage.records()) == ("", [])


VOLATILE = {
    *("Pid", "StartedAt", "FinishedAt", "Health", "SandboxID", "SandboxKey", "EndpointID", "ExecIDs"),
    *("IPAddress", "MacAddress", "GlobalIPv6Address"),  # the engine's choice; what was asked for is in IPAMConfig
}


def told(document: Any, chosen: tuple[str, ...] = ()) -> Any:
    """All of docker inspect but times, ids, and what the engine chooses at each start."""
    if isinstance(document, dict):
        left = {key: told(value, chosen) for key, value in document.items() if key not in {*VOLATILE, *chosen}}
        if isinstance(document.get("IPAMConfig"), dict) and document["IPAMConfig"].get("IPv4Address"):
            left["IPAddress"] = document["IPAddress"]
        if "Hostname" in document:
            left["MacAddress"] = document.get("MacAddress")
        return left
    return [told(value, chosen) for value in document] if isinstance(document, list) else document


BESIDE = {
    "ports": {f"HostConfig.PortBindings.{port}" for port in ("7000/tcp", "7001/udp", "7002/tcp")},
    "volumes": {f"Mounts.{at}.{key}" for at in ("/anonymous", "/without-source") for key in ("Name", "Source")},
    "networks": {
        *(f"NetworkSettings.Networks.NET1.{key}" for key in ("IPAMConfig.IPv4Address", "Aliases")),
        *(f"NetworkSettings.Networks.NET2.{key}" for key in ("IPAMConfig.IPv4Address", "Aliases")),
    },
    "a service of Compose": {"Config.Labels.com.docker.compose.oneoff", "NetworkSettings.Networks.NET1.Aliases"},
    "of another container": set(),
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_beside(stage: Stage, name: str) -> None:
    before = begin(stage, CASES[name])
    volumes = stage.docker("volume ls --quiet")
    process = stage.relaunched("--beside", "--change", "cap:sys_ptrace")
    copy = stage.inspect(f"{stage.name}-debug")
    expected = {re.sub("NET[12]", lambda found: stage.words[found[0]], path) for path in BESIDE[name]}
    assert {".".join(one.path) for one in differences(before, copy)} == LABELS | {"HostConfig.CapAdd"} | expected
    assert copy["State"]["Running"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert stage.inspect(stage.name) == before
    assert (stage.ours(), stage.records(), stage.docker("volume ls --quiet")) == ("", [], volumes)


# ---------------------------------------------------------------- what is needed, and whether it is enough

NO_PTRACE = "--network none --security-opt seccomp=DIR/profile.json"


def refusing(stage: Stage) -> Document:
    (stage.directory / "profile.json").write_text(profile(rule("SCMP_ACT_ERRNO")))
    return stage.start(NO_PTRACE)


@pytest.mark.parametrize("mode", ["--swap", "--beside"])
def test_a_profile_against_ptrace(stage: Stage, mode: str) -> None:
    """The diagnosis says what is needed; the copy has just that, and the probe passes in it."""
    before = refusing(stage)
    process = stage.relaunched(mode)
    name = stage.name + ("-debug" if mode == "--beside" else "")
    found = differences(before, stage.inspect(name))
    assert {".".join(one.path) for one in found} == LABELS | {"HostConfig.SecurityOpt"}
    answer = subprocess.run([*SAFEDLV, "doctor", f"docker:{name}"], capture_output=True, check=False, timeout=60)
    assert answer.returncode == 0
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert told(stage.inspect(stage.name)) == told(before)


def test_not_enough_is_undone(stage: Stage) -> None:
    before = refusing(stage)
    code, said = stage.says("--swap", "--yes", "--change", "cap:net_admin")
    assert (code, "the copy cannot be debugged either" in said) == (1, True)
    assert told(stage.inspect(stage.name)) == told(before)
    assert (stage.ours(), stage.records()) == ("", [])


def test_a_copy_that_cannot_start_is_undone(stage: Stage) -> None:
    """A port of the host that somebody took in the meantime."""
    before = stage.start("-p 43921:7000 --network bridge --cidfile DIR/id")
    code, said = stage.says("--beside", "--yes", "--change", "cap:sys_ptrace", "--name", stage.name)
    assert (code, "did not create the copy" in said) == (1, True)
    code, said = stage.says("--beside", "--yes", "--change", "cap:no_such_capability")
    assert (code, stage.inspect(stage.name)) == (1, before)
    assert (stage.ours(), stage.records()) == ("", [])


def test_without_a_dlv_here(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said; the copy can be debugged all the same, by a dlv of its own."""
    monkeypatch.setenv("SAFEDLV_DLV", str(stage.directory / "none"))
    refusing(stage)
    stage.relaunched("--beside").send_signal(signal.SIGINT)
    assert stage.relaunches[-1].wait(timeout=60) == 0


def test_nothing_is_needed(stage: Stage) -> None:
    before = stage.start("--network none")
    assert stage.says("--swap") == (
        0,
        f"no copy is needed: a debugger can attach in {stage.name}: safedlv attach docker:{stage.name}\n",
    )
    assert stage.inspect(stage.name) == before  # fmt: skip


def test_it_asks(stage: Stage) -> None:
    """Without a terminal the plan and the command are shown, and nothing is done; a dry run is no refusal."""
    before = refusing(stage)
    code, said = stage.says("--swap")
    assert (code, f"safedlv relaunch --debuggable --swap {stage.name} --yes" in said) == (1, True), said
    code, dry = stage.says("--swap", "--dry-run")
    assert (code, said.startswith(dry)) == (0, True)
    assert stage.inspect(stage.name) == before
    assert (stage.ours(), stage.records()) == ("", [])


@pytest.mark.parametrize(("answer", "done"), [("n", False), ("y", True)])
def test_it_asks_on_a_terminal(stage: Stage, answer: str, done: bool) -> None:
    before = stage.start("--network none")
    words = ["-m", "safedlv", "relaunch", "--debuggable", stage.name, "--swap", "--change", "cap:sys_ptrace"]
    child = pexpect.spawn(sys.executable, words, env=stage.environment(), encoding="utf-8", timeout=30)
    child.expect(r"Do it\? \[y/N\] ")
    child.sendline(answer)
    if done:
        child.expect("Ctrl-C ends it")
        assert stage.inspect(stage.name)["Id"] != before["Id"]
        child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == (0 if done else 1)
    assert told(stage.inspect(stage.name)) == told(before)
    assert (stage.ours(), stage.records()) == ("", [])


@pytest.mark.parametrize(
    ("options", "flags", "sentence"),
    [
        ("--rm", ("--swap",), "started with --rm"),
        ("--label com.docker.swarm.service.id=x", ("--swap",), "belongs to Swarm"),
        ("--label safedlv.copy=x", (), "a debuggable copy itself"),
        ("", ("--swap", "--beside"), "neither --beside"),
        ("", ("--change", "reboot"), "no setting of a container"),
        ("", ("--change", "limit:pids"), "not the container's own"),
        ("--rm", ("--swap", "--emit", "tape"), "--emit is one of"),
    ],
)
def test_refusals(stage: Stage, options: str, flags: tuple[str, ...], sentence: str) -> None:
    before = stage.start(f"--network none {options}")
    code, said = stage.says("--yes", *(() if "--change" in flags else ("--change", "cap:sys_ptrace")), *flags)
    assert (code, sentence in said) == (2 if "--emit" in flags or "--beside" in flags else 1, True), said
    assert stage.inspect(stage.name) == before
    stage.docker("rm --force --volumes " + stage.name)
    assert "there is no container" in stage.says("--swap")[1]


def test_others_that_depend_on_it(stage: Stage) -> None:
    """A container in its network loses that when it stops."""
    before = stage.start("--network bridge")
    stage.docker(f"run --detach --name {stage.name}-child --network container:{stage.name} IMAGE /prober sleep")
    code, said = stage.says("--swap", "--yes", "--change", "cap:sys_ptrace")
    assert (code, f"{stage.name}-child has joined a namespace" in said) == (1, True)
    assert stage.inspect(stage.name) == before


def test_the_files_that_it_has_written(stage: Stage) -> None:
    stage.start("--network none")
    (stage.directory / "written").write_text("by the container")
    stage.docker(f"cp DIR/written {stage.name}:/written")
    assert "not what the container has written" in stage.says("--change", "cap:sys_ptrace", "--dry-run")[1]
    process = stage.relaunched("--snapshot", "--change", "cap:sys_ptrace")
    stage.docker(f"cp {stage.name}-debug:/written DIR/again")
    assert (stage.directory / "again").read_text() == "by the container"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert stage.docker("image ls --quiet safedlv-snapshot") == ""


def test_kept_and_back(stage: Stage) -> None:
    before = stage.start("--network none -v /anonymous")
    process = stage.relaunch("--swap", "--keep", "--change", "cap:sys_ptrace")
    assert process.wait(timeout=60) == 0
    assert stage.inspect(stage.name)["Id"] != before["Id"]
    words = [*SAFEDLV, "relaunch", "--back", stage.name]
    restored = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=stage.environment())
    assert restored.returncode == 0, restored.stderr
    assert told(stage.inspect(stage.name)) == told(before)
    assert (stage.ours(), stage.records()) == ("", [])


def test_a_copy_that_ends_by_itself(stage: Stage) -> None:
    before = stage.start("--network none")
    process = stage.relaunched("--swap", "--change", "cap:sys_ptrace")
    stage.docker(f"kill {stage.name}")
    assert process.wait(timeout=60) == 0
    assert told(stage.inspect(stage.name)) == told(before)


# ---------------------------------------------------------------- printed instead of done


def test_typed_as_it_is_printed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker run as --emit says it makes the same container; no value of the environment is in it."""
    monkeypatch.chdir(stage.directory)
    monkeypatch.setenv("OWN", "secret of mine")
    before = stage.start(
        "--network NET1 -e OWN=secret -e OF_IMAGE=x --cap-drop ALL -v VOLUME:/named --tmpfs /tmp:size=1m --init "
        "--user 1000:1000 --memory 512m --pids-limit 100 --ulimit core=0:0 --hostname h --restart on-failure:2 "
        "--dns 10.0.0.2 -p 127.0.0.1:43922:7000/udp --label a='b c' --stop-timeout 3 --read-only --workdir / "
        "--health-cmd 'x y' --cpus 0.5",
        "FULL",
        "sleep",
    )
    code, text = stage.says("--emit", "run", "--change", "cap:sys_ptrace")
    assert (code, "secret" in text, "not said below" in text) == (0, False, False)
    stage.engine.docker(*shlex.split(text.replace("\\\n", " "), comments=True)[1:])
    found = {".".join(one.path) for one in differences(before, stage.inspect(f"{stage.name}-debug"))}
    mounts = {f"Mounts./of-the-image.{key}" for key in ("Name", "Source")}
    ports = {"HostConfig.PortBindings.7000/udp"}
    environment = {"Config.Env.OWN", "Config.Env.OF_IMAGE"}
    assert found - {"Config.Healthcheck.Test"} == {"HostConfig.CapAdd", *mounts, *ports, *environment}


@pytest.mark.parametrize("form", ["compose", "devcontainer", "kubernetes"])
def test_as_a_patch(stage: Stage, form: str) -> None:
    stage.start(f"--network none -e OWN=secret {COMPOSE}")
    code, text = stage.says("--emit", form, "--change", "cap:sys_ptrace")
    assert (code, "SYS_PTRACE" in text, "secret" in text) == (0, True, False)

"""A Docker Engine for the tests: the one that runs, or one that is started for them and stopped at the end."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.everyone import Everyones
from tests.support import ROOT, build_go, require, wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tests.docker.stand import Stand

START_SECONDS = 60.0
PROBER = Path(__file__).parent / "prober"
NEWER = ROOT / ".cache" / "newer" / "usr"
"""Where tests/tools.sh puts a newer engine, its client, and docker compose."""


class Engine:
    """The docker command, and what it made: containers and images that go at the end."""

    def __init__(self) -> None:
        self.containers: list[str] = []

    def docker(self, *words: str, check: bool = True, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(["docker", *words], input=given, capture_output=True, timeout=60, check=False)
        assert not check or done.returncode == 0, done.stderr.decode()
        return done

    def run(self, *words: str) -> int:
        """A container in the background; the PID, as this machine sees it, of its first process."""
        name = f"safedlv-test-{uuid.uuid4().hex[:12]}"
        self.containers.append(name)
        self.docker("run", "--detach", "--network", "none", "--name", name, *words)
        return int(self.docker("inspect", "--format", "{{.State.Pid}}", name).stdout)

    @property
    def last(self) -> str:
        """The name of the container that was started last."""
        return self.containers[-1]

    def remove_containers(self) -> None:
        if self.containers:
            self.docker("rm", "--force", "--volumes", *self.containers)
        self.containers = []


def answers() -> bool:
    """Whether an engine can be asked: a client, and a server behind its socket."""
    try:
        words = ["docker", "version", "--format", "{{.Server.Version}}"]
        return subprocess.run(words, capture_output=True, timeout=20, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


@pytest.fixture(scope="session")
def running_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An engine is there. The one that this starts ends with the tests, its containers' shims with it."""
    if answers():
        yield
        return
    require(os.geteuid() == 0, "no Docker Engine answers, and only root can start one")
    require(shutil.which("dockerd") and shutil.which("docker"), "needs docker.io")
    log = tmp_path_factory.mktemp("docker") / "dockerd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(["dockerd"], stdout=output, stderr=output, start_new_session=True)
        try:
            wait_until(lambda: process.poll() is not None or answers(), "the Docker Engine", START_SECONDS)
            require(process.poll() is None, f"dockerd ended: {log.read_text()[-400:]}")
            yield
        finally:
            process.terminate()
            process.wait(timeout=START_SECONDS)


@pytest.fixture
def docker_engine(running_engine: None) -> Iterator[Engine]:
    """The engine; what a test starts with it is removed after the test."""
    engine = Engine()
    yield engine
    engine.remove_containers()


@pytest.fixture(scope="session")
def newer_host() -> Iterator[str]:
    """The DOCKER_HOST of a newer engine, in a network namespace of its own: its bridges are not another engine's."""
    require(os.geteuid() == 0, "only root can start an engine")
    require((NEWER / "sbin" / "dockerd").exists(), "needs a newer Docker Engine: tests/tools.sh test")
    directory = Path(tempfile.mkdtemp(prefix="newer-", dir="/tmp"))
    host = f"unix://{directory}/socket"
    of_it = " ".join(f"--{name}={directory}/{name}" for name in ("data-root", "exec-root", "pidfile"))
    words = ["unshare", "--net", "--mount", "--propagation", "slave"]
    words += ["sh", "-c", f"ip link set lo up; exec dockerd --host={host} {of_it}"]
    with pytest.MonkeyPatch.context() as patch, (directory / "log").open("wb") as output:
        patch.setenv("DOCKER_HOST", host)
        patch.setenv("PATH", f"{NEWER}/sbin:{NEWER}/bin", prepend=":")
        process = subprocess.Popen(words, stdout=output, stderr=output, start_new_session=True)
        try:
            wait_until(lambda: process.poll() is not None or answers(), "the newer engine", START_SECONDS)
            assert process.poll() is None, (directory / "log").read_text()[-400:]
            patch.undo()
            yield host
        finally:
            process.terminate()
            process.wait(timeout=START_SECONDS)
    shutil.rmtree(directory)


@pytest.fixture
def newer_engine(newer_host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Engine]:
    """The newer engine, and docker compose as the docker command finds it."""
    monkeypatch.setenv("DOCKER_HOST", newer_host)
    monkeypatch.setenv("PATH", f"{NEWER}/sbin:{NEWER}/bin", prepend=":")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("SAFEDLV_AUDIT", str(tmp_path / "audit.log"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    plugins = tmp_path / "config" / "cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-compose").symlink_to(NEWER / "libexec" / "docker" / "cli-plugins" / "docker-compose")
    engine = Engine()
    yield engine
    engine.remove_containers()


@pytest.fixture(scope="session")
def make_image(running_engine: None) -> Iterator[Callable[[Path], str]]:
    """Makes an image with one file in it, the program given, as /NAME; removed at the end."""
    engine = Engine()
    names: list[str] = []

    def make(program: Path) -> str:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(program, arcname=program.name)
        name = f"safedlv-test-{program.name}:{uuid.uuid4().hex[:12]}"
        engine.docker("import", "-", name, given=archive.getvalue())
        names.append(name)
        return name

    yield make
    if names:
        engine.docker("image", "rm", "--force", *names)


@pytest.fixture(scope="session")
def prober_image(make_image: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with nothing in it but the static program of tests/docker/prober."""
    output = tmp_path_factory.mktemp("prober") / "prober"
    return make_image(build_go(PROBER, output, environment={"CGO_ENABLED": "0"}))


@pytest.fixture
def prober(docker_engine: Engine, prober_image: str, tmp_path: Path) -> Callable[..., int]:
    """Starts a container in which that program sleeps: ``prober(options, profile)``; its PID, as we see it."""

    def start(options: Iterable[str] = (), profile: str | None = None) -> int:
        words = [*options]
        if profile is not None:
            path = tmp_path / f"profile-{len(docker_engine.containers)}.json"
            path.write_text(profile)
            words += ["--security-opt", f"seccomp={path}"]
        return docker_engine.run(*words, prober_image, "/prober", "sleep")

    return start


@pytest.fixture(scope="module")
def stand(
    running_engine: None, everyones: Everyones, server_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    """Where scenes are played: the containers of one module, and their images."""
    from tests.docker.stand import Stand, archive

    require(os.geteuid() == 0, "enters containers as root")
    directory = tmp_path_factory.mktemp("stand")
    static = build_go(ROOT / "examples" / "server", directory / "server", environment={"CGO_ENABLED": "0"})
    engine = Engine()
    images = {}
    for scratch in (False, True):
        images[scratch] = f"safedlv-test-stand:{uuid.uuid4().hex[:12]}"
        given = archive(static if scratch else server_binary, scratch=scratch)
        engine.docker("import", "-", images[scratch], given=given)
    made = Stand(images, everyones, directory)
    try:
        yield made
    finally:
        made.engine.remove_containers()
        engine.docker("image", "rm", "--force", *images.values())


@pytest.fixture(scope="session")
def sidecar_images(running_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The images of targets for sidecars; they go at the end, and the toolboxes that safedlv made meanwhile."""
    from tests.docker import sidecars

    engine, directory = Engine(), tmp_path_factory.mktemp("boxes")
    filtered = ("images", "--quiet", "--filter", "label=safedlv.toolbox")
    before = set(engine.docker(*filtered).stdout.decode().split())
    images = {kind: f"safedlv-test-{kind}:{uuid.uuid4().hex[:12]}" for kind in (sidecars.SCRATCH, sidecars.DEBIAN)}
    engine.docker("import", "-", images[sidecars.SCRATCH], given=sidecars.scratch_archive(directory))
    engine.docker("import", "-", images[sidecars.DEBIAN], given=sidecars.debian_archive(directory))
    yield images
    made = set(engine.docker(*filtered).stdout.decode().split()) - before
    engine.docker("image", "rm", "--force", *images.values(), *made)


@pytest.fixture
def make_box(
    docker_engine: Engine, sidecar_images: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., object]:
    """Starts a target in a container: ``make_box(image, program, *options)``."""
    from tests.docker import sidecars

    monkeypatch.setenv("SAFEDLV_AUDIT", str(tmp_path / "audit.log"))

    def make(image: str = sidecars.SCRATCH, program: list[str] | None = None, *run: str) -> sidecars.Box:
        words = program or ["/server", f"127.0.0.1:{sidecars.PORT}"]
        return sidecars.Box(docker_engine, sidecar_images[image], words, *run)

    return make

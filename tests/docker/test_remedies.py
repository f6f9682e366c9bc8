"""The fix that the doctor names, typed as it stands: the container, or the next one, can then be debugged.

Every way in which an engine can make a container refuse a debugger on a kernel without Yama and AppArmor. Nothing of
the commands is changed but what a test has not: a terminal, a dlv in the image, and what ``...`` stands for.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import frozen

from safedlv.cli import main
from tests.docker.conftest import Engine
from tests.docker.test_context import profile, rule
from tests.docker.test_doctor import errnos
from tests.support import ROOT, SAFEDLV, assert_unharmed, build_go, require

FORBIDDEN = ("--privileged", "unconfined", "--pid=host", "sysctl")
NO_PTRACE = profile(rule("SCMP_ACT_ERRNO"))
AS_USER = ("--user", "1000:1000")


@frozen
class Case:
    run: tuple[str, ...]
    """Options of the container that refuses, but for its profile."""
    profile: str | None
    tracer: str
    fix: tuple[str, ...]
    risk: str
    unreadable: bool = False
    """The program's file may be executed but not read: not dumpable (proc(5))."""


CASES = {
    "a user's process, as root": Case(AS_USER, None, "container:0", ("user",), "low"),
    "root's process, as a user": Case((), None, "container:1000", ("user",), "medium"),
    "SYS_PTRACE and nothing else, as root": Case(
        (*AS_USER, "--cap-drop", "ALL", "--cap-add", "SYS_PTRACE"), None, "container:0", ("user",), "low"
    ),
    "not dumpable": Case(AS_USER, None, "container", ("root", "cap:sys_ptrace"), "medium", unreadable=True),
    "not dumpable, as root": Case(AS_USER, None, "container:0", ("cap:sys_ptrace",), "medium", unreadable=True),
    "a profile against ptrace": Case((), NO_PTRACE, "container", ("seccomp",), "medium"),
    "a profile against SETOPTIONS": Case(
        (), profile(rule("SCMP_ACT_ERRNO", 0x4200)), "container", ("seccomp",), "medium"
    ),
    "a profile that kills at CONT": Case(
        (), profile(rule("SCMP_ACT_KILL_PROCESS", 7)), "container", ("seccomp",), "medium"
    ),
    "a profile, and another user": Case(AS_USER, NO_PTRACE, "container:0", ("user", "seccomp"), "medium"),
    "not dumpable, and a profile": Case(
        AS_USER, NO_PTRACE, "container:0", ("seccomp", "cap:sys_ptrace"), "medium", unreadable=True
    ),
}


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "enters containers as root")


@pytest.fixture(scope="session")
def unreadable_image(make_image: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The prober, in a file that its user may execute but not read."""
    output = build_go(
        ROOT / "tests" / "docker" / "prober",
        tmp_path_factory.mktemp("unreadable") / "prober",
        environment={"CGO_ENABLED": "0"},
    )
    output.chmod(0o711)
    return make_image(output)


@pytest.fixture
def image(request: pytest.FixtureRequest) -> str:
    name = "unreadable_image" if CASES[request.getfixturevalue("name")].unreadable else "prober_image"
    return str(request.getfixturevalue(name))


class Container:
    """The container of a case, and what becomes of it when commands are typed."""

    def __init__(self, engine: Engine, case: Case, image: str, directory: Path) -> None:
        self.engine, self.case, self.image, self.directory = engine, case, image, directory
        options = list(case.run)
        if case.profile:
            (directory / "old.json").write_text(case.profile)
            options += ["--security-opt", f"seccomp={directory / 'old.json'}"]
        self.pid = engine.run(*options, image, "/prober", "sleep")
        self.name = engine.last

    def doctor(self, tracer: str) -> dict[str, Any]:
        words = [*SAFEDLV, "doctor", "--hold-limit=1", "--json", f"docker:{self.engine.last}", "--tracer", tracer]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert done.stderr == ""
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def type_in(self, text: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
        """Run the lines in order; what the program of the last one, a docker exec, then gets."""
        monkeypatch.chdir(self.directory)
        answers: dict[str, int] = {}
        for line in text.splitlines():
            words = shlex.split(line)
            if words[:2] == ["safedlv", "seccomp"]:
                assert main(words[1:]) == 0
            elif words[:2] == ["docker", "run"]:
                assert words[-1] == "..."
                self.run_again(*words[2:-1])
            else:
                answers = self.exec(words)
        return answers

    def run_again(self, *options: str) -> None:
        """``...``: as before, but for the profile that a new one replaces."""
        kept = list(self.case.run)
        if self.case.profile and not any(option.startswith("seccomp=") for option in options):
            kept += ["--security-opt", f"seccomp={self.directory / 'old.json'}"]
        self.pid = self.engine.run(*options, *kept, self.image, "/prober", "sleep")

    def exec(self, words: list[str]) -> dict[str, int]:
        """docker exec with its options; the prober, which is in the image, in the place of dlv."""
        assert words[:3] == ["docker", "exec", "-it"]
        assert words[-4:] == [self.name, "dlv", "attach", "1"]
        answers = errnos(self.engine, *words[3:-4], self.engine.last)
        answers.pop("process_vm_readv", None)  # this engine's own profile refuses it; dlv does without it
        return answers


@pytest.fixture
def container(docker_engine: Engine, name: str, image: str, tmp_path: Path, newest_dlv: str) -> Container:
    return Container(docker_engine, CASES[name], image, tmp_path)


def tracer_of(text: str) -> str:
    """WHO of --tracer that is started as the commands say."""
    user = re.search(r"exec (?:-it )?--user (\S+)", text)
    return f"container:{user[1]}" if user else "container"


@pytest.mark.parametrize("name", CASES)
def test_typed_as_it_stands(container: Container, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    answer = container.doctor(case.tracer)
    fix = answer["fix"]
    assert answer["verdict"] == "blocked"
    assert (tuple(fix["ids"]), fix["verified"], fix["risk"]) == (case.fix, True, case.risk)
    assert_unharmed(container.pid)
    assert not [text for text in fix["commands"].values() if any(word in text for word in FORBIDDEN)]
    told = fix["commands"]["docker"]
    assert list(fix["commands"])[:2] == ["docker", "host"]
    assert set(container.type_in(told, monkeypatch).values()) == {0}
    assert container.doctor(default_user(told, case))["verdict"] == "ok"
    assert_unharmed(container.pid)


def default_user(told: str, case: Case) -> str:
    """Where the commands name no user, the one that the question was about."""
    who = tracer_of(told)
    return case.tracer if who == "container" else who


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if len(case.fix) > 1])
def test_nothing_of_it_can_be_left_out(container: Container, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change taken out of the commands alone: it is refused again.

    An engine of 28 starts a user's program with capabilities that end with the start, but let the kernel find the file
    readable (fs/exec.c: would_dump): the process is dumpable, and only /proc/PID/exe stays closed.
    """
    case = CASES[name]
    told = container.doctor(case.tracer)["fix"]["commands"]["docker"]
    marks = {"user": "--user [0-9:]+ ", "root": "--user [0-9:]+ ", "seccomp": "--security-opt [^ ]+ "}
    for change in case.fix:
        mark = marks.get(change, "--cap-add=[^ ]+ ")
        less = re.sub(mark, "", told)
        assert less != told
        if "--user" not in less and case.tracer != "container":
            less = less.replace("exec -it", f"exec -it --user {case.tracer.partition(':')[2]}")
        answers = container.type_in(less, monkeypatch)
        refused = {name: number for name, number in answers.items() if number}
        assert refused in ({"attach": errno.EPERM}, {"exe": errno.EACCES}), f"without {change}"


@pytest.mark.parametrize("name", CASES)
def test_from_the_host(container: Container, name: str) -> None:
    """``sudo safedlv attach docker:NAME`` stands under none of the container's layers."""
    fix = container.doctor(CASES[name].tracer)["fix"]
    assert fix["commands"]["host"] == f"sudo safedlv attach docker:{container.name}"
    assert container.doctor("self")["verdict"] == "ok"


@pytest.mark.parametrize("name", CASES)
def test_as_compose_and_devcontainer_say_it(container: Container, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in files: turned into the options that Compose and the dev container tools make of them."""
    case = CASES[name]
    commands = container.doctor(case.tracer)["fix"]["commands"]
    if "run" in commands["docker"]:
        options, comments = compose_options(commands["compose"])
        generate = [line for line in comments if line.startswith("safedlv")]
        assert set(container.type_in("\n".join(generate), monkeypatch)) == set()
        container.run_again(*options)
        assert container.doctor(default_user("\n".join(comments), case))["verdict"] == "ok"
        text, user = devcontainer_options(commands["devcontainer"], container.directory)
        container.run_again(*text)
        assert container.doctor(user or case.tracer)["verdict"] == "ok"
    else:
        words = shlex.split(commands["compose"])
        assert (words[:3], words[-4:]) == (["docker", "compose", "exec"], ["SERVICE", "dlv", "attach", "1"])
        assert tracer_of(commands["compose"]) == tracer_of(commands["docker"])


def compose_options(text: str) -> tuple[list[str], list[str]]:
    """docker run's options for a Compose file with one service, and the lines of its comments."""
    (service,) = yaml.safe_load(text)["services"].values()
    assert set(service) <= {"cap_add", "security_opt"}
    options = [f"--cap-add={name}" for name in service.get("cap_add", [])]
    options += [word for option in service.get("security_opt", []) for word in ("--security-opt", option)]
    return options, [line[2:] for line in text.splitlines() if line.startswith("# ")]


def devcontainer_options(text: str, directory: Path) -> tuple[list[str], str]:
    added = json.loads("\n".join(line for line in text.splitlines() if not line.startswith("//")))
    assert set(added) <= {"capAdd", "securityOpt", "remoteUser"}
    options = [f"--cap-add={name}" for name in added.get("capAdd", [])]
    for option in added.get("securityOpt", []):
        options += ["--security-opt", option.replace("${localWorkspaceFolder}", str(directory))]
    user = added.get("remoteUser", "").replace("root", "0")
    return options, f"container:{user}:{user}" if user else ""


def test_a_paused_container(docker_engine: Engine, prober_image: str, newest_dlv: str) -> None:
    pid = docker_engine.run(prober_image, "/prober", "sleep")
    docker_engine.docker("pause", docker_engine.last)
    words = [*SAFEDLV, "doctor", "--hold-limit=1", "--json", "--probe-timeout", "0.5", f"docker:{docker_engine.last}"]
    fix = json.loads(subprocess.run(words, capture_output=True, check=False, timeout=60).stdout)["fix"]
    assert (fix["ids"], fix["verified"], fix["risk"]) == (["thaw"], False, "low")
    subprocess.run(shlex.split(fix["commands"]["docker"]), check=True, capture_output=True, timeout=60)
    again = subprocess.run(words, capture_output=True, check=False, timeout=60)
    assert again.returncode == 0, again.stdout.decode()
    assert_unharmed(pid)


def test_to_paste_into_an_issue(docker_engine: Engine, prober_image: str, newest_dlv: str) -> None:
    """The same commands, without the names of this machine and this container."""
    docker_engine.run(*AS_USER, "--hostname", "inner-host", prober_image, "/prober", "sleep")
    words = [
        *SAFEDLV,
        "doctor",
        "--hold-limit=1",
        "--markdown",
        f"docker:{docker_engine.last}",
        "--tracer",
        "container:0",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (10, "")
    assert "\ndocker exec -it --user 1000:1000 NAME dlv attach 1\n" in done.stdout
    for own in (docker_engine.last, "inner-host", os.uname().nodename, newest_dlv, os.environ["TMPDIR"]):
        assert own not in done.stdout
    both = subprocess.run([*words, "--json"], capture_output=True, text=True, check=False, timeout=60)
    assert (both.returncode, both.stdout) == (2, "")
    assert "--markdown" in both.stderr


def test_a_service_of_compose_comes_first(docker_engine: Engine, prober_image: str, newest_dlv: str) -> None:
    docker_engine.run(*AS_USER, "--label", "com.docker.compose.service=api", prober_image, "/prober", "sleep")
    words = [*SAFEDLV, "doctor", "--hold-limit=1", "--json", f"docker:{docker_engine.last}", "--tracer", "container:0"]
    commands = json.loads(subprocess.run(words, capture_output=True, check=False, timeout=60).stdout)["fix"]["commands"]
    assert next(iter(commands)) == "compose"
    assert commands["compose"] == "docker compose exec --user 1000:1000 api dlv attach 1"


# ---------------------------------------------------------------- seccomp generate


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--security-opt", "seccomp=unconfined"), "has no seccomp filter"),
        ((), ""),
    ],
)
def test_the_profile_of_a_container(
    docker_engine: Engine, prober_image: str, options: tuple[str, ...], sentence: str
) -> None:
    """Docker's own has everything already; a container without a filter needs no profile."""
    docker_engine.run(*options, prober_image, "/prober", "sleep")
    words = [*SAFEDLV, "seccomp", "generate", "--for", "dlv", "--base", f"docker:{docker_engine.last}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert sentence in done.stderr
    assert done.returncode == (1 if sentence else 0)
    if not sentence:
        default = (ROOT / "safedlv" / "seccomp" / "docker-default.json").read_text()
        assert json.loads(done.stdout) == json.loads(default)


@pytest.fixture(scope="session")
def dlv_image(running_engine: None, tmp_path_factory: pytest.TempPathFactory, server_binary: Path) -> Iterator[str]:
    """The example server and the dlv of this machine, with the libraries that they link."""
    dlv = os.environ.get("SAFEDLV_TEST_DLV") or shutil.which("dlv")
    require(dlv, "needs a dlv")
    root = tmp_path_factory.mktemp("root")
    listed = subprocess.run(["ldd", str(dlv), str(server_binary)], capture_output=True, text=True, check=False).stdout
    for library in set(re.findall(r"(/\S+) \(0x", listed)):
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    shutil.copy(str(dlv), root / "dlv")
    shutil.copy(server_binary, root / "server")
    (root / "tmp").mkdir()
    tar = subprocess.run(["tar", "-C", str(root), "-c", "."], capture_output=True, check=True).stdout
    name = f"safedlv-test-dlv:{os.getpid()}"
    engine = Engine()
    engine.docker("import", "-", name, given=tar)
    yield name
    engine.docker("image", "rm", "--force", name)


def without_ptrace() -> str:
    """Docker's default profile as it was before ptrace was in it: an allow list, on which dlv fails."""
    document = json.loads((ROOT / "safedlv" / "seccomp" / "docker-default.json").read_text())
    for one in document["syscalls"]:
        one["names"] = [name for name in one["names"] if "ptrace" not in name and "process_vm" not in name]
    document["syscalls"] = [one for one in document["syscalls"] if one["names"]]
    return json.dumps(document)


def test_dlv_itself_under_the_profile(
    docker_engine: Engine, dlv_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A breakpoint, a variable and a watchpoint by the real dlv, under a strict profile and what was added to it."""
    monkeypatch.chdir(tmp_path)
    Path("strict.json").write_text(without_ptrace())
    assert main(["seccomp", "generate", "--for", "dlv", "--base", "strict.json", "-o", "dlv-seccomp.json"]) == 0
    assert "Breakpoint 1 set" not in session(docker_engine, dlv_image, "strict.json")
    said = session(docker_engine, dlv_image, "dlv-seccomp.json")
    for expected in ("Breakpoint 1 set", "runtime.", "Rip" if os.uname().machine == "x86_64" else "PC"):
        assert expected in said, said


def session(engine: Engine, image: str, seccomp: str) -> str:
    """What dlv says in a container with that profile to a few commands. The server must survive it."""
    pid = engine.run("--security-opt", f"seccomp={seccomp}", image, "/server", "127.0.0.1:0")
    words = ["exec", "-i", engine.last, "/dlv", "attach", "1", "--allow-non-terminal-interactive=true"]
    given = b"break main.greeting\ngoroutines\nregs -a\nstep-instruction\nclearall\nexit\nn\n"
    done = engine.docker(*words, given=given, check=False)
    assert_unharmed(pid)
    return (done.stdout + done.stderr).decode()


def test_the_command_line() -> None:
    for words, sentence in (
        ("seccomp generate --for dlv --base /nowhere.json", "cannot read"),
        ("seccomp generate --for dlv --base /dev/null", "/dev/null"),
        ("seccomp generate --for gdb --base docker", "invalid choice"),
        ("seccomp", "required"),
    ):
        done = subprocess.run([*SAFEDLV, *words.split()], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert sentence in done.stderr

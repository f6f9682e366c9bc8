"""What to type, for each runtime: read by a parser of its own kind, and of nothing that switches a layer off."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from safedlv.diagnosis.place import Place, place_of
from safedlv.diagnosis.remedies import OTHER_CAPABILITY, REMEDIES
from safedlv.diagnosis.remedy_commands import RUNTIMES, commands
from safedlv.model import Target, Tracer

DOCKER = Place(
    pid=4711, inner_pid=1, uid=1000, gid=1001, inner_uid=1000, inner_gid=1001, one_user=True, inside=True,
    runtime="docker", container="web", pids_max=20, memory_max=48 << 20, cgroup="/docker/1", apparmor="mine",
)  # fmt: skip
HOST = evolve(DOCKER, inside=False, runtime=None, container=None, inner_pid=4711, tracer_uid=5, cgroup="/a/b.service")
FORBIDDEN = re.compile(r"--privileged|unconfined|--pid=host|sysctl|privileged: true|hostPID|sysadmin", re.IGNORECASE)
ALL = (*REMEDIES, "cap:net_raw")


def told(place: Place, *ids: str) -> dict[str, str]:
    return dict(commands(ids, place))


def one(place: Place, runtime: str, *ids: str) -> str:
    return told(place, *ids)[runtime]


# ---------------------------------------------------------------- each runtime


def test_docker() -> None:
    assert one(DOCKER, "docker", "user") == "docker exec -it --user 1000:1001 web dlv attach 1"
    assert one(DOCKER, "docker", "root", "cap:sys_ptrace").splitlines() == [
        "docker run --cap-add=SYS_PTRACE ...",
        "docker exec -it --user 0:0 web dlv attach 1",
    ]
    assert one(DOCKER, "docker", "seccomp").splitlines() == [
        "safedlv seccomp generate --for dlv --base docker:web -o dlv-seccomp.json",
        "docker run --security-opt seccomp=dlv-seccomp.json ...",
        "docker exec -it web dlv attach 1",
    ]
    assert one(DOCKER, "docker", "thaw") == "docker unpause web"
    assert one(DOCKER, "docker", "limit:pids") == "docker update --pids-limit 84 web"
    assert shlex.split(one(DOCKER, "docker", "limit:memory"))[3] == str(304 << 20)


def test_the_user_that_was_asked_about_stays() -> None:
    """docker exec would else take the container's own user, who may be another."""
    as_root = evolve(DOCKER, exec_as="0")
    assert one(as_root, "docker", "cap:sys_ptrace").splitlines()[-1] == "docker exec -it --user 0 web dlv attach 1"
    assert one(as_root, "docker", "user") == one(DOCKER, "docker", "user")
    assert "kubernetes" not in told(as_root, "cap:sys_ptrace"), "kubectl exec cannot choose a user"


def test_ids_of_another_user_namespace_are_no_ids_in_the_container() -> None:
    assert set(told(evolve(DOCKER, inner_uid=None, inner_gid=None), "user")) == {"host"}


def test_podman() -> None:
    podman = evolve(DOCKER, runtime="podman")
    assert next(iter(told(podman, "user"))) == "podman"
    for line in one(podman, "podman", "user", "seccomp", "cap:kill").splitlines():
        assert shlex.split(line)[0] in ("podman", "safedlv")


def test_compose() -> None:
    text = one(DOCKER, "compose", "root", "cap:sys_ptrace", "cap:kill", "seccomp")
    assert yaml.safe_load(text) == {
        "services": {"SERVICE": {"cap_add": ["SYS_PTRACE", "KILL"], "security_opt": ["seccomp=./dlv-seccomp.json"]}}
    }
    comments = [line[2:] for line in text.splitlines() if line.startswith("# ")]
    assert comments[0] == "compose.debug.yaml"
    assert [shlex.split(line)[0] for line in comments[1:]] == ["safedlv", "docker", "docker"]
    assert comments[-1] == "docker compose exec --user 0:0 SERVICE dlv attach 1"
    named = evolve(DOCKER, service="no")
    assert set(yaml.safe_load(one(named, "compose", "seccomp"))["services"]) == {"no"}
    assert next(iter(told(named, "user"))) == "compose"


def test_devcontainer() -> None:
    text = one(DOCKER, "devcontainer", "user", "seccomp", "cap:sys_ptrace")
    comment, rest = text.split("\n", 1)
    assert comment.startswith("// safedlv seccomp generate")
    assert json.loads(rest) == {
        "remoteUser": "1000",
        "capAdd": ["SYS_PTRACE"],
        "securityOpt": ["seccomp=${localWorkspaceFolder}/dlv-seccomp.json"],
    }
    assert json.loads(one(DOCKER, "devcontainer", "root")) == {"remoteUser": "root"}


def debugger(text: str) -> dict[str, Any]:
    """The securityContext that ``kubectl debug`` is given."""
    echo, debug = text.splitlines()[-2:]
    words = shlex.split(echo)
    assert (words[0], words[2:]) == ("echo", [">", "debugger.json"])
    assert "--custom=debugger.json" in shlex.split(debug)
    context: dict[str, Any] = json.loads(words[1])["securityContext"]
    return context


def test_kubectl_debug() -> None:
    pod = evolve(DOCKER, runtime="kubernetes", container=None)
    assert next(iter(told(pod, "user"))) == "kubectl-debug"
    assert debugger(one(pod, "kubectl-debug", "user")) == {"runAsUser": 1000, "runAsGroup": 1001}
    root = {"runAsUser": 0, "runAsNonRoot": False, "capabilities": {"add": ["SYS_PTRACE"]}}
    assert debugger(one(pod, "kubectl-debug", "cap:sys_ptrace")) == root, "others than root hold no capability"
    text = one(pod, "kubectl-debug", "root", "cap:sys_ptrace", "seccomp")
    localhost = {"type": "Localhost", "localhostProfile": "dlv-seccomp.json"}
    assert debugger(text) == {**root, "runAsGroup": 0, "seccompProfile": localhost}
    assert text.startswith("safedlv seccomp generate --for dlv --base docker -o /var/lib/kubelet/seccomp/dlv-")
    bare = one(pod, "kubectl-debug", "namespace:pid")
    assert bare == "kubectl debug -it POD --image=IMAGE --target=CONTAINER --profile=baseline -- dlv attach 1"


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl happens not to be here")
def test_kubectl_knows_these_flags() -> None:
    shown = subprocess.run(["kubectl", "debug", "--help"], capture_output=True, text=True, check=True).stdout
    for flag in re.findall(r"--[a-z]+(?==)", one(DOCKER, "kubectl-debug", "user")):
        assert f" {flag}=" in shown
    assert '"baseline"' in shown


def test_kubernetes() -> None:
    text = one(DOCKER, "kubernetes", "cap:sys_ptrace", "seccomp")
    (container,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    assert container == {
        "name": "CONTAINER",
        "securityContext": {
            "capabilities": {"add": ["SYS_PTRACE"]},
            "seccompProfile": {"type": "Localhost", "localhostProfile": "dlv-seccomp.json"},
        },
    }
    assert "kubernetes" not in told(DOCKER, "user")


def test_systemd() -> None:
    text = one(HOST, "systemd", "user", "cap:sys_ptrace", "cap:kill", "seccomp")
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    assert dict(unit["Service"]) == {
        "User": "1000",
        "Group": "1001",
        "AmbientCapabilities": "CAP_KILL",
        "SystemCallFilter": "ptrace process_vm_readv kill tgkill wait4",
    }
    assert text.count("AmbientCapabilities=") == 2, "a list that adds up, systemd.exec(5)"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd happens not to be here")
def test_systemd_understands_it(tmp_path: Path) -> None:
    unit = tmp_path / "debugger.service"
    unit.write_text(one(HOST, "systemd", "user", "cap:sys_ptrace", "seccomp") + "\nExecStart=/bin/true\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=True
    )
    assert done.stderr == "", "it says there what it ignores"


def test_a_plain_host() -> None:
    assert one(HOST, "host", "user") == "sudo -u '#1000' -g '#1001' safedlv attach 4711"
    assert one(HOST, "host", "root") == "sudo safedlv attach 4711"
    assert one(HOST, "host", "seccomp", "user") == (
        "sudo systemd-run --pty --uid=1000 --gid=1001 safedlv attach 4711"
    ), "a shell's filter is inherited: only another parent is without it"
    assert one(HOST, "host", "thaw") == "sudo systemctl thaw b.service"
    assert next(iter(told(HOST, "root"))) == "host"
    assert "docker" not in told(HOST, "root")


def test_from_the_host_into_a_container() -> None:
    beside = evolve(HOST, container="web", runtime="docker")
    assert next(iter(told(beside, "root"))) == "host"
    assert one(beside, "host", "root") == "sudo safedlv attach docker:web"
    assert one(beside, "host", "user") == "sudo -u '#1000' -g '#1001' safedlv attach 4711"


def test_apparmor() -> None:
    text = one(HOST, "apparmor", "label:apparmor")
    rules = [line for line in text.splitlines() if not line.startswith("#")]
    assert [rule.split()[0] for rule in rules] == ["ptrace", "signal", "ptrace", "signal"]
    assert 'peer="mine",' in rules[0]
    assert all(rule.endswith(",") for rule in rules)


@pytest.mark.parametrize("change", ["end-tracer", "reboot"])
def test_what_cannot_be_typed(change: str) -> None:
    assert told(DOCKER, change) == told(HOST, change) == {}
    assert told(DOCKER, "user", change) == {}


# ---------------------------------------------------------------- all of them

changes = st.lists(st.sampled_from(ALL), min_size=1, unique=True)
anything = st.none() | st.text(min_size=1)
names = st.none() | st.from_regex(r"[a-zA-Z0-9._-]+", fullmatch=True)
places = st.builds(
    evolve,
    st.sampled_from([DOCKER, HOST]),
    container=names,
    service=names,
    apparmor=anything,
    cgroup=anything | anything.map(lambda name: f"{name}.service"),
    runtime=st.sampled_from([None, "docker", "podman", "kubernetes"]),
    inside=st.booleans(),
    exec_as=st.sampled_from([None, "0", "1000:1000"]),
    inner_uid=st.sampled_from([None, 0, 1000]),
)


@given(changes, places)
def test_any_set_of_changes(ids: list[str], place: Place) -> None:
    """Nothing is switched off, every text is of its kind, and what a user chose stays one word of it."""
    container, service = place.container or "NAME", place.service or "SERVICE"
    for runtime, text in commands(tuple(ids), place):
        assert not FORBIDDEN.search(without_names(text, place))
        lines = [line for line in text.splitlines() if line and not line.startswith(("#", "//"))]
        assert lines
        if runtime in ("docker", "podman"):
            assert container in shlex.split(lines[-1])
        elif runtime == "compose" and "services:" in lines:
            assert list(yaml.safe_load(text)["services"]) == [service]
        elif runtime == "compose":
            assert service in shlex.split(lines[-1])
        elif runtime == "host":
            assert all(shlex.split(line)[0] in ("sudo", "go") for line in lines)
        elif runtime == "apparmor":
            assert [line.split()[0] for line in lines] == ["ptrace", "signal", "ptrace", "signal"]
    assert set(dict(commands(tuple(ids), place))) <= set(RUNTIMES)


def without_names(text: str, place: Place) -> str:
    for name in (place.container, place.service, json.dumps(place.apparmor), place.cgroup):
        text = text.replace(name, "") if name else text
    return text


def test_what_is_no_name_is_not_in_any_command() -> None:
    """A label of Compose's may hold anything; whoever set it does not write our commands."""
    for name in ("a\nb", "a b", "$(reboot)", "a;b", "é"):
        made = place_of(Target(7, 1, "docker", name, 1), None, Tracer("container", 0, 0, 0), inside=True, service=name)
        assert (made.container, made.service) == (None, None)
    kept = place_of(Target(7, 1, "docker", "web.1", 1), None, Tracer("self", 5, 6, 0), inside=True, service="api-1")
    assert (kept.container, kept.service, kept.exec_as) == ("web.1", "api-1", "5:6")


@given(changes, places)
def test_what_may_be_shared_holds_no_names(ids: list[str], place: Place) -> None:
    own = evolve(place, container="zzweb", service="zzapi", apparmor="/home/zz/app", cgroup="/user/zz.service")
    assert "zz" not in "".join(text for _, text in commands(tuple(ids), own.without_names()))


def test_words_of_another_capability() -> None:
    assert OTHER_CAPABILITY.words.format(name="NET_RAW") == "give the debugger CAP_NET_RAW"

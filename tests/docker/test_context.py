"""What ``docker exec`` would get, foretold by a probe from its context, and what a static program really gets there.

The image holds that one program and nothing else: no shell, no library.
"""

from __future__ import annotations

import errno
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from safedlv.probe.context import Context
from safedlv.probe.elsewhere import probe_from
from safedlv.probe.sources import every_capability, exec_context, read_context
from tests.docker.conftest import Engine
from tests.live.sandboxes import status
from tests.support import assert_unharmed, require, wait_until

ALL = (  # of safedlv's probe: what the program in the image does too
    "attach", "setoptions", "cont", "tgkill", "getregset", "peekdata", "auxv", "maps", "exe", "mem", "process_vm_readv",
)  # fmt: skip
ROOT, SOMEBODY = (0, None), (1000, None)


def profile(*rules: dict[str, Any]) -> str:
    """A seccomp profile of the engine's kind that allows everything but the rules."""
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": list(rules)})


def rule(action: str, request: int | None = None) -> dict[str, Any]:
    arguments = [] if request is None else [{"index": 0, "value": request, "op": "SCMP_CMP_EQ"}]
    return {"names": ["ptrace"], "action": action, "args": arguments}


@frozen
class Case:
    name: str
    run: tuple[str, ...] = ()
    exec: tuple[str, ...] = ()
    user: tuple[int, int | None] | None = None
    """The same as in ``exec``, for exec_context."""
    privileged: bool = False
    profile: str | None = None
    passwd: str | None = None
    """The container's /etc/passwd; without it a uid alone means the gid 0."""
    first: tuple[str, str] | None = None
    """The first step that is expected to fail; None: nothing does."""


CASES = [
    Case("default, root"),
    Case("default, exec as 1000", exec=("-u", "1000"), user=SOMEBODY, first=("attach", "EPERM")),
    Case("--user 1000, exec as it is", run=("--user", "1000")),
    Case("--user 1000, exec as root", run=("--user", "1000"), exec=("-u", "0"), user=ROOT, first=("attach", "EPERM")),
    Case("--user 1000:1000, exec as 1000", run=("--user", "1000:1000"), exec=("-u", "1000"), user=SOMEBODY,
         first=("attach", "EPERM")),
    Case("--cap-drop ALL, root", run=("--cap-drop", "ALL")),
    Case("--cap-drop ALL --user 1000, exec as root", run=("--cap-drop", "ALL", "--user", "1000"), exec=("-u", "0"),
         user=ROOT, first=("attach", "EPERM")),
    Case("--cap-add SYS_PTRACE --user 1000, exec as root", run=("--cap-add", "SYS_PTRACE", "--user", "1000"),
         exec=("-u", "0"), user=ROOT),
    Case("only SYS_PTRACE, --user 1000, exec as root",
         run=("--cap-drop", "ALL", "--cap-add", "SYS_PTRACE", "--user", "1000"), exec=("-u", "0"), user=ROOT,
         first=("tgkill", "EPERM")),
    Case("--cap-add SYS_PTRACE, exec as 1000", run=("--cap-add", "SYS_PTRACE"), exec=("-u", "1000"), user=SOMEBODY,
         first=("attach", "EPERM")),
    Case("no-new-privileges", run=("--security-opt", "no-new-privileges")),
    Case("no-new-privileges, exec as 1000", run=("--security-opt", "no-new-privileges"), exec=("-u", "1000"),
         user=SOMEBODY, first=("attach", "EPERM")),
    Case("a profile that refuses ptrace", profile=profile(rule("SCMP_ACT_ERRNO")), first=("attach", "EPERM")),
    Case("a profile that refuses ptrace, exec --privileged", profile=profile(rule("SCMP_ACT_ERRNO")),
         exec=("--privileged",), privileged=True, first=("attach", "EPERM")),
    Case("a profile that refuses SETOPTIONS, --user 1000", run=("--user", "1000"),
         profile=profile(rule("SCMP_ACT_ERRNO", 0x4200)), first=("setoptions", "EPERM")),
    Case("a profile that refuses CONT", profile=profile(rule("SCMP_ACT_ERRNO", 7)), first=("cont", "EPERM")),
    Case("a profile that kills at ATTACH", profile=profile(rule("SCMP_ACT_KILL_PROCESS", 16)),
         first=("attach", "SIGSYS")),
    Case("--user 1000:1234, exec as 1000 of a passwd that says so", run=("--user", "1000:1234"), exec=("-u", "1000"),
         user=SOMEBODY, passwd="root:x:0:0::/:/x\napp:x:1000:1234::/:/x\n"),
    Case("--user 1000:1234 --group-add 55, exec as 1000:1234", run=("--user", "1000:1234", "--group-add", "55"),
         exec=("-u", "1000:1234"), user=(1000, 1234)),
    Case("seccomp=unconfined", run=("--security-opt", "seccomp=unconfined")),
    Case("--user 1000, exec --privileged as root", run=("--user", "1000"), exec=("--privileged", "-u", "0"),
         user=ROOT, privileged=True),
    Case("--user 1000, exec --privileged as it is", run=("--user", "1000"), exec=("--privileged",), privileged=True),
    Case("--privileged", run=("--privileged",)),
]  # fmt: skip


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "enters containers as root")


@pytest.fixture
def container(docker_engine: Engine, prober: Callable[..., int], tmp_path: Path, case: Case) -> int:
    """The first process of the case's container, which sleeps."""
    if "--privileged" in case.run and not all_capabilities():
        pytest.skip("this machine has not every capability, so its engine starts no privileged container")
    pid = prober(case.run, case.profile)
    if case.passwd:
        (tmp_path / "passwd").write_text(case.passwd)
        docker_engine.docker("cp", str(tmp_path / "passwd"), f"{docker_engine.last}:/etc/passwd")
    return pid


def all_capabilities() -> bool:
    with read_context(os.getpid()) as own:
        return own.capabilities.bounding == every_capability()


def foretold(context: Context, pid: int) -> tuple[dict[str, str | None], tuple[str, ...]]:
    experiment = probe_from(context, pid)
    steps, needs, _, left_as_found = experiment.attempt
    assert left_as_found
    answers = {name: failure for name, failure, _ in steps + needs if name in ALL}
    if answers.get("tgkill"):  # then safedlv looks at another thread
        answers = {name: failure for name, failure in answers.items() if name not in ("getregset", "peekdata")}
    return answers, experiment.missing


def really(engine: Engine, case: Case) -> dict[str, str | None] | None:
    """What the program in the container gets; None where the engine has not the capabilities that it is to give."""
    done = engine.docker("exec", *case.exec, engine.last, "/prober", "1", check=False)
    if b"unable to apply caps" in done.stdout + done.stderr:
        return None
    assert not done.stderr, done.stderr.decode()
    words = [line.split() for line in done.stdout.decode().splitlines()]
    answers = {step: errno.errorcode[int(number)] if int(number) else None for step, number in words}
    if done.returncode == 128 + 31:  # SIGSYS
        answers[next(step for step in ALL if step not in answers)] = "SIGSYS"
    return answers


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answer_is_the_one_that_docker_exec_gets(docker_engine: Engine, container: int, case: Case) -> None:
    with exec_context(container, case.user, case.privileged) as context:
        answers, missing = foretold(context, container)
        real = really(docker_engine, case)
    if real is None:
        assert not all_capabilities()
        assert "not ours to give" in " ".join(missing) or not context.capabilities.effective
    else:
        assert answers == real
        assert missing == ()
    order = [step for step in ALL if step != "process_vm_readv"]  # dlv does without it, and this engine refuses it
    assert next(((step, answers[step]) for step in order if answers.get(step)), None) == case.first
    assert_unharmed(container)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_context_is_the_one_that_docker_exec_starts(docker_engine: Engine, container: int, case: Case) -> None:
    """A process that docker exec really started, read, against what was worked out beforehand."""
    pid = really_started(docker_engine, case, container)
    with exec_context(container, case.user, case.privileged) as expected, read_context(pid) as real:
        assert (real.uid, real.gid, real.groups) == (expected.uid, expected.gid, expected.groups)
        # runc compiles the profile anew each time; the order of the architectures in it is left to chance.
        assert [len(program) // 80 for program in real.filters] == [len(program) // 80 for program in expected.filters]
        assert real.no_new_privs == expected.no_new_privs
        assert real.labels == expected.labels
        mask = real.capabilities.bounding  # an engine that lacks one itself cannot give it
        assert real.capabilities.effective == expected.capabilities.effective & mask
        assert real.capabilities.permitted == expected.capabilities.permitted & mask
        assert real.capabilities.bounding == expected.capabilities.bounding & mask
        assert real.capabilities.inheritable == expected.capabilities.inheritable
        assert real.capabilities.ambient == expected.capabilities.ambient
        theirs = {link.kind: link.inode for link in real.namespaces}
        assert theirs == {link.kind: link.inode for link in expected.namespaces}


def really_started(engine: Engine, case: Case, container: int) -> int:
    """A process that docker exec starts as the case says; it sleeps."""
    if case.privileged and not all_capabilities():
        pytest.skip("this machine has not every capability, so its engine starts no privileged process")
    engine.docker("exec", "--detach", *case.exec, engine.last, "/prober", "sleep")
    wanted = status(container)["NSpid"].split()[0]
    return wait_until(lambda: exec_of(container), f"the second process of the container of {wanted}")


def exec_of(container: int) -> int:
    """The other sleeping process in the container's PID namespace."""
    namespace = os.readlink(f"/proc/{container}/ns/pid")
    for name in os.listdir("/proc"):
        try:
            inside = name.isdigit() and os.readlink(f"/proc/{name}/ns/pid") == namespace
            command = Path(f"/proc/{name}/cmdline").read_bytes() if inside else b""
        except OSError:
            continue
        if int(name if inside else 0) not in (0, container) and command == b"/prober\0sleep\0":
            return int(name)
    return 0


@pytest.mark.parametrize("case", [Case("default, as somebody else", user=SOMEBODY)], ids=lambda case: case.name)
def test_one_layer_left_out(container: int, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """Which layer it is that refuses: the id. And what one such experiment costs."""
    with exec_context(container, case.user) as context:
        assert len(context.filters) == 1
        assert len(context.filters[0]) > 8 * 100, "the engine's default profile"
        assert foretold(context, container)[0] == {"attach": "EPERM"}
        assert foretold(context.without_filters(), container)[0] == {"attach": "EPERM"}
        assert foretold(context.as_user(0, 0), container)[0] == {"attach": "EPERM"}  # for its capabilities
        root = context.as_user(0, 0).with_capabilities(read(container))
        runs = [probe_from(root, container).us for _ in range(21)]
        assert foretold(root, container)[0]["attach"] is None
    with capsys.disabled():
        print(f" [{statistics.median(runs) / 1000:.1f} ms per experiment]", end="")


def read(pid: int) -> Any:
    with read_context(pid) as context:
        return context.capabilities

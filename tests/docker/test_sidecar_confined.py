"""A sidecar is allowed what its plan says and no more, and what it is allowed is needed and enough."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safedlv.capabilities import capability_mask
from safedlv.probe.elsewhere import probe_from
from safedlv.probe.runner import refused
from safedlv.probe.sources import exec_context
from safedlv.sibling.privilege import as_sidecar, candidates
from tests.clients import JsonRpc
from tests.docker.conftest import Engine
from tests.docker.sidecars import DEBIAN, HERE, LOAD, PORT, SCRATCH, SERVER, Beside, Box, line_of, sidecars
from tests.support import ROOT, assert_unharmed, build_go, left_as_found, require, status, wait_until

SOURCE = SERVER / "main.go"
LINE = line_of(SOURCE, "text := fmt.Sprintf")
MakeBox = Callable[..., Box]
SERVE = ["/server", f"127.0.0.1:{PORT}"]
TARGETS = {
    "root's": ((), (0, 0), ("sys_ptrace",)),
    "another user's": (("--user", "1000:1000"), (1000, 1000), ()),
    "a user's that cannot be read": (
        ("--user", "1000:1000", "--entrypoint", "/unreadable"),
        (0, 0),
        ("sys_ptrace", "kill"),  # the files of such a process are root's (proc(5))
    ),
}
"""How the target is started, and whom and what it takes: the numbers of kernel-facts."""


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "enters containers as root")


def dlv_of(box: Box) -> tuple[int, Any]:
    """The PID of the one sidecar's first process, and the engine's document."""
    (container,) = sidecars(box)
    document = json.loads(box.engine.docker("inspect", container).stdout)[0]
    return int(document["State"]["Pid"]), document


def limit(pid: int, controller: str, v1: str, v2: str) -> str:
    """A limit of a process's cgroup (cgroups(7)): of the v1 hierarchy of this controller, else of v2."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, names, path = line.split(":", 2)
        if controller in names.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}/{v1}").read_text().strip()
        if number == "0" and (found := Path(f"/sys/fs/cgroup{path}/{v2}")).exists():
            return found.read_text().strip()
    raise AssertionError(f"no {controller} controller")


@pytest.mark.parametrize("name", TARGETS)
def test_what_it_may(make_box: MakeBox, docker_engine: Engine, newest_dlv: str, name: str) -> None:
    """Read from the kernel, of the running dlv."""
    options, user, capabilities = TARGETS[name]
    box = make_box(SCRATCH, [SERVE[1]] if "--entrypoint" in options else SERVE, *options)
    session = Beside(f"docker:{box.name}")
    client = session.client()
    pid, document = dlv_of(box)
    mask = capability_mask(capabilities)
    assert {key: int(status(pid, f"Cap{key}"), 16) for key in ("Eff", "Prm", "Bnd", "Inh", "Amb")} == {
        "Eff": mask,
        "Prm": mask,
        "Bnd": mask,
        "Inh": 0,
        "Amb": 0,
    }
    assert status(pid, "Uid").split() == [str(user[0])] * 4
    assert status(pid, "Gid").split() == [str(user[1])] * 4
    assert status(pid, "NoNewPrivs") == "1"
    assert status(pid, "Seccomp") == "2"
    assert int(limit(pid, "pids", "pids.max", "pids.max")) == document["HostConfig"]["PidsLimit"] == 128
    assert int(limit(pid, "memory", "memory.limit_in_bytes", "memory.max")) == document["HostConfig"]["Memory"]
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    assert next(fields for fields in mounts if fields[4] == "/")[5].split(",")[0] == "ro"
    kept = [fields for fields in mounts if fields[fields.index("-") + 1] not in ("proc", "tmpfs", "devpts", "mqueue")]
    assert {fields[4] for fields in kept if fields[5].split(",")[0] == "rw"} == {"/session"}
    interfaces = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    assert [line.partition(":")[0].strip() for line in interfaces] == ["lo"]
    assert os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat(f"/proc/{box.pid}/ns/pid").st_ino
    for kind in ("mnt", "net", "ipc", "uts"):
        assert os.stat(f"/proc/{pid}/ns/{kind}").st_ino not in (
            os.stat(f"/proc/{box.pid}/ns/{kind}").st_ino,
            os.stat(f"/proc/self/ns/{kind}").st_ino,
        )
    client.detach()
    assert session.end()[0] == 0
    box.assert_left_alone()


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_of_it_is_too_much(make_box: MakeBox, name: str) -> None:
    """With any one capability of the plan left out, and as whoever comes before in the list, the probe is refused."""
    options, user, capabilities = TARGETS[name]
    box = make_box(SCRATCH, [SERVE[1]] if "--entrypoint" in options else SERVE, *options)
    own = (1000, 1000) if "--user" in options else (0, 0)
    listed = candidates(own)
    assert passes(box, user, capabilities)
    less = [(user, tuple(c for c in capabilities if c != left_out)) for left_out in capabilities]
    for who, what in [*less, *listed[: listed.index((user, capabilities))]]:
        assert not passes(box, who, what), f"uid {who[0]} with {what}"
    assert_unharmed(box.pid)


def test_root_beside_another_users(make_box: MakeBox) -> None:
    """Where the target's own user may not (Yama 1 and 2), root needs three capabilities, and each of them."""
    box = make_box(SCRATCH, SERVE, "--user", "1000:1000")
    needed = ("sys_ptrace", "dac_read_search", "kill")
    assert passes(box, (0, 0), needed)
    for left_out in needed:
        assert not passes(box, (0, 0), tuple(name for name in needed if name != left_out)), left_out
    assert_unharmed(box.pid)


def passes(box: Box, user: tuple[int, int], capabilities: tuple[str, ...]) -> bool:
    with exec_context(box.first, user) as base:
        return not refused(probe_from(as_sidecar(base, capabilities), box.pid).attempt)


# ---------------------------------------------------------------- the seccomp profile


@pytest.fixture(scope="session")
def static_dlv(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dlv that links no library: the one of this machine, built again."""
    require(shutil.which("go"), "needs the Go tool chain")
    output = tmp_path_factory.mktemp("dlv") / "dlv"
    return str(build_static_dlv(output))


def build_static_dlv(output: Path) -> Path:
    import subprocess

    done = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", "github.com/go-delve/delve@latest"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    require(done.returncode == 0, "needs Delve's sources")
    return build_go(Path(done.stdout.strip()) / "cmd" / "dlv", output, "-ldflags=-w", environment={"CGO_ENABLED": "0"})


@pytest.mark.parametrize("kind", ["cgo", "static"])
def test_everything_works_under_its_filter(
    make_box: MakeBox, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, newest_dlv: str, kind: str
) -> None:
    """All that a debugger does, a call of the target's own functions, a watchpoint and a dump among it."""
    if kind == "static":
        monkeypatch.setenv("SAFEDLV_DLV", request.getfixturevalue("static_dlv"))
    box = make_box(DEBIAN, SERVE)
    session = Beside(f"docker:{box.name}")
    client = session.client()
    everything(client, box)
    client.detach()
    code, _, err = session.end()
    assert (code, err) == (0, left_as_found(box.pid))
    box.assert_left_alone()


def everything(client: JsonRpc, box: Box) -> None:
    number = client.call("CreateBreakpoint", Breakpoint={"file": str(SOURCE), "line": LINE})["Breakpoint"]["id"]
    request = box.visit()
    thread = client.command("continue")["currentThread"]
    assert thread["function"]["name"] == "main.greeting"
    assert client.call("Disassemble", Scope=HERE, StartPC=thread["pc"], EndPC=0, Flavour=0)["Disassemble"]
    client.command("next")
    client.command("stepOut")
    assert client.call("Stacktrace", Id=-1, Depth=20, Cfg=LOAD)["Locations"]
    assert len(client.call("ListGoroutines", Start=0, Count=100)["Goroutines"]) > 2
    assert client.call("ListThreads")["Threads"]
    assert client.call("ListLocalVars", Scope=HERE, Cfg=LOAD)["Variables"]
    assert client.call("ListRegisters", ThreadID=0, IncludeFp=True)["Regs"]
    client.call("ClearBreakpoint", Id=number)
    client.call("Set", Scope=HERE, Symbol="visit.Number", Value="41")
    called = client.command("call", expr="main.greeting(visit)", ReturnInfoLoadConfig=LOAD)
    assert called["currentThread"]["ReturnValues"][0]["value"] == "hello /you, you are visitor 41"
    watch = client.call("CreateWatchpoint", Scope=HERE, Expr="main.visits.v", Type=2)
    again = box.visit()
    hit = client.command("continue")["currentThread"]
    assert hit["breakPoint"]["WatchExpr"]
    client.call("ClearBreakpoint", Id=watch["id"])
    client.call("DumpStart", Destination="/tmp/core")
    wait_until(lambda: not client.call("DumpWait", Wait=10**8)["State"]["Dumping"], "the dump is written")
    client.send("Command", name="continue")
    request.join()
    again.join()
    client.command("halt")
    client.answer()
    client.command("switchThread", threadID=client.call("ListThreads")["Threads"][0]["id"])

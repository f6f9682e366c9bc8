"""``safedlv attach --via sidecar``: whole sessions beside containers of every kind, and nothing left of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from attrs import frozen

from tests.clients import Dap, JsonRpc
from tests.docker.conftest import Engine
from tests.docker.sidecars import (
    DEBIAN,
    GREETER,
    HERE,
    LOAD,
    PORT,
    SCRATCH,
    SERVER,
    Beside,
    Box,
    dlv_archive,
    hit_a_breakpoint,
    line_of,
    packed,
    sidecars,
)
from tests.docker.test_context import profile, rule
from tests.support import SAFEDLV, build_go, left_as_found, require, status, wait_until

SOURCE = SERVER / "main.go"
LINE = line_of(SOURCE, "text := fmt.Sprintf")
MakeBox = Callable[..., Box]


@pytest.fixture(autouse=True)
def needs_root() -> None:
    require(os.geteuid() == 0, "enters containers as root")


@frozen
class Case:
    run: tuple[str, ...] = ()
    image: str = SCRATCH
    program: tuple[str, ...] = ("/server", f"127.0.0.1:{PORT}")
    profile: str | None = None
    said: str = ""
    """What safedlv says besides, on stderr."""


CASES = {
    "default, scratch, network none": Case(),
    "non-root": Case(("--user", "1000:1000")),
    "cap_drop ALL": Case(("--cap-drop", "ALL")),
    "no-new-privileges": Case(("--security-opt", "no-new-privileges")),
    "read-only": Case(("--read-only",)),
    "everything at once": Case(
        ("--user", "1000:1000", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only"),
    ),
    "a profile against ptrace": Case(profile=profile(rule("SCMP_ACT_ERRNO"))),
    "a shell is PID 1": Case(
        image=DEBIAN, program=("sh", "-c", f"/server 127.0.0.1:{PORT} & wait"), said="is what will be debugged"
    ),
    "--init": Case(("--init",), said="is what will be debugged"),
    "--pid=host": Case(("--pid=host",)),
    "64 MiB": Case(("--memory", "64m")),
}


@pytest.mark.parametrize("name", CASES)
def test_session(make_box: MakeBox, newest_dlv: str, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    options = list(case.run)
    if case.profile:
        (tmp_path / "profile.json").write_text(case.profile)
        options += ["--security-opt", f"seccomp={tmp_path / 'profile.json'}"]
    box = make_box(case.image, list(case.program), *options)
    session = Beside(f"docker:{box.name}", f"--listen=unix:{tmp_path}/socket")
    variables = hit_a_breakpoint(session.client(), SOURCE, LINE, box.visit)
    assert variables["text"].startswith("hello /you, you are visitor")
    code, _, err = session.end()
    assert code == 0, err
    assert case.said in err
    assert err.endswith(left_as_found(box.pid))
    assert (case.said != "") == (err != left_as_found(box.pid)), err
    box.assert_left_alone()


def test_cgo_and_its_libraries(make_box: MakeBox, newest_dlv: str) -> None:
    """The target's own library is seen through its root: a breakpoint in it is hit, and its arguments are known."""
    box = make_box(DEBIAN, ["/greeter", f"127.0.0.1:{PORT}"])
    session = Beside(f"docker:{box.name}")
    client = session.client()
    libraries = {entry["Path"]: entry.get("LoadError") for entry in client.call("ListDynamicLibraries")["List"]}
    assert libraries["/opt/greet/libgreet.so"] in (None, "")
    assert any(path.endswith("libc.so.6") for path in libraries)
    source = GREETER / "greet" / "greet.c"
    line = line_of(source, "snprintf(")
    number = client.call("CreateBreakpoint", Breakpoint={"file": str(source), "line": line})["Breakpoint"]["id"]
    request = box.visit()
    state = client.command("continue")
    assert state["currentThread"]["function"]["name"] == "C.greet_in_c"
    arguments = client.call("ListFunctionArgs", Scope=HERE, Cfg=LOAD)["Args"]
    assert {v["name"]: v["value"] for v in arguments}["size"] == "200"
    client.call("ClearBreakpoint", Id=number)
    client.detach()
    request.join()
    assert session.end()[0] == 0
    box.assert_left_alone()


def test_cgo_session(make_box: MakeBox, newest_dlv: str) -> None:
    box = make_box(DEBIAN, ["/greeter", f"127.0.0.1:{PORT}"], "--user", "1000:1000")
    session = Beside(f"docker:{box.name}")
    source = GREETER / "main.go"
    variables = hit_a_breakpoint(session.client(), source, line_of(source, "answer := C.GoString"), box.visit)
    assert variables["answer"].startswith("hello /you, you are visitor")
    assert session.end()[0] == 0
    box.assert_left_alone()


def test_session_over_dap(make_box: MakeBox, newest_dlv: str) -> None:
    box = make_box()
    session = Beside(f"docker:{box.name}")
    client = Dap(session.address())
    client.request("initialize", adapterID="go", linesStartAt1=True, pathFormat="path")
    client.request("attach", mode="remote", stopOnEntry=False)
    client.event("initialized")
    client.request("setBreakpoints", source={"path": str(SOURCE)}, breakpoints=[{"line": LINE}])
    client.request("configurationDone")
    request = box.visit()
    thread = client.event("stopped")["body"]["threadId"]
    frames = client.request("stackTrace", threadId=thread, levels=5)["stackFrames"]
    assert frames[0]["name"] == "main.greeting"
    scope = client.request("scopes", frameId=frames[0]["id"])["scopes"][0]["variablesReference"]
    assert "v" in {variable["name"] for variable in client.request("variables", variablesReference=scope)["variables"]}
    client.request("setBreakpoints", source={"path": str(SOURCE)}, breakpoints=[])
    client.request("disconnect", terminateDebuggee=False)
    client.close()
    request.join()
    assert session.end()[0] == 0
    box.assert_left_alone()


def test_session_in_the_terminal(make_box: MakeBox, newest_dlv: str) -> None:
    box = make_box(SCRATCH, ["/server", f"127.0.0.1:{PORT}"], "--user", "1000:1000")
    words = [*SAFEDLV[1:], "attach", "--via", "sidecar", f"docker:{box.name}"]
    terminal = pexpect.spawn(SAFEDLV[0], words, timeout=30, encoding="utf-8", dimensions=(40, 120))
    terminal.expect_exact("(dlv) ")
    terminal.sendline(f"break {SOURCE}:{LINE}")
    terminal.expect("Breakpoint 1 .*set at")
    request = box.visit()
    terminal.sendline("continue")
    terminal.expect(r"main\.greeting")
    terminal.sendline("print v.Path")
    terminal.expect_exact('"/you"')
    terminal.sendline("clearall")
    terminal.expect("Breakpoint 1 .*cleared")
    terminal.sendline("quit")
    terminal.expect(pexpect.EOF)
    terminal.close()
    request.join()
    assert terminal.exitstatus == 0
    box.assert_left_alone()


def test_sources_that_lie_elsewhere(
    make_box: MakeBox, docker_engine: Engine, newest_dlv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program was built in a directory that is not there; the terminal is opened in a checkout of its module."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    shutil.copytree(SERVER, tmp_path / "builder")
    program = build_go(tmp_path / "builder", tmp_path / "server", environment={"CGO_ENABLED": "0"})
    (tmp_path / "builder").rename(tmp_path / "checkout")
    name = "safedlv-test-elsewhere:given"
    docker_engine.docker("import", "-", name, given=packed({"server": program}))
    try:
        box = Box(docker_engine, name, ["/server", f"127.0.0.1:{PORT}"])
        words = [*SAFEDLV[1:], "attach", "--via", "sidecar", f"docker:{box.name}"]
        terminal = pexpect.spawn(
            SAFEDLV[0], words, timeout=30, encoding="utf-8", cwd=tmp_path / "checkout", dimensions=(40, 240)
        )
        terminal.expect_exact(f'"{tmp_path}/builder" → "{tmp_path}/checkout"')
        terminal.expect_exact("(dlv) ")
        terminal.sendline("list main.greeting")
        terminal.expect_exact("fmt.Sprintf")
        terminal.sendline("exit")
        terminal.expect(pexpect.EOF)
        terminal.close()
        box.assert_left_alone()
    finally:
        docker_engine.remove_containers()
        docker_engine.docker("image", "rm", "--force", name)


def test_one_after_the_other(make_box: MakeBox, newest_dlv: str) -> None:
    """A second session while the first is there is refused in a sentence; after it, it is as good as the first."""
    box = make_box()
    first = Beside(f"docker:{box.name}")
    client = first.client()
    second = Beside(f"docker:{box.name}")
    holder = status(box.pid, "TracerPid")
    assert f"no sidecar could attach: process {box.pid} is traced by process {holder} already" in second.end()[2]
    client.detach()
    assert first.end()[0] == 0
    third = Beside(f"docker:{box.name}")
    third.client().detach()
    assert third.end()[0] == 0
    box.assert_left_alone()


@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGHUP", "the client vanishes"])
def test_ends_in_order(make_box: MakeBox, newest_dlv: str, tmp_path: Path, end: str) -> None:
    """In the middle of a command, with a breakpoint set; what dlv logs goes where the user wants it."""
    box = make_box()
    session = Beside(f"docker:{box.name}", "--log", f"--log-dest={tmp_path / 'log'}", f"--listen=unix:{tmp_path}/s")
    wait_until(lambda: (tmp_path / "log").exists() and "listening at" in (tmp_path / "log").read_text(), "it listens")
    client = JsonRpc(f"{tmp_path}/s")
    client.call("CreateBreakpoint", Breakpoint={"file": str(SOURCE), "line": LINE})
    client.send("Command", name="continue")
    wait_until(lambda: status(box.pid, "State")[:1] != "t", "the target runs")
    if end.startswith("SIG"):
        session.process.send_signal(getattr(signal, end))
    else:
        client.close()
    assert session.end() == (0, "", left_as_found(box.pid))
    client.close()
    assert "layer=debugger" in (tmp_path / "log").read_text()
    box.assert_left_alone()


def test_a_process_in_a_namespace_below(make_box: MakeBox, newest_dlv: str) -> None:
    """The sidecar joins the container's PID namespace, and calls the target as that does."""
    box = make_box(
        DEBIAN,
        ["sh", "-c", f"unshare -p -f /server 127.0.0.1:{PORT} & wait"],
        *("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"),
    )
    assert len(status(box.pid, "NSpid").split()) == 3
    session = Beside(f"docker:{box.name}")
    assert hit_a_breakpoint(session.client(), SOURCE, LINE, box.visit)["text"].startswith("hello")
    assert session.end()[0] == 0
    box.assert_left_alone()


def test_the_container_ends_meanwhile(make_box: MakeBox, docker_engine: Engine, newest_dlv: str) -> None:
    """Its PID namespace takes dlv along: said in a sentence, and nothing is left."""
    box = make_box()
    session = Beside(f"docker:{box.name}")
    client = session.client()
    client.send("Command", name="continue")
    wait_until(lambda: status(box.pid, "State")[:1] == "S", "the target runs")
    docker_engine.docker("kill", box.name)
    with pytest.raises(OSError):
        client.answer()
        client.answer()
    client.close()
    code, _, err = session.end()
    assert code == 1
    assert err == "safedlv: the target's container has ended, and the sidecar with it\n"
    wait_until(lambda: not sidecars(box), "no sidecar is left")


def test_toolbox_image(make_box: MakeBox, docker_engine: Engine, newest_dlv: str) -> None:
    """An image that somebody made, with dlv on its PATH, is used and left."""
    box = make_box()
    name = "safedlv-test-toolbox:given"
    docker_engine.docker("import", "-", name, given=dlv_archive(newest_dlv))
    try:
        session = Beside(f"docker:{box.name}", f"--toolbox-image={name}")
        client = session.client()
        document = json.loads(docker_engine.docker("inspect", *sidecars(box)).stdout)[0]
        assert document["Config"]["Image"] == name
        assert hit_a_breakpoint(client, SOURCE, LINE, box.visit)["text"].startswith("hello")
        assert session.end()[0] == 0
        box.assert_left_alone()
        assert docker_engine.docker("images", "--quiet", name).stdout
    finally:
        docker_engine.docker("image", "rm", "--force", name)


def test_everything_is_written_down(make_box: MakeBox, newest_dlv: str, tmp_path: Path) -> None:
    """The audit file tells of the container that was made and that it was removed."""
    log = tmp_path / "audit"
    box = make_box()
    done = subprocess.Popen(
        [*SAFEDLV, "attach", "--headless", "--via=sidecar", f"docker:{box.name}"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SAFEDLV_AUDIT": str(log)},
    )
    assert done.stdout is not None
    JsonRpc(done.stdout.readline().partition(": ")[2].strip()).detach()
    done.communicate(timeout=30)
    lines = [line.split(" ", 2)[2].split() for line in log.read_text().splitlines() if "container" in line]
    made, removed = lines
    assert made[:2] == ["created", "container"]
    assert removed == ["removed", "container", made[2]]
    box.assert_left_alone()

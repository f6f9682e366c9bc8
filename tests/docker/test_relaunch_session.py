"""``relaunch --exec`` and ``--waitfor``, ``attach --via clone``: sessions in copies, and nothing left of them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from attrs import frozen

from safedlv.sibling.clone_difference import differences
from tests.clients import Dap, JsonRpc
from tests.docker.conftest import Engine
from tests.docker.copies import LABELS, InACopy, assert_nothing_is_left, assert_swapped_back, copies
from tests.docker.sidecars import DEBIAN, GREETER, HERE, LOAD, PORT, SCRATCH, SERVER, Box, line_of
from tests.docker.test_context import profile, rule
from tests.support import SAFEDLV, require, status, wait_until

SOURCE = SERVER / "main.go"
LINE = line_of(SOURCE, "text := fmt.Sprintf")
MakeBox = Callable[..., Box]
EXEC = ("relaunch", "--debuggable", "--exec", "--yes")
WAIT = ("relaunch", "--debuggable", "--waitfor", "--yes")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(os.geteuid() == 0, "enters containers as root")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def hit(client: JsonRpc, session: InACopy, source: Path = SOURCE, line: int = LINE) -> dict[str, str]:
    """Stop at a line that a request comes by; the locals after it."""
    client.call("CreateBreakpoint", Breakpoint={"file": str(source), "line": line})
    request = session.visit()
    state = client.command("continue")
    assert state["currentThread"]["line"] == line
    client.command("next")
    variables = client.call("ListLocalVars", Scope=HERE, Cfg=LOAD)["Variables"]
    for breakpoint_ in client.call("ListBreakpoints", All=False)["Breakpoints"]:
        if breakpoint_["id"] > 0:
            client.call("ClearBreakpoint", Id=breakpoint_["id"])
    client.send("Command", name="continue")
    request.join()
    return {variable["name"]: variable["value"] for variable in variables}


# ---------------------------------------------------------------- --exec


@frozen
class Case:
    run: tuple[str, ...] = ()
    image: str = SCRATCH
    program: tuple[str, ...] = ("/server", f"127.0.0.1:{PORT}")
    profile: str | None = None
    differs: frozenset[str] = frozenset()


CASES = {
    "scratch, network none": Case(),
    "non-root": Case(("--user", "1000:1000")),
    "cap_drop ALL": Case(("--cap-drop", "ALL", "--security-opt", "no-new-privileges")),
    "read-only": Case(("--read-only", "--user", "1000:1000", "--cap-drop", "ALL")),
    "a profile against ptrace": Case(
        profile=profile(rule("SCMP_ACT_ERRNO")), differs=frozenset({"HostConfig.SecurityOpt"})
    ),
    "--init": Case(("--init",)),
    "a terminal": Case(("--tty", "--interactive")),
    "--pid=host": Case(("--pid=host",)),
    "restarted always": Case(
        ("--restart", "always"), differs=frozenset({"HostConfig.RestartPolicy.Name"})
    ),
    "environment, directory, entrypoint": Case(
        ("--env", "A=b", "--workdir", "/work", "--entrypoint", "/server"), program=(f"127.0.0.1:{PORT}",)
    ),
    "cgo in a Debian image": Case(image=DEBIAN, program=("/greeter", f"127.0.0.1:{PORT}")),
}  # fmt: skip
OF_DLV = {"Path", "Args", "Config.Entrypoint", "Config.Cmd"}


def started(make_box: MakeBox, case: Case, directory: Path) -> Box:
    options = list(case.run)
    if case.profile:
        (directory / "profile.json").write_text(case.profile)
        options += ["--security-opt", f"seccomp={directory / 'profile.json'}"]
    return make_box(case.image, list(case.program), *options)


@pytest.mark.parametrize("name", CASES)
def test_from_the_first_instruction(make_box: MakeBox, newest_dlv: str, tmp_path: Path, name: str) -> None:
    """Breakpoints in an init and in main.main are hit; the program is what it is in the original."""
    case = CASES[name]
    box = started(make_box, case, tmp_path)
    session = InACopy(box, *EXEC)
    client = session.client()
    copy = session.document()
    paths = {".".join(one.path) for one in differences(box.before, copy)}
    assert {path for path in paths if "./.safedlv/" not in path} == LABELS | OF_DLV | case.differs
    pid = int(client.call("ProcessPid")["Pid"])
    of_copy = next(p for p in inside(copy) if status(p, "NSpid").split()[-1] == str(pid))
    for key in ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp"):
        assert status(of_copy, key) == status(box.pid, key), key
    assert os.readlink(f"/proc/{of_copy}/cwd") == os.readlink(f"/proc/{box.pid}/cwd")
    ours, theirs = (set(Path(f"/proc/{p}/environ").read_text().split("\0")) for p in (of_copy, box.pid))
    assert {word.partition("=")[0] for word in ours ^ theirs} <= {"HOSTNAME", "PWD", "CGO_CFLAGS"}
    for function in ("net/http.init", "main.main"):
        client.call("CreateBreakpoint", Breakpoint={"functionName": function})
        assert client.command("continue")["currentThread"]["function"]["name"] == function
    if case.image == SCRATCH:
        assert hit(client, session)["text"].startswith("hello /you, you are visitor 1")
    else:
        source = GREETER / "main.go"
        assert hit(client, session, source, line_of(source, "answer := C.GoString"))["answer"].startswith("hello /you")
    client.close()
    code, err = session.end()
    assert code == 0, err
    assert_nothing_is_left(box)
    box.assert_left_alone()


def inside(document: object) -> list[int]:
    """The processes of a container, as we see them."""
    first = int(document["State"]["Pid"])  # type: ignore[index]
    found, left = [], [first]
    while left:
        found.append(left.pop())
        for thread in os.listdir(f"/proc/{found[-1]}/task"):
            left += map(int, Path(f"/proc/{found[-1]}/task/{thread}/children").read_text().split())
    return found


def test_in_its_place(make_box: MakeBox, newest_dlv: str) -> None:
    box = make_box()
    session = InACopy(box, *EXEC, "--swap")
    client = session.client()
    assert copies(box) == [box.name]
    client.call("CreateBreakpoint", Breakpoint={"functionName": "main.main"})
    assert client.command("continue")["currentThread"]["function"]["name"] == "main.main"
    session.process.send_signal(signal.SIGTERM)
    code, err = session.end()
    assert (code, f"started {box.name} again" in err) == (0, True), err
    client.close()
    assert_nothing_is_left(box)
    assert_swapped_back(box)


def test_in_the_terminal(make_box: MakeBox, newest_dlv: str) -> None:
    box = make_box(SCRATCH, None, "--user", "1000:1000")
    terminal = pexpect.spawn(
        SAFEDLV[0], [*SAFEDLV[1:], *EXEC, box.name], timeout=30, encoding="utf-8", dimensions=(40, 120)
    )
    terminal.expect_exact("(dlv) ")
    terminal.sendline("break main.main")
    terminal.expect("Breakpoint 1 .*set at")
    terminal.sendline("continue")
    terminal.expect(r"> .*main\.main")
    terminal.sendline("quit")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert_nothing_is_left(box)
    box.assert_left_alone()


def test_an_editor(make_box: MakeBox, newest_dlv: str) -> None:
    """Over DAP, as an editor attaches to a remote dlv: a breakpoint at the first line of main."""
    box = make_box()
    session = InACopy(box, *EXEC)
    client = Dap(session.address())
    client.request("initialize", adapterID="go", linesStartAt1=True, pathFormat="path")
    client.request("attach", mode="remote", stopOnEntry=False)
    client.event("initialized")
    client.request("setFunctionBreakpoints", breakpoints=[{"name": "main.main"}])
    client.request("configurationDone")
    thread = client.event("stopped")["body"]["threadId"]
    assert client.request("stackTrace", threadId=thread, levels=1)["stackFrames"][0]["name"] == "main.main"
    client.request("disconnect", terminateDebuggee=True)
    client.close()
    code, err = session.end()
    assert code == 0, err
    assert_nothing_is_left(box)
    box.assert_left_alone()


@pytest.mark.parametrize("end", ["SIGINT", "SIGHUP", "the client vanishes", "the program ends", "it is removed"])
def test_ends_in_order(make_box: MakeBox, docker_engine: Engine, newest_dlv: str, tmp_path: Path, end: str) -> None:
    """In the middle of a command."""
    box = make_box()
    session = InACopy(box, *EXEC, f"--listen=unix:{tmp_path}/s", "--accept-multiclient")
    client = session.client()
    client.send("Command", name="continue")
    session.visit().join()
    name, first = copies(box)[0], session.document()["State"]["Pid"]
    if end.startswith("SIG"):
        session.process.send_signal(getattr(signal, end))
    elif end == "the program ends":
        os.kill(next(pid for pid in inside(session.document()) if pid != first), signal.SIGKILL)
        client.answer()
        client.detach(kill=True)
    elif end == "it is removed":
        docker_engine.docker("rm", "--force", name)
    else:
        client.close()
        session.process.send_signal(signal.SIGTERM)
    code, err = session.end()
    client.close()
    assert code in ((0, 1, 137) if end == "it is removed" else (0,)), err
    assert not (tmp_path / "s").exists()
    assert_nothing_is_left(box)
    box.assert_left_alone()


@pytest.mark.parametrize(
    ("image", "program", "sentence"),
    [
        (DEBIAN, ["sh", "-c", f"/server 127.0.0.1:{PORT} & wait"], "is no Go program, which dlv could start; behind"),
        (DEBIAN, ["sh", "-c", f"exec /server 127.0.0.1:{PORT}"], "and has become /server"),
        (SCRATCH, ["/unreadable", f"127.0.0.1:{PORT}"], "permission denied"),
    ],
)
def test_what_dlv_cannot_start(
    make_box: MakeBox, newest_dlv: str, image: str, program: list[str], sentence: str
) -> None:
    box = make_box(image, program, "--user", "1000:1000")
    session = InACopy(box, *EXEC)
    code, err = session.end()
    assert (code, sentence in err) == (1, True), err
    assert (program[0] == "sh") == ("--waitfor attaches" in err)
    assert_nothing_is_left(box)
    box.assert_left_alone()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--exec", "--waitfor"), "one of them"),
        (("--exec", "--keep"), "--keep ends without a session"),
        (("--waitfor", "--emit=run"), "--emit ends without a session"),
        (("--headless",), "it takes --exec or --waitfor"),
        (("--exec", "--yes"), "nobody is at a terminal"),
        (("--exec", "--headless", "--continue"), "--continue"),
    ],
)
def test_words_that_do_not_go_together(newest_dlv: str, flags: tuple[str, ...], sentence: str) -> None:
    done = subprocess.run(
        [*SAFEDLV, "relaunch", "--debuggable", "x", *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr


def test_only_told(make_box: MakeBox, newest_dlv: str) -> None:
    """A dry run, and one where nobody can be asked: the plan, and nothing is done."""
    box = make_box()
    for flags, expected in ((("--dry-run",), 0), (("--headless",), 1)):
        words = [*SAFEDLV, "relaunch", "--debuggable", "--exec", *flags, box.name]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)
        assert (done.returncode, "dlv as its first process, which starts /server" in done.stderr) == (expected, True)
        assert_nothing_is_left(box)
    box.assert_left_alone()


# ---------------------------------------------------------------- --waitfor, --via clone

LATER = f"busybox sleep 1; /server 127.0.0.1:{PORT} & wait"


@pytest.mark.parametrize(
    "words", [WAIT, ("attach", "--via", "clone")], ids=["relaunch --waitfor", "attach --via clone"]
)
@pytest.mark.parametrize(
    "case",
    [
        Case(),
        Case(("--user", "1000:1000", "--cap-drop", "ALL", "--read-only"), profile=profile(rule("SCMP_ACT_ERRNO"))),
        Case(image=DEBIAN, program=("sh", "-c", LATER)),
        Case(("--init",)),
    ],
    ids=["default", "all at once", "a shell starts it later", "--init"],
)
def test_attached_to_in_a_copy(
    make_box: MakeBox, newest_dlv: str, tmp_path: Path, words: tuple[str, ...], case: Case
) -> None:
    """The copy is the same but for its labels; a breakpoint is hit in it."""
    box = started(make_box, case, tmp_path)
    session = InACopy(box, *words)
    client = session.client()
    assert {".".join(one.path) for one in differences(box.before, session.document())} == LABELS
    assert hit(client, session)["text"].startswith("hello /you")
    client.close()
    code, err = session.end()
    assert code == 0, err
    assert_nothing_is_left(box)
    box.assert_left_alone()


def test_attached_to_in_its_place(make_box: MakeBox, newest_dlv: str) -> None:
    box = make_box(DEBIAN, ["sh", "-c", LATER])
    session = InACopy(box, *WAIT, "--swap")
    client = session.client()
    assert hit(client, session)["text"].startswith("hello")
    session.process.send_signal(signal.SIGINT)
    code, err = session.end()
    client.close()
    assert code == 0, err
    assert_nothing_is_left(box)
    assert_swapped_back(box)


def test_no_go_program_comes(make_box: MakeBox, newest_dlv: str) -> None:
    """Waited for until the user ends it."""
    box = make_box(DEBIAN, ["sh", "-c", f"test -e /later || /server 127.0.0.1:{PORT} & wait; busybox sleep 1000"])
    box.engine.docker("exec", box.name, "busybox", "touch", "/later")
    session = InACopy(box, *WAIT, "--snapshot")
    wait_until(lambda: copies(box) and session.document()["State"]["Running"], "the copy runs")
    session.process.send_signal(signal.SIGINT)
    code, err = session.end()
    assert (code, "waiting for a Go program" in err) == (0, True), err
    assert_nothing_is_left(box)


def test_the_copy_ends_before(make_box: MakeBox, newest_dlv: str) -> None:
    box = make_box(DEBIAN, ["sh", "-c", f"test -e /later && exit 7; /server 127.0.0.1:{PORT} & wait"])
    box.engine.docker("exec", box.name, "busybox", "touch", "/later")
    code, err = InACopy(box, *WAIT, "--snapshot").end()
    assert (code, "has ended, with exit code 7" in err) == (1, True), err
    assert_nothing_is_left(box)


def test_clone_in_the_terminal(make_box: MakeBox, newest_dlv: str) -> None:
    box = make_box()
    words = [*SAFEDLV[1:], "attach", "--via", "clone", f"docker:{box.name}"]
    terminal = pexpect.spawn(SAFEDLV[0], words, timeout=30, encoding="utf-8", dimensions=(40, 120))
    terminal.expect_exact("(dlv) ")
    terminal.sendline("break main.greeting")
    terminal.expect("Breakpoint 1 .*set at")
    terminal.sendline("quit")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert_nothing_is_left(box)
    box.assert_left_alone()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(("--via=clone", "1"), "a copy is made of a container"), (("--via=other", "1"), "there is no way called other")],
)
def test_ways_that_there_are_not(newest_dlv: str, words: tuple[str, ...], sentence: str) -> None:
    command = [*SAFEDLV, "attach", "--headless", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, sentence in done.stderr) == (1, True), done.stderr

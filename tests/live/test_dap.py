"""``safedlv dap``: whole sessions with real dlvs, every way in, and what is said where something is wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Dap
from tests.live import editors
from tests.live.adapters import LINE, SAYS, SOURCE, Adapter, adapters, attach, flags_for, leave
from tests.support import ROOT, SAFEDLV, Server, assert_unharmed, build_go, status, wait_until

Start = Callable[..., Adapter]


@pytest.fixture
def start(server: Server) -> Any:
    """After the server, so that it ends before: the server's end takes everything of ours along."""
    with adapters() as starter:
        yield starter


@pytest.fixture
def static_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.getbasetemp() / "static-server"
    environment = {"CGO_ENABLED": "0", "GOEXPERIMENT": "nodwarf5"}
    running = Server(build_go(ROOT / "examples" / "server", path, environment=environment))
    yield running
    running.stop()


def in_background(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def whole_session(client: Dap, server: Server, processid: object) -> None:
    """Every kind of breakpoint, a look round, steps, a pause."""
    attach(client, processid)
    [bound] = client.request("setFunctionBreakpoints", breakpoints=[{"name": "main.greeting"}])["breakpoints"]
    assert bound["verified"]
    client.request("configurationDone")
    request = in_background(server.get)
    thread = client.event("stopped")["body"]["threadId"]
    client.request("setFunctionBreakpoints", breakpoints=[])
    conditional = [{"line": LINE, "condition": 'v.Path == "/you"'}]
    client.request("setBreakpoints", source={"path": SOURCE}, breakpoints=conditional)
    client.request("continue", threadId=thread)
    thread = client.event("stopped")["body"]["threadId"]
    assert any(one["id"] == thread for one in client.request("threads")["threads"])
    frames = client.request("stackTrace", threadId=thread, levels=5)["stackFrames"]
    assert (frames[0]["name"], frames[0]["line"]) == ("main.greeting", LINE)
    scopes = client.request("scopes", frameId=frames[0]["id"])["scopes"]
    seen = client.request("variables", variablesReference=scopes[0]["variablesReference"])["variables"]
    assert "v" in {one["name"] for one in seen}
    assert client.request("evaluate", expression="v.Path", frameId=frames[0]["id"])["result"] == '"/you"'
    client.request("next", threadId=thread)
    assert client.event("stopped")["body"]["reason"] == "step"
    logged = [{"line": LINE, "logMessage": "path {v.Path}"}]
    client.request("setBreakpoints", source={"path": SOURCE}, breakpoints=logged)
    client.request("continue", threadId=thread)
    request.join()
    assert "hello" in server.get()
    while "path /you" not in (text := client.event("output")["body"]["output"]) and 'path "/you"' not in text:
        pass
    client.request("pause", threadId=thread)
    assert client.event("stopped")["body"]["reason"] == "pause"
    leave(client)


@pytest.mark.parametrize("linked", ["cgo", "static"])
def test_whole_session(dlv: str, start: Start, request: pytest.FixtureRequest, linked: str) -> None:
    server: Server = request.getfixturevalue("server" if linked == "cgo" else "static_server")
    adapter = start(*flags_for(dlv))
    whole_session(adapter.client(), server, server.pid)
    code, out, err = adapter.end()
    assert (code, out) == (0, "")
    assert "safedlv" not in err
    assert_unharmed(server.pid)
    assert "hello" in server.get()


@pytest.mark.parametrize("linked", ["cgo", "static"])
def test_an_editors_own_client(newest_dlv: str, start: Start, request: pytest.FixtureRequest, linked: str) -> None:
    server: Server = request.getfixturevalue("server" if linked == "cgo" else "static_server")
    adapter = start()
    editors.session(adapter.address, server.pid, Path(SOURCE), LINE, lambda: in_background(server.get))
    assert adapter.end() == (0, "", "")
    assert_unharmed(server.pid)


# ---------------------------------------------------------------- ways in


def test_over_a_unix_socket(newest_dlv: str, start: Start, server: Server, tmp_path: Path) -> None:
    adapter = start(f"--listen=unix:{tmp_path}/socket")
    assert adapter.address == f"{tmp_path}/socket"
    whole_session(adapter.client(), server, server.pid)
    assert adapter.end()[0] == 0
    assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_dialing_out(dlv: str, server: Server, tmp_path: Path, family: str) -> None:
    listener = socket.socket(socket.AF_INET if family == "tcp" else socket.AF_UNIX)
    listener.bind(("127.0.0.1", 0) if family == "tcp" else f"{tmp_path}/socket")
    listener.listen()
    address = f":{listener.getsockname()[1]}" if family == "tcp" else f"unix:{tmp_path}/socket"
    command = [*SAFEDLV, "dap", f"--client-addr={address}", *flags_for(dlv)]
    with listener, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        client = Dap(listener.accept()[0])
        client.initialize()
        whole_session(client, server, server.pid)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, "")
        assert "safedlv" not in err
    assert_unharmed(server.pid)


def test_dialing_nobody(newest_dlv: str) -> None:
    """As dlv does it, in its words."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        flag = f"--client-addr=:{unused.getsockname()[1]}"
    plain, ours = (
        subprocess.run([*command, "dap", flag], capture_output=True, text=True, timeout=20, check=False)
        for command in ([newest_dlv], SAFEDLV)
    )
    assert (ours.returncode, ours.stdout, ours.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert ours.returncode == 1


def test_on_stdin_and_stdout(dlv: str, server: Server) -> None:
    near, far = socket.socketpair()
    with near:
        with far:
            command = [*SAFEDLV, "dap", "--stdio", *flags_for(dlv)]
            process = subprocess.Popen(
                command, stdin=far.fileno(), stdout=far.fileno(), stderr=subprocess.PIPE, text=True
            )
        near.settimeout(30)
        client = Dap(near)
        client.initialize()
        whole_session(client, server, server.pid)
        assert "safedlv" not in process.communicate(timeout=20)[1]
    assert process.returncode == 0
    assert_unharmed(server.pid)


def test_as_vscode_starts_it(newest_dlv: str, server: Server) -> None:
    """The line on descriptor 3 and nothing on stdout; on stop the socket ends, and SIGINT follows."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    read, write = os.pipe()
    words = ["dap", "--log", "--log-output=dap", f"--listen=127.0.0.1:{port}", "--log-dest=3"]
    script = 'exec 3>&"$1" 4>&-; shift; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", str(write), *SAFEDLV, *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[write], text=True,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read, "rb", buffering=0) as log:
        assert log.read(65536).startswith(f"{SAYS}127.0.0.1:{port}\n".encode())
        client = Dap(f"127.0.0.1:{port}")
        client.initialize()
        attach(client, server.pid)
        client.request("configurationDone")
        client.close()
        process.send_signal(2)
        rest = b"".join(iter(lambda: log.read(65536), b""))
    assert b"layer=dap" in rest
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")
    assert_unharmed(server.pid)


def test_log_file(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    """The line goes to the log file, and dlv's log after it."""
    path = tmp_path / "log"
    process = subprocess.Popen(
        [*SAFEDLV, "dap", "--log", "--log-output=dap", f"--log-dest={path}"], stdout=subprocess.PIPE, text=True
    )
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), "the line is there")
    address = path.read_text().partition("\n")[0].removeprefix(SAYS)
    client = Dap(address)
    client.initialize()
    attach(client, server.pid)
    leave(client)
    assert process.communicate(timeout=20)[0] == ""
    first, *rest = path.read_text().splitlines()
    assert first == SAYS + address
    assert any("layer=dap" in line for line in rest)


@pytest.mark.parametrize(
    "words",
    [["--nonsense"], ["--listen=nowhere:x"], ["--listen"], ["--log-output=dap"], ["--log-dest=/no/such/directory/log"]],
    ids=" ".join,
)
def test_usage_errors_are_dlvs(newest_dlv: str, words: list[str]) -> None:
    plain, ours = (
        subprocess.run([*command, "dap", *words], capture_output=True, text=True, timeout=20, check=False)
        for command in ([newest_dlv], SAFEDLV)
    )
    assert (ours.returncode, ours.stdout, ours.stderr) == (plain.returncode, plain.stdout, plain.stderr)


def test_help(newest_dlv: str) -> None:
    done = subprocess.run([*SAFEDLV, "dap", "--help"], capture_output=True, text=True, timeout=20, check=False)
    assert "--client-addr" in done.stdout
    assert "--stdio" in done.stdout


def test_warnings_are_dlvs(newest_dlv: str, start: Start) -> None:
    adapter = start("--headless", "--accept-multiclient", "word")
    leave(adapter.client())
    assert adapter.end()[2].count("Warning: ") == 3


def test_launch(newest_dlv: str, start: Start, server_binary: Path) -> None:
    """Nothing is added to a launch; a client that goes takes its program along, as with dlv."""
    adapter = start()
    client = adapter.client()
    client.request("launch", mode="exec", program=str(server_binary), args=["127.0.0.1:0"], safedlv={"via": "never"})
    client.event("initialized")
    pid = client.event("process")["body"]["systemProcessId"]
    client.request("configurationDone")
    assert adapter.process.stdout is not None
    assert "127.0.0.1:" in adapter.process.stdout.readline()
    client.close()
    assert adapter.end()[0] == 0
    wait_until(lambda: not status(pid, "State"), "the program has ended")


# ---------------------------------------------------------------- what goes wrong before dlv is asked anything


def refused_session(words: list[str], environment: dict[str, str]) -> str:
    """A session without a dlv: the line, ``initialize``, then ``attach`` and ``launch`` refused; what was said."""
    adapter = Adapter(*words, env={**os.environ, **environment})
    client = adapter.client()
    text = client.refused("attach", mode="local", processId=1)
    assert client.refused("launch", program="x") == text
    assert client.refused("attach", mode="local", processId=1) == text
    message = client.response(client.send("threads"))
    assert not message["success"]
    assert not message["body"]["error"]["showUser"]
    leave(client)
    adapter.end()
    return text


def test_without_dlv(tmp_path: Path) -> None:
    text = refused_session([], {"SAFEDLV_DLV": "", "PATH": str(tmp_path)})
    assert "there is no dlv on the PATH\ngo install github.com/go-delve" in text
    assert f"SAFEDLV_DLV names {tmp_path}/dlv" in refused_session([], {"SAFEDLV_DLV": f"{tmp_path}/dlv"})


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 3\n", "#!/no/such/shell\n"])
def test_a_dlv_that_does_not_start(tmp_path: Path, script: str) -> None:
    path = tmp_path / "dlv"
    path.write_text(script)
    path.chmod(0o755)
    assert "dlv ended with exit code" in refused_session([], {"SAFEDLV_DLV": str(path)})


def test_no_directory_for_the_session(newest_dlv: str) -> None:
    """A failure of ours after the line: the user reads it in the editor."""
    script = (
        "import os, sys\nfrom safedlv.session import launch\nfrom safedlv.cli import main\n"
        "launch.private_directory = lambda: '/proc/nothing'\n"
        "from safedlv.session import dap_server\ndap_server.private_directory = launch.private_directory\n"
        "sys.exit(main(['dap']))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    client = Dap(process.stdout.readline().removeprefix(SAYS).strip())
    client.initialize()
    assert "cannot make the session's directory /proc/nothing" in client.refused("attach", processId=1)
    leave(client)
    process.communicate(timeout=20)


# ---------------------------------------------------------------- whom to attach to


def test_a_refused_attach_can_be_retried(newest_dlv: str, start: Start, server: Server) -> None:
    """What cannot be attached to is refused with its reason, on one connection; then it goes on."""
    client = start().client()
    for processid, words in (
        (999999999, "there is no process 999999999"),
        (-4, "invalid process ID: -4"),
        ("nonsense", '"nonsense" is no target'),
        ("name:[", "is no pattern"),
        ("name:no such command line anywhere", "no process has a command line that matches"),
        (2, "kernel-thread"),
        (1 << 80, "is no target"),
        ({}, "processId"),
        (1.5, "processId"),
        (True, "processId"),
    ):
        assert words in client.refused("attach", mode="local", processId=processid), processid
    for own, words in (
        ("sidecar", "is no object"),
        ({"via": "magic"}, "it may be never, ask, sidecar or clone"),
        ({"bia": "ask"}, 'there is no "safedlv": {"bia"'),
        ({"guard": "of"}, "it may be on or off"),
        ({"tracer": 7}, "is no text"),
        ({"maxPause": True}, "is no time"),
        ({"maxPause": "soon"}, "'soon' is no time for a pause"),
        ({"onDisconnect": "continue"}, "it may be detach"),
    ):
        assert words in client.refused("attach", processId=server.pid, safedlv=own), own
    command = Path(f"/proc/{server.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    attach(client, f"name:^{command.strip()}$", safedlv={"via": "never"})
    leave(client)
    assert_unharmed(server.pid)


@pytest.mark.parametrize("arguments", [{}, {"processId": 0}, {"processId": ""}, {"processId": None}], ids=str)
def test_nobody_named(newest_dlv: str, start: Start, server: Server, arguments: dict[str, Any]) -> None:
    """The answer lists whom there is."""
    client = start().client()
    text = client.refused("attach", mode="local", **arguments)
    assert text.startswith("no process is named")
    assert any(line.split()[:2] == [str(server.pid), "ok"] for line in text.splitlines()), text
    leave(client)


@pytest.mark.parametrize("name", ["processId", "processid", "PROCESSID"])
@pytest.mark.parametrize("text", ["{}", " {} ", "+{}", "0{}"])
def test_how_a_pid_is_written(newest_dlv: str, start: Start, server: Server, name: str, text: str) -> None:
    """As a word, and under the name in whatever case, which dlv does not mind either."""
    client = start().client()
    client.request("attach", **{name: text.format(server.pid)})
    leave(client)
    assert_unharmed(server.pid)


def test_target_in_our_own_settings(newest_dlv: str, start: Start, server: Server) -> None:
    """Where an editor has an opinion of processId."""
    client = start().client()
    attach(client, 1, safedlv={"target": str(server.pid)})
    assert status(server.pid, "TracerPid") != "0"
    leave(client)


def test_a_wrapper_is_left_for_its_go_child(newest_dlv: str, start: Start, server_binary: Path) -> None:
    shell = subprocess.Popen(["sh", "-c", f"{server_binary} & wait"], stdout=subprocess.PIPE, process_group=0)
    try:
        assert shell.stdout is not None
        assert shell.stdout.readline()
        client = start().client()
        attach(client, shell.pid)
        assert f"process {shell.pid} is a wrapper" in client.event("output")["body"]["output"]
        assert status(shell.pid, "TracerPid") == "0"
        leave(client)
    finally:
        os.killpg(shell.pid, 9)
        shell.communicate()


def test_remote_and_other_modes_are_dlvs(newest_dlv: str, start: Start) -> None:
    client = start().client()
    assert client.refused("attach", mode="remote") == "no debugger found"
    assert "unsupported 'mode' attribute" in client.refused("attach", mode="nonsense", processId=1)
    assert "mutually exclusive" in client.refused("attach", processId=1, waitFor="x")
    leave(client)


def test_waiting_for_a_process(newest_dlv: str, start: Start, server_binary: Path) -> None:
    client = start().client()
    number = client.send("attach", waitFor=f"{server_binary} 127.0.0.1:0", safedlv={})
    with subprocess.Popen([server_binary, "127.0.0.1:0"], stdout=subprocess.DEVNULL) as process:
        assert client.response(number)["success"]
        leave(client)
        assert_unharmed(process.pid)
        process.kill()


def test_a_second_attach_is_dlvs(newest_dlv: str, start: Start, server: Server) -> None:
    client = start().client()
    attach(client, server.pid)
    assert "already in progress" in client.refused("attach", mode="local", processId=server.pid)
    leave(client)

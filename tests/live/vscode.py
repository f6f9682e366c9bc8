"""An editor without a screen: it reads a launch.json and starts and asks dlv as VS Code's Go extension does.

Source: golang/vscode-go, extension/src/goDebugConfiguration.ts (what becomes of a configuration) and goDebugFactory.ts
(how dlv is started, what is waited for, what is sent).
"""

from __future__ import annotations

import json
import os
import re
import selectors
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from tests.clients import Dap
from tests.support import ROOT

EXAMPLES = ROOT / "examples" / "vscode"
STARTED = b"DAP server listening at:"
PICKERS = ("${command:pickProcess}", "${command:pickGoProcess}")


def read_jsonc(path: Path) -> Any:
    """JSON with lines of comment, as VS Code reads its files."""
    return json.loads(re.sub(r"(?m)^\s*//.*$", "", path.read_text("utf-8")))


def configurations() -> dict[str, dict[str, Any]]:
    """The example launch.json, by name."""
    return {one["name"]: one for one in read_jsonc(EXAMPLES / "launch.json")["configurations"]}


def resolved(configuration: dict[str, Any], variables: dict[str, str]) -> dict[str, Any]:
    """What the extension makes of a configuration before it sends it. Asserts that no list of its own would open."""
    found: dict[str, Any] = json.loads(json.dumps(configuration))
    if found["mode"] == "local":
        process = found.get("processId")
        assert process, "0 and nothing open the extension's list of processes"
        assert not isinstance(process, str) or process in PICKERS, "any other text is looked up as a program's name"
    text = json.dumps(found)
    for name, value in variables.items():
        text = text.replace("${" + name + "}", value)
    assert "${" not in text, "a variable that this test does not know"
    found = json.loads(text)
    if isinstance(found.get("processId"), str):
        found["processId"] = int(found["processId"])
    return {**found, "debugAdapter": "dlv-dap", "env": {}, "stackTraceDepth": 50, "packagePathToGoModPathMap": {}}


class VsCode:
    """One session. ``dlv`` is what go.alternateTools names."""

    def __init__(self, dlv: Path, workspace: Path = ROOT) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        command = ["bash", "-c", f'exec "$0" "$@" 3>&{writing} {writing}>&-', str(dlv)]  # a pipe as descriptor 3
        self.process = subprocess.Popen(
            [*command, "dap", f"--listen=127.0.0.1:{port}", "--log-dest=3"],
            cwd=workspace,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[writing],
        )
        os.close(writing)
        self.log = reading
        self.address = f"127.0.0.1:{port}"

    def __enter__(self) -> Self:
        self._wait_for_the_line()
        self.client = Dap(self.address)  # one attempt
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.log)

    def _wait_for_the_line(self, within: float = 30.0) -> None:
        """A chunk of stdout or descriptor 3 that *starts* with the words; an exit would not be noticed."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(self.log, selectors.EVENT_READ)
            ready.register(self.process.stdout, selectors.EVENT_READ)
            deadline = time.monotonic() + within
            while time.monotonic() < deadline:
                for key, _ in ready.select(deadline - time.monotonic()):
                    chunk = os.read(key.fd, 65536)
                    if chunk.startswith(STARTED):
                        return
                    if not chunk:
                        ready.unregister(key.fd)
        raise AssertionError("timed out while waiting for DAP server to start")

    def attach(self, arguments: dict[str, Any]) -> None:
        """Initialize and attach, as far as the configuration."""
        self.client.initialize()
        self.client.request("attach", **arguments)
        self.client.event("initialized")

    def stop(self) -> int:
        """The stop button: disconnect, then the end of the connection; dlv's exit code."""
        self.client.request("disconnect", terminateDebuggee=False)
        self.client.close()
        return self.process.wait(20)

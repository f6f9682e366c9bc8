"""Two small clients of a dlv server: JSON-RPC and DAP. They know nothing of safedlv."""

from __future__ import annotations

import json
import socket
from typing import Any


def dial(address: str, timeout: float = 30.0) -> socket.socket:
    """Connect to ``host:port`` or to the path of a unix socket."""
    if address.startswith("/"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)


class JsonRpc:
    """Delve's JSON-RPC, API version 2 (service/rpc2)."""

    def __init__(self, address: str, timeout: float = 30.0) -> None:
        self.socket = dial(address, timeout)
        self.file = self.socket.makefile("rb")
        self.number = 0

    def send(self, method: str, **arguments: Any) -> int:
        self.number += 1
        request = {"method": f"RPCServer.{method}", "params": [arguments], "id": self.number}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        return self.number

    def answer(self) -> Any:
        line = self.file.readline()
        if not line:
            raise ConnectionError("the server closed the connection")
        reply = json.loads(line)
        if reply.get("error"):
            raise RuntimeError(reply["error"])
        return reply["result"]

    def call(self, method: str, **arguments: Any) -> Any:
        self.send(method, **arguments)
        return self.answer()

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def use_version_2(self) -> None:
        self.call("SetApiVersion", APIVersion=2)

    def command(self, name: str, **arguments: Any) -> Any:
        return self.call("Command", name=name, **arguments)["State"]

    def detach(self, *, kill: bool = False) -> None:
        self.call("Detach", Kill=kill)
        self.close()


class Dap:
    """The Debug Adapter Protocol, as much as a session needs; over a new connection, or the one given."""

    def __init__(self, address: str | socket.socket, timeout: float = 30.0) -> None:
        self.socket = dial(address, timeout) if isinstance(address, str) else address
        self.file = self.socket.makefile("rb")
        self.number = 0
        self.events: list[dict[str, Any]] = []

    def send(self, command: str, **arguments: Any) -> int:
        """Send a request; its number."""
        self.number += 1
        request = {"seq": self.number, "type": "request", "command": command, "arguments": arguments}
        self.send_body(json.dumps(request).encode())
        return self.number

    def send_body(self, body: bytes) -> None:
        self.socket.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    def response(self, number: int) -> dict[str, Any]:
        """The response to a request; events that come meanwhile are kept."""
        while True:
            message = self.read()
            if message["type"] == "event":
                self.events.append(message)
            elif message["request_seq"] == number:
                return dict(message)

    def request(self, command: str, **arguments: Any) -> Any:
        """Send a request and wait for its response; the response's body."""
        message = self.response(self.send(command, **arguments))
        if not message["success"]:
            raise RuntimeError(message.get("message"), message.get("body"))
        return message.get("body")

    def refused(self, command: str, **arguments: Any) -> str:
        """Send a request that fails, as dlv's requests fail that an editor shows in a dialog; the text it shows."""
        message = self.response(self.send(command, **arguments))
        error = message["body"]["error"]
        title = f"Failed to {command}"
        assert (message["success"], message["message"], error["showUser"]) == (False, title, True), message
        assert error["id"] == {"attach": 3001, "launch": 3000}[command]
        text = str(error["format"])
        assert text.startswith(f"{title}: ")
        return text.removeprefix(f"{title}: ")

    def initialize(self) -> Any:
        return self.request("initialize", adapterID="go", linesStartAt1=True, columnsStartAt1=True, pathFormat="path")

    def event(self, name: str) -> dict[str, Any]:
        """The next event of that name."""
        while True:
            for at, message in enumerate(self.events):
                if message["event"] == name:
                    return self.events.pop(at)
            message = self.read()
            if message["type"] == "event":
                self.events.append(message)

    def read(self) -> Any:
        length = 0
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        if not length:
            raise ConnectionError("the server closed the connection")
        return json.loads(self.file.read(length))

    def close(self) -> None:
        self.file.close()
        self.socket.close()

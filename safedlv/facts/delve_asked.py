"""Asking a dlv about itself, by running it: for a dlv whose file does not tell.

Nothing here trusts that it is dlv: output is bounded, time is bounded, and whatever was started is gone afterwards.
Wire format: JSON-RPC 1.0 objects without framing, as Go's net/rpc/jsonrpc reads and writes them.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

from safedlv.facts.reading import MALFORMED, unknown
from safedlv.model import Unknown

TIMEOUT: Final = "TIMEOUT"

_OUTPUT_LIMIT = 1 << 16
_LISTENING = b"API server listening at: 127.0.0.1:"
_GRACE = 2.0  # seconds for dlv to end after it was told to: then it is killed


def ask_version(path: str, deadline: float) -> str | Unknown:
    """The version that ``dlv version`` prints (``Version: 1.27.2``), within ``deadline`` seconds."""
    source = f"{path} version"
    end = time.monotonic() + deadline
    try:
        with _running([path, "version"]) as stdout:
            output = _read_until(stdout, b"\nBuild:", end)
    except OSError as error:
        return _why(error, source)
    for line in output.decode("utf-8", "backslashreplace").splitlines():
        if line.startswith("Version: "):
            return line.removeprefix("Version: ").strip() or Unknown(MALFORMED, source)
    return Unknown(MALFORMED, source)


def ask_go_range(path: str, deadline: float) -> tuple[str, str] | Unknown:
    """MinSupportedVersionOfGo and MaxSupportedVersionOfGo of RPCServer.GetVersion, within ``deadline`` seconds.

    dlv answers only while it debugs something, so it is given itself, stopped before its first instruction; should it
    ever run, it prints its version and ends.  A dlv before 1.21 cannot be asked like this when it is stripped:
    it refuses to debug a stripped program (service/debugger/debugger.go).
    """
    source = f"{path} RPCServer.GetVersion"
    command = [path, "exec", path, "--headless", "--listen=127.0.0.1:0", "--api-version=2", "--check-go-version=false"]
    end = time.monotonic() + deadline
    try:
        with _running([*command, "--", "version"], grace=_GRACE) as stdout:
            line = _read_until(stdout, b"\n", end)
            if not line.startswith(_LISTENING):
                return Unknown(MALFORMED, source)
            port = int(line.removeprefix(_LISTENING).split()[0])
            result = _get_version(port, end)
        return str(result["MinSupportedVersionOfGo"]), str(result["MaxSupportedVersionOfGo"])
    except OSError as error:
        return _why(error, source)
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):  # no port, no JSON, another shape
        return Unknown(MALFORMED, source)


def _get_version(port: int, end: float) -> dict[str, object]:
    """GetVersion's result; then dlv is told to kill what it debugs, which ends a single-client server."""
    with socket.create_connection(("127.0.0.1", port), timeout=_left(end)) as connection:
        reply = _call(connection, end, "GetVersion", {})
        _call(connection, end, "Detach", {"Kill": True})
    result = reply["result"]
    if not isinstance(result, dict):
        raise ValueError("GetVersion has no result")
    return result


def _call(connection: socket.socket, end: float, method: str, argument: dict[str, object]) -> dict[str, object]:
    request = {"method": f"RPCServer.{method}", "params": [argument], "id": 1}
    connection.sendall(json.dumps(request).encode() + b"\n")
    data = b""
    while not data.endswith(b"\n"):  # Go's encoder ends every object with a newline, and escapes those inside
        connection.settimeout(_left(end))
        more = connection.recv(_OUTPUT_LIMIT)
        if not more or len(data) > _OUTPUT_LIMIT:
            raise ValueError("dlv closed the connection, or does not come to an end")
        data += more
    reply = json.loads(data)
    if not isinstance(reply, dict):
        raise ValueError("not a JSON-RPC reply")
    return reply


# ---------------------------------------------------------------- a process that is gone afterwards


@contextmanager
def _running(command: list[str], grace: float = 0.0) -> Iterator[IO[bytes]]:
    """Run a command in a session of its own and give its stdout; it then has ``grace`` seconds before it is killed."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout is not None
    try:
        with process.stdout:
            yield process.stdout
            _wait(process, grace)
    finally:
        _kill(process)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _kill(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM first where it still runs: a headless dlv then takes what it debugs along (a SIGKILL would not)."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            _wait(process, _GRACE)


def _read_until(stream: IO[bytes], mark: bytes, end: float) -> bytes:
    """What the stream gives up to ``mark``, its end, or the limit; TimeoutError when none of them comes in time."""
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while mark not in data and len(data) < _OUTPUT_LIMIT:
            if not selector.select(_left(end)):
                continue
            more = os.read(stream.fileno(), _OUTPUT_LIMIT)
            if not more:
                break
            data += more
    return data


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _why(error: OSError, source: str) -> Unknown:
    return Unknown(TIMEOUT, source) if isinstance(error, TimeoutError) else unknown(error, source)

"""What an observer may ask, checked against every method and command that dlv has."""

from __future__ import annotations

import json

import pytest

from safedlv.session import observers
from safedlv.session.ears import Observer, Parting
from safedlv.session.wire import FramingError, Messages, frame

CHANGES = [
    "AmendBreakpoint",
    "CancelDownloads",
    "CancelNext",
    "Checkpoint",
    "ClearBreakpoint",
    "ClearCheckpoint",
    "Command",
    "CreateBreakpoint",
    "CreateEBPFTracepoint",
    "CreateWatchpoint",
    "DebugInfoDirectories",
    "Detach",
    "DownloadLibraryDebugInfo",
    "DumpCancel",
    "DumpStart",
    "DumpWait",
    "FollowExec",
    "GetBufferedTracepoints",
    "GetEvents",
    "Restart",
    "Set",
    "SetExecutionPoint",
    "StopRecording",
    "ToggleBreakpoint",
    "NotThereYet",
]
COMMANDS = [
    "launch",
    "setBreakpoints",
    "setFunctionBreakpoints",
    "setInstructionBreakpoints",
    "setDataBreakpoints",
    "setExceptionBreakpoints",
    "continue",
    "next",
    "stepIn",
    "stepOut",
    "stepBack",
    "reverseContinue",
    "pause",
    "terminate",
    "restart",
    "setVariable",
    "setExpression",
    "writeMemory",
    "goto",
    "restartFrame",
    "cancel",
    "notThereYet",
]


class Talk:
    """An observer, and what was said to whom."""

    def __init__(self, first: bytes, *, stands: bool = True) -> None:
        self.heard = b""
        self.observer = Observer(first, self._hear, lambda: stands)

    def _hear(self, data: bytes) -> None:
        self.heard += data

    def rpc(self, method: str, **arguments: object) -> bytes:
        request = {"method": f"RPCServer.{method}", "params": [arguments], "id": 3}
        return self.observer.outward(json.dumps(request).encode())

    def dap(self, command: str, **arguments: object) -> bytes:
        request = {"seq": 3, "type": "request", "command": command, "arguments": arguments}
        return self.observer.outward(frame(json.dumps(request).encode()))


@pytest.mark.parametrize("method", CHANGES)
def test_methods_that_are_refused(method: str) -> None:
    talk = Talk(b"{")
    assert talk.rpc(method, Kill=True) == b""
    assert json.loads(talk.heard) == {"id": 3, "result": None, "error": observers.WHY}


@pytest.mark.parametrize("method", sorted(observers.JSON_RPC))
def test_methods_that_are_allowed(method: str) -> None:
    talk = Talk(b"{")
    expected = {"method": f"RPCServer.{method}", "params": [{"A": 1}], "id": 3}
    assert json.loads(talk.rpc(method, A=1)) == expected
    assert talk.heard == b""


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_are_refused(command: str) -> None:
    talk = Talk(b"C")
    assert talk.dap(command) == b""
    (message,) = Messages().feed(talk.heard)
    answer = json.loads(message.body)
    assert (answer["request_seq"], answer["command"], answer["success"]) == (3, command, False)
    assert observers.WHY in answer["body"]["error"]["format"]


@pytest.mark.parametrize(
    ("command", "arguments", "passes"),
    [
        ("evaluate", {"expression": "v.Path", "context": "hover"}, True),
        ("evaluate", {"expression": "callers + 1"}, True),
        ("evaluate", {"expression": " call main.f()"}, False),
        ("evaluate", {"expression": "\n\tdlv config -list"}, False),
        ("evaluate", {"Expression": "call main.f()"}, False),
        ("evaluate", {"expression": "v", "Expression": "call main.f()"}, False),
        ("disconnect", {}, True),
        ("disconnect", {"terminateDebuggee": False}, True),
        ("disconnect", {"terminateDebuggee": True}, False),
        ("disconnect", {"TerminateDebuggee": True}, False),
        ("attach", {"mode": "remote"}, True),
        ("attach", {"mode": "local", "processId": 1}, False),
        ("attach", {}, False),
        ("configurationDone", {}, False),
    ],
)
def test_commands_that_depend(command: str, arguments: dict[str, object], passes: bool) -> None:
    assert bool(Talk(b"C").dap(command, **arguments)) == passes


def test_a_dap_observer_does_not_come_in_while_the_program_runs() -> None:
    talk = Talk(b"C", stands=False)
    assert talk.dap("attach", mode="remote") == b""
    assert observers.RUNNING.encode() in talk.heard
    assert b'"showUser":true' in talk.heard


def test_configuration_is_done_without_dlv() -> None:
    talk = Talk(b"C")
    assert talk.dap("configurationDone") == b""
    response, event = (json.loads(message.body) for message in Messages().feed(talk.heard))
    assert (response["command"], response["success"]) == ("configurationDone", True)
    assert (event["event"], event["body"]["reason"]) == ("stopped", "entry")


def test_what_cannot_be_understood_does_not_pass() -> None:
    for first, data in ((b"{", b"[1]\n"), (b"{", b"} "), (b"C", frame(b"{}")), (b"C", b"Content-Length: x\r\n\r\n")):
        with pytest.raises(FramingError):
            Talk(first).observer.outward(data)


def test_ours_is_not_said_in_the_middle_of_theirs() -> None:
    talk = Talk(b"{")
    assert talk.observer.inward(b'{"id":1,"res') == b'{"id":1,"res'
    assert talk.rpc("Detach") == b""
    assert talk.heard == b""
    first, second = talk.observer.inward(b'ult":{},"error":null}\n').splitlines()
    assert first == b'ult":{},"error":null}'
    assert json.loads(second)["error"] == observers.WHY


def test_ours_is_not_said_in_the_middle_of_theirs_by_dap() -> None:
    talk, body = Talk(b"C"), {"seq": 1, "type": "event", "event": "x", "body": "y" * 90_000}
    long = frame(json.dumps(body).encode())
    sent = talk.observer.inward(long[:600])
    assert talk.dap("next") == b""
    assert talk.heard == b""
    sent += talk.observer.inward(long[600:])
    assert sent.startswith(long)
    assert len(list(Messages().feed(sent))) == 2


def test_parting_hears_all_but_what_the_keeper_asked() -> None:
    parting = Parting(b"answer\n")
    theirs = b'{"id":4,"result":{},"error":null}\n'
    assert parting.inward(theirs[:9]) == b""
    assert parting.inward(theirs[9:] + b'{"id":1099511627777,"result":{},"error":null}\n{"id":') == b""
    assert parting.inward(b"") == theirs + b"answer\n"

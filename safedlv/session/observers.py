"""What an observer may ask (``--observers``): to look at the program, not to move or change it. Pure.

The tables are of what is allowed; everything else, what a later dlv may bring included, is refused and never reaches
dlv. What is allowed goes on as it was understood here, so that dlv cannot understand it otherwise.
"""

from __future__ import annotations

from safedlv.session import dap_messages, rpc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

WHY: Final = "this connection observes: it may look at the program, not move or change it (safedlv attach --observers)"
RUNNING: Final = (
    "the program runs, and dlv would halt it for a DAP client that comes in; an observer can when it stands still"
)

JSON_RPC: Final = frozenset(
    {
        "Ancestors",
        "AttachedToExistingProcess",
        "BuildID",
        "Disassemble",
        "Eval",  # without function calls: those are Command's alone (pkg/proc/fncall.go: EvalExpressionWithCalls)
        "ExamineMemory",
        "FindLocation",
        "FollowExecEnabled",
        "FunctionReturnLocations",
        "GetBreakpoint",
        "GetThread",
        "GetVersion",
        "GuessSubstitutePath",
        "IsMulticlient",
        "LastModified",
        "ListBreakpoints",
        "ListCheckpoints",
        "ListDynamicLibraries",
        "ListFunctionArgs",
        "ListFunctions",
        "ListGoroutines",
        "ListLocalVars",
        "ListPackagesBuildInfo",
        "ListPackageVars",
        "ListRegisters",
        "ListSources",
        "ListTargets",
        "ListThreads",
        "ListTypes",
        "ProcessPid",
        "Recorded",
        "SetApiVersion",  # said by every client as it connects; only 2 can be set
        "Stacktrace",
        "State",
        "TypeInfo",
    }
)
"""Methods of service/rpc2/server.go. Not here, though they look harmless: GetEvents and GetBufferedTracepoints, which
take what they show away from the others, and Command with switchGoroutine, which switches for all.
"""


def rpc_refusal(request: rpc.Request) -> str:
    """Why an observer may not ask this; empty when it may."""
    return "" if request.method in JSON_RPC else WHY


def _attaches_quietly(arguments: dict[str, Any], stands: Callable[[], bool]) -> str:
    """dlv halts a running program when a DAP client attaches (service/dap/server.go: onAttachRequest)."""
    if dap_messages.argument(arguments, "mode") != "remote":
        return WHY
    return "" if stands() else RUNNING


def _evaluates_quietly(arguments: dict[str, Any], _stands: Callable[[], bool]) -> str:
    """``call f()`` calls a function, ``dlv config`` changes the session (onEvaluateRequest)."""
    words = str(dap_messages.argument(arguments, "expression") or "").split(None, 1)
    return WHY if words and words[0] in ("call", "dlv") else ""


def _leaves_quietly(arguments: dict[str, Any], _stands: Callable[[], bool]) -> str:
    """A client of several only takes itself away, unless it asks for the end of the program (onDisconnectRequest)."""
    return "" if dap_messages.argument(arguments, "terminateDebuggee") in (None, False) else WHY


def _freely(_arguments: dict[str, Any], _stands: Callable[[], bool]) -> str:
    return ""


DAP: Final = {
    "attach": _attaches_quietly,
    "disassemble": _freely,
    "disconnect": _leaves_quietly,
    "evaluate": _evaluates_quietly,
    "exceptionInfo": _freely,
    "initialize": _freely,
    "loadedSources": _freely,
    "modules": _freely,
    "readMemory": _freely,
    "scopes": _freely,
    "source": _freely,
    "stackTrace": _freely,
    "threads": _freely,
    "variables": _freely,
}
"""Commands of the protocol, and what says of their arguments why not. ``configurationDone`` does not go to dlv either,
which would continue the program, but is answered as if the program had stopped on entry.
"""
CONFIGURED: Final = "configurationDone"
ON_ENTRY: Final = {"reason": "entry", "threadId": 1, "allThreadsStopped": True}


def dap_refusal(request: dap_messages.Request, stands: Callable[[], bool]) -> str:
    """Why an observer may not ask this; empty when it may. ``stands``: tells whether the program stands still."""
    allowed = DAP.get(request.command)
    if allowed is None or not rpc.is_plain(request.document) or not rpc.is_plain(request.arguments):
        return WHY
    return allowed(request.arguments, stands)


def dap_allowed(request: dap_messages.Request) -> bytes:
    """The request of an observer as it goes to dlv."""
    document = {"seq": request.seq, "type": "request", "command": request.command}
    if request.arguments:
        document["arguments"] = request.arguments
    return dap_messages.encode(document)

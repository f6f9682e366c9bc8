"""What can become of a request to attach to a process: values, between who decides and the proxy."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from safedlv.session.launch import Delve
    from safedlv.session.pauses import Limits
    from safedlv.waitfor import Waiter

    Decision: TypeAlias = "Local | Elsewhere | Refused | Waiting"


class Local:
    """Go on: attach to this process with our dlv. ``arguments``: None where those of the request will do.

    ``pid``: 0 where it is for dlv to say what is wrong. ``guarded``: the target is to be brought home when dlv dies.
    ``limits`` are of its pauses; None: those of the health check of its container.
    """

    limits: Limits | None = None

    def __init__(self, pid: int, *, stopped: bool, arguments: dict[str, Any] | None, guarded: bool = True) -> None:
        self.pid, self.stopped, self.arguments, self.guarded = pid, stopped, arguments, guarded


class Elsewhere:
    """Go on with another dlv, which attaches by itself. ``pid``: 0 where its target is nobody else's."""

    limits: Limits | None = None

    def __init__(self, dlv: Delve, pid: int, arguments: dict[str, Any]) -> None:
        self.dlv, self.pid, self.arguments = dlv, pid, arguments


class Refused:
    """Do not attach: what to show in the dialog, and the whole report for the Debug Console."""

    def __init__(self, text: str, report: str = "") -> None:
        self.text, self.report = text, report


class Waiting:
    """There is no such process yet: when ``waiter`` has one, ``go_on`` decides about it."""

    def __init__(self, waiter: Waiter, go_on: Callable[[int], Decision]) -> None:
        self.waiter, self.go_on = waiter, go_on

"""What can become of a request to attach to a process: values, between who decides and the proxy."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safedlv.session.launch import Delve


class Local:
    """Go on: attach to this process with our dlv. ``arguments``: None where those of the request will do."""

    def __init__(self, pid: int, *, stopped: bool, arguments: dict[str, Any] | None) -> None:
        self.pid, self.stopped, self.arguments = pid, stopped, arguments


class Elsewhere:
    """Go on with another dlv, which attaches by itself."""

    def __init__(self, dlv: Delve, pid: int, arguments: dict[str, Any]) -> None:
        self.dlv, self.pid, self.arguments = dlv, pid, arguments


class Refused:
    """Do not attach: what to show in the dialog, and the whole report for the Debug Console."""

    def __init__(self, text: str, report: str = "") -> None:
        self.text, self.report = text, report

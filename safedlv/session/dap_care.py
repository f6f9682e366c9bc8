"""What a DAP session does for its target of its own accord, once it stands: see patience.py and watching.py."""

from __future__ import annotations

from safedlv.session.bystander import DAP
from safedlv.session.duties import Later
from safedlv.session.patience import patience_with
from safedlv.session.pauses import Limits
from safedlv.session.watching import watching_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.session.dap import Proxy
    from safedlv.session.launch import Delve

AFTER = 0.2
"""Seconds in which the editor, which now sets its breakpoints, has dlv for itself."""
CONTINUED = {"threadId": 1, "allThreadsContinued": True}


class Session:
    """A DAP session as patience.py sees it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy

    def say(self, line: str) -> None:
        self.proxy.voice.console(f"safedlv: {line}")

    def go_on(self) -> bool:
        """Have dlv continue; the client, which did not ask for it, is told by an event. A dlv that is at it refuses."""
        proxy = self.proxy
        proxy.ask(DAP["continue"], lambda: proxy.voice.tell(proxy.voice.writer.event("continued", CONTINUED)))
        return True

    def let_go(self) -> None:
        self.proxy.leave()

    def is_attended(self) -> bool:
        """A client that is gone is the end of its session."""
        return True

    def is_over(self) -> bool:
        dlv = self.proxy.upstream.dlv
        return dlv is None or dlv.leaving


def care_for(proxy: Proxy, dlv: Delve) -> None:
    """Have the proxy's loop see to its target."""

    def begin() -> None:
        limits, session = proxy.limits, Session(proxy)
        patience = patience_with(limits or Limits(), dlv, session, ask_health=limits is None, target=proxy.target)
        proxy.loop.duties.all += [patience, watching_with(dlv, session, target=proxy.target)]

    proxy.loop.duties.all.append(Later(AFTER, begin))

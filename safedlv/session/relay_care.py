"""What a relayed session does for its target of its own accord, once it stands: see patience.py and watching.py."""

from __future__ import annotations

from safedlv.session.bystander import FIRST_OF_RELAY, JSON_RPC
from safedlv.session.loop import READ
from safedlv.session.patience import patience_with
from safedlv.session.watching import watching_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.session.pauses import Limits
    from safedlv.session.relay import Relay


class Session:
    """A relay's session as patience.py sees it."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.asking = False

    def say(self, line: str) -> None:
        self.relay.say(line)

    def go_on(self) -> bool:
        """Have dlv continue: by an editor's connection, which then hears of its next stop too; else by that of the only
        client, or by one of our own. False while dlv has not done what it was asked before: two requests to continue
        would take the program on from its next stop, too.
        """
        relay = self.relay
        editor = next((client for client in relay.clients if client.editor is not None), None)
        if editor is not None and editor.editor is not None:
            relay.put(editor, editor.directions[0], editor.editor.go_on())
        elif relay.multi:
            return self._ask_by_ourselves(JSON_RPC["continue"] % FIRST_OF_RELAY)
        elif relay.driver is not None and relay.driver.answers is not None:
            if relay.driver.answers.expected:
                return False
            relay.driver.answers.expected = True
            relay.put(relay.driver, relay.driver.directions[0], JSON_RPC["continue"] % FIRST_OF_RELAY)
        else:  # nobody has come, and nobody else could if we did
            self.let_go()
        return True

    def let_go(self) -> None:
        self.relay.dlv.leave()

    def is_attended(self) -> bool:
        return self.relay.attended

    def is_over(self) -> bool:
        return self.relay.dlv.leaving

    def _ask_by_ourselves(self, request: bytes) -> bool:
        """On a connection of our own, which goes when dlv has answered: when the program stops the next time."""
        relay = self.relay
        sock = None if self.asking else relay.dial()
        if sock is None:
            return False

        def answered(_mask: int) -> None:
            self.asking = False
            relay.unwatch(sock)
            sock.close()

        self.asking = True
        sock.send(request)
        relay.watch(sock, READ, answered)
        return True


def care_for(relay: Relay, limits: Limits, *, ask_health: bool) -> None:
    """Have the relay's loop see to its target."""
    session = Session(relay)
    patience = patience_with(limits, relay.dlv, session, ask_health=ask_health)
    relay.loop.duties.all += [patience, watching_with(relay.dlv, session)]

"""What the client of a DAP session is told: dlv's messages piece by piece, and ours between them."""

from __future__ import annotations

import time

from safedlv.session import dap_messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.session.channel import Channel


class Voice:
    """``channel``: the connection to the client, once it has begun to speak; what is said before goes nowhere."""

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.writer = dap_messages.Writer()
        self.between = True
        """No message of dlv's is half said."""
        self.waiting: list[bytes] = []

    def pass_on(self, data: bytes, *, last: bool) -> None:
        """Say a piece of a message of dlv's. ``last``: the message ends with it."""
        if self.channel is None:
            return
        self.channel.put(data)
        self.between = last
        if last and self.waiting:
            for ours in self.waiting:
                self.channel.put(ours)
            self.waiting.clear()

    def tell(self, data: bytes) -> None:
        """Say a message of our own, when no message of dlv's is half said."""
        if self.channel is None:
            return
        if self.between:
            self.channel.put(data)
        else:
            self.waiting.append(data)

    def console(self, text: str) -> None:
        """Show text in the Debug Console."""
        self.tell(self.writer.console(text if text.endswith("\n") else text + "\n"))

    def close(self, within: float) -> None:
        """Give the client at most ``within`` seconds to take what was said last, and let go of it."""
        if self.channel is None:
            return
        deadline = time.monotonic() + within
        while self.channel.waiting and time.monotonic() < deadline:
            time.sleep(0.001)
            self.channel.flush()
        while self.channel.read():  # what is unread would reset the connection, and take what was said along
            pass
        self.channel.close()

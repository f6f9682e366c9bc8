"""What a client is told in the place of a dlv that is not there: that never came, or has ended. Pure."""

from __future__ import annotations

from safedlv.session import dap_messages as say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.session.dap_messages import Request, Writer

NOT_KILLED, KILLED = b"Detaching without terminating target process", b"Detaching and terminating target process"
"""What dlv says when it is told to disconnect (service/dap/server.go: onDisconnectRequest)."""


def stand_in(writer: Writer, request: Request, failure: str) -> list[bytes]:
    """The answer to a request where dlv never came; ``failure``: why, for when the client asks to attach."""
    seq, command = request.seq, request.command
    if command == "initialize":
        return [writer.response(seq, command, say.CAPABILITIES)]
    if command == "disconnect":
        return [writer.response(seq, command), writer.event("terminated")]
    if command in say.TITLES:
        number = say.FAILED_TO_ATTACH if command == "attach" else say.FAILED_TO_LAUNCH
        return [writer.failure(seq, command, number, failure, show=True)]
    return [writer.failure(seq, command, say.NO_SESSION, failure, show=False)]


def last_answers(writer: Writer, outstanding: dict[int, str], code: int, detached: bytes) -> list[bytes]:
    """dlv has ended with exit code ``code``: nothing stays unanswered.

    ``detached``: dlv's own words for the end, where the keeper did not leave it the time; empty where it has none.
    """
    said = []
    for seq, command in outstanding.items():
        if command == "disconnect":
            said += [writer.console(detached.decode() + "\n")] if detached else []
            said.append(writer.response(seq, command))
        else:
            text = f"dlv ended (exit code {code}) before it answered"
            number = say.FAILED_TO_ATTACH if command == "attach" else say.DLV_ENDED
            said.append(writer.failure(seq, command, number, text, show=command in say.TITLES))
    return said

"""The DAP proxy: one client, one dlv, one selector loop. It passes on what it does not have to touch.

    client  --whole messages-->  Proxy  --as they came-->  dlv
    client  <--piece by piece--  Proxy  <----------------  dlv

What it touches, and why:

* ``attach`` with mode local is first put to :data:`Decide`: it goes on (perhaps with another processId), is answered
  with a refusal, waits for a process to come, or goes to a dlv elsewhere, which then takes the place of ours
  (``mode: remote`` there).
* ``disconnect`` from a target that was attached to is the keeper's to say: where the target just runs into a
  breakpoint, dlv would leave a SIGTRAP behind that kills it (keeper.py). The client gets the answer as if to its own.
* ``pause`` before the first stop is preceded by a nudge, without which dlv may drop it (bystander.py: NUDGE).

A client that vanishes is a disconnect. When dlv ends, what it has not answered fails, and ``terminated`` is said if it
was not. A dlv that never came (:attr:`Proxy.failure`) is stood in for until the client asks to attach, and is told.
"""

from __future__ import annotations

import sys

from safedlv.linux.tracing import may_signal
from safedlv.session import dap_messages as say
from safedlv.session import keeper
from safedlv.session.bystander import NUDGE
from safedlv.session.dap_decision import Elsewhere, Local, Refused, Waiting
from safedlv.session.dap_stand_in import KILLED, NOT_KILLED, last_answers, stand_in
from safedlv.session.dap_upstream import Upstream
from safedlv.session.dap_voice import Voice
from safedlv.session.launch import hold_signals, release_signals
from safedlv.session.loop import READ, Loop
from safedlv.session.wire import FramingError, Head, Messages, Piece, frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safedlv.session.channel import Channel
    from safedlv.session.dap_decision import Decision
    from safedlv.session.dap_messages import Request
    from safedlv.session.dap_server import DapServer
    from safedlv.session.door import Door
    from safedlv.session.pauses import Limits

    Decide = Callable[[dict[str, Any], Callable[[str], None]], Decision]

FULL = 1 << 20
"""Bytes that may wait for one side before the other is no longer read."""
DRAIN_WITHIN = 2.0  # seconds for the client to take what was said last
DLVS_LIMIT = 4 << 20
"""Bytes of a request that dlv takes (google/go-dap, io.go: contentMaxLength); a longer one ends its session."""

# Where the session stands.
FRESH = "fresh"
"""Nothing was attached to or launched, or that failed."""
ASKED = "asked"
"""dlv was asked to attach, and has not answered; or the process to attach to is waited for."""
ATTACHED = "attached"
LAUNCHED = "launched"
"""The client launches, or says something else that is dlv's alone: nothing is touched any more."""
LEFT = "left"
"""The keeper ends it."""


class Proxy:
    """Leads the one client to dlv; ``run()`` returns dlv's exit code."""

    def __init__(self, door: Door, server: DapServer | None, failure: str, decide: Decide, log: int) -> None:
        self.door = door
        self.failure = failure
        """Why there is no dlv; empty when there is one."""
        self.decide = decide
        self.loop = Loop()
        self.upstream = Upstream(self.loop, server, log)
        self.on_client, self.on_dlv = self._from_client, self._from_dlv  # each one object: watched by identity
        self.voice = Voice()
        self.messages = Messages()
        self.held: list[bytes] = []  # dlv's, with which the client's session ends
        self.state = FRESH
        self.waiting: Waiting | None = None
        self.meanwhile: list[bytes] = []  # what was asked while a process was waited for
        self.outstanding: dict[int, str] = {}
        self.initialize = b""
        self.attach_seq = self.disconnect_seq = -1
        self.target = 0
        self.limits: Limits | None = None
        self.asked: dict[int, Callable[[], None]] = {}
        """What we asked dlv ourselves, and what to do when it has done so."""
        self.own_request = say.FIRST_REQUEST
        self.stopped_once = self.terminated = self.dropping = False
        self.killing = self.over = False
        self.code: int | None = None

    def run(self) -> int:
        """Lead them until the session ends. SIGINT, SIGTERM and SIGHUP end it in order."""
        self.loop.on_leaving(lambda _signum: self.leave())
        self.door.open(self.loop, self._came)
        self.upstream.open(self._update, self._dlv_ended)
        while self.code is None:
            self.loop.round()
        self._finish()
        return self.code

    # ------------------------------------------------------------ who comes and goes

    def _came(self, client: Channel) -> None:
        """The client, which has begun to speak."""
        self.voice.channel = client
        self._update()

    def _dlv_ended(self, _mask: int) -> None:
        dlv = self.upstream.dlv
        assert dlv is not None
        self.loop.unwatch(dlv.pidfd)
        code, channel = dlv.reap(), self.upstream.channel
        while channel is not None and not channel.ended:
            self._from_dlv(0)
        if channel is not None or self.state == LEFT:
            self.over = True
            if self.voice.channel is not None and not self.voice.channel.ended:
                self._from_client(0)  # what was asked while it ended is to be answered too
            self._say_the_last(code)
            self.code = code if channel is not None else 0
            return
        # It did not come as far as to be reached: the client is still to be told, when it asks to attach.
        said = dlv.last_words()
        self.failure = f"{dlv.called} ended with exit code {code} before it could be asked anything"
        self.failure += said and f":\n{said}"
        unsaid = self.upstream.take_back()
        self._stop_waiting()
        self.upstream.close()
        for message in Messages().feed(unsaid):
            self._stand_in(say.read_request(message.body))

    def _say_the_last(self, code: int) -> None:
        """dlv has ended: nothing stays unanswered, and what its guard did is told."""
        assert self.upstream.dlv is not None
        for line in self.upstream.dlv.end():
            self.voice.console(f"safedlv: {line}")
        for message in self.held:
            self.voice.tell(message)
        detached = (KILLED if self.killing else NOT_KILLED) if self.target else b""
        for answer in last_answers(self.voice.writer, self.outstanding, code, detached):
            self.voice.tell(answer)
        self.outstanding.clear()
        if not self.terminated and self.state != FRESH:
            self.voice.tell(self.voice.writer.event("terminated"))
            self.terminated = True

    def leave(self) -> None:
        """End the session in order, whatever it is at."""
        self.state = LEFT
        self._stop_waiting()
        if self.upstream.dlv is not None:
            self.upstream.dlv.leave()
        else:
            self.code = 0

    def _finish(self) -> None:
        """Give the client a moment to take what was said last, and let go of everything."""
        self.voice.close(DRAIN_WITHIN)
        self.door.close()
        self.upstream.close()

    # ------------------------------------------------------------ from the client

    def _from_client(self, _mask: int) -> None:
        client = self.voice.channel
        assert client is not None
        client.flush()
        data = client.read()
        try:
            for message in self.messages.feed(data) if data else ():
                self._said(message.body)
        except FramingError as error:
            sys.stderr.write(f"safedlv: the client's connection was closed: {error}\n")
            client.ended = True
        if client.ended and self.code is None and self.state != LEFT:
            self.leave()
        self._update()

    def _said(self, body: bytes) -> None:
        """One message of the client's."""
        request = say.read_request(body)
        if self.state == LEFT:
            return
        if request is None:
            self.upstream.put(frame(body))
            return
        if len(body) > DLVS_LIMIT:
            text = f"it has {len(body)} bytes, and dlv takes no more than {DLVS_LIMIT}"
            self.voice.tell(self.voice.writer.failure(request.seq, request.command, say.DLV_ENDED, text, show=False))
            return
        self.outstanding[request.seq] = request.command
        if self.over:
            return
        if self.waiting is not None and request.command != "disconnect":
            self.meanwhile.append(body)
            return
        touch = self._touched(request)
        if touch is None:
            self.upstream.put(frame(body))
        else:
            touch(request, body)

    def _touched(self, request: Request) -> Callable[[Request, bytes], None] | None:
        """What is to be done with a request before, or instead of, passing it on."""
        if self.failure:
            return lambda request, _: self._stand_in(request)
        if request.command == "initialize":
            self.initialize = self.initialize or request.with_arguments(request.arguments)
        elif request.command == "launch" and self.state == FRESH:
            self.state = LAUNCHED
        elif request.command == "attach" and self.state == FRESH and _is_local(request):
            return self._attach
        elif request.command == "pause" and self.state == ATTACHED and not self.stopped_once:
            return self._pause
        elif request.command == "disconnect" and self.state in (ASKED, ATTACHED):
            return self._disconnect
        return None

    def _attach(self, request: Request, body: bytes) -> None:
        self._carry_out(request, body, lambda: self.decide(request.arguments, self.voice.console))

    def _carry_out(self, request: Request, body: bytes, decide: Callable[[], Decision]) -> None:
        """Do what is decided; a signal that ends the session waits for that."""
        hold_signals()
        try:
            decision = decide()
            if isinstance(decision, Waiting):
                self._wait(decision, request, body)
        finally:
            release_signals()
        if isinstance(decision, Refused):
            self._refuse(request, decision)
        if isinstance(decision, Refused | Waiting):
            return
        left = self.state == LEFT  # by a signal that was held back
        if isinstance(decision, Elsewhere):
            self._go_elsewhere(decision)
        if left:
            self.leave()
            return
        self.state, self.attach_seq, self.stopped_once = ASKED, request.seq, False
        self.target, self.limits = decision.pid, decision.limits
        if isinstance(decision, Local) and decision.pid:
            word = keeper.TARGET if decision.guarded else keeper.UNGUARDED
            self.upstream.tell_keeper(word + b"%d %d" % (decision.pid, decision.stopped))
        changed = decision.arguments
        self.upstream.put(frame(body) if changed is None else request.with_arguments(changed))

    def _wait(self, waiting: Waiting, request: Request, body: bytes) -> None:
        """Until there is a process; what the client says meanwhile waits as well, as it would in dlv."""
        self.waiting, self.state = waiting, ASKED

        def came(_mask: int) -> None:
            pid = waiting.waiter.result()
            self._stop_waiting()
            self.state = FRESH
            self._carry_out(request, body, lambda: waiting.go_on(pid))
            later, self.meanwhile = self.meanwhile, []
            for said in later:
                self._said(said)
            self._update()

        self.loop.watch(waiting.waiter.fd, READ, came)

    def _stop_waiting(self) -> None:
        if self.waiting is not None:
            self.loop.unwatch(self.waiting.waiter.fd)
            self.waiting.waiter.close()
            self.waiting = None

    def _refuse(self, request: Request, refused: Refused) -> None:
        del self.outstanding[request.seq]
        if refused.report:
            self.voice.console(refused.report)
        self.voice.tell(self.voice.writer.failure(request.seq, "attach", say.FAILED_TO_ATTACH, refused.text, show=True))

    def _go_elsewhere(self, decision: Elsewhere) -> None:
        """Another dlv takes the place of ours. It is told again what the client is; the client has had the answer."""
        self.upstream.replace(decision.dlv)
        if self.initialize:
            request = say.read_request(self.initialize.partition(b"\r\n\r\n")[2])
            assert request is not None
            self.upstream.put(say.encode({**request.document, "seq": self._own()}))

    def _pause(self, _request: Request, body: bytes) -> None:
        self.upstream.put(frame(NUDGE % self._own()) + frame(body))

    def _disconnect(self, request: Request, body: bytes) -> None:
        if say.argument(request.arguments, "terminateDebuggee") is True and self.waiting is None:
            if not self.target or not may_signal(self.target):  # then only dlv can do it
                self.upstream.put(frame(body))
                return
            self.upstream.tell_keeper(keeper.INTERRUPT)
            self.killing = True
        self.disconnect_seq = request.seq
        self.leave()

    def _stand_in(self, request: Request | None) -> None:
        """Answer in the place of a dlv that is not there."""
        if request is None or request.seq >= say.OURS:
            return
        self.outstanding.pop(request.seq, None)
        for answer in stand_in(self.voice.writer, request, self.failure):
            self.voice.tell(answer)
        if request.command == "disconnect":
            self.code = 1

    def ask(self, request: bytes, done: Callable[[], None]) -> None:
        """Ask dlv something ourselves (``request`` has a %d for its number), and call ``done`` when it has done so."""
        number = self._own()
        self.asked[number] = done
        self.upstream.put(frame(request % number))
        self._update()

    def _own(self) -> int:
        self.own_request += 1
        return self.own_request

    # ------------------------------------------------------------ from dlv

    def _from_dlv(self, _mask: int) -> None:
        channel = self.upstream.channel
        assert channel is not None
        channel.flush()
        data = channel.read()
        try:
            for piece in self.upstream.stream.feed(data) if data else ():
                self._heard(piece)
        except FramingError as error:
            sys.stderr.write(f"safedlv: what dlv says is no DAP: {error}\n")
            channel.ended = True
            self.leave()
        self._update()

    def _heard(self, piece: Piece) -> None:
        """One piece of a message of dlv's."""
        data = piece.data
        if piece.head is not None:
            data = self._noted(piece.head, data, whole=piece.last)
            self.dropping = not data
        if not self.dropping:
            self.voice.pass_on(data, last=piece.last)

    def _noted(self, head: Head, data: bytes, *, whole: bool) -> bytes:
        """Take note of a message that begins; what the client gets of it, empty when it is not for the client."""
        if head.kind == "response":
            if head.request_seq >= say.OURS:
                done = self.asked.pop(head.request_seq, None)
                if done is not None and head.success:
                    done()
                return self._answer_to_keeper(head, data) if whole else b""
            self.outstanding.pop(head.request_seq, None)
            if head.request_seq == self.attach_seq and self.state == ASKED:
                self._attach_answered(success=head.success)
        elif head.name == "stopped":
            self.stopped_once = self.stopped_once or say.ON_ENTRY not in data
        elif head.name == "initialized" and self.upstream.dlv is not None:  # now the client sets its breakpoints
            if words := self.upstream.dlv.until_guarded():
                self.voice.console(f"safedlv: {words}")
        elif head.name == "terminated":
            self.terminated = True
            return self._hold(data) if self.state == LEFT and whole else data
        elif head.name == "output" and self.killing and whole:
            body = data.partition(b"\r\n\r\n")[2]
            return frame(body.replace(NOT_KILLED, KILLED))
        return data

    def _attach_answered(self, *, success: bool) -> None:
        self.state = ATTACHED if success else FRESH
        if not success:
            self.upstream.tell_keeper(keeper.TARGET + b"0 0")
        elif self.target and self.upstream.dlv is not None:
            from safedlv.session.dap_care import care_for

            care_for(self, self.upstream.dlv)

    def _answer_to_keeper(self, head: Head, data: bytes) -> bytes:
        """The answer to its disconnect is for the client, if that asked for it."""
        if head.name != "disconnect" or self.disconnect_seq not in self.outstanding:
            return b""
        del self.outstanding[self.disconnect_seq]
        body = data.partition(b"\r\n\r\n")[2]
        theirs, own = (b'"request_seq":%d' % number for number in (head.request_seq, self.disconnect_seq))
        return self._hold(frame(body.replace(theirs, own, 1)))

    def _hold(self, data: bytes) -> bytes:
        """The last that a client listens to: it comes after the line about how the target was left (parting.py)."""
        if self.upstream.dlv is None or self.upstream.dlv.found is None:
            return data
        self.held.append(data)
        return b""

    # ------------------------------------------------------------ what is waited for

    def _update(self) -> None:
        """Watch exactly what can make progress."""
        client, upstream = self.voice.channel, self.upstream.channel
        if client is not None:
            reads = not client.ended and (upstream is None or upstream.pending < FULL)
            self.loop.watch_channel(client, self.on_client, reads=reads)
        if upstream is not None:
            reads = not upstream.ended and (client is None or client.pending < FULL)
            self.loop.watch_channel(upstream, self.on_dlv, reads=reads)


def _is_local(request: Request) -> bool:
    """Whether a request to attach is for a process, and not for a debugger that already has one."""
    return say.argument(request.arguments, "mode") in (None, "", "local")

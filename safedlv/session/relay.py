"""The relay: leads clients to dlv. One thread, one selector, JSON-RPC and DAP alike.

What is said passes as it is, but for what :mod:`safedlv.session.ears` listens for: a Detach over JSON-RPC, which the
keeper carries out, and what an observer may not ask.

* A client is connected to dlv when it has sent its first byte, so that one that says nothing (a port scan) does not
  use up the only client that a dlv without --accept-multiclient takes.
* The end of one direction is passed on as the end of that direction, the other goes on. Only the end of what the one
  client of a dlv without --accept-multiclient says is the keeper's to pass on, since it ends the session: in the middle
  of a command dlv would kill the target over it (session/keeper.py).
"""

from __future__ import annotations

import os
import socket
import sys
import time

from safedlv.errors import printable
from safedlv.linux.tracing import may_signal
from safedlv.session import keeper, rpc
from safedlv.session.bystander import Bystander
from safedlv.session.channel import CHUNK, write_all
from safedlv.session.direction import Direction
from safedlv.session.ears import Answers, DapDriver, Observer, Parting, RpcDriver
from safedlv.session.listen import Listener, keep_alive, same_user
from safedlv.session.loop import READ, WRITE, Loop
from safedlv.session.rpc import LIMIT
from safedlv.session.wire import FramingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from safedlv.session.launch import Delve

DRAIN_WITHIN = 2.0  # seconds for clients to take what dlv said last
STARTS = b"C{ \t\r\n["  # DAP's Content-Length, or JSON (serveConnectionDemux in service/rpccommon/server.go)


class Client:
    """A client, and its own connection to dlv once it has said something."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.sock = sock
        self.name = name
        self.upstream: socket.socket | None = None
        self.directions: tuple[Direction, ...] = ()
        self.editor: DapDriver | None = None
        """What it says, where that is DAP."""
        self.answers: Answers | None = None
        """What it hears, where it is the only one and that is JSON-RPC."""
        self.reactions: dict[socket.socket, Callable[[int], None]] = {}

    @property
    def finished(self) -> bool:
        return bool(self.directions) and all(d.ended and not d.buffer for d in self.directions)


class Relay:
    """Serve ``listener`` until dlv ends; ``run()`` returns dlv's exit code."""

    def __init__(
        self, listener: Listener, dlv: Delve, *, multi: bool, check_user: bool, log: int, observers: bool = False
    ) -> None:
        self.listener = listener
        self.dlv = dlv
        self.multi = multi
        self.observers = observers
        """Only one client at a time drives; who comes while it is there may look."""
        self.driver: Client | None = None
        self.mover = ""
        """Who is thought to move the program: the client that came first, or another that did last."""
        self.parting = False
        self.check_user = check_user and not listener.unix_path and listener.loopback
        self.log = log
        self.log_rest = b""
        self.loop = Loop()
        self.clients: set[Client] = set()
        self.count = 0
        self.attended = True
        """A client is there, or none has come yet."""
        self.signalled = 0

    def run(self) -> int:
        """Relay until dlv ends. SIGINT, SIGTERM and SIGHUP make it leave in order first."""
        self.loop.on_leaving(self._leave)
        self.listener.sock.setblocking(False)
        self.watch(self.listener.sock, READ, self._accept)
        self.watch(self.dlv.log, READ, self._read_log)
        self.watch(self.dlv.pidfd, READ, self._dlv_ended)
        while self.dlv.code is None:
            self.loop.round()
        self._drain()
        self.listener.close()
        if self.dlv.code and not self.dlv.listening:
            sys.stderr.write(f"safedlv: dlv ended with exit code {self.dlv.code} before it listened for us\n")
        return self.dlv.code

    # ------------------------------------------------------------ events

    def _leave(self, signum: int) -> None:
        self.signalled = signum
        self.dlv.leave()

    def _dlv_ended(self, _mask: int) -> None:
        self.dlv.reap()
        self.unwatch(self.dlv.pidfd)
        while self._read_log(0):
            pass

    def _read_log(self, _mask: int) -> bool:
        """dlv's log: the line that says where it listens is for us, the rest goes where the user wants it.

        Returns whether there may be more.
        """
        os.set_blocking(self.dlv.log, False)
        try:
            data = os.read(self.dlv.log, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self.unwatch(self.dlv.log)
        self._log(data)
        return bool(data)

    def _log(self, data: bytes) -> None:
        if self.dlv.listening:
            write_all(self.log, data)
            return
        self.log_rest += data
        while b"\n" in self.log_rest:
            line, _, self.log_rest = self.log_rest.partition(b"\n")
            if self.dlv.heard(line):
                write_all(self.log, self.log_rest)
                self.log_rest = b""
                for client in list(self.clients):
                    self._update(client)
                return
            write_all(self.log, line + b"\n")

    def _accept(self, _mask: int) -> None:
        try:
            sock, peer = self.listener.sock.accept()
        except OSError:  # gone before we came to it
            return
        client = Client(sock, self._name_of(peer))
        try:
            if self.check_user and not same_user(sock):
                sys.stderr.write(
                    f"closing connection from different user ({client.name}): connections to localhost are only "
                    "accepted from the same UNIX user for security reasons\n"
                )
                sock.close()
                return
            sock.setblocking(False)
            if not self.listener.unix_path:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                keep_alive(sock)
        except OSError:  # it was reset meanwhile
            sock.close()
            return
        self.clients.add(client)
        self._update(client)

    def _name_of(self, peer: object) -> str:
        self.count += 1
        return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else f"unix client {self.count}"

    def _first_byte(self, client: Client) -> None:
        """Connect a client to dlv, now that it speaks; or send it away when it speaks something else."""
        try:
            first = client.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            first = b""
        if not first or first not in STARTS:
            self._drop(client, "sent something that is neither JSON-RPC nor DAP" if first else "")
            return
        if words := self.dlv.until_guarded():
            self.say(words)
        upstream = self.dial()
        if upstream is None:
            self._drop(client, "")
            return
        client.upstream, self.attended = upstream, True
        if not (self.multi and first == b"C"):  # by DAP, one client of several cannot end the session
            self.dlv.show_keeper(upstream, first)
        client.directions = (
            Direction(client.sock, upstream, limited=True, pass_end=self.multi),
            Direction(upstream, client.sock, limited=False, pass_end=True),
        )
        self._listen_to(client, first)
        if not self.multi:
            self._close_door(client)
        self._connected(client, upstream)

    def _listen_to(self, client: Client, first: bytes) -> None:
        """Listen to a client for what is not simply to be passed on: see ears.py."""
        outward, inward = client.directions
        if self.observers and self.driver is not None:
            observer = Observer(first, inward.put, self._stands)
            outward.through, inward.through = observer.outward, observer.inward
            self.say(f"{client.name} observes")
            return
        self.driver = client
        self.mover = self.mover or client.name
        if first == b"C":
            client.editor = DapDriver(lambda how: self._moved(client, how))
            outward.through, inward.through = client.editor.outward, client.editor.inward
            return
        driver = RpcDriver(lambda request: self._detach(request, inward), lambda how: self._moved(client, how))
        outward.through = driver.outward
        if not self.multi:
            client.answers = Answers()
            inward.through = client.answers.inward

    def _detach(self, request: rpc.Request, inward: Direction) -> bool:
        """Have the keeper end the session that a client wants to end; False where only dlv can do what was asked."""
        if not self.dlv.attached_to:
            return False
        if request.params is True or rpc.field(request.params, "Kill") is True:
            if not may_signal(self.dlv.attached_to):
                return False
            self.dlv.tell_keeper(keeper.INTERRUPT)
        inward.through = Parting(request.done()).inward
        self.parting = True
        return True

    def _moved(self, client: Client, how: str) -> None:
        if self.multi and client.name != self.mover:
            self.say(f"{client.name} moves the program now ({printable(how)}), and not {self.mover}")
            self.mover = client.name

    # ------------------------------------------------------------ of our own accord

    def say(self, line: str) -> None:
        """Say a line where dlv's log goes, and to every client that has a place for it: DAP has, JSON-RPC has not."""
        self.write(f"safedlv: {line}\n")
        for client in list(self.clients):
            if client.editor is not None:
                self.put(client, client.directions[1], client.editor.console(f"safedlv: {line}\n"))

    def write(self, text: str) -> None:
        """Write where dlv's log goes."""
        write_all(self.log, text.encode())

    def put(self, client: Client, direction: Direction, data: bytes) -> None:
        """Say something of ours in one direction of a client's."""
        direction.put(data)
        try:
            direction.flush()
        except OSError:
            self._lost(client)
            return
        self._update(client)

    def _stands(self) -> bool:
        dlv = self.dlv
        return dlv.attached_to > 0 and Bystander(dlv.pid, dlv.pidfd, dlv.attached_to, None).stands()

    def dial(self) -> socket.socket | None:
        """A connection to dlv; None when it takes none."""
        try:
            upstream = self.dlv.connect()
        except OSError:  # it has ended, or has the one client that it takes
            return None
        upstream.setblocking(False)
        if upstream.family != socket.AF_UNIX:
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return upstream

    def _connected(self, client: Client, upstream: socket.socket) -> None:
        outward, inward = client.directions
        client.reactions = {
            client.sock: lambda mask: self._react(client, outward, inward, mask),
            upstream: lambda mask: self._react(client, inward, outward, mask),
        }
        self.unwatch(client.sock)
        self._update(client)

    def _close_door(self, taken: Client) -> None:
        """dlv without --accept-multiclient takes one client and stops listening: so do we."""
        self.unwatch(self.listener.sock)
        self.listener.close()
        for client in list(self.clients - {taken}):
            self._drop(client, "")

    def _react(self, client: Client, reads: Direction, writes: Direction, mask: int) -> None:
        """One side of a client can be read or written."""
        try:
            if mask != READ:  # or the other side is gone, which is found out by trying
                writes.flush()
            if mask != WRITE:
                reads.move()
        except OSError:
            self._lost(client)
            return
        except FramingError as error:
            self._lost(client, str(error))
            return
        if self.parting:  # only now: what was said before is on its way
            self.dlv.leave()
        if mask == READ and not reads.buffer and not writes.buffer and not reads.ended and reads.count <= LIMIT:
            return  # all that was read is on its way, which is nearly always so: nothing to watch has changed
        if reads.limited and reads.ended and not self.multi:
            self.dlv.leave()
        if reads.limited and reads.count > LIMIT:
            self._lost(client, f"sent {LIMIT >> 20} MiB without the end of a message")
        elif client.finished:
            self._drop(client, "")
        else:
            self._update(client)

    # ------------------------------------------------------------ bookkeeping

    def _update(self, client: Client) -> None:
        """Watch exactly what can make progress."""
        if client.upstream is None:
            self.watch(client.sock, READ * self.dlv.listening, lambda _: self._first_byte(client))
            return
        outward, inward = client.directions
        for sock, reads, writes in ((client.sock, outward, inward), (client.upstream, inward, outward)):
            room = not reads.buffer and not (reads.limited and writes.through and writes.buffer)
            events = (READ if not reads.ended and room else 0) | (WRITE if writes.buffer else 0)
            self.watch(sock, events, client.reactions[sock])

    def watch(self, fd: socket.socket | int, events: int, call: Callable[[int], object]) -> None:
        """Call ``call(mask)`` when one of ``events`` happens on ``fd``."""
        self.loop.watch(fd if isinstance(fd, int) else fd.fileno(), events, call)

    def unwatch(self, fd: socket.socket | int) -> None:
        """Watch it no more; no matter whether it was watched."""
        self.loop.unwatch(fd if isinstance(fd, int) else fd.fileno())

    def _lost(self, client: Client, why: str = "") -> None:
        """A client that dlv knows is gone. Where it is the only one, that is the end of the session."""
        if not self.multi:
            self.dlv.leave()
            if client.upstream is not None:
                self._hear_out(client.upstream)
                client.upstream = None
        self._drop(client, why)

    def _hear_out(self, upstream: socket.socket) -> None:
        """Take what dlv still says off it, though nobody wants to hear it: it does not listen before it has said it."""

        def heard(_mask: int) -> None:
            try:
                more = bool(upstream.recv(CHUNK))
            except BlockingIOError:
                return
            except OSError:
                more = False
            if not more:
                self.unwatch(upstream)
                upstream.close()

        self.watch(upstream, READ, heard)

    def _drop(self, client: Client, why: str) -> None:
        if why:
            sys.stderr.write(f"safedlv: {client.name} {why}; its connection was closed\n")
        self.clients.discard(client)
        self.attended = self.attended and (client.upstream is None or any(c.upstream for c in self.clients))
        if client is self.driver:
            self.driver = None
        for sock in (client.sock, client.upstream):
            if sock is not None:
                self.unwatch(sock)
                sock.close()

    def _drain(self) -> None:
        """Give clients a moment to take what dlv said before it ended."""
        deadline = time.monotonic() + DRAIN_WITHIN
        for client in list(self.clients):
            if client.upstream is not None:
                self._drain_one(client, deadline)
            self._drop(client, "")

    @staticmethod
    def _drain_one(client: Client, deadline: float) -> None:
        inward = client.directions[1]
        client.sock.setblocking(True)
        try:
            while not (inward.ended and not inward.buffer):
                client.sock.settimeout(max(0.001, deadline - time.monotonic()))
                inward.move()
        except OSError:
            return

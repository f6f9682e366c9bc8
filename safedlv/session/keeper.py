"""The keeper: a small process that ends a session properly, also when safedlv cannot do it any more.

It holds one end of a socket pair, the lifeline, on which it is told dlv's PID and given a copy of each connection to
dlv, and it sees to it that dlv has a guard (guard.py), and another one when that is killed. When the lifeline ends
(safedlv wants to leave, or was killed), it

1. waits until dlv has finished attaching: a signal would kill it before that, with breakpoints of its own in place;
2. makes the target stand still (:class:`Bystander`), because plain dlv, when it is to detach in the middle of a
   command, halts and detaches in one go, and often leaves its SIGTRAP queued: the target dies of it;
3. tells dlv to detach, on a connection that it has: it clears its breakpoints, detaches and ends
   (service/rpccommon/server.go). Where that takes too long (a breakpoint that is hit all the time), it kills dlv, and
   the guard brings the target home; without a guard it waits longer, and sends SIGTERM where it has no connection;
4. removes the container that dlv ran in, where it did, and the session's directory.

Since it holds the connections too, dlv does not notice that safedlv was killed until all this is done.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time

from safedlv.linux.descriptors import keep_open
from safedlv.linux.tracing import SIGCONT
from safedlv.session.bystander import GIVES_UP_AFTER, Bystander, ended, traces
from safedlv.session.guard import LOOKED, OFF, Guarding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READY_WITHIN = 300.0  # seconds for dlv to read the debug information of a very large program
POLITE_FOR = 1.0  # seconds for a guarded dlv to have the target at rest, before it is killed
DETACHES_WITHIN = 4.0  # seconds for a guarded dlv to do so then; it waits, where the target was not at rest after all
LEAVE_WITHIN = 20.0  # seconds for dlv to halt the target, clear breakpoints and detach
GET_VERSION = b'{"method":"RPCServer.GetVersion","params":[{}],"id":0}\n'
DLV, CONNECTION, CONTAINER, MADE, SOCKET = b"d", b"c", b"k", b"m", b"s"
"""What is said on the lifeline: dlv's PID; the first byte of a connection, with a copy of the connection; the name of
the container that dlv will run in and, after a space, the path of its engine's socket, or nothing: there will be none
after all; that the engine has made it; the path of a unix socket that safedlv is about to make for its clients."""
TARGET, UNGUARDED, INTERRUPT = b"t", b"u", b"i"
"""And: the target's PID, and after a space 1 when it was stopped by job control before, else 0; the same of one that is
not to be guarded; that the target is to be ended, as dlv ends one that it is attached to: with SIGINT. The first two
are answered (guard.py: LOOKED): before dlv may touch the target, the keeper has to have looked at it."""
ENGINE_WITHIN = 30.0  # seconds for the engine to do one thing
INSIDE = "session"
"""The directory in the session's that a container is given."""
NOT_FOUND = 404


def start(
    directory: str, *, socket_path: str = "", dap: bool = False, guarded: bool = True
) -> tuple[int, socket.socket]:
    """Fork the keeper of ``directory``; returns (its PID, our end of its lifeline).

    The target it is told by TARGET. ``dap``: the dlv will be a ``dlv dap``.
    It keeps no other descriptor of ours, so that whoever waits for the end of one is not kept waiting.
    ``socket_path``: a unix socket that safedlv listens on and would leave behind when it is killed.
    ``guarded``: dlv gets a guard (session/guard.py), which says what it does on our end of the lifeline.
    """
    left_behind = (socket_path, os.stat(socket_path).st_ino) if socket_path else None

    def keep(keeper_end: socket.socket) -> None:
        guarding = Guarding(keeper_end.fileno()) if guarded else None
        Keeper(directory, 0, dap=dap, guard=guarding).keep(keeper_end)
        if left_behind is not None:
            _remove_socket(*left_behind)

    return apart(keep)


def apart(keep: Callable[[socket.socket], None]) -> tuple[int, socket.socket]:
    """Fork a process in a session of its own that runs ``keep`` with its end of a lifeline, and nothing else of ours;
    returns (its PID, our end of the lifeline).
    """
    keeper_end, lifeline = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        keeper_end.close()
        return pid, lifeline
    try:
        os.setsid()
        lifeline.close()
        keep_open(0, 1, 2, keeper_end.fileno())
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        keep(keeper_end)
    finally:
        os._exit(0)
    raise AssertionError  # never reached


class Keeper:
    """What the keeper knows of its session."""

    def __init__(self, directory: str, target: int, *, dap: bool = False, guard: Guarding | None = None) -> None:
        self.directory = directory
        self.safedlv = os.getppid()
        self.target = target
        self.guard = guard
        self.target_pidfd = -1
        """Held where something will be left to do with the target when dlv has ended."""
        self.last_signal = 0
        self.dap = dap
        self.dlv = 0
        self.pidfd = -1
        self.container: tuple[str, str] | None = None
        """Its name, and its engine's socket."""
        self.made = False
        self.socket_path = b""
        self.connections: list[tuple[socket.socket, bytes]] = []

    def keep(self, lifeline: socket.socket) -> None:
        """Listen until the lifeline ends, then end the session."""
        while True:
            if self.guard is not None:
                self.guard.keep_up(lifeline, self.dlv, self.pidfd)
            try:
                data, fds, _, _ = socket.recv_fds(lifeline, 512, 1)
            except ConnectionResetError:  # it ended with a word of the guard's in it that nobody has read
                break
            if not data:
                break
            if data.startswith(DLV):
                self.dlv = int(data[1:])
                with contextlib.suppress(ProcessLookupError):
                    self.pidfd = os.pidfd_open(self.dlv)
            elif data.startswith(CONTAINER):
                name, _, engine = os.fsdecode(data[1:]).partition(" ")
                self.container = (name, engine) if name else None
            elif data.startswith(MADE):
                self.made = True
            elif data.startswith(SOCKET):
                self.socket_path = data[1:]
            elif data.startswith((TARGET, UNGUARDED)):
                self._heard_of_target(data[1:], guarded=data.startswith(TARGET))
                with contextlib.suppress(BrokenPipeError):
                    lifeline.send(LOOKED)
                    if self.guard is None or self.guard.target is None:
                        lifeline.send(OFF)
            elif data == INTERRUPT:
                self.last_signal = signal.SIGINT
            elif fds:
                self.connections.append((socket.socket(fileno=fds[0]), data[1:]))
        self.end()

    def _heard_of_target(self, words: bytes, *, guarded: bool) -> None:
        self.target, stopped = (int(word) for word in words.split())
        self.last_signal = signal.SIGSTOP if stopped else 0
        with contextlib.suppress(OSError):
            self.target_pidfd = os.pidfd_open(self.target)
        if self.guard is not None:
            self.guard.look_at(self.target if guarded else 0)
            self.guard.begin(self.dlv, self.pidfd)

    def end(self) -> None:
        """End the session: dlv, its container, its directory."""
        if self.container is not None and self.pidfd == -1:
            self._forestall(*self.container)
        if self.pidfd != -1:
            self._end_dlv()
        if self.guard is not None and self.pidfd != -1 and ended(self.pidfd, LEAVE_WITHIN):
            self.guard.wait()
        if self.target_pidfd != -1 and self.last_signal:
            with contextlib.suppress(OSError):  # it has ended, or is not ours to signal
                signal.pidfd_send_signal(self.target_pidfd, self.last_signal)
        if self.container is not None:
            self._remove_container(*self.container)
        _remove(self.directory)
        if self.socket_path:
            _remove_dead_socket(self.socket_path)

    def _forestall(self, container: str, engine: str) -> None:
        """Remove a container before it runs, or find the dlv in it: safedlv was killed before it could tell.

        What safedlv asked of the engine last may still be under way, so there may be no container yet.
        """
        from safedlv.runtimes.engine import EngineError, inspect_container, remove_container

        deadline = time.monotonic() + ENGINE_WITHIN
        while self.pidfd == -1 and self.container is not None and time.monotonic() < deadline:
            try:
                remove_container(engine, container, ENGINE_WITHIN, force=False)
                self._removed(container)
            except EngineError as error:
                if error.status == NOT_FOUND and self.made:
                    self.container = None
            except (OSError, ValueError):
                pass
            with contextlib.suppress(EngineError, OSError, ValueError, LookupError, TypeError):
                self.dlv = int(inspect_container(engine, container, ENGINE_WITHIN)["State"]["Pid"])
                self.pidfd = os.pidfd_open(self.dlv)
            time.sleep(0.02)

    def _remove_container(self, container: str, engine: str) -> None:
        from safedlv.runtimes.engine import EngineError, remove_container

        with contextlib.suppress(EngineError, OSError, ValueError):  # it may be gone; `safedlv clean` removes the rest
            remove_container(engine, container, ENGINE_WITHIN)
            self._removed(container)

    def _removed(self, container: str) -> None:
        from safedlv.audit import audit

        self.container = None
        audit("removed", f"container {container}")

    def _end_dlv(self) -> None:
        guarded = self._is_guarded()
        patience = POLITE_FOR if guarded else READY_WITHIN
        own = None if self.dap else self._until_ready(patience)  # `dlv dap` takes requests one by one
        voice, alone = own or self._voice(), own is not None or os.getppid() != self.safedlv
        bystander = Bystander(self.dlv, self.pidfd, self.target, voice, alone=alone)
        at_rest = bystander.stand_still(POLITE_FOR if guarded else GIVES_UP_AFTER)
        if guarded and at_rest and bystander.tell("detach") and bystander.ends(DETACHES_WITHIN):
            return
        if self._is_guarded():  # asked again: the guard may have been killed meanwhile
            self._signal(signal.SIGKILL)  # the guard brings the target home
            ended(self.pidfd, LEAVE_WITHIN)
        else:
            self._end_unguarded(bystander)

    def _is_guarded(self) -> bool:
        return self.guard is not None and self.guard.watches(self.dlv, self.pidfd)

    def _end_unguarded(self, bystander: Bystander) -> None:
        # A request cannot come too early; a signal can, while dlv has finished attaching and not yet asked for it.
        if bystander.tell("detach") and bystander.ends(LEAVE_WITHIN):
            return
        self._until_idle()
        for sign, patience in ((signal.SIGTERM, LEAVE_WITHIN), (signal.SIGTERM, LEAVE_WITHIN), (signal.SIGKILL, 5.0)):
            if ended(self.pidfd, 0):
                return
            self._signal(sign)
            if ended(self.pidfd, patience):
                break
        if sign == signal.SIGKILL:  # it may have left the target with a stop
            with contextlib.suppress(OSError):
                os.kill(self.target, SIGCONT)

    def _signal(self, sign: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, sign)
        except ProcessLookupError:
            return
        except PermissionError:  # another user's, in a container: the engine may
            from safedlv.runtimes.engine import EngineError, signal_container

            if self.container is not None:
                with contextlib.suppress(EngineError, OSError, ValueError):
                    signal_container(self.container[1], self.container[0], sign.name, ENGINE_WITHIN)

    def _voice(self) -> tuple[socket.socket, bytes] | None:
        """The connection of dlv's client."""
        return self.connections[-1] if self.connections else None

    def _until_ready(self, within: float) -> tuple[socket.socket, bytes] | None:
        """Wait until dlv answers a request or has taken its only client: both come when it has finished attaching.

        Returns a connection of our own when it is that which dlv answers.
        """
        deadline = time.monotonic() + within
        while time.monotonic() < deadline and not ended(self.pidfd, 0):
            connection = self._connect()
            if connection is not None:
                if self._answered(connection, deadline):
                    return connection, b"{"
                connection.close()
            elif traces(self.dlv, self.target):
                break  # it listens before it attaches, and listens no more: its one client has come
            ended(self.pidfd, 0.01)
        return None

    def _answered(self, connection: socket.socket, deadline: float) -> bool:
        """True when dlv answered; False when it closed the connection, since it has its only client, or ended."""
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        try:
            connection.sendall(GET_VERSION)
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            return bool(connection.recv(65536, socket.MSG_DONTWAIT))
        except OSError:
            return False

    def _until_idle(self) -> None:
        """Wait until no thread of dlv runs: only then is its signal handler surely in place (cmds.go: execute)."""
        quiet = 0
        deadline = time.monotonic() + 1
        while quiet < 3 and time.monotonic() < deadline and not ended(self.pidfd, 0.01):
            quiet = quiet + 1 if _asleep(self.dlv) else 0

    def _connect(self) -> socket.socket | None:
        """A connection to dlv's private address, or None while (or when) it does not listen."""
        for where in ("", INSIDE):
            unix = socket.socket(socket.AF_UNIX)
            try:
                unix.connect(os.path.join(self.directory, where, "dlv"))
            except OSError:
                unix.close()
            else:
                return unix
        for port in listening_ports(self.dlv):
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", port), timeout=5)
        return None


def _remove(directory: str) -> None:
    """Remove a session's directory and what is in it."""
    _empty(os.path.join(directory, INSIDE))
    with contextlib.suppress(OSError):
        os.rmdir(os.path.join(directory, INSIDE))
    _empty(directory)
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def _empty(directory: str) -> None:
    """Remove the files in a directory. A container may have written there: no link in it leads us anywhere."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for name in os.listdir(fd):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)


def _remove_dead_socket(path: bytes) -> None:
    """Remove a socket on which nobody listens any more (unix(7): ECONNREFUSED)."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _remove_socket(path: str, inode: int) -> None:
    """Remove the socket that a killed safedlv left, if it is still that one."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)


def _asleep(pid: int) -> bool:
    try:
        for tid in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{tid}/stat", "rb") as file:
                if file.read().rpartition(b") ")[2][:1] in (b"R", b"D"):
                    return False
    except OSError:
        return True
    return True


def listening_ports(pid: int) -> list[int]:
    """The TCP ports that a process listens on, on 127.0.0.1 (its socket inodes in /proc/net/tcp; proc_net(5))."""
    try:
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        with open("/proc/net/tcp", "rb") as file:
            rows = [row.split() for row in file.read().splitlines()[1:]]
    except OSError:
        return []
    inodes = {link[8:-1].encode() for link in links if link.startswith("socket:[")}
    return [int(row[1].partition(b":")[2], 16) for row in rows if row[3] == b"0A" and row[9] in inodes]

"""The keeper: a small process that ends a session properly when safedlv cannot do it any more.

It holds one end of a pipe, the lifeline. While safedlv lives, nothing is read from it but the PID of dlv. When the
lifeline ends (safedlv asked to leave, or was killed), the keeper waits until dlv has finished attaching, asks it to
leave with SIGTERM (dlv then clears its breakpoints and detaches, service/rpccommon/server.go: Stop), and removes the
session's directory. It never kills a dlv that still loads: its breakpoints would stay in the target's text.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time

from safedlv.linux.tracing import SIGCONT

READY_WITHIN = 300.0  # seconds for dlv to read the debug information of a very large program
LEAVE_WITHIN = 20.0  # seconds for dlv to halt the target, clear breakpoints and detach
GET_VERSION = b'{"method":"RPCServer.GetVersion","params":[{}],"id":0}\n'


def start(directory: str, target: int, close: list[int]) -> tuple[int, int]:
    """Fork the keeper of ``directory``; returns (its PID, the write end of its lifeline).

    ``close``: descriptors that the keeper must not hold, so that whoever waits for their end is not kept waiting.
    """
    read_end, lifeline = os.pipe()
    pid = os.fork()
    if pid:
        os.close(read_end)
        return pid, lifeline
    try:
        os.setsid()
        for fd in (*close, lifeline):
            os.close(fd)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        _keep(read_end, directory, target)
    finally:
        os._exit(0)
    raise AssertionError  # never reached


def _keep(lifeline: int, directory: str, target: int) -> None:
    dlv = 0
    pidfd = -1
    while data := os.read(lifeline, 64):
        dlv = int(data)
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(dlv)
    if pidfd != -1:
        end_quietly(dlv, pidfd, directory, target)
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            os.unlink(os.path.join(directory, name))
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def end_quietly(dlv: int, pidfd: int, directory: str, target: int) -> None:
    """Make ``dlv`` detach and end. Returns when it has ended."""
    _until_ready(dlv, pidfd, directory, target)
    for sign, patience in ((signal.SIGTERM, LEAVE_WITHIN), (signal.SIGTERM, LEAVE_WITHIN), (signal.SIGKILL, 5.0)):
        if _ended(pidfd, 0):
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, sign)
        if _ended(pidfd, patience):
            break
    else:
        return
    if sign == signal.SIGKILL:  # it may have left the target with a stop
        with contextlib.suppress(OSError):
            os.kill(target, SIGCONT)


def _until_ready(dlv: int, pidfd: int, directory: str, target: int) -> None:
    """Wait until dlv answers a request or has taken its only client: before that a signal would kill it mid-attach."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline and not _ended(pidfd, 0):
        connection = _connect(dlv, directory)
        if connection is None:
            if traces(dlv, target):
                break  # it listens before it attaches, and listens no more: its one client has come and gone
            _ended(pidfd, 0.01)
            continue
        with connection:
            if _answered(connection, pidfd, deadline):
                break
    _until_idle(dlv, pidfd)


def _answered(connection: socket.socket, pidfd: int, deadline: float) -> bool:
    """True when dlv answered, or closed the connection because it has its only client: both come after loading."""
    try:
        connection.sendall(GET_VERSION)
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
    except OSError:
        return True


def traces(dlv: int, target: int) -> bool:
    """Whether a thread of process ``dlv`` traces ``target`` (TracerPid names the tracing thread)."""
    tracer = _status(target, b"TracerPid")
    return tracer > 0 and _status(tracer, b"Tgid") == dlv


def _status(pid: int, key: bytes) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(key + b":")), 0)
    except OSError:
        return 0


def _until_idle(dlv: int, pidfd: int) -> None:
    """Wait until no thread of dlv runs: only then is its signal handler surely in place (cmds.go: execute)."""
    quiet = 0
    deadline = time.monotonic() + 1
    while quiet < 3 and time.monotonic() < deadline and not _ended(pidfd, 0.01):
        quiet = quiet + 1 if _asleep(dlv) else 0


def _asleep(pid: int) -> bool:
    try:
        for tid in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{tid}/stat", "rb") as file:
                if file.read().rpartition(b") ")[2][:1] == b"R":
                    return False
    except OSError:
        return True
    return True


def _connect(dlv: int, directory: str) -> socket.socket | None:
    """A connection to dlv's private address, or None while (or when) it does not listen."""
    path = os.path.join(directory, "dlv")
    unix = socket.socket(socket.AF_UNIX)
    try:
        unix.connect(path)
    except OSError:
        unix.close()
    else:
        return unix
    for port in listening_ports(dlv):
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port), timeout=5)
    return None


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


def _ended(pidfd: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))

"""Start a ``dlv dap`` for a session, under a keeper; it dials in to a private socket of ours.

That it dials (``--client-addr``) and does not listen spares us to wait until it does, and to filter what it says of
it: its log goes straight where the user wants it. dlv since 1.24 dials unix sockets; for an older one it is TCP.
"""

from __future__ import annotations

import os
import socket

from safedlv.session import keeper
from safedlv.session.launch import Delve, become_dlv, no_directory, number_of, private_directory
from safedlv.session.listen import same_user

DIALS_UNIX_SINCE = (1, 24)  # cmd/dlv/cmds/commands.go: dapCmd, netDial
OURS = ("listen", "client-addr", "log-dest")
"""Flags that are ours to say, whatever the user said."""


class DapServer(Delve):
    """A ``dlv dap`` of ours, and the socket that it dials."""

    def __init__(self, pid: int, directory: str, door: socket.socket, keeper_pid: int, lifeline: socket.socket) -> None:
        super().__init__(pid, directory, False, -1, keeper_pid, lifeline)
        self.door = door

    def accept(self) -> socket.socket | None:
        """dlv's connection; None when it was somebody else's, who is sent away."""
        connection, _ = self.door.accept()
        if connection.family != socket.AF_UNIX and not same_user(connection):
            connection.close()
            return None
        self.show_keeper(connection, b"C")
        self.door.close()
        return connection

    def close(self) -> None:
        self.door.close()
        super().close()


def start(dlv: str, version: str | None, flags: list[str], log: int, close: list[int], *, quiet: bool) -> DapServer:
    """Start it. ``log``: where its log goes; ``close``: descriptors that it must not hold.

    ``quiet``: it must not write to our stdout, nor read our stdin. Raises SafedlvError.
    """
    directory = private_directory()
    unix = version is not None and number_of(version) >= DIALS_UNIX_SINCE
    keeper_pid, lifeline = keeper.start(directory, dap=True)
    try:
        os.mkdir(directory, 0o700)
        door = _open_door(directory, unix=unix)
    except OSError as error:
        lifeline.close()
        os.waitpid(keeper_pid, 0)
        raise no_directory(directory, error) from error
    address = f"unix:{directory}/client" if unix else f"127.0.0.1:{door.getsockname()[1]}"
    argv = [dlv, "dap", *flags, f"--client-addr={address}", *([f"--log-dest={log}"] if log != 2 else [])]
    child = os.fork()
    if child == 0:
        _become(argv, lifeline, keeper_pid, log, close, quiet=quiet)
    return DapServer(child, directory, door, keeper_pid, lifeline)


def _open_door(directory: str, *, unix: bool) -> socket.socket:
    door = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    door.bind(os.path.join(directory, "client") if unix else ("127.0.0.1", 0))
    door.listen(8)
    door.setblocking(False)
    return door


def _become(
    argv: list[str], lifeline: socket.socket, keeper_pid: int, log: int, close: list[int], *, quiet: bool
) -> None:
    """In the child: become dlv.

    A process group of its own keeps Ctrl-C from it. It stays in our session: what it launches may need the terminal.
    """
    try:
        os.setpgid(0, 0)
        for fd in close:
            os.close(fd)
        if log > 2:
            os.set_inheritable(log, True)
        if quiet:
            os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
            os.dup2(2, 1)
        become_dlv(argv, lifeline, keeper_pid)
    finally:
        os._exit(1)

"""dlv in its place: what it is started with, where it listens, what it says, and how it is reached."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import Final

from attrs import frozen

from safedlv.facts.reading import decimal
from safedlv.linux import confine
from safedlv.linux.tracing import name_tracer
from safedlv.observing.own_root import RUN, enter_own_root
from safedlv.observing.standing import Program, executing
from safedlv.probe.context import Context
from safedlv.probe.runner import shared_pages
from safedlv.session.launch import LISTENING, no_directory, private_directory
from safedlv.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.sibling.toolbox import Toolbox

ANOTHERS_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": os.devnull, "LANG": "C.UTF-8"}
"""What dlv has in another's place. Nothing of ours belongs there; and root would make the home that there is not."""


@frozen(eq=False, repr=False)
class Place(Value):
    """Where dlv stands, and whom it attaches to."""

    dlv: str
    unix: bool
    """It can listen on a unix socket (dlv 1.23)."""
    context: Context | None
    target: int
    """As we see it."""
    stopped: bool
    """The target is stopped by job control."""
    real: bool
    apart: bool = False
    """The context has namespaces of its own: dlv gets a root of its own there, in which nothing is ours."""


class Delve:
    """A dlv that is about to be: the descriptors that it is made with, until ``undo`` runs. Raises SafedlvError."""

    def __init__(self, place: Place, undo: ExitStack) -> None:
        self.place = place
        self.directory = _directory(place)
        """For dlv's socket; whoever removes it is to know of it before :meth:`make_directory`."""
        self.out, self.err = (_file(name, undo) for name in ("out", "err"))
        self.pidfd = os.pidfd_open(place.target)
        undo.callback(os.close, self.pidfd)
        self.file = os.open(place.dlv, os.O_PATH | os.O_CLOEXEC)
        undo.callback(os.close, self.file)
        self.told = shared_pages()
        self.toolbox = _toolbox(place.dlv) if place.apart else None

    def make_directory(self) -> None:
        """Where the one who is dlv may write. Raises SafedlvError."""
        context = self.place.context
        try:
            os.mkdir(self.directory, 0o700)
            if context is not None and self.toolbox is None:
                os.chown(self.directory, context.uid.filesystem, context.gid.filesystem)
        except OSError as error:
            raise no_directory(self.directory, error) from error

    @property
    def keep(self) -> tuple[int, ...]:
        """The descriptors that the child needs."""
        return self.pidfd, self.file

    def inner(self) -> int:
        """The target's PID as dlv names it, once its child stands: 0 where it has none, -1 when it has ended."""
        return int.from_bytes(self.told[:4], "little", signed=True)

    def prepare(self, keeper: int) -> Program:
        """In the child: what becomes dlv, and a /proc of the PID namespace that it is in. Raises OSError."""
        place, context = self.place, self.place.context
        if keeper and (context is None or context.namespace("pid") is None):  # else the number is another's
            name_tracer(keeper)  # its guard may have to trace dlv
        nowhere = os.open(os.devnull, os.O_RDONLY)
        for fd, source in enumerate((nowhere, self.out, self.err)):
            os.dup2(source, fd)
        inner = place.target
        if self.toolbox is not None and context is not None:
            enter_own_root(self.directory, self.toolbox.files, (context.uid.filesystem, context.gid.filesystem))
            inner = _number(self.pidfd)
        self.told[:4] = inner.to_bytes(4, "little", signed=True)
        words = ["attach", str(inner), "--headless", "--api-version=2", f"--listen={self._address()}"]
        if context is None:
            return executing(place.dlv, [place.dlv, *words], dict(os.environ))
        words.append("--only-same-user=false")
        if self.toolbox is not None:
            return executing(self.toolbox.entry[0], [*self.toolbox.entry, *words], ANOTHERS_ENVIRONMENT)
        # By descriptor: its directory need not be one that they may enter.
        return executing(f"/proc/self/fd/{self.file}", [place.dlv, *words], ANOTHERS_ENVIRONMENT)

    def stands_as(self, pid: int) -> None:
        """Its PID is known: where dlv has a root of its own, its socket is found through that. Raises OSError."""
        if self.toolbox is not None:
            os.symlink(f"/proc/{pid}/root{RUN}/dlv", f"{self.directory}/dlv")

    def _address(self) -> str:
        if not self.place.unix:
            return "127.0.0.1:0"
        return f"unix:{self.directory if self.toolbox is None else RUN}/dlv"

    def connect(self) -> socket.socket:
        """A connection to a dlv that takes clients. Raises OSError; ValueError where it has not said where."""
        if self.place.unix:
            where: str | tuple[str, int] = f"{self.directory}/dlv"
            connection = socket.socket(socket.AF_UNIX)
        else:
            lines = (line for line in self.said().splitlines() if line.startswith(LISTENING))
            where = "127.0.0.1", int(next(lines, b"").rpartition(b":")[2])
            connection = _tcp_socket(self.place.context)
        try:
            connection.connect(where)
        except OSError:
            connection.close()
            raise
        return connection

    def said(self) -> bytes:
        """What it has written to stdout so far."""
        return _content(self.out)

    def complained(self) -> bytes:
        """The same of stderr."""
        return _content(self.err)


def _toolbox(dlv: str) -> Toolbox:
    """dlv and the libraries that it links. Raises SafedlvError."""
    from safedlv.sibling.toolbox import toolbox_of  # and with it what speaks to engines

    return toolbox_of(dlv)


def _directory(place: Place) -> str:
    """The name of a private directory, which is not there yet."""
    path = private_directory()
    if place.context is None:
        return path
    # Who stands in another's place need not be able to enter our own directories.
    return os.path.join("/tmp", os.path.basename(path))  # noqa: S108  made 0700


def _file(name: str, undo: ExitStack) -> int:
    """A file in memory for what dlv says, which never fills up as a pipe does."""
    fd = os.memfd_create(name)
    undo.callback(os.close, fd)
    return fd


def _content(fd: int) -> bytes:
    return os.pread(fd, min(os.fstat(fd).st_size, 1 << 20), 0)


def _number(pidfd: int) -> int:
    """The PID of a pidfd in the namespace of /proc: 0 where it has none, -1 when it ended (pidfd_open(2))."""
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
        fields = dict(line.split(b":", 1) for line in file.read().splitlines())
    return -1 if fields[b"Pid"].strip() == b"-1" else decimal(fields[b"Pid"])


def _tcp_socket(context: Context | None) -> socket.socket:
    """A socket in dlv's network namespace: where it was made, not who uses it, decides."""
    link = context.namespace("net") if context else None
    if link is None or link.fd is None:
        return socket.socket()
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        confine.setns(link.fd, "net")
        try:
            return socket.socket()
        finally:
            confine.setns(own, "net")
    finally:
        os.close(own)

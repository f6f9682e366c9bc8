"""dlv in a container of its own beside the target: prepared as a plan, then started, led to us, and removed.

Theory of operation: the session's private directory holds one directory that the container is given; dlv makes its
socket there, and writes its log into a FIFO. The keeper is told of the container before it is started, so that
whatever becomes of safedlv, dlv leaves the target in order and the container is removed. What is killed together
with its keeper is found by its label and removed by the next run, or by ``safedlv clean``.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any, Final

from safedlv.audit import audit
from safedlv.command_line import CommandLine
from safedlv.errors import SafedlvError, printable
from safedlv.facts.credentials import parse_id_map
from safedlv.facts.process import read_process
from safedlv.facts.procfs import ProcDir
from safedlv.model import Ids
from safedlv.probe import runner
from safedlv.runtimes.docker import Engine, inspect
from safedlv.runtimes.engine import EngineError, unix_socket
from safedlv.session import keeper
from safedlv.session.bystander import ended
from safedlv.session.launch import Delve, arguments, private_directory
from safedlv.session.listen import Listener
from safedlv.sibling.plan import SESSION, Sidecar
from safedlv.sibling.privilege import Privilege, foretold, inner, tried
from safedlv.sibling.toolbox import Toolbox, ensure, toolbox_of
from safedlv.target import Found

INSIDE: Final = "session"
"""The directory in the session's that the container is given."""
LOG: Final = "log"
BASE_MEMORY: Final = 256 << 20
BYTES_PER_BYTE: Final = 12
"""Memory that dlv may take for each byte of the program: it took 10 for a small one, 6 for a large one."""


class Prepared:
    """A sidecar that can be described, and started."""

    def __init__(self, engine: Engine, toolbox: Toolbox, plan: Sidecar, verified: bool) -> None:
        self.engine, self.toolbox, self.plan, self.verified = engine, toolbox, plan, verified

    def describe(self) -> tuple[str, ...]:
        """What it will do, and how it is known to be enough."""
        tried_it = "the probe passes from there" if self.verified else "not tried: that takes root"
        return (self.toolbox.describe(), *self.plan.describe(), f"privilege: the least that is needed ({tried_it})")


def prepare(found: Found, dlv: str, line: CommandLine) -> Prepared:
    """Work out a sidecar for a target in a container; changes nothing. Raises SafedlvError with why it cannot be."""
    container = found.container
    if container is None:
        raise SafedlvError("a sidecar stands beside a container", "name the target as docker:NAME")
    if unix_socket() is None:
        raise SafedlvError(
            "the Docker Engine is reached over a network: a sidecar's socket would lie on its machine",
            "run safedlv there",
        )
    document = inspect(container)
    if document["State"].get("Paused"):
        raise SafedlvError(f"container {printable(container)} is paused", f"docker unpause {printable(container)}")
    first = int(document["State"]["Pid"])
    directory = private_directory()
    toolbox = toolbox_of(dlv)
    user = _user_inside(found.pid, first)
    timeout = line.number("probe-timeout", runner.STOP_WITHIN)
    privilege = _privilege(found, first, user, timeout)
    pid = _pid_inside(found)
    command = _command(toolbox, line, pid)
    plan = Sidecar(
        target=document["Id"],
        inner_pid=pid,
        image=toolbox.tag,
        command=command,
        user=privilege.user,
        capabilities=privilege.capabilities,
        directory=os.path.join(directory, INSIDE),
        memory=_memory(found),
        apparmor=document.get("AppArmorProfile") or None,
        user_namespace=(document.get("HostConfig") or {}).get("UsernsMode") or "",
        owner=f"{os.getpid()}",
    )
    return Prepared(Engine(), toolbox, plan, privilege.verified)


def start(prepared: Prepared, found: Found, listener: Listener | None) -> Delve:
    """Make the image if need be, and the container; start it. Raises SafedlvError, with nothing left behind."""
    engine, plan = prepared.engine, prepared.plan
    directory = os.path.dirname(plan.directory)
    close = [found.procdir] if listener is None else [found.procdir, listener.sock.fileno()]
    path = listener.unix_path if listener is not None and listener.unix_path.startswith("/") else ""
    keeper_pid, lifeline = keeper.start(directory, found.pid, close=close, socket_path=path)
    try:
        log = _make_directory(plan)
        if ensure(engine, prepared.toolbox):
            audit("created", f"image {plan.image}")
        container = engine.ask("make the sidecar", lambda: engine.api.create_container_from_config(plan.config()))["Id"]
        lifeline.send(keeper.CONTAINER + f"{container} {unix_socket()}".encode())
        audit("created", f"container {container[:12]} beside {plan.target[:12]}")
        engine.ask("start the sidecar", lambda: engine.api.start(container))
        pid = int(engine.ask("look at it", lambda: engine.api.inspect_container(container))["State"]["Pid"])
        if not pid:
            raise SafedlvError(f"the sidecar ended at once: {_last_words(engine, container)}")
        lifeline.send(keeper.DLV + b"%d" % pid)
        return SidecarDelve(engine, container, pid, directory, log, keeper_pid, lifeline)
    except BaseException as error:
        lifeline.close()
        os.waitpid(keeper_pid, 0)
        if isinstance(error, EngineError):
            raise SafedlvError(str(error), "the container that was begun is removed") from error
        raise


class SidecarDelve(Delve):
    """A dlv that is no child of ours: it ends when its container's first process does."""

    def __init__(
        self,
        engine: Engine,
        container: str,
        pid: int,
        directory: str,
        log: int,
        keeper_pid: int,
        lifeline: socket.socket,
    ) -> None:
        super().__init__(pid, directory, True, log, keeper_pid, lifeline)
        self.engine, self.container = engine, container
        self.address = os.path.join(directory, INSIDE, "dlv")

    def reap(self) -> int:
        """Wait for dlv to end; its exit code, and its last words on stderr when that is not 0."""
        if self.code is None:
            while not ended(self.pidfd, 60.0):
                pass
            self.code = self._exit_code()
        return self.code

    def _exit_code(self) -> int:
        """0 where the container is gone already: the keeper removes it only after an orderly end."""
        try:
            deadline = time.monotonic() + 5
            while True:
                state = self.engine.ask("look at it", lambda: self.engine.api.inspect_container(self.container))[
                    "State"
                ]
                if not state["Running"] or time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            code = int(state["ExitCode"])
            if code and not self.listening:
                os.write(2, f"{_last_words(self.engine, self.container)}\n".encode())
        except EngineError:
            return 0
        return code

    def close(self) -> None:
        super().close()
        audit("removed", f"container {self.container[:12]}")


# ---------------------------------------------------------------- what the plan needs to know


def _privilege(found: Found, first: int, user: tuple[int, int], timeout: float) -> Privilege:
    if os.geteuid() != 0:
        return foretold(read_process(found.pid), user)
    try:
        privilege = tried(found.pid, first, user, timeout)
    except OSError:
        return foretold(read_process(found.pid), user)
    if privilege is None:
        raise SafedlvError(
            "no sidecar could attach: the probe is refused with every privilege that one may have",
            "safedlv doctor names the layer that refuses",
        )
    return privilege


def _user_inside(pid: int, first: int) -> tuple[int, int]:
    """The target's user and group as its container numbers them."""
    status = read_process(pid).status
    if not isinstance(status.uid, Ids) or not isinstance(status.gid, Ids):
        raise SafedlvError(f"the user of process {pid} cannot be read")
    try:
        with ProcDir(first) as procdir:
            uids, gids = (parse_id_map(procdir.read(name)) for name in ("uid_map", "gid_map"))
        return inner(status.uid.real, uids), inner(status.gid.real, gids)
    except (OSError, ValueError) as error:
        raise SafedlvError(f"the user of process {pid} has no number in its container") from error


def _pid_inside(found: Found) -> int:
    inside = read_process(found.pid).status.ns_pid
    if not isinstance(inside, tuple):
        raise SafedlvError(f"the PID of process {found.pid} in its container cannot be read")
    return inside[-1]


def _command(toolbox: Toolbox, line: CommandLine, pid: int) -> tuple[str, ...]:
    words = arguments("dlv", line, pid, f"unix:{SESSION}/dlv", -1, terminal=not line.on("headless"))
    words = [f"--log-dest={SESSION}/{LOG}" if word.startswith("--log-dest=") else word for word in words]
    return (*toolbox.entry, *words[1:])


def _memory(found: Found) -> int:
    """A limit that dlv will not need, and that the machine can give. Raises SafedlvError when it has too little."""
    size = os.stat("exe", dir_fd=found.procdir).st_size if os.geteuid() == 0 else 0
    wanted = BASE_MEMORY + BYTES_PER_BYTE * size
    with open("/proc/meminfo", "rb") as file:
        fields = dict(text.split(b":", 1) for text in file.read().splitlines())
    available = int(fields[b"MemAvailable"].split()[0]) << 10
    if available < BASE_MEMORY:
        raise SafedlvError(f"dlv would not fit: {available >> 20} MiB of memory are left on this machine")
    return min(wanted, available)


def _make_directory(plan: Sidecar) -> int:
    """The session's directory and the one in it for the container; returns dlv's log, open."""
    try:
        os.mkdir(os.path.dirname(plan.directory), 0o700)
        os.mkdir(plan.directory)
        os.chmod(plan.directory, 0o777)  # noqa: S103  the directory around it lets nobody in but us
        fifo = os.path.join(plan.directory, LOG)
        os.mkfifo(fifo)
        os.chmod(fifo, 0o666)  # noqa: S103  as above
        os.symlink(f"/proc/{plan.inner_pid}/root", os.path.join(plan.directory, "root"))
        return os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # with a writer of our own it has no end
    except OSError as error:
        raise SafedlvError(
            f"cannot make the session's directory {os.path.dirname(plan.directory)}: {error.strerror}",
            "set TMPDIR to a directory that you may write to",
        ) from error


def _last_words(engine: Engine, container: str) -> str:
    said: Any = engine.ask("tell what it said", lambda: engine.api.logs(container, tail=5))
    return printable(said.decode("utf-8", "backslashreplace").strip(), 2000) or "it said nothing"

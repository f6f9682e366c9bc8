"""The processes that stand between a caller and its workload, each forked from the one before:

    caller -> supervisor -> entry -> (init ->) workload

*supervisor*: stays outside in a session of its own; makes the cgroups, writes the id maps, waits until the caller says
so or dies (its pidfd becomes readable), then kills what is left and removes the cgroups. It is a subreaper, so nothing
below it can slip away. *entry*: joins the cgroup, makes or joins the namespaces; without a new PID namespace it is the
sandbox's init as well. *init*: PID 1 of the namespace: reaps, and reports how the workload ended. Entry, init and
workload ask for SIGKILL when their parent dies, so a killed supervisor ends them too (a cgroup then stays).

Contract: :func:`supervise` is called in a child that was just forked from a single-threaded process, and never returns.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn

from attrs import frozen

from safedlv.linux import confine
from safedlv.linux.steps import Step
from safedlv.runtimes.cgroup_tree import CgroupTree
from safedlv.runtimes.sandbox_spec import (
    IdMap,
    Sandbox,
    entry_steps,
    init_steps,
    join_steps,
    workload_steps,
)

CLEAN_UP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.002
_FAILED: Final = 125
"""Exit status of a child that could not do its part; the reason went over its channel."""

Workload = Sequence[str] | Callable[[], bytes | None]


@frozen
class Channels:
    """The child's ends: sockets keep message boundaries (SOCK_SEQPACKET), pipes carry bytes."""

    report: socket.socket
    """``init``, ``workload`` (the receiver learns the PIDs from the credentials) or an error; EOF is execve."""
    control: socket.socket
    """The caller says when to end, the supervisor answers with what it could not remove."""
    status: int
    """The workload's exit code, or minus its signal, in decimal digits."""
    result: int
    """From a callable: ``R`` and its bytes, or ``E`` and a traceback."""
    caller: int
    """A pidfd of the caller."""


@frozen
class Launch:
    """All that the children need, made by the caller before the first fork."""

    spec: Sandbox
    workload: Workload
    channels: Channels
    caller_fds: tuple[int, ...]
    """What the caller had open: for the workload only, so that no helper keeps a pipe of the caller's alive."""
    tree: CgroupTree | None = None
    owns_tree: bool = True
    join: dict[str, int] | None = None
    """Descriptors of the namespaces to join (for a second workload); None: make new ones."""
    stdout: int | None = None
    stderr: int | None = None


class _Child:
    """A forked child never returns into its parent's code: whatever leaves the block is told, then the process ends."""

    def __init__(self, tell: Callable[[bytes], object]) -> None:
        self.tell = tell

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if error is not None:
                self.tell(failure(error))
        finally:
            os._exit(0 if error is None else _FAILED)


def failure(error: BaseException) -> bytes:
    """The message that carries an error to the caller: ``error``, errno (0: none), text."""
    if isinstance(error, OSError) and error.errno:
        return f"error\n{error.errno}\n{error.strerror or error}".encode(errors="replace")
    return f"error\n0\n{''.join(traceback.format_exception(error))}".encode(errors="replace")


def close_all(fds: Iterable[int]) -> None:
    """Close each; one that is closed already is no error."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _die_with(parent: int) -> None:
    """SIGKILL when the parent ends; when it ended before the request (its pidfd is readable), end here."""
    confine.set_pdeathsig(signal.SIGKILL)
    if _wait_for([parent], timeout=0):
        os._exit(_FAILED)


def _wait_for(fds: Iterable[int], timeout: float | None = None) -> set[int]:
    """The descriptors that are readable or at their end, after at most ``timeout`` seconds (None: no limit)."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return {fd for fd, _ in poller.poll(None if timeout is None else timeout * 1000)}


# ---------------------------------------------------------------- supervisor


def supervise(launch: Launch) -> NoReturn:
    """Be the supervisor of one workload until the caller says so or dies."""
    channels = launch.channels
    with _Child(channels.report.send) as child:
        os.setsid()
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)  # it has to outlive the caller to clean up after it
        confine.set_child_subreaper(True)
        try:
            if launch.tree and launch.owns_tree:
                launch.tree.create()
            _start_entry(launch)
        except OSError as error:
            with contextlib.suppress(OSError):  # the caller may be dead by now; what was made must still go
                channels.report.send(failure(error))
        _drop_channels(launch)
        close_all([channels.status, *(launch.join or {}).values()])
        child.tell = channels.control.send
        if channels.control.fileno() in _wait_for([channels.control.fileno(), channels.caller]):
            channels.control.recv(16)  # a message left unread would reset the connection at our end
        _clean_up(launch.tree if launch.owns_tree else None)
    raise AssertionError("a child ends with its block")


def _start_entry(launch: Launch) -> None:
    """Fork the entry, and write the id maps of its user namespace when it asks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    own_pidfd = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid == 0:
        with _Child(launch.channels.report.send):
            close_all([ours.detach(), launch.channels.control.detach(), launch.channels.caller])
            _entry(launch, theirs, own_pidfd)
    close_all([theirs.detach(), own_pidfd])
    with ours:
        # The caller may give up meanwhile: an entry that joins a frozen cgroup stands still.
        ready = _wait_for([ours.fileno(), launch.channels.control.fileno(), launch.channels.caller])
        # No message but EOF: there is no user namespace to make, or the entry failed before.
        if ours.fileno() in ready and ours.recv(1):
            _write_id_maps(pid, launch.spec)
            ours.send(b"m")


def _write_id_maps(pid: int, spec: Sandbox) -> None:
    uid_map, gid_map = spec.id_maps()
    process = Path("/proc", str(pid))
    if os.geteuid() != 0:
        _write(process / "setgroups", "deny")  # an unprivileged gid_map needs it (user_namespaces(7))
    _write(process / "uid_map", _lines(uid_map))
    _write(process / "gid_map", _lines(gid_map))


def _lines(id_map: tuple[IdMap, ...]) -> str:
    return "".join(f"{line.inside} {line.outside} {line.count}\n" for line in id_map)


def _write(path: Path, text: str) -> None:
    try:
        # One write(2) for the whole map: the kernel takes no second one.
        with path.open("wb", buffering=0) as file:
            file.write(text.encode())
    except OSError as error:
        raise OSError(error.errno, f"write {text.strip()!r} to {path}: {error.strerror}") from error


def _clean_up(tree: CgroupTree | None) -> None:
    """Kill every child and every process in the tree, remove the tree. Raises TimeoutError that says what stays."""
    deadline = time.monotonic() + CLEAN_UP_SECONDS
    while True:
        if tree is not None:
            tree.thaw()
            tree.kill()
        alive = _kill_children()
        left = tree is not None and not tree.remove()
        if not alive and not left:
            return
        if time.monotonic() > deadline:
            what = [f"processes {alive}" if alive else "", f"cgroups {tree}" if left else ""]
            text = f"the sandbox could not be removed: {' and '.join(filter(None, what))} stay"
            raise TimeoutError(errno.ETIMEDOUT, text)
        time.sleep(_POLL_SECONDS)


def _kill_children() -> list[int]:
    """Kill and reap; the children that are left. Their orphans become ours (subreaper) and are found the next time."""
    children = _children()
    for pid in children:
        os.kill(pid, signal.SIGKILL)  # not reaped, so the PID is still theirs
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return []
    return children or _children()


def _children() -> list[int]:
    """By /proc/PID/stat: the shorter /proc/PID/task/TID/children needs CONFIG_PROC_CHILDREN."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # The name in parentheses may hold anything; state and parent follow the last ")" (proc_pid_stat(5)).
            if int(stat.rpartition(b")")[2].split()[1]) == os.getpid():
                found.append(int(entry))
    return found


# ---------------------------------------------------------------- entry and init


def _entry(launch: Launch, mapper: socket.socket, supervisor: int) -> None:
    """Enter the context, then be or start the init."""

    def map_ids() -> None:
        mapper.send(b"u")
        if not mapper.recv(1):
            os._exit(_FAILED)  # the supervisor reported why

    _default_signals()
    _die_with(supervisor)
    if launch.join is None:
        _take(entry_steps(launch.spec, map_ids, launch.tree))
    else:
        _take(join_steps(launch.spec, launch.join, launch.tree))
        close_all(launch.join.values())
    mapper.close()
    _die_with(supervisor)  # again: joining a user namespace may have cleared it
    os.close(supervisor)
    if launch.join is None and "pid" in launch.spec.namespaces:
        _start_init(launch)
    else:
        _be_init(launch)


def _start_init(launch: Launch) -> None:
    own_pidfd = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid == 0:
        with _Child(launch.channels.report.send):
            _die_with(own_pidfd)
            os.close(own_pidfd)
            _take(init_steps(launch.spec))
            _be_init(launch)
    _drop_channels(launch)
    os.close(launch.channels.status)
    os.waitpid(pid, 0)


def _be_init(launch: Launch) -> None:
    """Start the workload, then reap until killed; report how the workload ended."""
    confine.set_dumpable(True)  # for whoever joins: /proc/PID/ns is closed to others of this uid otherwise
    confine.set_child_subreaper(True)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    launch.channels.report.send(b"init")
    own_pidfd = os.pidfd_open(os.getpid())
    workload = os.fork()
    if workload == 0:
        os.close(launch.channels.status)
        with _Child(launch.channels.report.send) as child:
            _run_workload(launch, child, own_pidfd)
    _drop_channels(launch)
    while True:
        _reap(workload, launch.channels.status)
        signal.sigwait([signal.SIGCHLD])


def _reap(workload: int, status_fd: int) -> None:
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid == workload:
                os.write(status_fd, str(os.waitstatus_to_exitcode(status)).encode())
    except ChildProcessError:
        return


def _drop_channels(launch: Launch) -> None:
    """What only the workload needs, and what would keep the caller from seeing EOF."""
    close_all([*launch.caller_fds, launch.channels.result])
    launch.channels.report.close()


def _default_signals() -> None:
    """As for a program that a shell starts: Python ignores SIGPIPE, and its handlers are the caller's business."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)


def _take(steps: Iterable[Step]) -> None:
    for step in steps:
        step.take()


# ---------------------------------------------------------------- workload


def _run_workload(launch: Launch, child: _Child, init: int) -> None:
    report = launch.channels.report
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    report.send(b"workload")
    if report.recv(1) != b"g":  # the caller holds a pidfd of this process now
        return

    def die_with_init() -> None:
        _die_with(init)
        os.close(init)

    for given, standard in ((launch.stdout, 1), (launch.stderr, 2)):
        if given is not None:
            os.dup2(given, standard)
    workload = launch.workload
    _take(workload_steps(launch.spec, die_with_init))
    if not callable(workload):
        Step(f"execve {workload[0]}", lambda: os.execvp(workload[0], list(workload))).take()
        return
    report.close()
    child.tell = lambda message: _write_all(launch.channels.result, b"E" + message)
    _write_all(launch.channels.result, b"R" + (workload() or b""))


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

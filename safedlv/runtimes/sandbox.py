"""A minimal container without an engine: namespaces, a cgroup, capabilities, ids, a seccomp filter and Landlock.

    with start(Sandbox(namespaces={"pid", "mount"}, uid=1000), ["sleep", "60"]) as target:
        refuse = assemble([Refuse("ptrace", arg=(0, 16))], os.uname().machine)
        with target.run(attach, uid=0, seccomp=refuse) as tracer:
            answer = tracer.result(5.0)

Everything that it makes is gone when the ``with`` block ends, and also when the calling process is killed (see
supervisor.py for the processes that see to it). Works as root, and without privilege as far as a user namespace goes
(then without a cgroup). Call it before any thread exists: it forks.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from attrs import evolve

from safedlv.runtimes.cgroup_tree import CgroupTree, plan
from safedlv.runtimes.sandbox_spec import IdMap, Sandbox, capability_sets
from safedlv.runtimes.supervisor import CLEAN_UP_SECONDS, Channels, Launch, Workload, close_all, supervise

__all__ = ["IdMap", "Running", "Sandbox", "WorkloadFailed", "capability_sets", "start"]

START_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.002
_CHUNK: Final = 65536
_FIXED: Final = frozenset({"namespaces", "uid_map", "gid_map", "pids_max", "memory_max"})
"""What belongs to the sandbox as a whole, so a second workload cannot have it otherwise."""


class WorkloadFailed(RuntimeError):  # noqa: N818 - an outcome, not a fault of the caller
    """A callable raised (the text is its traceback), or ended without a result."""


def start(
    spec: Sandbox,
    workload: Workload,
    *,
    stdout: int | None = None,
    stderr: int | None = None,
    timeout: float = START_SECONDS,
) -> Running:
    """Run a program (an argv) or a callable in a new sandbox; returns when it was executed, or the callable runs.

    ``stdout`` and ``stderr`` are descriptors for the workload; ``timeout`` is in seconds. A callable's bytes come back
    by :meth:`Running.result`. Use the answer as a context manager.

    Raises OSError for whatever the kernel refused, naming the step and the call; TimeoutError when the start takes too
    long; ValueError for a spec that cannot be; RuntimeError when the caller has threads.
    """
    tree = plan(spec.pids_max, spec.memory_max) if spec.cgroup else None
    return _launch(spec, workload, timeout, tree=tree, stdout=stdout, stderr=stderr)


class Running:
    """A workload that runs in a sandbox, until it is closed. Make it with :func:`start`."""

    def __init__(self, spec: Sandbox, tree: CgroupTree | None, ends: _Ends) -> None:
        self.spec = spec
        self.tree = tree
        """The cgroup directories, or None."""
        self.pid = 0
        """The workload's PID, as the caller sees it."""
        self.init_pid = 0
        """The PID, as the caller sees it, of the process whose namespaces are the sandbox's and that reaps in it."""
        self._ends = ends
        self._beside: list[Running] = []
        self._returncode: int | None = None
        self._result = b""
        self._closed = False

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    # ------------------------------------------------------------ its end

    def wait(self, timeout: float) -> int:
        """The workload's exit code, or minus its signal, after at most ``timeout`` seconds. Raises TimeoutError.

        A sandbox that was killed as a whole answers -SIGKILL. For a callable with a long result use :meth:`result`:
        it does not end before somebody reads that.
        """
        if self._returncode is None:
            if not _ready([self._ends.status], timeout):
                raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
            # Without digits the reaper was killed, and a workload never outlives its reaper.
            self._returncode = int(os.read(self._ends.status, 16) or -signal.SIGKILL)
        return self._returncode

    def result(self, timeout: float) -> bytes:
        """What the callable returned, after at most ``timeout`` seconds; waits for its end too.

        Raises TimeoutError; WorkloadFailed with its traceback, or with its exit code when it ended without a result.
        """
        deadline = time.monotonic() + timeout
        # The pipe first: a callable whose result does not fit into it does not end before it is read.
        while self._returncode is None:
            if self._ends.result in _ready([self._ends.result, self._ends.status], deadline - time.monotonic()):
                chunk = os.read(self._ends.result, _CHUNK)
                self._result += chunk
                if chunk:
                    continue
            self.wait(deadline - time.monotonic())
        while _ready([self._ends.result], 0) and (chunk := os.read(self._ends.result, _CHUNK)):
            self._result += chunk
        if self._result[:1] == b"R" and self._returncode == 0:
            return self._result[1:]
        text = self._result[1:].decode(errors="replace") if self._result[:1] == b"E" else "it left no result"
        raise WorkloadFailed(f"the callable ended with {self._returncode}: {text}")

    def send_signal(self, number: int) -> None:
        """Send a signal to the workload. Raises ProcessLookupError when it has ended."""
        signal.pidfd_send_signal(self._ends.workload, number)

    def kill(self) -> None:
        """SIGKILL to the workload, thawed so that it can die of it; nothing when it has ended."""
        if self.tree is not None:
            self.tree.thaw()
        try:
            self.send_signal(signal.SIGKILL)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """End everything and wait until it is gone; a second call does nothing.

        Raises OSError that says what could not be removed: TimeoutError also for a second workload on its own whose
        v1 cgroup is frozen (it cannot die before the thaw; closing the first one thaws).
        """
        if self._closed:
            return
        self._closed = True
        with ExitStack() as last:
            last.callback(self._end)
            if self.tree is not None and self._ends.owns_tree and self._beside:
                self.tree.thaw()  # those beside cannot die while the v1 freezer holds them
            for running in self._beside:
                last.callback(running.close)

    def _end(self) -> None:
        with ExitStack() as last:
            last.callback(self._ends.close)
            with suppress(BrokenPipeError):  # the supervisor was killed: its exit status says so below
                self._ends.control.send(b"end")
            # An error or EOF; it has a deadline of its own, this one is for a machine that stands still.
            self._ends.control.settimeout(2 * CLEAN_UP_SECONDS)
            answer = self._ends.control.recv(_CHUNK)
            code = _reap(self._ends.supervisor)
            if answer:
                raise _as_error(answer)
            if code and self.tree is not None and self._ends.owns_tree:
                stay = ", ".join(map(str, self.tree.directories))
                raise ChildProcessError(f"the sandbox's supervisor was killed; these cgroups may stay: {stay}")

    # ------------------------------------------------------------ stopped and frozen

    def stop(self, timeout: float = START_SECONDS) -> None:
        """SIGSTOP, and wait until the state is T. Raises TimeoutError, ProcessLookupError."""
        self.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + timeout
        while self.state() not in ("T", "t"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} is not stopped after {timeout} s")
            time.sleep(_POLL_SECONDS)

    def cont(self) -> None:
        """SIGCONT. Raises ProcessLookupError."""
        self.send_signal(signal.SIGCONT)

    def state(self) -> str:
        """The state letter in /proc/PID/stat (proc_pid_stat(5)). Raises ProcessLookupError when it has ended."""
        try:
            stat = Path("/proc", str(self.pid), "stat").read_bytes()
        except FileNotFoundError as error:
            raise ProcessLookupError(error.errno, f"process {self.pid} has ended") from error
        return stat.rpartition(b")")[2].split()[0].decode()

    def freeze(self, version: str | None = None) -> None:
        """Freeze the cgroup by the ``v2`` or the ``v1`` freezer (None: v2 where it is) and wait until it holds.

        Raises ValueError without a cgroup, OSError (ENOTSUP: no such freezer), TimeoutError.
        """
        self._own_tree().freeze(version)

    def thaw(self) -> None:
        """Thaw every freezer and wait until it holds. Raises ValueError without a cgroup, OSError, TimeoutError."""
        self._own_tree().thaw()

    def _own_tree(self) -> CgroupTree:
        if self.tree is None:
            raise ValueError("the sandbox has no cgroup; ask for it with cgroup=True")
        return self.tree

    # ------------------------------------------------------------ beside it

    def run(
        self,
        workload: Workload,
        *,
        stdout: int | None = None,
        stderr: int | None = None,
        timeout: float = START_SECONDS,
        **changes: Any,
    ) -> Running:
        """Start a second workload in the same namespaces, as ``docker exec`` does; it ends with this one at the latest.

        ``changes`` are fields of :class:`Sandbox` that are to differ from this one's: ids, capabilities, filter,
        Landlock; ``cgroup=False`` stays outside the cgroup (a tracer of a frozen target must). Raises as
        :func:`start` does, and ValueError for a change of what belongs to the sandbox as a whole.
        """
        if _FIXED & changes.keys() or (changes.get("cgroup") and not self.spec.cgroup):
            raise ValueError(f"a second workload cannot change {', '.join(sorted(changes))} of the sandbox")
        if changes.get("cgroup") is False:
            changes = {**changes, "pids_max": None, "memory_max": None}
        spec = evolve(self.spec, **changes)
        tree = self.tree if spec.cgroup else None
        namespaces = _open_namespaces(self.init_pid, self.spec.namespaces)
        try:
            # Only now is it sure that these are the init's: it lives, so its PID was not given to another process.
            if _hung_up(self._ends.status):
                raise ProcessLookupError(errno.ESRCH, "the sandbox has ended")
            running = _launch(spec, workload, timeout, tree=tree, join=namespaces, stdout=stdout, stderr=stderr)
        finally:
            close_all(namespaces.values())
        self._beside = [*(other for other in self._beside if not other._closed), running]
        return running


class _Ends:
    """The caller's ends of the channels of one launch."""

    def __init__(self, control: socket.socket, status: int, result: int, supervisor: int, owns_tree: bool) -> None:
        self.control = control
        self.status = status
        self.result = result
        self.supervisor = supervisor
        self.owns_tree = owns_tree
        self.workload = -1
        """A pidfd."""

    def close(self) -> None:
        self.control.close()
        close_all(fd for fd in (self.status, self.result, self.workload) if fd >= 0)


def _launch(
    spec: Sandbox,
    workload: Workload,
    timeout: float,
    *,
    tree: CgroupTree | None,
    join: dict[str, int] | None = None,
    stdout: int | None,
    stderr: int | None,
) -> Running:
    _check(spec, workload)
    caller_fds = _open_fds()
    report, report_child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control, control_child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    status, status_child = os.pipe()
    result, result_child = os.pipe()
    # Before any message: the kernel adds the sender's PID, translated into this process's PID namespace (unix(7)).
    report.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    caller = os.pidfd_open(os.getpid())
    channels = Channels(report_child, control_child, status_child, result_child, caller)
    launch = Launch(
        spec=spec,
        workload=workload,
        channels=channels,
        caller_fds=caller_fds,
        tree=tree,
        owns_tree=join is None,
        join=join,
        stdout=stdout,
        stderr=stderr,
    )
    supervisor = os.fork()
    if supervisor == 0:
        close_all([report.detach(), control.detach(), status, result])
        supervise(launch)
    close_all([report_child.detach(), control_child.detach(), status_child, result_child, caller])
    running = Running(spec, tree, _Ends(control, status, result, supervisor, join is None))
    with ExitStack() as undo, report:
        undo.callback(running.close)
        _await_start(running, report, time.monotonic() + timeout)
        undo.pop_all()
    return running


def _check(spec: Sandbox, workload: Workload) -> None:
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a sandbox is started by fork, so before the caller has any other thread")
    if isinstance(workload, str) or not workload:
        raise ValueError(f"a workload is a callable or a list of words, not {workload!r}")
    if not spec.dumpable and not callable(workload):
        raise ValueError("execve makes a process dumpable; use a callable, or a program that its user cannot read")


def _open_fds() -> tuple[int, ...]:
    """What the caller has open beyond the standard three; the listing's own descriptor is closed again by then."""
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            os.fstat(fd)
            found.append(fd)
    return tuple(fd for fd in found if fd > 2)


def _reap(pid: int) -> int:
    """The exit code; 0 in a caller that ignores SIGCHLD, whose children leave none."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return 0


def _await_start(running: Running, report: socket.socket, deadline: float) -> None:
    """Read the children's reports until EOF: the workload was executed, runs, or nobody is left."""
    while True:
        if not _ready([report.fileno()], deadline - time.monotonic()):
            raise TimeoutError("the sandbox did not start in time (is its cgroup frozen?)")
        message, ancillary, _, _ = report.recvmsg(_CHUNK, socket.CMSG_SPACE(struct.calcsize("3i")))
        if not message:
            break
        if message == b"init":
            running.init_pid = _sender(ancillary)
        elif message == b"workload":
            running.pid = _sender(ancillary)
            running._ends.workload = os.pidfd_open(running.pid)  # it waits for the answer, so the PID is its own
            report.send(b"g")
        else:
            raise _as_error(message)
    if not running.pid:
        raise ChildProcessError("the sandbox was killed before its workload ran")


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid, _, _ = struct.unpack("3i", data)
            return int(pid)
    raise ChildProcessError("a report came without credentials")


def _as_error(message: bytes) -> Exception:
    """The error that a child sent (supervisor.failure)."""
    _, number, text = message.decode(errors="replace").split("\n", 2)
    return OSError(int(number), text) if int(number) else RuntimeError(text)


def _open_namespaces(pid: int, kinds: frozenset[str]) -> dict[str, int]:
    """Descriptors of a process's namespaces; reading them needs the right to ptrace it for reading (namespaces(7))."""
    opened: dict[str, int] = {}
    try:
        for kind in kinds:
            opened[kind] = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        close_all(opened.values())
        raise
    return opened


def _hung_up(pipe: int) -> bool:
    poller = select.poll()
    poller.register(pipe, 0)  # POLLHUP needs no asking
    return bool(poller.poll(0))


def _ready(fds: list[int], timeout: float) -> list[int]:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return [fd for fd, _ in poller.poll(max(0, timeout) * 1000)]

"""The control group itself: made once, empty, from namespaces and a cgroup; each trial starts two processes in it.

    caller -> supervisor -> entry -> init -> a process that waits     (runtimes/sandbox.py, runtimes/supervisor.py)
                                             the target: takes on its part of a setup, and waits
                                             the debugger: takes on its part, and makes the probe

What may not be made here is left out, and said: an ordinary user makes the namespaces below a user namespace of its
own, and a process that may not even do that has a group without namespaces. When the caller is killed the supervisors
end everything (each process of a trial has its own); the group's cgroup goes with the first of them.
"""

from __future__ import annotations

import errno
import marshal
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from attrs import evolve, frozen

from safedlv.controlled.ingredients import NOBODY, OWN, Setup
from safedlv.controlled.parts import LISTENING, Told, go_sample, held_program, holder, wait_for_ever, waiting_target
from safedlv.facts.procfs import ProcDir
from safedlv.facts.status import read_status
from safedlv.model import Unknown
from safedlv.probe.context import Context, NamespaceLink
from safedlv.probe.elsewhere import probe_from
from safedlv.probe.runner import RawAttempt
from safedlv.runtimes.sandbox import Running, Sandbox, start
from safedlv.values import Value

KINDS: Final = frozenset({"pid", "mnt", "net", "ipc", "uts", "cgroup"})
MANY, MUCH = 4096, 4 << 30
"""Limits of the group's cgroup, processes and bytes, before a trial lowers them."""
PROBE_SECONDS = 10.0
"""Beyond the probe's own patience with a target that does not stop."""


@frozen(eq=False, repr=False)
class Trial(Value):
    """What one probe in the group came to."""

    attempt: RawAttempt
    missing: tuple[str, ...]
    """What of the setup could not be taken on."""


class Cast:
    """The target of one trial, and the namespaces that one of the two has for itself."""

    def __init__(
        self, target: Running, missing: tuple[str, ...], debugger: Context, inner_pid: int | None = None
    ) -> None:
        self.target = target
        self.missing = missing
        self.debugger = debugger
        self.inner_pid = _inner_pid(target) if inner_pid is None else inner_pid
        """The target's PID as the group numbers it."""


class Group:
    """A control group that runs; make it with :func:`control_group`."""

    def __init__(self, box: Running, left_out: tuple[str, ...]) -> None:
        self.box = box
        self.left_out = left_out
        """What of it could not be made, a sentence each."""
        self.uid, self.gid = self.place(os.geteuid()) or 0, self.place(os.getegid()) or 0

    def place(self, number: int) -> int | None:
        """An id of ours as the group numbers it; None: it has none there. An ordinary user's is 0, and the only one."""
        if os.geteuid() == 0:
            return number
        own = (os.geteuid(), os.getegid())
        if "user" in self.box.spec.namespaces:
            return 0 if number in own else None
        return number if number in own else None

    @property
    def limits(self) -> bool:
        """Whether its cgroup can have limits."""
        return self.box.spec.pids_max is not None

    def lift_limits(self) -> None:
        """Take back the limits of one trial."""
        if self.box.tree is not None and self.limits:
            self.box.tree.limit("pids", MANY)
            self.box.tree.limit("memory", MUCH)

    def trial(self, setup: Setup, timeout: float) -> Trial:
        """The probe of a fresh target by a fresh debugger. ``timeout``: seconds for one stop.

        Raises OSError, TimeoutError, WorkloadFailed.
        """
        with ExitStack() as undo:
            cast = self.cast(setup, undo)
            if setup.frozen:
                undo.callback(self.box.thaw)
                self.box.freeze()

            def conduct() -> bytes:
                here = evolve(cast.debugger, source=os.getpid(), groups=tuple(os.getgroups()))
                experiment = probe_from(here, cast.inner_pid, timeout)
                return marshal.dumps((experiment.attempt, experiment.missing))

            running = undo.enter_context(self.box.run(conduct, cgroup=False))
            attempt, said = marshal.loads(running.result(PROBE_SECONDS + 2 * timeout))  # noqa: S302  our own child's
            return Trial(attempt, (*cast.missing, *said))

    def cast(self, setup: Setup, undo: ExitStack, program: int | None = None) -> Cast:
        """Start the target of a setup: a process of ours that waits, or the open ``program`` (a dlv), a Go program.

        ``undo`` ends it. Raises OSError, TimeoutError, WorkloadFailed.
        """
        debugger = evolve(setup.debugger, namespaces=tuple(self._alone(kind, 0, undo) for kind in sorted(setup.apart)))
        target = setup.target
        if setup.below is not None:
            own = setup.debugger.uid.effective
            owner = own if setup.below == OWN else NOBODY if own != NOBODY else 0
            target = evolve(target, namespaces=(self._alone("user", owner, undo),))
        told = Told(undo)
        if program is not None:
            # In a network namespace of its own there is not even 127.0.0.1, and nobody who could connect.
            anywhere = ":0" if "net" in self.box.spec.namespaces else "127.0.0.1:0"
            work = go_sample(target, setup, program, ["dlv", "dap", f"--listen={anywhere}"], told)
            running = undo.enter_context(self.box.run(work))
            told.answer(running, until=LISTENING)
            return Cast(running, (), debugger)
        running = undo.enter_context(self.box.run(waiting_target(target, setup, told)))
        return Cast(running, marshal.loads(told.answer(running)), debugger)  # noqa: S302  our own child's

    def held(self, setup: Setup, undo: ExitStack, program: int) -> Cast:
        """A target that has executed somebody's open ``program`` and not begun to run it. Raises as :meth:`cast`."""
        told = Told(undo)
        running = undo.enter_context(self.box.run(held_program(setup.target, program, told)))
        return Cast(running, (), setup.debugger, marshal.loads(told.answer(running)))  # noqa: S302  our own child's

    def _alone(self, kind: str, owner: int, undo: ExitStack) -> NamespaceLink:
        """A new namespace below the group's; a process that waits holds it."""
        told = Told(undo)
        running = undo.enter_context(self.box.run(holder(kind, owner, told), cgroup=False))
        told.answer(running)
        fd = os.open(f"/proc/{running.pid}/ns/{'pid_for_children' if kind == 'pid' else kind}", os.O_RDONLY)
        undo.callback(os.close, fd)
        return NamespaceLink(kind, os.fstat(fd).st_ino, fd)


def _inner_pid(target: Running) -> int:
    with ProcDir(target.pid) as procdir:
        numbers = read_status(procdir).ns_pid
    if isinstance(numbers, Unknown):
        raise OSError(getattr(errno, numbers.errno, errno.EIO), f"{numbers.source} cannot be read")
    return numbers[-1]


# ---------------------------------------------------------------- making it


def grounds(user: int) -> tuple[Sandbox, ...]:
    """What is tried, the fullest first, until one can be made. Pure; ``user``: the effective uid."""
    limits = {"cgroup": True, "pids_max": MANY, "memory_max": MUCH}
    kinds = [KINDS | {"user"}, frozenset[str]()]
    if user == 0:
        kinds.insert(0, KINDS)
    return tuple(Sandbox(namespaces=names, **made) for names in kinds for made in (limits, {"cgroup": True}, {}))


@contextmanager
def control_group() -> Iterator[Group]:
    """The fullest group that can be made here, gone at the end of the block. Raises OSError when none can."""
    refusals: list[tuple[Sandbox, OSError]] = []
    tried = grounds(os.geteuid())
    for spec in tried:
        try:
            box = start(spec, wait_for_ever)
        except OSError as error:
            refusals.append((spec, error))
            continue
        with box:
            yield Group(box, left_out(tried[0], spec, refusals))
        return
    raise refusals[-1][1]


def left_out(wanted: Sandbox, made: Sandbox, refusals: list[tuple[Sandbox, OSError]]) -> tuple[str, ...]:
    """What the group lacks, each with the last refusal of one that would have had it. Pure."""
    lacks: tuple[tuple[str, Callable[[Sandbox], bool]], ...] = (
        ("no namespaces of its own", lambda spec: bool(spec.namespaces)),
        ("no cgroup of its own", lambda spec: spec.cgroup),
        ("no limits in its cgroup", lambda spec: spec.pids_max is not None and made.cgroup),
    )
    sentences = []
    for text, has in lacks:
        if has(wanted) and not has(made):
            # Best the refusal of one that differed in this alone.
            refused = sorted(
                (spec.namespaces == made.namespaces, number) for number, (spec, _) in enumerate(refusals) if has(spec)
            )
            error = refusals[refused[-1][1]][1]
            sentences.append(f"{text}: {error.strerror or error}")
    return tuple(sentences)

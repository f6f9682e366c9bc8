"""What the rows of the diagnosis look at."""

from __future__ import annotations

from attrs import field, frozen

from safedlv.diagnosis.access_rules import Ruling
from safedlv.model import Attempt, Cgroup, Delve, GoBinary, ProcessFacts, Unknown
from safedlv.values import Value


@frozen(eq=False, repr=False)
class Evidence(Value):
    """Everything that the rows look at."""

    pid: int
    facts: ProcessFacts | None
    """None: there is no such process."""
    attempt: Attempt | None
    binary: GoBinary | None
    delve: Delve | None
    delve_supports: bool | Unknown = field(default=Unknown("ENODATA", "the Go version or dlv's range"))
    room: Cgroup | None = None
    """The cgroup that the debugger would run in: the tracer's."""
    self_pid: int = 0
    hidden: bool = False
    """kill(2) knows the process, /proc does not show it."""
    go_children: tuple[tuple[int, str], ...] = ()
    """Go programs below the target: (PID, command line), nearest first."""
    tracer_name: str = ""
    """The command line of the process that TracerPid names."""
    filtered: bool | Unknown = field(default=Unknown("ENODATA", "the tracer's seccomp mode"))
    """Whether the tracer has a seccomp filter (Seccomp in its /proc/PID/status)."""
    nobody: tuple[tuple[str, str], ...] = ()
    """(step, what its call gave on a PID that cannot exist): ESRCH comes from the kernel, all else from a filter.
    Empty where that was not tried."""
    own_child: Attempt | None = None
    """The same probe on a child of the tracer's own, which the access rules allow: what fails there is a filter's."""
    rulings: tuple[Ruling, ...] = ()
    """What the access rules say of tracer and target."""
    only_filters: Attempt | None = None
    """From another's place, here and below: its filters in place, every other layer out of the way."""
    only_labels: tuple[tuple[str, str, Attempt], ...] = ()
    """(security module, label, attempt): that label in place, every other layer out of the way."""
    only_standing: Attempt | None = None
    """Ids, capabilities and user namespace in place, filters and labels out of the way."""
    unrestricted: Attempt | None = None
    """One with so few layers in place that it passed; or, refused, one with none in place."""
    freed_by: str = ""
    """What was changed for ``unrestricted``, in words that begin a line."""
    as_owner: Attempt | None = None
    """From another's place: as the target's own user, with the tracer's capabilities; filters and labels away."""
    rulings_as_owner: tuple[Ruling, ...] = ()
    """What the access rules say of that one."""
    prober_past_landlock: bool = False
    """From another's place: Landlock did not refuse the probe's own process, whatever the tracer is in: one probe
    passed, or that process is in no domain."""
    same_filesystem_ids: bool = True
    """The tracer's filesystem ids, which /proc looks at, are its real ids, which ptrace looks at."""
    stranger: tuple[str | None, str | None] | None = None
    """Opening /proc/PID/mem of a process of the tracer's own that is no descendant of it, before and after that process
    named any tracer with PR_SET_PTRACER: the errno's names, None where it opened. None: not tried."""
    kernel_log: tuple[str, ...] = ()
    """What the kernel logged about the probe's process, where that may be read."""
    outside: bool = False
    """The target has no PID in the tracer's PID namespace."""

    @property
    def attach_reaches_the_kernel(self) -> bool:
        """No filter answers PTRACE_ATTACH: the kernel itself was heard."""
        return ("attach", "ESRCH") in self.nobody or self.filtered is False


def headroom(current: int | Unknown, maximum: int | Unknown | None) -> int | None:
    """What is left of a limit; None where there is no limit, or where it is not known."""
    return maximum - current if isinstance(current, int) and isinstance(maximum, int) else None

"""The frozen values that the rooms hand to each other.

A field that could not be read holds an :class:`Unknown`, never a default: a denial is never built on something
that nobody saw. Field names are the kernel's own where it has one.
"""

from __future__ import annotations

from typing import TypeVar

from attrs import frozen

from safedlv.values import Value

T = TypeVar("T")


@frozen(eq=False, repr=False)
class Unknown(Value):
    """A fact that could not be read: ``errno`` is the errno's name (or a word such as ``MALFORMED``)."""

    errno: str
    source: str

    def __bool__(self) -> bool:
        raise TypeError(f"{self.source} is unknown ({self.errno}); compare it, do not treat it as true or false")


def known(fact: T | Unknown, default: T) -> T:
    """The fact when it is known, else ``default``: only for display and for choices that are safe either way."""
    return default if isinstance(fact, Unknown) else fact


# ---------------------------------------------------------------- what the kernel states about a process


@frozen(eq=False, repr=False)
class Ids(Value):
    """Real, effective, saved and filesystem ids, as in /proc/PID/status (proc_pid_status(5))."""

    real: int
    effective: int
    saved: int
    filesystem: int


@frozen(eq=False, repr=False)
class CapabilitySets(Value):
    """The five capability sets as bit masks, as in /proc/PID/status (capabilities(7))."""

    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int


@frozen(eq=False, repr=False)
class SignalSets(Value):
    """Signal masks as bit masks (bit N-1 is signal N), as in /proc/PID/status."""

    pending_thread: int
    pending_process: int
    blocked: int
    ignored: int
    caught: int


@frozen(eq=False, repr=False)
class Status(Value):
    """What /proc/PID/status and /proc/PID/stat say; every field may be :class:`Unknown` on its own."""

    name: str | Unknown
    state: str | Unknown
    """One letter: R S D T t Z X I P (proc_pid_stat(5))."""
    tgid: int | Unknown
    pid: int | Unknown
    ppid: int | Unknown
    tracer_pid: int | Unknown
    uid: Ids | Unknown
    gid: Ids | Unknown
    groups: tuple[int, ...] | Unknown
    ns_pid: tuple[int, ...] | Unknown
    """The process's id in each PID namespace from the reader's down to its own."""
    threads: int | Unknown
    capabilities: CapabilitySets | Unknown
    no_new_privs: bool | Unknown
    seccomp: int | Unknown
    """0 none, 1 strict, 2 filter."""
    seccomp_filters: int | Unknown
    signals: SignalSets | Unknown
    start_time: int | Unknown
    """Clock ticks after boot: with the PID, the identity of a process."""
    kernel_thread: bool | Unknown


@frozen(eq=False, repr=False)
class Namespace(Value):
    """One namespace link of a process, compared with the reader's own by inode (namespaces(7))."""

    kind: str
    inode: int | Unknown
    same: bool | Unknown


@frozen(eq=False, repr=False)
class SecurityModules(Value):
    """Loaded security modules and the label a process has under each (/proc/PID/attr, /sys/kernel/security)."""

    loaded: tuple[str, ...] | Unknown
    apparmor: str | Unknown | None
    """The label, for example ``docker-default (enforce)``; None when the module is not loaded."""
    selinux: str | Unknown | None
    smack: str | Unknown | None
    yama_scope: int | Unknown | None
    """kernel.yama.ptrace_scope; None when Yama is not in this kernel."""
    landlock_abi: int | Unknown | None
    """The Landlock ABI version; None when the kernel has none or it is off."""
    landlock_free_layers: int | Unknown | None
    """How many more Landlock layers the reader itself could take (of 16); None without Landlock or where not asked."""


@frozen(eq=False, repr=False)
class Cgroup(Value):
    """The cgroup of a process: which hierarchy, frozen or not, and the limits that concern a debugger."""

    version: str | Unknown
    """``v1``, ``v2`` or ``hybrid`` (cgroups(7))."""
    path: str | Unknown
    """The path in the v2 hierarchy, else in v1's pids, memory or freezer hierarchy, as the reader sees it."""
    frozen: bool | Unknown
    frozen_by: str | None
    """The cgroup that is frozen: the process's own or an ancestor."""
    pids_current: int | Unknown
    pids_max: int | Unknown | None
    """None: no limit."""
    memory_current: int | Unknown
    """Bytes, without page cache that is given back when there is need."""
    memory_max: int | Unknown | None
    """Bytes; None: no limit."""
    throttled_periods: int | Unknown
    """nr_throttled of cpu.stat: how many periods the cgroup was throttled in."""


@frozen(eq=False, repr=False)
class GoBinary(Value):
    """The executable of a process, read through /proc/PID/exe."""

    path: str | Unknown
    """The link's text (without the kernel's " (deleted)" mark), in the target's own mount namespace."""
    is_go: bool | Unknown
    go_version: str | Unknown | None
    """For example ``go1.26.8``; None when it is no Go program."""
    main_package: str | Unknown | None
    has_dwarf: bool | Unknown
    optimized: bool | Unknown
    """True: not built with -N -l, so that variables and lines may be missing."""
    cgo: bool | Unknown
    """Dynamically linked (has PT_INTERP)."""
    deleted: bool | Unknown
    replaced: bool | Unknown
    """Another file now stands at ``path`` (seen through the target's root)."""


@frozen(eq=False, repr=False)
class Delve(Value):
    """A dlv on this machine."""

    path: str
    version: str | Unknown
    """For example ``1.27.1``."""
    min_go: str | Unknown
    """The oldest Go that this dlv supports, for example ``1.25``."""
    max_go: str | Unknown


@frozen(eq=False, repr=False)
class ProcessFacts(Value):
    """Everything read about one process at one moment; decisions look at this and at attempts, nothing else."""

    pid: int
    exists: bool
    status: Status
    cmdline: tuple[str, ...] | Unknown
    proc_owner: int | Unknown
    """The uid that owns /proc/PID: root's for a process that is not dumpable and whose uid is not root's."""
    dumpable: bool | Unknown
    namespaces: tuple[Namespace, ...]
    modules: SecurityModules
    cgroup: Cgroup
    vfork_parent: bool | Unknown
    """The process waits in vfork() for its child to exec or exit."""


# ---------------------------------------------------------------- what was tried


@frozen(eq=False, repr=False)
class Step(Value):
    """One call of the probe: ``errno`` is None when it passed, else the errno's name, TIMEOUT or SIGSYS."""

    step: str
    errno: str | None
    us: int
    """Microseconds from the call to its return (for ``attach``: to the stop)."""

    @property
    def ok(self) -> bool:
        return self.errno is None


@frozen(eq=False, repr=False)
class Attempt(Value):
    """One run of the probe against one process."""

    steps: tuple[Step, ...]
    """The three calls: attach, setoptions, cont; shorter where one failed."""
    needs: tuple[Step, ...]
    """What else dlv needs; empty where the three calls did not pass."""
    stopped_us: int
    """How long the target's leader, the thread that the three calls act on, was held: microseconds."""
    threads_stopped_us: int
    """The same for its other threads, which are held one at a time while the rest runs: the sum."""
    left_as_found: bool
    """The target was seen untraced, and stopped or not as before."""
    access: tuple[Step, ...] = ()
    """After one of the three calls was refused: which files of /proc/PID open all the same, and whether kill(2)
    is allowed. Success is certain; a failure can have reasons that ptrace does not ask for (file modes, other ids)."""

    def may(self, *names: str) -> bool:
        """Whether one of these was seen to be allowed after a call was refused."""
        return any(step.ok for step in self.access if step.step in names)

    @property
    def failed(self) -> Step | None:
        """The first of the three calls that did not pass."""
        return next((step for step in self.steps if not step.ok), None)

    @property
    def failed_need(self) -> Step | None:
        """The first other thing that dlv needs and did not get; it can do without process_vm_readv."""
        return next((step for step in self.needs if not step.ok and step.step != "process_vm_readv"), None)

    @property
    def passed(self) -> bool:
        return bool(self.steps) and self.failed is None


# ---------------------------------------------------------------- what it means


@frozen(eq=False, repr=False)
class ListedProcess(Value):
    """One line of the list of Go processes."""

    pid: int
    uid: int | Unknown
    """The real user id."""
    verdict: str
    """``ok``, ``degraded``, ``blocked`` or ``undetermined``."""
    causes: tuple[str, ...]
    """Ids of causes."""
    go_version: str | Unknown
    command: str
    """The command line, its words joined by spaces; the process chose it."""


@frozen(eq=False, repr=False)
class ProcessList(Value):
    """Every Go process that could be seen."""

    processes: tuple[ListedProcess, ...]
    probed: bool
    """False: the verdicts are what the kernel states and its rules say; nothing was tried."""
    unreadable: int
    """Processes whose executable could not be read: Go programs or not."""


@frozen(eq=False, repr=False)
class Target(Value):
    """Whom the user meant: a process that was found, with its identity."""

    pid: int
    start_time: int | Unknown
    runtime: str | None = None
    container: str | None = None
    inner_pid: int | Unknown | None = None


@frozen(eq=False, repr=False)
class Cause(Value):
    """A layer that would still block or spoil the session if every other layer were out of the way (contract)."""

    id: str
    proof: str
    """``experiment``, ``observed`` or ``inferred``."""
    summary: str
    evidence: tuple[str, ...] = ()
    detail: tuple[tuple[str, object], ...] = ()


@frozen(eq=False, repr=False)
class Check(Value):
    """One line of the preflight: ``status`` is pass, fail, warn or skip."""

    id: str
    status: str
    summary: str


@frozen(eq=False, repr=False)
class Tracer(Value):
    """The context that the probe was made from."""

    who: str
    uid: int
    gid: int
    capabilities: int | Unknown
    """The effective set as a bit mask."""


@frozen(eq=False, repr=False)
class Rung(Value):
    """One layer that the kernel asks, in its order."""

    id: str
    mark: str
    """``passed``, ``refused``, ``refuses too``, ``not reached`` or ``unknown``."""
    why: str


@frozen(eq=False, repr=False)
class Fix(Value):
    """The smallest set of changes with which the probe passes."""

    changes: tuple[str, ...]
    """In words."""
    ids: tuple[str, ...]
    """``user``, ``root``, ``seccomp``, ``cap:NAME``, ...: the names in diagnosis/remedies.py."""
    risk: str
    """``low``, ``medium`` or ``high``: the highest of the changes'."""
    verified: bool
    """The probe was run with just these changes, and passed; False: they follow from the causes."""
    risk_why: str = ""
    not_needed: tuple[str, ...] = ()
    """What is often advised and does not have to be changed."""
    commands: tuple[tuple[str, str], ...] = ()
    """(runtime, what to type or to write into a file there); the most fitting runtime first."""
    shareable: tuple[tuple[str, str], ...] = ()
    """The commands without the user's own names for container and service."""


NOBODY_MAY = 3
"""kernel.yama.ptrace_scope at which nobody may attach, until the next boot."""
HOW_BUILT = frozenset({"no-debug-info", "optimized"})
"""Causes that make a session poor."""


@frozen(eq=False, repr=False)
class Diagnosis(Value):
    """The outcome of one ``doctor``: what was found, what was tried, and what it means."""

    target: Target | None
    facts: ProcessFacts | None
    binary: GoBinary | None
    delve: Delve | None
    tracer: Tracer
    attempt: Attempt | None
    verdict: str
    """``ok``, ``degraded``, ``blocked`` or ``undetermined``."""
    causes: tuple[Cause, ...]
    checks: tuple[Check, ...]
    fix: Fix | None = None
    missing: tuple[str, ...] = ()
    """What of the tracer's context could not be taken on; a sentence each."""
    held_us: int = 0
    """For how long all attempts of this diagnosis together held the target's threads, in microseconds."""
    ladder: tuple[Rung, ...] = ()
    """The layers in the kernel's order, for an attach that was refused."""

    @property
    def reasons(self) -> tuple[Cause, ...]:
        """The causes of the verdict: how a program was built refuses no attach."""
        blocked = self.verdict == "blocked"
        return tuple(cause for cause in self.causes if not (blocked and cause.id in HOW_BUILT))

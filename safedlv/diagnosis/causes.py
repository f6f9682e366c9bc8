"""From facts and attempts to causes, as a table.

Each row looks at what the kernel states (``observed``), at what was tried besides (``experiment``, see refusals.py),
or at what the access rules say of a refused attach (``inferred``). A cause is listed only when it would still block,
or spoil the session, with every other layer out of the way; a fact that is unknown convicts nobody. What a refusal
means that no row explains is left open: the verdict is then ``blocked`` with no cause, and the checks say what is
known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from safedlv.diagnosis.evidence import Evidence, headroom
from safedlv.diagnosis.refusals import (
    pid_namespace,
    proc_access,
    ptrace_unsupported,
    seccomp,
    security_module,
    signal_access,
    traced_from_outside,
    what_the_rules_say,
)
from safedlv.errors import printable
from safedlv.model import Attempt, Cause, Status, Unknown

DLV_THREADS = 13
"""With room for fewer dlv 1.27 died in its runtime in some of the runs (pthread_create), with this many in none."""
DLV_MEMORY = 80 << 20
"""dlv 1.27 on a server of 9 MB with debug information: killed at 80 MiB, alive at 100."""

Row = Callable[[Evidence], Cause | None]


def causes(evidence: Evidence) -> tuple[Cause, ...]:
    """Every cause that the evidence shows: what refuses an attach first, in the order of the table."""
    if evidence.facts is None or not evidence.facts.exists:
        refusing: tuple[Row, ...] = (no_such_process, hidepid)
        degrading: tuple[Row, ...] = ()
    else:
        refusing, degrading = BLOCKING + REFUSALS, DEGRADING
    found = _found(refusing, evidence)
    ruled = what_the_rules_say(evidence, {cause.id for cause in found})
    return (*found, *ruled, *_found(degrading, evidence))


def _found(rows: tuple[Row, ...], evidence: Evidence) -> tuple[Cause, ...]:
    return tuple(cause for row in rows if (cause := row(evidence)))


def verdict(found: Iterable[Cause], attempt: Attempt | None) -> str:
    """``blocked``, ``degraded``, ``ok``, or ``undetermined`` when nothing was tried and nothing found."""
    ids = {cause.id for cause in found}
    if ids & BLOCKED_IDS or (attempt is not None and (attempt.failed or attempt.failed_need)):
        return "blocked"
    if attempt is None or not attempt.passed:
        return "undetermined"
    return "degraded" if ids else "ok"


# ---------------------------------------------------------------- nothing there


def no_such_process(e: Evidence) -> Cause | None:
    """ESRCH from kill(2) and no /proc/PID."""
    if e.hidden:
        return None
    return Cause("no-such-process", "observed", f"there is no process {e.pid}", (f"/proc/{e.pid} does not exist",))


def hidepid(e: Evidence) -> Cause | None:
    """/proc mounted with hidepid: the process answers kill(2) but has no directory (proc(5))."""
    if not e.hidden:
        return None
    seen = f"kill({e.pid}, 0) finds the process, /proc/{e.pid} is not there: /proc is mounted with hidepid"
    return Cause("hidepid", "observed", f"process {e.pid} exists, but /proc hides it from you", (seen,))


# ---------------------------------------------------------------- cannot be traced, or never stops


def zombie(e: Evidence) -> Cause | None:
    """State Z or X: nothing left to trace (ptrace_attach: exit_state)."""
    state = _status(e).state
    if state not in ("Z", "X"):
        return None
    what = f"process {e.pid} has ended and waits for its parent ({_status(e).ppid}) to collect it"
    return Cause("zombie", "observed", what, (f"State: {state} in /proc/{e.pid}/status",))


def kernel_thread(e: Evidence) -> Cause | None:
    """PF_KTHREAD: ptrace_attach refuses it for everybody."""
    if _status(e).kernel_thread is not True:
        return None
    return Cause(
        "kernel-thread", "observed", f"{e.pid} is a thread of the kernel: nobody can trace it", ("PF_KTHREAD is set",)
    )


def self_attach(e: Evidence) -> Cause | None:
    """A thread group cannot trace itself (ptrace_attach: same_thread_group)."""
    if e.pid != e.self_pid:
        return None
    return Cause("self-attach", "observed", f"{e.pid} is safedlv itself", ("the target is the process that asks",))


def already_traced(e: Evidence) -> Cause | None:
    """TracerPid: one tracer at a time."""
    tracer = _status(e).tracer_pid
    if isinstance(tracer, Unknown) or tracer == 0:
        return traced_from_outside(e)
    named = f"{tracer} ({printable(e.tracer_name, 80)})" if e.tracer_name else str(tracer)
    seen = (f"TracerPid: {tracer} in /proc/{e.pid}/status",)
    return Cause(
        "already-traced", "observed", f"process {e.pid} is being traced by {named}", seen, (("tracer_pid", tracer),)
    )


def frozen_cgroup(e: Evidence) -> Cause | None:
    """A frozen cgroup: ATTACH is accepted, the stop never comes."""
    cgroup = e.facts.cgroup if e.facts else None
    if cgroup is None or cgroup.frozen is not True:
        return None
    where = printable(cgroup.frozen_by or "")
    what = f"process {e.pid} is frozen by its cgroup {where}: it cannot stop for a debugger until it is thawed"
    return Cause("frozen", "observed", what, (f"cgroup {where} is frozen",), (("cgroup", where),))


def uninterruptible(e: Evidence) -> Cause | None:
    """A vfork parent, or state D: the stop comes only when the sleep ends. A probe that passed has shown otherwise.

    State D counts only when the stop did not come and no freezer can be the reason (v1's shows state D as well).
    """
    if e.attempt is not None and e.attempt.passed:
        return None
    timed_out = e.attempt is not None and any(s.errno == "TIMEOUT" for s in e.attempt.steps + e.attempt.needs)
    vfork = e.facts is not None and e.facts.vfork_parent is True
    thawed = e.facts is not None and e.facts.cgroup.frozen is False
    asleep = _status(e).state == "D" and thawed and (timed_out or e.attempt is None)
    if not (vfork or asleep):
        return None
    why = "it waits in vfork for its child to exec or exit" if vfork else "it sleeps uninterruptibly (state D)"
    seen = (f"State: {_status(e).state} in /proc/{e.pid}/status",)
    return Cause("uninterruptible", "observed", f"process {e.pid} cannot stop for a debugger now: {why}", seen)


def delve_missing(e: Evidence) -> Cause | None:
    """No dlv to hand off to."""
    if e.delve is not None:
        return None
    return Cause(
        "delve-missing",
        "observed",
        "there is no dlv to hand off to",
        ("neither $SAFEDLV_DLV nor an entry of the PATH leads to one",),
    )


def thread_limit(e: Evidence) -> Cause | None:
    """pids.max: Go's runtime dies when it may not start a thread."""
    left = headroom(e.room.pids_current, e.room.pids_max) if e.room else None
    if left is None or left >= DLV_THREADS:
        return None
    seen = (f"{e.room.pids_current} of {e.room.pids_max} threads are in use there" if e.room else "",)
    return Cause("thread-limit", "observed", f"dlv needs {DLV_THREADS} threads, its cgroup has room for {left}", seen)


def memory_limit(e: Evidence) -> Cause | None:
    """memory.max: the kernel would kill dlv, or the target beside it."""
    left = headroom(e.room.memory_current, e.room.memory_max) if e.room else None
    if left is None or left >= DLV_MEMORY:
        return None
    what = f"dlv needs {DLV_MEMORY >> 20} MiB for a small program, its cgroup has room for {left >> 20} MiB"
    seen = (
        f"{e.room.memory_current} of {e.room.memory_max} bytes are in use there, page cache aside" if e.room else "",
    )
    return Cause("memory-limit", "observed", what, seen)


# ---------------------------------------------------------------- would spoil the session


def wrong_process(e: Evidence) -> Cause | None:
    """A wrapper with a Go program below it."""
    if not e.go_children or (_is_go(e) is True and not _is_go_command(e)):
        return None
    pid, command = e.go_children[0]
    named = f"{pid} ({printable(command, 80)})"
    return Cause(
        "wrong-process",
        "observed",
        f"process {e.pid} is a wrapper; the Go program behind it is {named}",
        tuple(f"Go program below it: {child}" for child, _ in e.go_children[:5]),
        (("go_pid", pid),),
    )


def not_go(e: Evidence) -> Cause | None:
    """No Go build information in the executable."""
    if _is_go(e) is not False or e.go_children:
        return None
    path = _path(e)
    return Cause("not-go", "observed", f"{path} is no Go program", ("its ELF file has no Go build information",))


def no_debug_info(e: Evidence) -> Cause | None:
    """Stripped: no DWARF."""
    if e.binary is None or _is_go(e) is not True or e.binary.has_dwarf is not False or wrong_process(e):
        return None
    what = f"{_path(e)} has no debug information: no source lines, no variables"
    return Cause("no-debug-info", "observed", what, ("no .debug_info section: built with -ldflags=-w or stripped",))


def optimized(e: Evidence) -> Cause | None:
    """Built without -N -l."""
    if e.binary is None or e.binary.optimized is not True or e.binary.has_dwarf is False or wrong_process(e):
        return None
    what = f"{_path(e)} was built with optimisations: variables may be missing, lines may jump"
    return Cause("optimized", "observed", what, ('not built with -gcflags="all=-N -l"',))


def delve_version(e: Evidence) -> Cause | None:
    """This dlv does not support the Go that built the target."""
    if e.delve is None or e.binary is None or e.delve_supports is not False or wrong_process(e):
        return None
    what = (
        f"dlv {_text(e.delve.version)} supports Go {_text(e.delve.min_go)} to {_text(e.delve.max_go)}; "
        f"the target was built with {_text(e.binary.go_version)}"
    )
    return Cause("delve-version", "observed", what, (f"{e.delve.path} says so itself",))


BLOCKING: tuple[Row, ...] = (
    zombie,
    kernel_thread,
    self_attach,
    already_traced,
    frozen_cgroup,
    uninterruptible,
    delve_missing,
    thread_limit,
    memory_limit,
)
REFUSALS: tuple[Row, ...] = (
    pid_namespace,
    ptrace_unsupported,
    seccomp,
    security_module,
    proc_access,
    signal_access,
)
DEGRADING: tuple[Row, ...] = (wrong_process, not_go, no_debug_info, optimized, delve_version)
BLOCKED_IDS = frozenset(
    {
        "no-such-process",
        "hidepid",
        "zombie",
        "kernel-thread",
        "self-attach",
        "already-traced",
        "frozen",
        "uninterruptible",
        "delve-missing",
        "thread-limit",
        "memory-limit",
    }
)


# ---------------------------------------------------------------- small things


def _status(e: Evidence) -> Status:
    assert e.facts is not None  # rows run only on a process that exists
    return e.facts.status


def _is_go(e: Evidence) -> bool | Unknown:
    return e.binary.is_go if e.binary else Unknown("ENODATA", "the executable")


def _is_go_command(e: Evidence) -> bool:
    return e.binary is not None and e.binary.main_package == "cmd/go"


def _path(e: Evidence) -> str:
    return printable(_text(e.binary.path)) if e.binary else "the program"


def _text(fact: object) -> str:
    return f"unknown ({fact.errno})" if isinstance(fact, Unknown) else str(fact)

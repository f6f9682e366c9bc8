"""The preflight as a list of lines: what each layer states, before or beside what was tried. Pure."""

from __future__ import annotations

from collections.abc import Callable

from safedlv.diagnosis.evidence import Evidence, headroom
from safedlv.errors import printable
from safedlv.model import Check, ProcessFacts, Unknown

Row = Callable[[Evidence], Check]
MIB = 1024 * 1024
LITTLE_MEMORY = 128 * MIB
FEW_PIDS = 20


def checks(evidence: Evidence) -> tuple[Check, ...]:
    """One line per layer; facts that could not be read are ``skip`` with the reason, never ``pass``."""
    if evidence.facts is None or not evidence.facts.exists:
        return (delve(evidence),)
    return tuple(row(evidence) for row in ROWS)


def state(e: Evidence) -> Check:
    """The process's state letter (proc_pid_stat(5))."""
    value = _facts(e).status.state
    if isinstance(value, Unknown):
        return _skip("state", value)
    words = {
        "Z": "has ended (zombie)",
        "X": "has ended",
        "D": "sleeps uninterruptibly",
        "T": "is stopped (job control)",
    }
    status = {"Z": "fail", "X": "fail", "D": "warn"}.get(value, "pass")
    return Check("state", status, f"the target {words.get(value, 'runs or sleeps')} (state {value})")


def tracer(e: Evidence) -> Check:
    """TracerPid."""
    value = _facts(e).status.tracer_pid
    if isinstance(value, Unknown):
        return _skip("tracer", value)
    return Check("tracer", "fail" if value else "pass", f"traced by process {value}" if value else "traced by nobody")


def credentials(e: Evidence) -> Check:
    """Real, effective and saved ids of the target; whether they matter depends on the tracer's capabilities."""
    uid, gid = _facts(e).status.uid, _facts(e).status.gid
    if isinstance(uid, Unknown) or isinstance(gid, Unknown):
        return _skip("credentials", uid if isinstance(uid, Unknown) else gid)  # type: ignore[arg-type]
    ids = f"uid {uid.real}/{uid.effective}/{uid.saved}, gid {gid.real}/{gid.effective}/{gid.saved}"
    return Check("credentials", "pass", f"the target runs as {ids} (real/effective/saved)")


def dumpable(e: Evidence) -> Check:
    """Whether the target's memory is dumpable, as far as the owner of /proc/PID tells."""
    value = _facts(e).dumpable
    if isinstance(value, Unknown):
        return _skip("dumpable", value)
    return Check("dumpable", "pass" if value else "warn", "memory is dumpable" if value else "memory is not dumpable")


def namespaces(e: Evidence) -> Check:
    """Which namespaces the target does not share with us."""
    kinds = [n.kind for n in _facts(e).namespaces if n.same is False and n.kind != "pid_for_children"]
    unread = [n for n in _facts(e).namespaces if isinstance(n.same, Unknown)]
    if unread and not kinds:
        return _skip("namespaces", unread[0].same)  # type: ignore[arg-type]
    return Check("namespaces", "pass", f"in other namespaces: {', '.join(kinds)}" if kinds else "in our own namespaces")


def yama(e: Evidence) -> Check:
    """kernel.yama.ptrace_scope."""
    scope = _facts(e).modules.yama_scope
    if isinstance(scope, Unknown):
        return _skip("yama", scope)
    if scope is None:
        return Check("yama", "pass", "this kernel has no Yama")
    return Check("yama", "pass" if scope == 0 else "warn", f"kernel.yama.ptrace_scope is {scope}")


def security_modules(e: Evidence) -> Check:
    """The loaded modules and the target's labels."""
    modules = _facts(e).modules
    if isinstance(modules.loaded, Unknown):
        return _skip("security-modules", modules.loaded)
    labels = (("apparmor", modules.apparmor), ("selinux", modules.selinux), ("smack", modules.smack))
    worn = [f"{name} {printable(label)}" for name, label in labels if isinstance(label, str)]
    loaded = ", ".join(modules.loaded) or "none"
    return Check(
        "security-modules", "pass", f"loaded: {loaded}" + (f"; the target has {'; '.join(worn)}" if worn else "")
    )


def frozen(e: Evidence) -> Check:
    """The freezer of the target's cgroup."""
    value = _facts(e).cgroup.frozen
    if isinstance(value, Unknown):
        return _skip("frozen", value)
    return Check("frozen", "fail" if value else "pass", "its cgroup is frozen" if value else "its cgroup is not frozen")


def limits(e: Evidence) -> Check:
    """Room for the debugger in the cgroup that it would run in, and whether the target gets the CPU that it wants."""
    room, throttled = e.room or _facts(e).cgroup, _facts(e).cgroup.throttled_periods
    notes = []
    pids, memory = headroom(room.pids_current, room.pids_max), headroom(room.memory_current, room.memory_max)
    if pids is not None and pids < FEW_PIDS:
        notes.append(f"only {pids} more threads fit into the debugger's cgroup")
    if memory is not None and memory < LITTLE_MEMORY:
        notes.append(f"only {memory // MIB} MiB of memory are left in the debugger's cgroup")
    if isinstance(throttled, int) and throttled:
        notes.append(f"the target's CPU was throttled in {throttled} periods")
    return Check("limits", "warn" if notes else "pass", "; ".join(notes) or "no limit of its cgroup is near")


def go_binary(e: Evidence) -> Check:
    """The executable."""
    binary = e.binary
    if binary is None or isinstance(binary.is_go, Unknown):
        return _skip("go-binary", binary.is_go if binary else Unknown("ENODATA", "the executable"))  # type: ignore[arg-type]
    if not binary.is_go:
        return Check("go-binary", "warn", "no Go program")
    notes = [f"built with {binary.go_version}"] if isinstance(binary.go_version, str) else []
    notes += ["no debug information"] if binary.has_dwarf is False else []
    notes += ["optimised"] if binary.optimized is True else []
    notes += ["its file was deleted"] if binary.deleted is True else []
    notes += ["another file stands in its place now"] if binary.replaced is True else []
    poor = binary.has_dwarf is False or binary.optimized is True
    return Check("go-binary", "warn" if poor else "pass", "a Go program, " + ", ".join(notes))


def delve(e: Evidence) -> Check:
    """The dlv that would be used."""
    if e.delve is None:
        return Check("delve", "fail", "there is no dlv on the PATH")
    version = e.delve.version if isinstance(e.delve.version, str) else "of unknown version"
    span = f", supports Go {e.delve.min_go} to {e.delve.max_go}" if isinstance(e.delve.max_go, str) else ""
    return Check("delve", "warn" if e.delve_supports is False else "pass", f"dlv {version}{span}")


ROWS: tuple[Row, ...] = (
    state,
    tracer,
    frozen,
    credentials,
    dumpable,
    namespaces,
    yama,
    security_modules,
    limits,
    go_binary,
    delve,
)


def _facts(e: Evidence) -> ProcessFacts:
    assert e.facts is not None  # checks() sees to it
    return e.facts


def _skip(name: str, unknown: Unknown) -> Check:
    return Check(name, "skip", f"not known: {printable(unknown.source)} ({unknown.errno})")

"""``safedlv doctor --all``: every Go process that can be seen, with its verdict.

Without ``--probe`` no process is touched: the verdict is what the kernel states (a tracer, a frozen cgroup) and what
its rules say of our own place and the process. Work is linear in the number of processes: one that is no Go program
costs a directory and a stat(2), each executable is read once however many run it, what holds for the machine is read
once. Not in the list: kernel threads and zombies, which run no program, and safedlv itself.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from attrs import define, field

from safedlv import target
from safedlv.diagnosis.access_rules import DEAD, REFUSES, UNKNOWN, rulings
from safedlv.diagnosis.sides import Side, World
from safedlv.errors import SafedlvError
from safedlv.facts import cgroup, credentials
from safedlv.facts.buildinfo import read_buildinfo
from safedlv.facts.elf import MalformedElf
from safedlv.facts.namespaces import unknown_namespaces
from safedlv.facts.process import list_processes, read_cmdline, read_process
from safedlv.facts.procfs import ProcDir
from safedlv.facts.security_modules import labels_beside
from safedlv.facts.sides import Ancestry, read_side, read_world
from safedlv.facts.status import PF_KTHREAD, StatFields, make_status, read_stat, read_status_fields
from safedlv.model import Cgroup, Diagnosis, ListedProcess, ProcessFacts, ProcessList, SecurityModules, Status, Unknown

UNDETERMINED = 3
COMMAND_LIMIT = 4096  # characters of a command line that go into the list

Probe = Callable[[target.Found], Diagnosis]
"""Probes one process and says what came out."""
GoVersion = str | Unknown | None
"""Of an executable: None when it is no Go program."""
_NOT_READ = Unknown("ENODATA", "not read for a list")


def survey(probe: Probe | None, *, as_json: bool) -> int:
    """The command: print the list; returns 0. SafedlvError where the processes cannot be listed."""
    found = list_go_processes(probe)
    if as_json:
        from safedlv.report.survey import document

        sys.stdout.write(document(found) + "\n")
    else:
        from safedlv.report.survey import report

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names may hold what this terminal's encoding has not
        sys.stdout.write(report(found))
    return 0


def list_go_processes(probe: Probe | None = None) -> ProcessList:
    """Every Go process but our own, by PID; ``probe`` is called on each, else none is touched."""
    pids = list(list_processes())
    if os.getpid() not in pids:
        raise SafedlvError("the processes of this machine cannot be listed", "is /proc mounted here?", UNDETERMINED)
    us = Standpoint.of_ourselves()
    programs = Programs()
    listed: list[ListedProcess] = []
    unreadable = 0
    for pid in pids:
        if pid == os.getpid():
            continue
        try:
            procdir = ProcDir(pid)
        except OSError:  # it has ended since
            continue
        with procdir:
            try:
                version = programs.go_version(procdir)
            except OSError:
                unreadable += _runs_a_program(procdir)
                continue
            line = None if version is None else _line(procdir, version, us, probe)
            listed += [line] if line else []
    return ProcessList(tuple(listed), probe is not None, unreadable)


def _runs_a_program(procdir: ProcDir) -> bool:
    """Of a process whose executable cannot be read: whether there may be one (it lives, and is not the kernel's)."""
    found = read_stat(procdir)
    if isinstance(found, Unknown):
        return found.errno not in ("ENOENT", "ESRCH")
    return not found.flags & PF_KTHREAD and found.state not in DEAD


# ---------------------------------------------------------------- which are Go programs


Identity = tuple[int, int, int, int]


@define
class Programs:
    """The executables met so far: a file is read once, however many processes run it."""

    versions: dict[Identity, GoVersion] = field(factory=dict)

    def go_version(self, procdir: ProcDir) -> GoVersion:
        """The Go that built what a process runs, None when it is no Go program. OSError where that is unreadable."""
        known = _identity(procdir.stat("exe"))
        if known in self.versions:
            return self.versions[known]
        fd = procdir.open("exe", os.O_RDONLY | os.O_NONBLOCK)
        try:
            read_now = _identity(os.fstat(fd))  # it may have called exec since the stat
            version = self.versions[read_now] = _go_version(fd)
            return version
        finally:
            os.close(fd)


def _identity(file: os.stat_result) -> Identity:
    return file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns


def _go_version(fd: int) -> GoVersion:
    try:
        info = read_buildinfo(fd)
    except MalformedElf:
        return None
    if info is None:
        return None
    return info.go_version or Unknown("ENODATA", "the Go version in the build information")


# ---------------------------------------------------------------- one Go process


@define
class Standpoint:
    """Our own side of every attach, and what holds for the machine: read once."""

    side: Side
    world: World
    modules: SecurityModules
    mounts: tuple[cgroup.Mount, ...] | Unknown
    met: Ancestry = field(factory=dict)

    @classmethod
    def of_ourselves(cls) -> Standpoint:
        facts = read_process(os.getpid(), count_landlock_layers=True)
        return cls(read_side(facts), read_world(facts.modules), facts.modules, cgroup.read_mounts())


def _line(procdir: ProcDir, version: str | Unknown, us: Standpoint, probe: Probe | None) -> ListedProcess | None:
    """What the list says of one process; None when it has ended meanwhile."""
    found = read_stat(procdir)
    status = make_status(found, read_status_fields(procdir), f"{procdir.path}/status")
    if isinstance(found, Unknown) or found.state in DEAD:
        return None
    if probe is None:
        verdict, causes = _by_the_rules(_facts(procdir, found, status, us), us)
    else:
        tried = _tried(procdir, probe)
        if tried is None:
            return None
        verdict, causes = tried
    uid = status.uid if isinstance(status.uid, Unknown) else status.uid.real
    return ListedProcess(int(procdir.pid), uid, verdict, causes, version, _command(procdir, found))


def _by_the_rules(facts: ProcessFacts, us: Standpoint) -> tuple[str, tuple[str, ...]]:
    """Verdict and causes from what the kernel states and its rules say; an unknown convicts nobody, nor acquits."""
    answers = [ruling for ruling in rulings(us.side, read_side(facts, us.met), us.world) if ruling.stops_attach]
    causes = [ruling.id for ruling in answers if ruling.answer == REFUSES]
    if facts.cgroup.frozen is True:
        causes.append("frozen")
    if causes:
        return "blocked", tuple(causes)
    asleep = facts.status.state == "D"  # whether that ends soon only a probe would show
    unknown = asleep or isinstance(facts.cgroup.frozen, Unknown) or any(a.answer == UNKNOWN for a in answers)
    return ("undetermined" if unknown else "ok"), ()


def _tried(procdir: ProcDir, probe: Probe) -> tuple[str, tuple[str, ...]] | None:
    """Verdict and causes from a probe; None when the process has ended, whoever has its PID by now."""
    try:
        found = target.find(int(procdir.pid))
    except SafedlvError:
        return None
    try:
        if isinstance(read_stat(procdir), Unknown):  # ours has ended, so the PID that was found may be another's
            return None
        diagnosis = probe(found)
    finally:
        found.close()
    causes = tuple(cause.id for cause in diagnosis.causes)
    return None if "no-such-process" in causes else (diagnosis.verdict, causes)


def _facts(procdir: ProcDir, found: StatFields, status: Status, us: Standpoint) -> ProcessFacts:
    """What the rules look at, and no more."""
    owner = credentials.proc_owner(procdir)
    rest = _NOT_READ
    frozen = cgroup.read_frozen(procdir, us.mounts)
    return ProcessFacts(
        pid=int(procdir.pid),
        exists=True,
        status=status,
        cmdline=rest,
        proc_owner=owner if isinstance(owner, Unknown) else owner[0],
        dumpable=credentials.dumpable(procdir, status, found, owner),
        namespaces=unknown_namespaces(rest),
        modules=labels_beside(procdir, us.modules),
        cgroup=Cgroup(rest, rest, frozen, None, rest, rest, rest, rest, rest),
        vfork_parent=rest,
    )


def _command(procdir: ProcDir, found: StatFields) -> str:
    words = read_cmdline(procdir)
    text = "" if isinstance(words, Unknown) else " ".join(words)[:COMMAND_LIMIT]
    return text or f"[{found.comm}]"

"""``safedlv control``: the control group, in which a debugger should work, and what a real target adds to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from attrs import evolve

from safedlv import target
from safedlv.command_line import LONGEST_PROBE
from safedlv.controlled.group import Group, control_group
from safedlv.controlled.ingredients import Real, ingredients, not_copied, plain
from safedlv.controlled.run import FAILS, Run
from safedlv.controlled.text import Answer, document, report
from safedlv.errors import SafedlvError, UsageError
from safedlv.facts.cgroup import cgroup_of
from safedlv.facts.delve_path import find_delve
from safedlv.facts.go_binary import read_go_binary
from safedlv.facts.process import read_process
from safedlv.facts.seccomp import MODE_FILTER
from safedlv.facts.security_modules import LABEL_FILES
from safedlv.facts.sides import read_pid_namespaces, read_user_namespaces
from safedlv.model import Cause, Cgroup
from safedlv.options import SWITCH, read_words, seconds
from safedlv.probe import runner
from safedlv.probe.context import Context
from safedlv.probe.sources import read_context
from safedlv.standpoint import FORMS, context_of

HELP = f"""\
usage: safedlv control [TARGET] [flags]

The control group: the smallest container in which a debugger should work, made fresh, with the same probe and the same
dlv. Without TARGET: can this kernel and this dlv debug at all? With TARGET: what of it and of its debugger makes the
difference; each ingredient is added to those that work. TARGET itself is only read, and no code of its program is
run.

  --tracer WHO             whose place the debugger's is: {FORMS}
  --json                   one JSON object on stdout (schema safedlv.control/1)
  --probe-timeout SECONDS  for one stop: 2
  --debug                  show tracebacks of safedlv's own failures
"""
FLAGS = {"tracer": "WHO", "json": SWITCH, "probe-timeout": "SECONDS", "debug": SWITCH}
UNDETERMINED = 3
EXIT_CODES = {"works": 0, "fails": 10, "undetermined": UNDETERMINED}
FILTERED = ("no place without a seccomp filter: safedlv itself is under one, and so is whatever it starts",)
SCOPE_SECONDS = 5.0
IN_SCOPE = "SAFEDLV_SCOPE"
"""Set for the command that systemd-run starts, to the limits of the place that it was started from (JSON)."""
LIMITS = ("pids_current", "pids_max", "memory_current", "memory_max")


def control(words: list[str]) -> int:
    """The command; returns the exit code: 0 works, 10 fails, 3 undetermined. Raises UsageError, SafedlvError."""
    flags, others = read_words(words, FLAGS, most=1)
    if "help" in flags:
        sys.stdout.write(HELP)
        return 0
    if "tracer" in flags and not others:
        raise UsageError("--tracer asks about a TARGET, as seen from another's place", "name a TARGET, or leave it out")
    text = flags.get("probe-timeout")
    timeout = runner.STOP_WITHIN if text is None else seconds(text, "probe-timeout", LONGEST_PROBE)
    _enter_scope(words)
    answer = find_out(others[0] if others else None, flags.get("tracer"), timeout)
    sys.stdout.write(document(answer) + "\n" if "json" in flags else report(answer))
    return EXIT_CODES[answer.findings.verdict]


def find_out(text: str | None, who: str | None, timeout: float) -> Answer:
    """Make the group, run the trials. Raises UsageError; SafedlvError with code 3 when it cannot be said."""
    if text is None:
        return in_group(None, None, timeout)
    with real_thing(text, who) as (real, whose):
        return in_group(real, whose, timeout)


def in_group(real: Real | None, who: str | None, timeout: float) -> Answer:
    """The same for a real thing that has been read; None: for this machine alone. Raises SafedlvError."""
    dlv = find_delve(os.environ.get("PATH"), os.environ.get("SAFEDLV_DLV"))
    try:
        with control_group() as group:
            return run(group, real, who, dlv, timeout)
    except OSError as error:
        raise SafedlvError(f"the control group: {error.strerror or error}", code=UNDETERMINED) from error


def run(group: Group, real: Real | None, who: str | None, dlv: str | None, timeout: float) -> Answer:
    """The trials in a group. Raises OSError."""
    own = read_process(os.getpid())
    setup = plain(group.uid, group.gid, own.modules.yama_scope, own.status.no_new_privs is True)
    rows = ingredients(real, setup, group.place) if real is not None else ()
    findings = Run(group, setup, dlv, timeout, None if real is None else real.program).findings(rows)
    return Answer(
        target=None if real is None else real.target.pid,
        who=who,
        namespaces=tuple(sorted(group.box.spec.namespaces)),
        cgroup=group.box.spec.cgroup,
        left_out=(*group.left_out, *(FILTERED if own.status.seccomp == MODE_FILTER else ())),
        dlv=dlv,
        findings=findings,
        not_copied=tuple(not_copied(real)) if real is not None else (),
        causes=_of_this_place() if findings.control.result == FAILS else (),
    )


def _of_this_place() -> tuple[Cause, ...]:
    """What doctor says of this place, where the group itself fails."""
    from safedlv.inquiry import diagnose_context

    return diagnose_context().causes


# ---------------------------------------------------------------- the real thing


@contextmanager
def real_thing(text: str, who: str | None) -> Iterator[tuple[Real, str]]:
    """The target that ``text`` names, a debugger in the place of ``who`` (None: as for doctor), and who that is.

    Raises UsageError; SafedlvError with code 3.
    """
    found = _found(text)
    try:
        who = who or ("container" if found.container and os.geteuid() == 0 else "self")
        with ExitStack() as undo:
            context = undo.enter_context(context_of(who, found) or _own_context())
            yield evolve(read_real(found.pid, context), program=_go_program(found, undo)), who
    finally:
        found.close()


def _own_context() -> Context:
    """Without our filters: they cannot be read from under them, and hold in the control group as they do here."""
    return read_context(os.getpid()).without_filters()


def _go_program(found: target.Found, undo: ExitStack) -> int | None:
    if read_go_binary(found.procdir).is_go is not True:
        return None
    try:
        program = os.open("exe", os.O_RDONLY | os.O_CLOEXEC, dir_fd=found.procdir)
    except OSError:
        return None
    undo.callback(os.close, program)
    return program


def _found(text: str) -> target.Found:
    try:
        found = target.resolve(text)
    except UsageError:
        raise
    except SafedlvError as error:
        raise SafedlvError(error.sentence, error.hint, error.code if error.code == 2 else UNDETERMINED) from error
    if found.pid == os.getpid():
        found.close()
        raise UsageError("the target is safedlv itself")
    return found


def read_real(pid: int, context: Context) -> Real:
    """The target's facts and how a debugger in ``context`` stands to it. Raises SafedlvError when it has ended."""
    facts = read_process(pid)
    if facts.status.state in ("Z", "X") or not facts.exists or facts.status.kernel_thread is True:
        raise SafedlvError(f"process {pid} runs no program (state {facts.status.state})", code=UNDETERMINED)
    own = read_process(os.getpid()).modules
    labels = {module: getattr(facts.modules, module) for module in LABEL_FILES}
    return Real(
        debugger=context,
        target=facts,
        room=_room(context.source),
        user_namespaces=(read_user_namespaces(context.source), read_user_namespaces(pid)),
        pid_namespaces=(read_pid_namespaces(context.source), read_pid_namespaces(pid)),
        target_labels=tuple(
            (module, label)
            for module, label in labels.items()
            if isinstance(label, str) and label != getattr(own, module)
        ),
    )


# ---------------------------------------------------------------- systemd


def scope_words(first: str, user: int, systemd_run: str | None) -> list[str]:
    """What puts a command into a transient scope of its own, with limits and a cgroup to be divided; none where PID 1
    is not systemd (systemd-run(1), systemd.resource-control(5)). Pure; ``first``: the name of PID 1."""
    if first != "systemd" or systemd_run is None:
        return []
    manager = [] if user == 0 else ["--user"]
    limits = ["--property=Delegate=yes", "--property=TasksMax=4096", "--property=MemoryMax=4G"]
    return [systemd_run, *manager, "--scope", "--quiet", "--collect", *limits, "--"]


def _enter_scope(words: list[str]) -> None:
    """Execute this command anew in a scope, where systemd runs and gives one; else do nothing."""
    if IN_SCOPE in os.environ:
        return
    try:
        with open("/proc/1/comm", encoding="utf-8", errors="replace") as file:
            first = file.read().strip()
    except OSError:
        return
    scope = scope_words(first, os.geteuid(), shutil.which("systemd-run"))
    if scope and _is_given(scope):
        own = [sys.executable, "-m", "safedlv", "control", *words]
        os.execve(scope[0], [*scope, *own], {**os.environ, IN_SCOPE: limits_in_words(cgroup_of(os.getpid()))})


def limits_in_words(room: Cgroup | None) -> str:
    """What :func:`with_limits` understands: the limits that are known, and what is used of them. Pure."""
    known = {name: value for name in LIMITS if isinstance(value := getattr(room, name, None), int)}
    return json.dumps(known)


def with_limits(scope: Cgroup, words: str) -> Cgroup:
    """A place with other limits than its own. Pure."""
    return evolve(scope, **{"pids_max": None, "memory_max": None, **json.loads(words)})


def _room(pid: int) -> Cgroup | None:
    """The cgroup that a debugger shares; for our own place, not the scope that we are in but what we came from."""
    room = cgroup_of(pid)
    words = os.environ.get(IN_SCOPE)
    return with_limits(room, words) if room is not None and words is not None and pid == os.getpid() else room


def _is_given(scope: list[str]) -> bool:
    """Whether the manager answers, and lets us have one."""
    try:
        done = subprocess.run([*scope, "true"], capture_output=True, check=False, timeout=SCOPE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0

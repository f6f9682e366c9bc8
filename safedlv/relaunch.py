"""``safedlv relaunch --debuggable NAME``: a copy of a container that can be debugged, beside it or in its place.

words -> container -> what is needed -> the copy, as a value -> asked -> done, step by step -> tried -> undone
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from attrs import frozen

from safedlv.audit import audit
from safedlv.delegate import on_terminal
from safedlv.errors import SafedlvError, UsageError, printable
from safedlv.inquiry import diagnose
from safedlv.model import Diagnosis, Ids
from safedlv.options import SWITCH, read_words
from safedlv.runtimes.docker import NOT_FOUND, Engine, inspect
from safedlv.runtimes.engine import EngineError
from safedlv.seccomp.profile import allowing_dlv
from safedlv.sibling import clone_record
from safedlv.sibling.clone import BESIDE, DOES_NOTHING_TO_A_CONTAINER, LIVING, SWAP, Clone, Document, Wish, clone_of
from safedlv.sibling.clone_difference import differences, undeclared
from safedlv.sibling.clone_record import Record
from safedlv.sibling.clone_refusals import refuse
from safedlv.sibling.clone_steps import SNAPSHOTS, Create, Start, Step, steps_of
from safedlv.values import Value

LEAVING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HELP = """\
usage: safedlv relaunch --debuggable NAME [flags]

Makes a copy of the container NAME that differs in what a debugger needs, and in nothing else. What is needed comes
from safedlv doctor. It asks first; when it ends (Ctrl-C), the copy is removed and all is as before.

  --beside           start it next to the original, as NAME-debug, on free ports (the default)
  --swap             stop the original, and put the copy in its place: name, ports, addresses; at the end the original
                     is put back and started
  --keep             end at once and leave the copy where it is; safedlv relaunch --back NAME undoes it
  --back             undo what a --keep has left
  --snapshot         the copy has the files that the container has written (a commit)
  --name NAME        the copy's name, with --beside
  --change IDS       what is needed, instead of asking: cap:sys_ptrace, seccomp, limit:pids, limit:memory
  --apparmor PROFILE the AppArmor profile for the copy
  --emit FORM        print the change instead: run, compose, devcontainer or kubernetes
  --dry-run          print the plan
  --yes              do not ask
  --debug            show tracebacks of safedlv's own failures
"""
FLAGS = {
    **dict.fromkeys(("debuggable", "beside", "swap", "keep", "back", "snapshot", "dry-run", "yes", "debug"), SWITCH),
    "name": "NAME",
    "change": "IDS",
    "apparmor": "PROFILE",
    "emit": "FORM",
}
HELD_AT_MOST_US = 100_000.0
"""For how long the experiments may hold the target: on a busy machine doctor's own limit ends them too early."""
FORMS = ("run", "compose", "devcontainer", "kubernetes")


def relaunch(words: list[str]) -> int:
    """The command; returns the exit code. Raises UsageError, SafedlvError."""
    options = _options(words)
    if options.on("help"):
        sys.stdout.write(HELP)
        return 0
    with Engine() as engine:
        try:
            if options.on("back"):
                _say(clone_record.bring_back(engine, options.name))
                return 0
            return _relaunch(engine, options)
        except EngineError as error:
            raise SafedlvError(str(error)) from error


@frozen(eq=False, repr=False)
class Options(Value):
    """What the words after ``relaunch`` ask for."""

    name: str
    flags: dict[str, str]

    def on(self, name: str) -> bool:
        return name in self.flags

    @property
    def mode(self) -> str:
        return SWAP if self.on("swap") else BESIDE


def _options(words: list[str]) -> Options:
    flags, others = read_words(words, FLAGS, most=1)
    options = Options(others[0].removeprefix("docker:") if others else "", flags)
    if options.on("help"):
        return options
    if not options.name or "/" in options.name:
        raise UsageError("relaunch takes the name of a container", "safedlv relaunch --debuggable NAME")
    if options.on("back") == options.on("debuggable"):
        raise UsageError("either --debuggable or --back", "safedlv relaunch --debuggable NAME")
    if options.on("swap") and (options.on("beside") or options.on("name")):
        raise UsageError("--swap takes the original's place and name: it goes with neither --beside nor --name")
    if options.flags.get("emit", "run") not in FORMS:
        raise UsageError(f"--emit is one of {', '.join(FORMS)}")
    return options


def _relaunch(engine: Engine, options: Options) -> int:
    container = inspect(options.name)
    needed = _needed(container, options)
    if not needed.ids:
        sys.stdout.write(f"{needed.words}\n")
        return 0
    if options.on("emit"):
        return _emit(engine, container, needed, options)
    ident = clone_record.new_id()
    refuse(container, _others(engine, container), options.mode)
    clone = clone_of(container, _image_of(engine, container), _wish(engine, container, needed, options, ident))
    steps = steps_of(clone, container, ident, options.flags.get("name"), snapshot=options.on("snapshot"))
    _show(engine, clone, [*steps[0], *steps[1]], options)
    if options.on("dry-run"):
        return 0
    if not _agreed(options):
        return 1
    return _carry_out(engine, Work(clone, container, needed, options, ident, *steps))


# ---------------------------------------------------------------- what is needed


@frozen(eq=False, repr=False)
class Needed(Value):
    """The changes by their ids, none where no copy is needed; why, in words; and who would then debug."""

    ids: tuple[str, ...]
    words: str
    who: str = "container"


def _needed(container: Document, options: Options) -> Needed:
    name = container["Name"].lstrip("/")
    if options.on("change"):
        return Needed(tuple(options.flags["change"].split(",")), "as --change says")
    if os.geteuid() != 0:
        raise SafedlvError(
            "what is needed is found out by a probe from within the container, which takes root",
            "run it as root, or name the changes: --change cap:sys_ptrace,seccomp",
        )
    diagnosis = diagnose(f"docker:{name}", who="container", hold_limit_us=HELD_AT_MOST_US)
    if diagnosis.verdict in ("ok", "degraded"):
        return Needed(
            (), f"no copy is needed: a debugger can attach in {printable(name)}: safedlv attach docker:{name}"
        )
    causes = ", ".join(cause.id for cause in diagnosis.causes) or "no cause was found"
    if diagnosis.fix is None:
        raise SafedlvError(f"no copy would help: {causes}", f"safedlv doctor docker:{name} says more")
    ids = diagnosis.fix.ids
    if set(ids) <= DOES_NOTHING_TO_A_CONTAINER | LIVING:
        told = dict(diagnosis.fix.commands).get("docker", f"see safedlv doctor docker:{name}")
        return Needed((), f"no copy is needed ({causes}). It takes:\n{told}")
    return Needed(ids, causes, _debugger(ids, diagnosis))


def _debugger(ids: tuple[str, ...], diagnosis: Diagnosis) -> str:
    """Who would attach in the copy, for ``--tracer``."""
    if "root" in ids:
        return "container:0:0"
    status = diagnosis.facts.status if diagnosis.facts else None
    if "user" in ids and status and isinstance(status.uid, Ids) and isinstance(status.gid, Ids):
        return f"container:{status.uid.real}:{status.gid.real}"
    return "container"


def _wish(engine: Engine, container: Document, needed: Needed, options: Options, ident: str) -> Wish:
    return Wish(
        mode=options.mode,
        ids=needed.ids,
        profile=_profile(engine, container) if "seccomp" in needed.ids else None,
        apparmor=options.flags.get("apparmor"),
        image=f"{SNAPSHOTS}:{ident}" if options.on("snapshot") else None,
        named_image=_named_image(engine, container),
        record=ident,
        record_path=clone_record.place(clone_record.path_of(ident)),
    )


def _profile(engine: Engine, container: Document) -> str:
    """The container's own profile, or the engine's, made to allow dlv; as JSON."""
    from safedlv.seccomp_command import base

    own = any(str(option).startswith("seccomp") for option in container["HostConfig"].get("SecurityOpt") or [])
    options = engine.ask("tell about itself", engine.api.info).get("SecurityOptions") or []
    chosen = [str(option).partition("profile=")[2] for option in options if "name=seccomp" in str(option)]
    of_the_engine = chosen[0] if chosen and chosen[0].startswith("/") and not own else ""
    try:
        return json.dumps(allowing_dlv(base(of_the_engine or f"docker:{container['Id']}")))
    except ValueError as error:
        raise SafedlvError(f"the container's seccomp profile cannot be read: {printable(str(error))}") from error


def _others(engine: Engine, container: Document) -> tuple[Document, ...]:
    listed = engine.ask("list its containers", engine.api.containers)
    found = (_told(engine, engine.api.inspect_container, other["Id"]) for other in listed)
    return tuple(other for other in found if other is not None and other["Id"] != container["Id"])


def _image_of(engine: Engine, container: Document) -> Document:
    """The image that the container was made from."""
    found = _told(engine, engine.api.inspect_image, container["Image"])
    if found is None:
        raise SafedlvError("the image that the container was made from is not there any more")
    return found


def _named_image(engine: Engine, container: Document) -> str | None:
    """The id of the image that the name in the container's configuration means now."""
    found = _told(engine, engine.api.inspect_image, container["Config"].get("Image") or container["Image"])
    return None if found is None else str(found["Id"])


def _told(engine: Engine, ask: Callable[[str], Document], name: str) -> Document | None:
    """The engine's document about a thing; None when it is not there (any more)."""
    try:
        return engine.ask(f"tell about {printable(name)}", lambda: ask(name))
    except EngineError as error:
        if error.status == NOT_FOUND:
            return None
        raise


# ---------------------------------------------------------------- the plan


def _show(engine: Engine, clone: Clone, steps: list[Step], options: Options) -> None:
    lines = [f"The copy of {clone.name} has", *(f"  {line}" for line in clone.describe())]
    if not options.on("snapshot"):
        written = engine.ask("tell what it has written", lambda: engine.api.diff(clone.original)) or []
        lines += (
            [f"  not what the container has written (docker diff {clone.name}), unless you say --snapshot"]
            if written
            else []
        )
    lines += ["", "Steps", *(f"  {number}. {step.describe()}" for number, step in enumerate(steps, 1))]
    lines.append("  Each is undone at the end, the last first." if not options.on("keep") else "")
    sys.stderr.write("\n".join(lines).rstrip() + "\n")


def _agreed(options: Options) -> bool:
    if options.on("yes"):
        return True
    if not on_terminal():
        words = " ".join(["safedlv relaunch", *_words(options), "--yes"])
        sys.stderr.write(f"safedlv: nothing is done: nobody can be asked here. To do it: {words}\n")
        return False
    sys.stderr.write("Do it? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _words(options: Options) -> list[str]:
    import shlex

    flags = [f"--{name}" + (f"={shlex.quote(value)}" if value else "") for name, value in options.flags.items()]
    return [*flags, shlex.quote(options.name)]


def _emit(engine: Engine, container: Document, needed: Needed, options: Options) -> int:
    from safedlv.sibling import clone_text

    form = options.flags["emit"]
    if form == "run":
        text = clone_text.docker_run(container, _image_of(engine, container), needed.ids)
    else:
        text = clone_text.patch(form, container, needed.ids)
    if not text:
        raise SafedlvError(f"{form} cannot say these changes: {', '.join(needed.ids)}")
    sys.stdout.write(text + "\n")
    return 0


# ---------------------------------------------------------------- doing it


@frozen(eq=False, repr=False)
class Work(Value):
    """All that was agreed to."""

    clone: Clone
    container: Document
    needed: Needed
    options: Options
    ident: str
    prepare: tuple[Step, ...]
    switch: tuple[Step, ...]


class _EndedError(Exception):
    """The user has asked for the end."""


def _carry_out(engine: Engine, work: Work) -> int:
    """Do the steps, try the copy, wait for the end, undo. Signals that end are held back and looked for."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LEAVING)
    try:
        record = Record.write(work.ident, work.clone.name, engine, [*work.prepare, *work.switch])
        try:
            _do(engine, work, record)
            words = _verified(work)
            _say([words, *_where(engine, work)])
            if work.options.on("keep"):
                record.keep()
                record.close()
                _say([f"it stays; the way back: safedlv relaunch --back {work.clone.name}"])
                return 0
            _say(["Ctrl-C ends it and puts everything back"])
            _wait(engine, work)
        except _EndedError:
            _say(record.undo(engine))
            return 0
        except BaseException as error:
            _undo_after(error, record, engine)
            raise
        _say(record.undo(engine))
        return 0
    finally:
        while signal.sigtimedwait(LEAVING, 0):  # they have had their effect
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _undo_after(error: BaseException, record: Record, engine: Engine) -> None:
    try:
        _say(record.undo(engine))
    except SafedlvError as second:
        said = getattr(error, "sentence", str(error))
        raise SafedlvError(f"{said}; and then {second.sentence}", second.hint) from error


def _do(engine: Engine, work: Work, record: Record) -> None:
    for number, step in enumerate((*work.prepare, *work.switch)):
        if number == len(work.prepare):
            _compare(engine, work)
        if signal.sigpending() & set(LEAVING):
            raise _EndedError
        record.begin(number)
        try:
            step.do(engine)
        except EngineError:
            record.done(number)  # it was answered: nothing is under way
            raise
        audit(step.verb, f"for a copy of {work.clone.name}: {step.describe()}")
        record.done(number)


def _compare(engine: Engine, work: Work) -> None:
    """Before the original is touched: the copy is what was declared, by the engine's own account."""
    name = next(step.name for step in work.prepare if isinstance(step, Create))
    copy = engine.ask("tell about the copy", lambda: engine.api.inspect_container(name))
    found = undeclared(differences(work.container, copy), work.clone.changes)
    if found:
        shown = "; ".join(printable(one.shown()) for one in found[:5])
        raise SafedlvError(f"this engine does not make the same container again: {shown}", "the copy is removed")


def _copy_name(work: Work) -> str:
    return next(step.name for step in work.switch if isinstance(step, Start))


def _verified(work: Work) -> str:
    """The probe from where docker exec would start dlv in the copy. Raises SafedlvError when it does not pass."""
    name = _copy_name(work)
    if os.geteuid() != 0:
        return f"the copy {name} runs; whether a debugger can attach was not tried: that takes root"
    diagnosis = diagnose(f"docker:{name}", who=work.needed.who)
    missing = {cause.id for cause in diagnosis.causes} == {"delve-missing"}  # here, which is no fault of the copy
    if missing or diagnosis.verdict in ("ok", "degraded"):
        poor = [cause.summary for cause in diagnosis.causes]
        return "; ".join([f"the copy {name} runs, and the probe passes in it", *poor])
    causes = "; ".join(cause.summary for cause in diagnosis.causes) or "the probe did not pass"
    raise SafedlvError(f"the copy cannot be debugged either: {causes}", "everything is as it was before")


def _where(engine: Engine, work: Work) -> list[str]:
    """How to get at it."""
    name = _copy_name(work)
    copy = engine.ask("tell about the copy", lambda: engine.api.inspect_container(name))
    ports = (copy.get("NetworkSettings") or {}).get("Ports") or {}
    lines = [
        f"port {port} is {binding['HostIp']}:{binding['HostPort']}"
        for port, bindings in ports.items()
        for binding in bindings or []
    ]
    return [*lines, f"to debug it: safedlv attach docker:{name}"]


def _wait(engine: Engine, work: Work) -> None:
    """Until a signal comes, or the copy ends by itself."""
    name = _copy_name(work)
    look: Callable[[], Document] = lambda: engine.api.inspect_container(name)  # noqa: E731
    while signal.sigtimedwait(LEAVING, 1.0) is None:
        try:
            state = engine.ask("tell about the copy", look)["State"]
        except EngineError:
            state = {}
        if not state.get("Running") and not state.get("Restarting"):
            _say([f"the copy has ended, with exit code {state.get('ExitCode', 'unknown')}"])
            return


def _say(lines: list[str]) -> None:
    with suppress(OSError):  # a terminal that is gone keeps nothing from being undone
        sys.stderr.write("".join(f"safedlv: {line}\n" for line in lines))
        sys.stderr.flush()

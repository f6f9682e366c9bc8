"""``safedlv relaunch --debuggable NAME``: a copy of a container that can be debugged, beside it or in its place.

words -> container -> what is needed -> the copy, as a value -> asked -> made -> tried, or debugged -> undone
(options, here)     (copy_needs)      (copying)              (here)  (copying)  (copy_needs, copy_session)
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable

from attrs import evolve, frozen

from safedlv import copy_needs
from safedlv.copying import Work, carry_out, image_of, plan, say, wish_for
from safedlv.delegate import on_terminal
from safedlv.errors import SafedlvError, UsageError
from safedlv.options import SWITCH, read_words
from safedlv.runtimes.docker import Engine, inspect
from safedlv.runtimes.engine import EngineError
from safedlv.session.launch import LEAVING
from safedlv.sibling import clone_record
from safedlv.sibling.clone import BESIDE, SWAP, Document, Wish
from safedlv.sibling.clone_record import Record
from safedlv.sibling.clone_steps import SNAPSHOTS
from safedlv.values import Value

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

Without one of these two it ends in no session: a debugger that you start, in the copy or here, finds it debuggable.
With one, it goes on to a debugger's session in the copy, whose end is the end of the copy:

  --exec             dlv starts the copy's program, which stands at its first instruction: breakpoints in init and
                     main.main are possible. dlv is the local one, mounted read-only; the program's user, environment
                     and directory stay. The command must be a Go program itself, no shell or script that starts one
  --waitfor          dlv attaches from outside, as soon as a Go program runs in the copy: whatever the command is. That
                     takes no change in the copy, so none is made but those of --change

and these flags of dlv for that session, which is dlv's terminal unless --headless is given:

  --headless  --listen ADDRESS  --accept-multiclient  --continue  --init FILE  --api-version N  --check-go-version BOOL
"""
OF_DLV = {
    **dict.fromkeys(("headless", "accept-multiclient", "continue"), SWITCH),
    "listen": "ADDRESS",
    "init": "FILE",
    "api-version": "N",
    "check-go-version": "BOOL",
}
"""Flags of the session, with dlv's meaning."""
SWITCHES = ("debuggable", "beside", "swap", "keep", "back", "snapshot", "dry-run", "yes", "debug", "exec", "waitfor")
FLAGS = {
    **dict.fromkeys(SWITCHES, SWITCH),
    **OF_DLV,
    "name": "NAME",
    "change": "IDS",
    "apparmor": "PROFILE",
    "emit": "FORM",
}
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
                say(clone_record.bring_back(engine, options.name))
                return 0
            if options.session:
                return _with_session(engine, options)
            return _relaunch(engine, options)
        except EngineError as error:
            raise SafedlvError(str(error)) from error


# ---------------------------------------------------------------- the words


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

    @property
    def session(self) -> bool:
        """Whether it is to end in a debugger's session."""
        return self.on("exec") or self.on("waitfor")


def _options(words: list[str]) -> Options:
    flags, others = read_words(words, FLAGS, most=1)
    options = Options(others[0].removeprefix("docker:") if others else "", flags)
    if not options.on("help"):
        _check(options)
    return options


def _check(options: Options) -> None:
    """Raise UsageError for words that do not go together."""
    if not options.name or "/" in options.name:
        raise UsageError("relaunch takes the name of a container", "safedlv relaunch --debuggable NAME")
    if options.on("back") == options.on("debuggable"):
        raise UsageError("either --debuggable or --back", "safedlv relaunch --debuggable NAME")
    if options.on("swap") and (options.on("beside") or options.on("name")):
        raise UsageError("--swap takes the original's place and name: it goes with neither --beside nor --name")
    if options.flags.get("emit", "run") not in FORMS:
        raise UsageError(f"--emit is one of {', '.join(FORMS)}")
    if options.on("exec") and options.on("waitfor"):
        raise UsageError("--exec starts the program, --waitfor waits for it: one of them")
    for other in ("keep", "emit", "back"):
        if options.session and options.on(other):
            raise UsageError(f"--{other} ends without a session: it goes with neither --exec nor --waitfor")
    of_dlv = [name for name in OF_DLV if options.on(name)]
    if of_dlv and not options.session:
        raise UsageError(f"--{of_dlv[0]} is for a session: it takes --exec or --waitfor")


# ---------------------------------------------------------------- a copy for whoever wants to debug it


def _relaunch(engine: Engine, options: Options) -> int:
    container = inspect(options.name)
    needed = copy_needs.needed(container, options.flags.get("change", ""))
    if not needed.ids:
        sys.stdout.write(f"{needed.words}\n")
        return 0
    if options.on("emit"):
        return _emit(engine, container, needed.ids, options)
    wish = copy_needs.with_profile(engine, container, _wish(engine, container, needed.ids, options))
    work = plan(engine, container, wish, options.flags.get("name"))
    if not _agreed(engine, work, options):
        return 0 if options.on("dry-run") else 1
    return carry_out(engine, work, lambda record: _use(engine, work, needed.who, record, keep=options.on("keep")))


def _use(engine: Engine, work: Work, who: str, record: Record, *, keep: bool) -> int:
    """Try it, say how to get at it, and wait for the end, unless it is to be kept."""
    words = copy_needs.verified(work.copy, who)
    say([words, *_where(engine, work.copy)])
    if keep:
        record.keep()
        say([f"it stays; the way back: safedlv relaunch --back {work.clone.name}"])
        return 0
    say(["Ctrl-C ends it and puts everything back"])
    _wait(engine, work.copy)
    return 0


def _where(engine: Engine, name: str) -> list[str]:
    """How to get at it."""
    copy = engine.ask("tell about the copy", lambda: engine.api.inspect_container(name))
    ports = (copy.get("NetworkSettings") or {}).get("Ports") or {}
    lines = [
        f"port {port} is {binding['HostIp']}:{binding['HostPort']}"
        for port, bindings in ports.items()
        for binding in bindings or []
    ]
    return [*lines, f"to debug it: safedlv attach docker:{name}"]


def _wait(engine: Engine, name: str) -> None:
    """Until a signal comes, or the copy ends by itself."""
    look: Callable[[], Document] = lambda: engine.api.inspect_container(name)  # noqa: E731
    while signal.sigtimedwait(LEAVING, 1.0) is None:
        try:
            state = engine.ask("tell about the copy", look)["State"]
        except EngineError:
            state = {}
        if not state.get("Running") and not state.get("Restarting"):
            say([f"the copy has ended, with exit code {state.get('ExitCode', 'unknown')}"])
            return


def _emit(engine: Engine, container: Document, ids: tuple[str, ...], options: Options) -> int:
    from safedlv.sibling import clone_text

    form = options.flags["emit"]
    if form == "run":
        text = clone_text.docker_run(container, image_of(engine, container), ids)
    else:
        text = clone_text.patch(form, container, ids)
    if not text:
        raise SafedlvError(f"{form} cannot say these changes: {', '.join(ids)}")
    sys.stdout.write(text + "\n")
    return 0


# ---------------------------------------------------------------- a copy, and a session in it


def _with_session(engine: Engine, options: Options) -> int:
    from safedlv import copy_session

    words = [f"--{name}={value or 'true'}" for name, value in options.flags.items() if name in OF_DLV]
    dlv, line = copy_session.dlv_and_line(words, to_ask=not options.on("dry-run"))
    container = inspect(options.name)
    change, name = options.flags.get("change", ""), options.flags.get("name")
    if options.on("waitfor"):
        ids = tuple(change.split(",")) if change else ()
        wish = copy_needs.with_profile(engine, container, _wish(engine, container, ids, options))
        work = plan(engine, container, wish, name)
        if not _agreed(engine, work, options):
            return 0 if options.on("dry-run") else 1
        return carry_out(engine, work, lambda _: copy_session.attached(dlv, line, work.copy))
    under = copy_session.under_dlv(container, dlv, line)  # before the probe: it may be refused
    ids = copy_needs.needed_to_start(container, change)
    wish = copy_needs.with_profile(engine, container, _wish(engine, container, ids, options), starts=True)
    work = plan(engine, container, wish, name, under.debugger)
    if not _agreed(engine, work, options):
        return 0 if options.on("dry-run") else 1
    return copy_session.started(engine, work, under)


# ---------------------------------------------------------------- the plan


def _wish(engine: Engine, container: Document, ids: tuple[str, ...], options: Options) -> Wish:
    ident = clone_record.new_id()
    image = f"{SNAPSHOTS}:{ident}" if options.on("snapshot") else None
    wish = wish_for(engine, container, options.mode, ident, ids)
    return evolve(wish, image=image, apparmor=options.flags.get("apparmor"))


def _agreed(engine: Engine, work: Work, options: Options) -> bool:
    """Show the plan; whether it is to be done."""
    _show(engine, work, options)
    if options.on("dry-run"):
        return False
    if options.on("yes"):
        return True
    if not on_terminal():
        words = " ".join(["safedlv relaunch", *_words(options), "--yes"])
        sys.stderr.write(f"safedlv: nothing is done: nobody can be asked here. To do it: {words}\n")
        return False
    sys.stderr.write("Do it? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _show(engine: Engine, work: Work, options: Options) -> None:
    lines, clone = work.describe(), work.clone
    if not options.on("snapshot"):
        written = engine.ask("tell what it has written", lambda: engine.api.diff(clone.original)) or []
        note = f"  not what the container has written (docker diff {clone.name}), unless you say --snapshot"
        at = lines.index("")
        lines[at:at] = [note] if written else []
    lines.append("  Each is undone at the end, the last first." if not options.on("keep") else "")
    sys.stderr.write("\n".join(lines).rstrip() + "\n")


def _words(options: Options) -> list[str]:
    flags = [f"--{name}" + (f"={shlex.quote(value)}" if value else "") for name, value in options.flags.items()]
    return [*flags, shlex.quote(options.name)]

"""What becomes of a request to attach: the path of attach.py, with an editor at the other end.

arguments -> target -> probe -> (refused: a dialog, the report in the console)  or  (on to dlv, here or elsewhere)
"""

from __future__ import annotations

import os

from safedlv import target, wrappers
from safedlv.attach import unsupported_go
from safedlv.command_line import CLONE, SIDECAR
from safedlv.dap_settings import ASK, NEVER, OWN, Settings, read_settings
from safedlv.errors import SafedlvError, printable
from safedlv.probe import runner
from safedlv.session.dap_decision import Elsewhere, Local, Refused, Waiting
from safedlv.session.dap_messages import argument, without
from safedlv.session.launch import number_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safedlv.command_line import CommandLine
    from safedlv.model import Diagnosis
    from safedlv.session.dap_decision import Decision
    from safedlv.session.pauses import Limits
    from safedlv.target import Found

STOP_WITHIN = 0.5
"""Seconds for the target to stop when it is probed: an editor is to have its answer within one."""
LOOKS_EVERY = 1.0  # milliseconds, for a process to come (service/dap/server.go: onAttachRequest)
GUESSES_SINCE = (1, 24)  # service/dap/types.go: GuessSubstitutePath
GUESS_WITHIN = 5.0  # seconds for `go list` to name the modules of the workspace


class Attaching:
    """One request to attach to a process."""

    def __init__(self, dlv: str, line: CommandLine, arguments: dict[str, Any], console: Callable[[str], None]) -> None:
        self.dlv, self.line, self.console = dlv, line, console
        self.arguments = self.as_they_came = arguments
        self.settings = Settings({})
        self.limits: Limits | None = None

    def decide(self) -> Decision:
        """What becomes of it. Every failure of ours is a refusal with its sentence."""
        return self._in_sentences(self._asked_for)

    def _in_sentences(self, decide: Callable[[], Decision]) -> Decision:
        try:
            return decide()
        except target.NoSuchProcessError as error:
            from safedlv.judgement import judge_nothing

            return self._refused(judge_nothing(error.pid, hidden=error.hidden))
        except SafedlvError as error:
            return Refused(error.sentence + (f"\n{error.hint}" if error.hint else ""))
        except Exception as error:  # an editor whose adapter just ends says nothing for half a minute
            if self.line.on("debug"):
                raise
            return Refused(f"internal error of safedlv: {type(error).__name__}: {printable(str(error))}")

    # ------------------------------------------------------------ what is asked for

    def _asked_for(self) -> Decision:
        self.settings = read_settings(self.arguments)
        if self.settings.max_pause is not None:
            from safedlv.session.pauses import limits_in

            self.limits = limits_in(self.settings.max_pause, None)
        given, awaited, backend = (argument(self.arguments, name) for name in ("processId", "waitFor", "backend"))
        named = self.settings.target or given
        if isinstance(awaited, str) and awaited and not named:
            return self._wait_for(awaited)
        if not named and not awaited:
            raise SafedlvError("no process is named", _what_there_is())
        known = isinstance(named, int | str) and not isinstance(named, bool)
        if not known or awaited or backend not in (None, "", "default", "native"):
            return Local(0, stopped=False, arguments=self._for_dlv(None))  # dlv says what is wrong with it
        if isinstance(named, int) and named < 0:
            raise SafedlvError(f"invalid process ID: {named}")  # as dlv says it
        return self._attach_to(target.resolve(str(named).strip()))

    def _wait_for(self, prefix: str) -> Waiting:
        from safedlv.waitfor import Waiter

        def go_on(pid: int) -> Decision:
            self.arguments = {**without(self.arguments, "waitFor"), "processId": pid}
            return self._in_sentences(lambda: self._attach_to(target.find(pid)))

        return Waiting(Waiter(prefix, LOOKS_EVERY), go_on)

    def _attach_to(self, found: Found) -> Decision:
        found = self._go_process(found)
        try:
            return self._through(found)
        finally:
            found.close()

    def _for_dlv(self, pid: int | None) -> dict[str, Any] | None:
        """The arguments with what is ours put into dlv's terms; None when they are as they should be."""
        given = argument(self.arguments, "processId")
        kept = without(self.arguments, OWN)
        if pid is not None and given != pid:
            kept = {**without(kept, "processId"), "processId": pid}
        return None if kept == self.as_they_came else kept

    def _go_process(self, found: Found) -> Found:
        """The target, or where it is a wrapper and just one Go program runs behind it, that."""
        if not wrappers.is_wrapper(found.procdir):
            return found
        children = wrappers.go_children(found.pid)
        if len(children) > 1:
            listed = "\n".join(f"  {pid}  {printable(target.command_line_of(pid), 100)}" for pid in children[:10])
            raise SafedlvError(f"process {found.pid} is a wrapper, and behind it run\n{listed}", "name one by its PID")
        if not children:
            return found
        self.console(f"safedlv: process {found.pid} is a wrapper; process {children[0]} behind it is debugged")
        container = found.container
        found.close()
        return target.find(children[0], container)

    # ------------------------------------------------------------ which way

    def _through(self, found: Found) -> Local | Elsewhere | Refused:
        if self.settings.via == SIDECAR:
            return self._beside(found)
        if self.settings.via == CLONE:
            return self._in_a_copy(found)
        attempt = self._probe(found)
        if attempt is None or runner.refused(attempt):
            return self._explain(found, attempt)
        if self.line.on("check-go-version", default=True) and (why := unsupported_go(self.dlv, found)):
            raise why
        arguments = self._for_dlv(found.pid)
        if found.container:
            arguments = self._with_sources(arguments or self.arguments, found)
        local = Local(found.pid, stopped=found.before.stopped, arguments=arguments, guarded=self.settings.guarded)
        local.limits = self.limits
        return local

    def _probe(self, found: Found) -> runner.RawAttempt | None:
        """None when the target is not to be touched: it could not be left as it was, or is ourselves."""
        if found.pid == os.getpid() or not runner.way_back_is_open(found.pid, found.before):
            return None
        within = self.line.number("probe-timeout", STOP_WITHIN)
        return runner.start(found.pid, found.procdir, found.before, within).result()

    def _explain(self, found: Found, attempt: runner.RawAttempt | None) -> Elsewhere | Refused:
        from safedlv.judgement import judge_attempt
        from safedlv.sibling.ways import ways

        diagnosis = judge_attempt(found, attempt)
        offered = {way.via for way in ways(diagnosis)}
        if self.settings.tracer:
            diagnosis = self._from_there(found)
            if diagnosis.verdict in ("ok", "degraded"):
                return Refused(
                    f"refused from here, and not from {printable(self.settings.tracer, 40)}: an attach from there works"
                )
        if SIDECAR not in offered or self.settings.via == NEVER:
            return self._refused(diagnosis)
        if self.settings.via != ASK:
            return self._refused(diagnosis, f'or at once: "{OWN}": {{"via": "{SIDECAR}"}} in the launch configuration')
        from safedlv.sibling import asked

        identity = _identity(found, diagnosis)
        if asked.answered(SIDECAR, identity):
            return self._beside(found)
        asked.ask(SIDECAR, identity)
        return self._refused(
            diagnosis, f"or start again within {asked.SECONDS} s: dlv then runs in a container beside the target's"
        )

    def _from_there(self, found: Found) -> Diagnosis:
        """What the same attach meets in the place that the settings name, as ``doctor --tracer`` tries it."""
        from safedlv.inquiry import diagnose_from, probe_from_here
        from safedlv.probe.changes import HELD_AT_MOST_US
        from safedlv.standpoint import context_of

        who, within = self.settings.tracer, self.line.number("probe-timeout", STOP_WITHIN)
        context = context_of(who, found)
        if context is None:
            return probe_from_here(within, found)
        with context:
            return diagnose_from(context, who, found, within, HELD_AT_MOST_US)

    def _refused(self, diagnosis: Diagnosis, hint: str = "") -> Refused:
        from safedlv.report.dialog import dialog
        from safedlv.report.text import report

        return Refused(dialog(diagnosis, hint), report(diagnosis, colour=False))

    # ------------------------------------------------------------ elsewhere

    def _beside(self, found: Found) -> Elsewhere:
        """A dlv in a container of its own beside the target."""
        from safedlv.sibling import sidecar

        if found.container is None:
            found.container = _container_of(found.pid)
        prepared = sidecar.prepare(found, self.dlv, self._line_for_attach(found))
        delve, _ = sidecar.start(prepared, found, lambda: None)
        self.console(
            f"safedlv: dlv runs in the container {prepared.plan.name} beside {printable(found.container or '')}, with "
            f"{', '.join(name.upper() for name in prepared.plan.capabilities) or 'no capability'}; it is removed when "
            "the session ends, and the target is left as it is"
        )
        elsewhere = Elsewhere(delve, found.pid, self._for_remote(found))
        elsewhere.limits = self.limits
        return elsewhere

    def _in_a_copy(self, found: Found) -> Elsewhere:
        """A session in a copy of the target's container. It attaches to the Go program there as soon as that runs."""
        from safedlv.dap_copy import CopysSession

        container = found.container or _container_of(found.pid)
        self.console(
            f"safedlv: a copy of container {printable(container)} is made, and the program in there is debugged; the "
            f"copy is removed when the session ends, and {printable(container)} runs on as it is"
        )
        delve = CopysSession([*self._words_for_attach(), f"docker:{container}"])
        return Elsewhere(delve, 0, self._for_remote(found))

    def _for_remote(self, found: Found) -> dict[str, Any]:
        """The arguments for a dlv that attaches by itself."""
        remote = {**without(self._for_dlv(None) or self.arguments, "processId", "mode"), "mode": "remote"}
        return self._with_sources(remote, found) or remote

    def _words_for_attach(self) -> list[str]:
        ours = ("listen", "client-addr", "log-dest", "headless", "accept-multiclient", "init", "backend")
        guard = [] if self.settings.guarded else ["--guard=off"]
        pause = [] if self.settings.max_pause is None else [f"--max-pause={self.settings.max_pause}"]
        return [*self.line.handed_on((*ours, "only-same-user")), *guard, *pause]

    def _line_for_attach(self, found: Found) -> CommandLine:
        from safedlv import command_line

        return command_line.parse([*self._words_for_attach(), "--headless", str(found.pid)])

    def _with_sources(self, arguments: dict[str, Any], found: Found) -> dict[str, Any] | None:
        """The arguments, with what dlv needs to find the target's sources in the workspace where they are.

        Not where the user has rules of their own. None where that changes nothing.
        """
        changed = None if arguments is self.arguments else arguments
        rules = argument(arguments, "substitutePath") or argument(arguments, "guessSubstitutePath")
        if rules or not self._is_in_workspace(found):
            return changed
        import json
        import subprocess

        try:
            words = [self.dlv, "substitute-path-guess-helper"]
            done = subprocess.run(words, capture_output=True, timeout=GUESS_WITHIN, check=True)
            guess = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError):
            return changed
        self.console(f"safedlv: the sources are looked for in {printable(os.getcwd())}, where their module is")
        return {**arguments, "guessSubstitutePath": guess}

    def _is_in_workspace(self, found: Found) -> bool:
        from safedlv.delegate import version_of
        from safedlv.sibling.checkout import is_here

        return number_of(version_of(self.dlv) or "") >= GUESSES_SINCE and is_here(found.procdir)


def _container_of(pid: int) -> str:
    """The container that a process is in, for a target that was named by its PID. Raises SafedlvError."""
    from safedlv.pick import container_names, place

    container, _ = place(pid, container_names())
    if container is None:
        raise SafedlvError(f"process {pid} is in no container that is known here", "name the target as docker:NAME")
    return container


def _identity(found: Found, diagnosis: Diagnosis) -> str:
    started = diagnosis.target.start_time if diagnosis.target else 0
    return f"{found.container}-{found.pid}-{started if isinstance(started, int) else 0}"


def _what_there_is() -> str:
    from safedlv.pick import listed

    lines = listed()
    if not lines:
        return "no Go process is seen here that could be"
    return "\n".join(['write one of these as processId (or as "safedlv": {"target": ...}):', *lines])

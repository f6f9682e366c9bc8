"""What becomes of a request to attach: the path of attach.py, with an editor at the other end.

arguments -> target -> probe -> (refused: a dialog, the report in the console)  or  (on to dlv, here or elsewhere)
"""

from __future__ import annotations

import os
import subprocess

from safedlv import target, wrappers
from safedlv.errors import SafedlvError, printable
from safedlv.probe import runner
from safedlv.session.dap_decision import Elsewhere, Local, Refused
from safedlv.session.dap_messages import argument, without
from safedlv.session.launch import number_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safedlv.command_line import CommandLine
    from safedlv.model import Diagnosis
    from safedlv.target import Found

OWN = "safedlv"
"""The argument that holds ours; dlv does not get it."""
NEVER, ASK, SIDECAR, CLONE = "never", "ask", "sidecar", "clone"
WAYS = (NEVER, ASK, SIDECAR, CLONE)
KEYS = ("via", "target")
NOT_YET = ("guard", "maxPause", "onDisconnect", "tracer")
STOP_WITHIN = 0.5
"""Seconds for the target to stop when it is probed: an editor is to have its answer within one."""
GUESSES_SINCE = (1, 24)  # service/dap/types.go: GuessSubstitutePath
GUESS_WITHIN = 5.0  # seconds for `go list` to name the modules of the workspace


class Attaching:
    """One request to attach to a process."""

    def __init__(self, dlv: str, line: CommandLine, arguments: dict[str, Any], console: Callable[[str], None]) -> None:
        self.dlv, self.line, self.console = dlv, line, console
        self.arguments = arguments
        self.via = ""

    def decide(self) -> Local | Elsewhere | Refused:
        """What becomes of it. Every failure of ours is a refusal with its sentence."""
        found = None
        try:
            named = self._settings()
            if named is None:
                return self._as_dlv_does()
            found = self._go_process(target.resolve(str(named).strip()))
            return self._through(found)
        except target.NoSuchProcessError as error:
            from safedlv.judgement import judge_nothing

            return self._refused(judge_nothing(error.pid, hidden=error.hidden))
        except SafedlvError as error:
            return Refused(error.sentence + (f"\n{error.hint}" if error.hint else ""))
        except Exception as error:  # an editor whose adapter just ends says nothing for half a minute
            if self.line.on("debug"):
                raise
            return Refused(f"internal error of safedlv: {type(error).__name__}: {printable(str(error))}")
        finally:
            if found is not None:
                found.close()

    # ------------------------------------------------------------ what is asked for

    def _settings(self) -> object | None:
        """Read our own settings; whom the request names, None where that is for dlv to judge."""
        own = argument(self.arguments, OWN)
        if own is not None and not isinstance(own, dict):
            raise SafedlvError('"safedlv" in the launch configuration is no object', 'write "safedlv": {"via": "ask"}')
        for key in own or {}:
            if key in NOT_YET:
                raise SafedlvError(f'"safedlv": {{"{key}": ...}} is not there yet', "leave it out")
            if key not in KEYS:
                raise SafedlvError(f'there is no "safedlv": {{"{printable(key, 40)}": ...}}', f"there is {_or(KEYS)}")
        self.via = (own or {}).get("via", "")
        if self.via and self.via not in WAYS:
            raise SafedlvError(f'"via" is {printable(str(self.via), 40)!r}', f"it may be {_or(WAYS)}")
        named = (own or {}).get("target") or argument(self.arguments, "processId")
        if not named and not argument(self.arguments, "waitFor"):
            raise SafedlvError("no process is named", _what_there_is())
        known = isinstance(named, (int, str)) and not isinstance(named, bool)
        return named if known and not argument(self.arguments, "waitFor") else None

    def _as_dlv_does(self) -> Local:
        return Local(0, stopped=False, arguments=self._for_dlv(None))

    def _for_dlv(self, pid: int | None) -> dict[str, Any] | None:
        """The arguments with what is ours put into dlv's terms; None when they are as they should be."""
        given = argument(self.arguments, "processId")
        kept = without(self.arguments, OWN)
        if pid is not None and given != pid:
            kept = {**without(kept, "processId"), "processId": pid}
        return None if kept == self.arguments else kept

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
        if self.via == SIDECAR:
            return self._beside(found)
        if self.via == CLONE:
            return self._in_a_copy(found)
        attempt = self._probe(found)
        if attempt is None or runner.refused(attempt):
            return self._explain(found, attempt)
        arguments = self._for_dlv(found.pid)
        if found.container:
            arguments = self._with_sources(arguments or self.arguments, found)
        return Local(found.pid, stopped=found.before.stopped, arguments=arguments)

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
        if SIDECAR not in offered or self.via == NEVER:
            return self._refused(diagnosis)
        if self.via != ASK:
            return self._refused(diagnosis, f'or at once: "{OWN}": {{"via": "{SIDECAR}"}} in the launch configuration')
        from safedlv.sibling import asked

        identity = _identity(found, diagnosis)
        if asked.answered(SIDECAR, identity):
            return self._beside(found)
        asked.ask(SIDECAR, identity)
        return self._refused(
            diagnosis, f"or start again within {asked.SECONDS} s: dlv then runs in a container beside the target's"
        )

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
        remote = {**without(self._for_dlv(None) or self.arguments, "processId", "mode"), "mode": "remote"}
        return Elsewhere(delve, found.pid, self._with_sources(remote, found) or remote)

    def _in_a_copy(self, found: Found) -> Elsewhere:
        """The seam for sessions in a copy of the target's container."""
        raise SafedlvError(
            f'"via": "{CLONE}" is not there yet for editors', 'take "via": "sidecar", or safedlv attach --via clone'
        )

    def _line_for_attach(self, found: Found) -> CommandLine:
        from safedlv import command_line

        without_ours = ("listen", "client-addr", "log-dest", "headless", "accept-multiclient", "init", "backend")
        words = [*self.line.handed_on(without_ours), "--headless", str(found.pid)]
        return command_line.parse(words)

    def _with_sources(self, arguments: dict[str, Any], found: Found) -> dict[str, Any] | None:
        """The arguments, with what dlv needs to find the target's sources in the workspace where they are.

        Not where the user has rules of their own. None where that changes nothing.
        """
        changed = None if arguments is self.arguments else arguments
        rules = argument(arguments, "substitutePath") or argument(arguments, "guessSubstitutePath")
        if rules or not self._is_in_workspace(found):
            return changed
        import json

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


def _or(words: tuple[str, ...]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]

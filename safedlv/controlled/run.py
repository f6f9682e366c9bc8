"""The run: the control group as it is, then with one ingredient more each time, each alone, and all of them.

An ingredient is added to those before it that work; one with which it fails is left out from then on. So each that
fails would still fail if the others that fail were out of the way: what the contract calls a cause. Alone one may fail
for which a capability that comes with the real thing makes up.
"""

from __future__ import annotations

from attrs import frozen

from safedlv.controlled.group import Group
from safedlv.controlled.ingredients import Ingredient, Setup
from safedlv.controlled.session import session, session_with
from safedlv.errors import printable
from safedlv.probe.runner import RawAttempt, refused
from safedlv.runtimes.sandbox import WorkloadFailed
from safedlv.values import Value

WORKS, FAILS, UNTRIED = "works", "fails", "not tried"
WITHOUT_DLV = "there is no dlv"
WITHOUT_LIMITS = "needs a cgroup of our own with limits"


@frozen(eq=False, repr=False)
class Outcome(Value):
    """What one trial came to."""

    result: str
    """WORKS, FAILS or UNTRIED."""
    step: str | None = None
    """The first step of the probe that failed, or ``dlv``."""
    errno: str | None = None
    """Its errno's name, or what dlv said."""
    why: str = ""
    """Of one that was not tried."""
    attempt: RawAttempt | None = None


@frozen(eq=False, repr=False)
class Row(Value):
    """One ingredient, and what it did."""

    ingredient: Ingredient
    added: Outcome
    """To those before it that work."""
    alone: Outcome


@frozen(eq=False, repr=False)
class Findings(Value):
    """All of it."""

    control: Outcome
    control_dlv: Outcome
    rows: tuple[Row, ...]
    together: Outcome | None
    """With every ingredient; None: there are none, or some cannot be taken on."""
    together_dlv: Outcome | None
    own_program: Outcome | None = None
    """dlv with the target's own program, in the group as it is; None: there is no target, or no Go program."""

    @property
    def named(self) -> tuple[str, ...]:
        """The ingredients with which it fails."""
        return tuple(row.ingredient.id for row in self.rows if row.added.result == FAILS)

    @property
    def verdict(self) -> str:
        """``works``, ``fails`` or ``undetermined``."""
        tried = [self.control, self.control_dlv, *(row.added for row in self.rows)]
        tried += [outcome for outcome in (self.together, self.together_dlv, self.own_program) if outcome is not None]
        results = [outcome.result for outcome in tried]
        if FAILS in results:
            return FAILS
        unknown = any(row.added.result == UNTRIED for row in self.rows) or self.control.result != WORKS
        return "undetermined" if unknown else WORKS


class Run:
    """All trials in one group."""

    def __init__(self, group: Group, plain: Setup, dlv: str | None, timeout: float, binary: int | None = None) -> None:
        """``binary``: the target's own program, open, where it is one of Go's."""
        self.group, self.plain, self.dlv, self.timeout, self.binary = group, plain, dlv, timeout, binary
        self.unavoidable: tuple[str, ...] = ()
        """What could not be taken on in the group as it is, and so is not the doing of an ingredient."""

    def findings(self, ingredients: tuple[Ingredient, ...]) -> Findings:
        """Everything. Raises OSError, TimeoutError when the group does not do what it should."""
        control = self._probe(self.plain)
        control_dlv = self._session(self.plain) if control.result == WORKS else Outcome(UNTRIED, why="see above")
        if control.result != WORKS or control_dlv.result == FAILS:
            return Findings(control, control_dlv, (), None, None)
        rows, kept = [], self.plain
        for ingredient in ingredients:
            added = self._try(ingredient, kept)
            once = kept == self.plain or ingredient.needs_dlv  # a limit asks for no privilege
            alone = added if once else self._try(ingredient, self.plain)
            rows.append(Row(ingredient, added, alone))
            if added.result == WORKS and ingredient.apply is not None:
                kept = ingredient.apply(kept)
        together, dlv = self._together(ingredients, rows)
        return Findings(control, control_dlv, tuple(rows), together, dlv, self._own_program())

    def _together(self, ingredients: tuple[Ingredient, ...], rows: list[Row]) -> tuple[Outcome | None, Outcome | None]:
        """All at once, where each could be tried: the probe, and where no ingredient fails dlv."""
        setup = self.plain
        for ingredient in ingredients:
            setup = ingredient.apply(setup) if ingredient.apply else setup
        results = {row.added.result for row in rows}
        if not rows or UNTRIED in results:
            return None, None
        probe = self._probe(setup)
        return probe, self._session(setup) if results == {WORKS} and setup.dumpable else None

    def _try(self, ingredient: Ingredient, onto: Setup) -> Outcome:
        if ingredient.apply is None:
            return Outcome(UNTRIED, why=ingredient.why)
        setup = ingredient.apply(onto)
        if not ingredient.needs_dlv:
            return self._probe(setup)
        if not self.group.limits:
            return Outcome(UNTRIED, why=WITHOUT_LIMITS)
        tries = (self._session(setup) for _ in range(ingredient.tries))
        return next((outcome for outcome in tries if outcome.result != WORKS), Outcome(WORKS))

    def _probe(self, setup: Setup) -> Outcome:
        try:
            trial = self.group.trial(setup, self.timeout)
        except WorkloadFailed as error:
            return Outcome(UNTRIED, why=printable(str(error).strip().splitlines()[-1]))
        if setup == self.plain:
            self.unavoidable = trial.missing
        missing = [line for line in trial.missing if line not in self.unavoidable]
        outcome = outcome_of(trial.attempt)
        if missing and (outcome.result == WORKS or not trial.attempt[0]):
            return Outcome(UNTRIED, why=printable(missing[0]), attempt=trial.attempt)
        return outcome

    def _session(self, setup: Setup) -> Outcome:
        if self.dlv is None:
            return Outcome(UNTRIED, why=WITHOUT_DLV)
        return _of_session(session(self.group, setup, self.dlv))

    def _own_program(self) -> Outcome | None:
        if self.binary is None or self.dlv is None:
            return None
        return _of_session(session_with(self.group, self.plain, self.dlv, self.binary))


def _of_session(said: str) -> Outcome:
    if said.startswith(UNTRIED):
        return Outcome(UNTRIED, why=said.removeprefix(f"{UNTRIED}: "))
    return Outcome(FAILS, "dlv", said) if said else Outcome(WORKS)


def outcome_of(attempt: RawAttempt) -> Outcome:
    """What a probe came to, by its first step that failed. Pure."""
    steps, needs, _, _ = attempt
    if not refused(attempt):
        return Outcome(WORKS, attempt=attempt)
    failed = ((name, failure) for name, failure, _ in steps + needs if failure and name != "process_vm_readv")
    step, failure = next(failed, ("attach", None))
    return Outcome(FAILS, step, failure, attempt=attempt)

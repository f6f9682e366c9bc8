"""What would have to be different: the same probe from a context with single layers changed, smallest changes first.

Every attempt is a real one, on the real target, so it is made only where the plain one was refused, and the number of
attempts is bounded by the number of changes that could matter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations

from attrs import field, frozen

from safedlv.capabilities import capability_names
from safedlv.model import Ids, Unknown
from safedlv.probe.context import Context
from safedlv.probe.elsewhere import Experiment, probe_from
from safedlv.probe.runner import RawAttempt, refused

POWERS = ("sys_ptrace", "dac_read_search", "kill")
"""What a debugger of another user's process needs: to trace, to open its files in /proc, to stop its threads."""
HELD_AT_MOST_US = 8000  # for which a whole diagnosis may hold the target


@frozen
class Change:
    """One layer changed."""

    id: str
    words: str
    risk: str
    """``low``: no new privilege; ``medium``: one that concerns other processes too."""
    apply: Callable[[Context], Context] = field(eq=False)


@frozen
class Findings:
    """What the attempts showed."""

    plain: Experiment
    without_filters: RawAttempt | None
    """None: there are no filters."""
    with_powers: RawAttempt | None
    """Filters kept, every capability given that a debugger may need: what is refused then is refused by a filter."""
    unrestricted: RawAttempt | None
    """Without filters and with the capabilities: passes unless another layer refuses."""
    fix: tuple[Change, ...] | None
    """The smallest set of changes with which the probe passed; None: none was found (or none was needed)."""
    held_us: int
    """For how long the target was held in all attempts together."""


class Investigation:
    """All attempts on one target from one context."""

    def __init__(self, context: Context, pid: int, timeout: float) -> None:
        self.context, self.pid, self.timeout = context, pid, timeout
        self.held_us = 0

    def run(self, uid: Ids | Unknown, gid: Ids | Unknown) -> Findings:
        """Try plainly; if that is refused, with layers changed. ``uid``, ``gid``: the target's."""
        plain = self._try(self.context)
        if not refused(plain.attempt) or not plain.attempt[0] or plain.inner_pid is None or _never_stops(plain.attempt):
            return Findings(plain, None, None, None, None, self.held_us)
        filters = bool(self.context.filters)
        bare = self._try(self.context.without_filters()).attempt if filters else None
        powered = self._try(self.context.with_capability(*POWERS)).attempt if filters else None
        free = self._try(self.context.without_filters().with_capability(*POWERS)).attempt
        fix = self._smallest(changes(self.context, uid, gid)) if not refused(free) else None
        return Findings(plain, bare, powered, free, fix, self.held_us)

    def _smallest(self, possible: list[Change]) -> tuple[Change, ...] | None:
        for size in range(1, len(possible) + 1):
            for chosen in combinations(possible, size):
                if self.held_us > HELD_AT_MOST_US:
                    return None
                context = self.context
                for change in chosen:
                    context = change.apply(context)
                if not refused(self._try(context).attempt):
                    return chosen
        return None

    def _try(self, context: Context) -> Experiment:
        experiment = probe_from(context, self.pid, self.timeout)
        self.held_us += sum(experiment.attempt[2])
        return experiment


def changes(context: Context, uid: Ids | Unknown, gid: Ids | Unknown) -> list[Change]:
    """The changes that could matter from this context, the least privilege first."""
    found = []
    if isinstance(uid, Ids) and isinstance(gid, Ids) and (uid.real, gid.real) != (context.uid.real, context.gid.real):
        words = f"run the debugger as the target's own user (uid {uid.real}, gid {gid.real})"
        found.append(Change("user", words, "low", lambda c: c.as_user(uid.real, gid.real)))
    if context.filters:
        words = "let the seccomp filter of the debugger allow the calls that dlv makes"
        found.append(Change("seccomp", words, "medium", Context.without_filters))
    for power in POWERS:
        if power not in _effective(context):
            words = f"give the debugger CAP_{power.upper()}"
            found.append(Change(f"cap:{power}", words, "medium", partial(_with_power, power)))
    return found


def _with_power(power: str, context: Context) -> Context:
    return context.with_capability(power)


def _effective(context: Context) -> tuple[str, ...]:
    return capability_names(context.capabilities.effective)


def _never_stops(attempt: RawAttempt) -> bool:
    return any(failure == "TIMEOUT" for _, failure, _ in attempt[0] + attempt[1])

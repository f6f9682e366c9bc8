"""What would have to be different: the same probe from a context with single layers changed, smallest changes first.

Two questions, each answered by trying. Which layers refuse? Every kind of layer is left in place alone, with all the
others out of the way: what is refused then is that layer's doing. And what is the smallest change with which the
probe passes? Sets of changes are tried in the order of their size, the least privilege first among equals, with the
layers of which the first question showed that they have to change, and without those that do not matter.

Every attempt is a real one on the real target, so none is made twice, and none after the target was held for
:data:`HELD_AT_MOST_US` in all. An attempt that is refused at PTRACE_ATTACH does not hold it at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations

from attrs import evolve, field, frozen

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
    """What the attempts showed. An attempt that was not needed, or not possible, is None."""

    plain: Experiment
    only_filters: RawAttempt | None = None
    """The tracer's filters in place, everything else out of the way."""
    only_labels: tuple[tuple[str, str, RawAttempt], ...] = ()
    """(security module, label, attempt): that label in place, everything else out of the way."""
    only_standing: RawAttempt | None = None
    """Ids, capabilities and user namespace in place, filters and labels out of the way."""
    unrestricted: RawAttempt | None = None
    """One that passed, with as few layers in place as it took; or, refused, one with every layer out of the way."""
    fix: tuple[Change, ...] | None = None
    """The smallest set of changes with which the probe passed; None: none was found (or none was needed)."""
    held_us: int = 0
    """For how long the target was held in all attempts together."""
    gave_up: bool = False
    """It stopped looking since the target had been held for :data:`HELD_AT_MOST_US`."""


class Investigation:
    """All attempts on one target from one context."""

    def __init__(self, context: Context, pid: int, timeout: float) -> None:
        self.context, self.pid, self.timeout = context, pid, timeout
        self.made: list[tuple[Context, Experiment]] = []
        self.held_us = 0
        self.gave_up = False

    def run(self, uid: Ids | Unknown, gid: Ids | Unknown) -> Findings:
        """Try plainly; if that is refused, with layers changed. ``uid``, ``gid``: the target's."""
        plain = self._try(self.context)
        outside = plain.inner_pid is None
        if _never_stops(plain.attempt) or not (outside or (plain.attempt[0] and refused(plain.attempt))):
            return Findings(plain, held_us=self.held_us)
        base = SHARE_PID.apply(self.context) if outside else self.context
        filters = self._attempt(relaxed(base).with_filters(*base.filters)) if base.filters else None
        labels = [(m, label, self._attempt(relaxed(base).with_label(m, label))) for m, label in base.labels]
        standing = self._attempt(_bare(base))
        needed = [SHARE_PID] if outside else []
        needed += [LET_THROUGH] if _is_refused(filters) else []
        needed += [_as_labelled(m) for m, _, attempt in labels if _is_refused(attempt)]
        ways = personal_changes(base, uid, gid) if _is_refused(standing) else []
        fix = self._smallest(needed, ways)
        return Findings(
            plain,
            only_filters=filters,
            only_labels=tuple((m, label, attempt) for m, label, attempt in labels if attempt),
            only_standing=standing,
            unrestricted=self._passed() or self._attempt(relaxed(base)),
            fix=fix,
            held_us=self.held_us,
            gave_up=self.gave_up,
        )

    def _smallest(self, needed: list[Change], ways: list[Change]) -> tuple[Change, ...] | None:
        """``needed``: has to change in any case; ``ways``: of these at least one, if there are any."""
        for number, chosen in enumerate(_sets(needed, ways)):
            context = self.context
            for change in chosen:
                context = change.apply(context)
            attempt = self._attempt(context)
            if attempt is None:
                return None
            if not refused(attempt):
                return chosen
            if number == 0 and self._passed() is None and _is_refused(self._attempt(self._most_relaxed(needed))):
                return None  # nothing that can be changed here helps
        return None

    def _most_relaxed(self, needed: list[Change]) -> Context:
        return relaxed(SHARE_PID.apply(self.context) if SHARE_PID in needed else self.context)

    def _passed(self) -> RawAttempt | None:
        return next((made.attempt for _, made in self.made if not refused(made.attempt)), None)

    def _attempt(self, context: Context) -> RawAttempt | None:
        """The attempt from there; None when the target has been held for long enough, or was seen not to stop."""
        known = next((made for same, made in self.made if same == context), None)
        if known is None and any(_never_stops(made.attempt) for _, made in self.made):
            return None
        if known is None and self.held_us > HELD_AT_MOST_US:
            self.gave_up = True
            return None
        return (known or self._try(context)).attempt

    def _try(self, context: Context) -> Experiment:
        experiment = probe_from(context, self.pid, self.timeout)
        self.held_us += sum(experiment.attempt[2])
        self.made.append((context, experiment))
        return experiment


def relaxed(context: Context) -> Context:
    """Every layer out of the way that a tracer's context can put out of the way, but for its PID namespace."""
    return _bare(context).without_namespaces("user").with_capability(*POWERS)


def _bare(context: Context) -> Context:
    context = context.without_filters()
    for module, _ in context.labels:
        context = context.with_label(module, None)
    return context


def _sets(needed: list[Change], ways: list[Change]) -> Iterator[tuple[Change, ...]]:
    for size in range(1 if ways else 0, len(ways) + 1):
        for chosen in combinations(ways, size):
            yield tuple(sorted((*chosen, *needed), key=lambda change: KINDS.index(change.id.partition(":")[0])))


# ---------------------------------------------------------------- what can be changed

KINDS = ("namespace", "user", "seccomp", "label", "cap")
"""The kinds of changes, as they begin an id, in the order in which they are told."""
SHARE_PID = Change(
    "namespace:pid",
    "run the debugger where the target has a PID: in the target's PID namespace",
    "low",
    lambda context: context.without_namespaces("pid"),
)
LET_THROUGH = Change(
    "seccomp",
    "let the seccomp filter of the debugger allow the calls that dlv makes",
    "medium",
    Context.without_filters,
)


def _as_labelled(module: str) -> Change:
    words = f"run the debugger under an {MODULE_NAMES[module]} label that may trace and signal the target"
    return Change(f"label:{module}", words, "medium", lambda context: context.with_label(module, None))


MODULE_NAMES = {"apparmor": "AppArmor", "selinux": "SELinux", "smack": "Smack"}


def personal_changes(context: Context, uid: Ids | Unknown, gid: Ids | Unknown) -> list[Change]:
    """Changes of the debugger's own standing that could matter from this context, the least privilege first."""
    found = []
    if isinstance(uid, Ids) and isinstance(gid, Ids) and (uid.real, gid.real) != (context.uid.real, context.gid.real):
        words = f"run the debugger as the target's own user (uid {uid.real}, gid {gid.real})"
        found.append(Change("user", words, "low", partial(_executed_as, uid.real, gid.real)))
    held = capability_names(context.capabilities.effective)
    for power in POWERS:
        if power not in held:
            words = f"give the debugger CAP_{power.upper()}"
            found.append(Change(f"cap:{power}", words, "medium", partial(_with_power, power)))
    return found


def _executed_as(uid: int, gid: int, context: Context) -> Context:
    """As another user, with the capabilities that execve(2) leaves such a process (capabilities(7))."""
    sets = context.capabilities
    own = sets.bounding if uid == 0 else sets.ambient
    return context.as_user(uid, gid).with_capabilities(evolve(sets, permitted=own, effective=own))


def _with_power(power: str, context: Context) -> Context:
    return context.with_capability(power)


def _is_refused(attempt: RawAttempt | None) -> bool:
    return attempt is not None and refused(attempt)


def _never_stops(attempt: RawAttempt) -> bool:
    return any(failure == "TIMEOUT" for _, failure, _ in attempt[0] + attempt[1])

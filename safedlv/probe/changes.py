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

from safedlv.capabilities import capability_mask, capability_names
from safedlv.model import Ids, Unknown
from safedlv.probe.context import Context, NamespaceLink
from safedlv.probe.elsewhere import Begun, Experiment, probe_from
from safedlv.probe.experiments import own_child
from safedlv.probe.runner import RawAttempt, refused
from safedlv.values import Value

POWERS = ("sys_ptrace", "dac_read_search", "kill")
"""What a debugger of another user's process needs: to trace, to open its files in /proc, to stop its threads."""
PLAINLY = "from there"
FREELY = "with every layer out of the way that a tracer can be rid of"
HELD_AT_MOST_US = 8000
"""For how long a whole diagnosis may hold the target, unless the user says otherwise (--hold-limit)."""


@frozen(eq=False, repr=False)
class Change(Value):
    """One layer changed; what it is in words, and its risk, is in diagnosis/remedies.py."""

    id: str
    apply: Callable[[Context], Context] = field(eq=False)


@frozen(eq=False, repr=False)
class Findings(Value):
    """What the attempts showed. An attempt that was not needed, or not possible, is None."""

    plain: Experiment
    only_filters: RawAttempt | None = None
    """The tracer's filters in place, everything else out of the way."""
    only_labels: tuple[tuple[str, str, RawAttempt], ...] = ()
    """(security module, label, attempt): that label in place, everything else out of the way."""
    only_standing: RawAttempt | None = None
    """Ids, capabilities and user namespace in place, filters and labels out of the way."""
    as_owner: RawAttempt | None = None
    """As the target's user, in its user namespace and with its capabilities too (but CAP_SYS_PTRACE); else freed."""
    unrestricted: RawAttempt | None = None
    """One that passed, with as few layers in place as it took; or, refused, one with every layer out of the way."""
    freed_by: str = ""
    """What was changed for that one, in words that begin a line."""
    fix: tuple[Change, ...] | None = None
    """The smallest set of changes with which the probe passed; None: none was found (or none was needed)."""
    held_us: int = 0
    """For how long the target was held in all attempts together."""
    gave_up: bool = False
    """It stopped looking since the target had been held for :data:`HELD_AT_MOST_US`."""


class Investigation:
    """All attempts on one target from one context.

    ``root`` is for the context of a process that an engine starts (``docker exec``): root's uid and gid in its
    container, as we see them. The changes are then those that an engine can be told. ``meanwhile``: things to do while
    attempts are under way, one at each.
    """

    def __init__(
        self,
        context: Context,
        pid: int,
        timeout: float,
        root: tuple[int, int] | None = None,
        hold_limit_us: float = HELD_AT_MOST_US,
        meanwhile: Iterator[object] | None = None,
    ) -> None:
        self.context, self.pid, self.timeout, self.root = context, pid, timeout, root
        self.hold_limit_us = hold_limit_us
        self.meanwhile = meanwhile or iter(())
        self.made: list[tuple[Context, str, Experiment]] = []
        self.held_us = 0
        self.gave_up = False

    def run(
        self, uid: Ids | Unknown, gid: Ids | Unknown, permitted: int = 0, user_ns: NamespaceLink | None = None
    ) -> Findings:
        """Try plainly; if that is refused, with layers changed. All arguments are the target's.

        ``permitted``: its permitted capabilities; ``user_ns``: its user namespace, with ``fd`` None when it is ours.
        """
        plain = self._note(self.context, PLAINLY, self._probe(self.context))
        outside = plain.inner_pid is None
        if _never_stops(plain.attempt) or not (outside or (plain.attempt[0] and refused(plain.attempt))):
            return Findings(plain, held_us=self.held_us)
        base = SHARE_PID.apply(self.context) if outside else self.context
        standing = self._attempt(_bare(base), "without filters and labels")
        rest = "and every other layer out of the way"
        labels = [
            (m, label, self._attempt(relaxed(base).with_label(m, label), f"with the {m} label {rest}"))
            for m, label in base.labels
        ]
        filtered = relaxed(base).with_filters(*base.filters)
        filters = self._attempt(filtered, f"with those filters {rest}") if base.filters else None
        needed = [SHARE_PID] if outside else []
        needed += [LET_THROUGH] if _is_refused(filters) else []
        needed += [_as_labelled(m) for m, _, attempt in labels if _is_refused(attempt)]
        ways = personal_changes(base, uid, gid, self.root) if _is_refused(standing) else []
        fix, passed = self._smallest(base, needed, ways)
        at_attach = standing is not None and any(failure for _, failure, _ in standing[0][:1])
        changed = {change.id for change in fix or ()} - {change.id for change in needed}
        if changed == {"user"} and isinstance(uid, Ids) and uid.real:  # it passed so, with fewer capabilities
            as_owner = passed
        else:
            as_owner = self._as_owner(base, uid, gid, permitted, user_ns) if at_attach else None
        freed_by, unrestricted = self._passed() or (FREELY, self._attempt(relaxed(base), FREELY))
        if base.filters and unrestricted is not None and refused(unrestricted):
            filters, unrestricted, freed_by = self._filters_elsewhere(base)
        return Findings(
            plain,
            only_filters=filters,
            only_labels=tuple((m, label, attempt) for m, label, attempt in labels if attempt),
            only_standing=standing,
            as_owner=as_owner,
            unrestricted=unrestricted,
            freed_by=freed_by,
            fix=fix,
            held_us=self.held_us,
            gave_up=self.gave_up,
        )

    def _smallest(
        self, base: Context, needed: list[Change], ways: list[Change]
    ) -> tuple[tuple[Change, ...] | None, RawAttempt | None]:
        """The smallest set, and the attempt that passed with it; (None, None) when none was found.

        ``needed``: has to change in any case; ``ways``: of these at least one, if there are any.
        """
        for number, chosen in enumerate(_sets(needed, ways)):
            context = self.context
            for change in chosen:
                context = change.apply(context)
            attempt = self._attempt(context, f"with {' and '.join(change.id for change in chosen)} changed")
            if attempt is None:
                break
            if not refused(attempt):
                return chosen, attempt
            if number == 0 and self._passed() is None and _is_refused(self._attempt(relaxed(base), FREELY)):
                break  # nothing that can be changed here helps
        return None, None

    def _as_owner(
        self, base: Context, uid: Ids | Unknown, gid: Ids | Unknown, permitted: int, user_ns: NamespaceLink | None
    ) -> RawAttempt | None:
        """Whether more than ids, user namespace and capabilities stands in the way, where they do."""
        if not isinstance(uid, Ids) or not isinstance(gid, Ids) or user_ns is None:
            return None
        owner = _bare(base).as_user(uid.real, gid.real)
        if not any(link.kind == "user" and link.inode == user_ns.inode for link in base.namespaces):
            if user_ns.fd is not None:  # neither the tracer's nor ours
                return None
            # What the tracer holds is nothing over the target, so the one power that is over everything goes.
            owner = owner.without_namespaces("user").without_capability("sys_ptrace")
        owner = owner.with_capability(*capability_names(without_power(permitted)))
        return self._attempt(owner, f"as uid {uid.real}, gid {gid.real}, with the target's capabilities")

    def _filters_elsewhere(self, base: Context) -> tuple[RawAttempt | None, RawAttempt | None, str]:
        """The filters tried on a process of our own, where the target refuses everybody (it is traced, or frozen)."""
        with own_child() as child:
            here = relaxed(base).without_namespaces("pid")
            filtered = probe_from(here.with_filters(*base.filters), child, self.timeout).attempt
            return filtered, probe_from(here, child, self.timeout).attempt, "a process of our own, without them"

    def _passed(self) -> tuple[str, RawAttempt] | None:
        return next(((words, made.attempt) for _, words, made in self.made if not refused(made.attempt)), None)

    def _probe(self, context: Context) -> Experiment:
        begun = Begun(context, self.pid, self.timeout)
        next(self.meanwhile, None)
        return begun.result()

    def _attempt(self, context: Context, words: str) -> RawAttempt | None:
        """The attempt from there; None when the target has been held for long enough, or was seen not to stop."""
        known = next((made for same, _, made in self.made if same == context), None)
        if known is None and any(_never_stops(made.attempt) for _, _, made in self.made):
            return None
        if known is None and self.held_us > self.hold_limit_us:
            self.gave_up = True
            return None
        return (known or self._note(context, words, self._probe(context))).attempt

    def _note(self, context: Context, words: str, experiment: Experiment) -> Experiment:
        self.held_us += sum(experiment.attempt[2])
        self.made.append((context, words, experiment))
        return experiment


def without_power(capabilities: int) -> int:
    """The same set without CAP_SYS_PTRACE, which would make up for the other layers."""
    return capabilities & ~capability_mask(["sys_ptrace"])


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
            if {"user", "root"} <= {change.id for change in chosen}:
                continue  # nobody can be both
            yield tuple(sorted((*chosen, *needed), key=lambda change: KINDS.index(change.id.partition(":")[0])))


# ---------------------------------------------------------------- what can be changed

KINDS = ("namespace", "user", "root", "seccomp", "label", "cap")
"""The kinds of changes, as they begin an id, in the order in which they are told."""
SHARE_PID = Change("namespace:pid", lambda context: context.without_namespaces("pid"))
LET_THROUGH = Change("seccomp", Context.without_filters)


def _as_labelled(module: str) -> Change:
    return Change(f"label:{module}", lambda context: context.with_label(module, None))


def personal_changes(
    context: Context, uid: Ids | Unknown, gid: Ids | Unknown, root: tuple[int, int] | None = None
) -> list[Change]:
    """Changes of the debugger's own standing that could matter from this context, the least privilege first.

    ``root`` as in :class:`Investigation`.
    """
    found = []
    own = (context.uid.real, context.gid.real)
    target = (uid.real, gid.real) if isinstance(uid, Ids) and isinstance(gid, Ids) else own
    if target != own:
        found.append(Change("user", partial(_executed_as, target, root)))
    if root is not None and root[0] not in (own[0], target[0]):
        found.append(Change("root", partial(_executed_as, root, root)))
    sets = context.capabilities
    held = capability_names(sets.effective if root is None else sets.bounding)
    found += [Change(f"cap:{power}", partial(_with_power, power, root)) for power in POWERS if power not in held]
    return found


def _executed_as(ids: tuple[int, int], root: tuple[int, int] | None, context: Context) -> Context:
    """As another user, with the capabilities that execve(2) leaves such a process (capabilities(7))."""
    sets = context.capabilities
    own = sets.bounding if ids[0] == (root or (0, 0))[0] else sets.ambient
    return context.as_user(*ids).with_capabilities(evolve(sets, permitted=own, effective=own))


def _with_power(power: str, root: tuple[int, int] | None, context: Context) -> Context:
    """An engine adds to the bounding set alone, of which execve(2) gives root everything and others nothing."""
    if root is None:
        return context.with_capability(power)
    sets = context.capabilities
    more = context.with_capabilities(evolve(sets, bounding=sets.bounding | capability_mask([power])))
    return _executed_as((context.uid.real, context.gid.real), root, more)


def _is_refused(attempt: RawAttempt | None) -> bool:
    return attempt is not None and refused(attempt)


def _never_stops(attempt: RawAttempt) -> bool:
    return any(failure == "TIMEOUT" for _, failure, _ in attempt[0] + attempt[1])

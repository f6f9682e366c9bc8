"""What a sidecar must be allowed: the first of a short list with which the probe passes, the least privilege first.

The list is kernel-facts' on sidecars: the target's own user needs nothing where ids, capabilities and dumpable are no
obstacle; root needs CAP_SYS_PTRACE for a process of its own, and to read files and stop threads of another user's.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

from attrs import evolve, frozen

from safedlv.capabilities import capability_mask
from safedlv.model import CapabilitySets, Ids, ProcessFacts, Unknown
from safedlv.probe.context import Context
from safedlv.probe.elsewhere import probe_from
from safedlv.probe.runner import RawAttempt, refused
from safedlv.probe.sources import exec_context
from safedlv.values import Value


@frozen(eq=False, repr=False)
class Privilege(Value):
    """Whom the sidecar runs as, in the numbers of the target's container, and with which capabilities."""

    user: tuple[int, int]
    capabilities: tuple[str, ...]
    verified: bool
    """The probe passed from a process with just this."""


@frozen(eq=False, repr=False)
class Refusal(Value):
    """What the probe met with the most that a sidecar may have."""

    step: str
    errno: str


def candidates(user: tuple[int, int]) -> tuple[tuple[tuple[int, int], tuple[str, ...]], ...]:
    """(user and group, capabilities) for a target of that user; the least privilege first."""
    root = (0, 0)
    own = ((user, ()),) if user != root else ()
    return (
        *own,
        (root, ()),
        (root, ("sys_ptrace",)),
        (root, ("sys_ptrace", "dac_read_search")),
        (root, ("sys_ptrace", "kill")),
        (root, ("sys_ptrace", "dac_read_search", "kill")),
    )


def tried(target: int, first: int, user: tuple[int, int], timeout: float) -> Privilege | Refusal:
    """The least with which the probe of process ``target`` passes; ``first``: its container's first process.

    ``user`` is the target's, as its container numbers it. A Refusal when not even the most is enough. Takes the
    privilege to stand in another's place. Raises OSError, ValueError as exec_context.
    """
    refusal = Refusal("the probe", "")
    for ids, of_one_user in groupby(candidates(user), key=itemgetter(0)):
        with exec_context(first, ids) as base:  # once for each user: reading it holds the first process for a moment
            for _, capabilities in of_one_user:
                attempt = probe_from(as_sidecar(base, capabilities), target, timeout).attempt
                if not refused(attempt):
                    return Privilege(ids, capabilities, verified=True)
                refusal = first_failure(attempt) or refusal
    return refusal


def first_failure(attempt: RawAttempt) -> Refusal | None:
    """The first call of an attempt that failed; None where nothing was tried, or nothing failed."""
    steps, needs, _, _ = attempt
    return next((Refusal(f"PTRACE_{name.upper()}", word) for name, word, _ in steps if word), None) or next(
        (Refusal(name, word) for name, word, _ in needs if word and name != "process_vm_readv"), None
    )


def as_sidecar(context: Context, capabilities: tuple[str, ...]) -> Context:
    """The context of a sidecar's process: of its container's place, with no filter that refuses dlv anything.

    Root holds just these capabilities, another user none of them (capabilities(7)).
    """
    mask = capability_mask(capabilities)
    held = mask if context.capabilities.effective or context.uid.real == 0 else 0
    sets = CapabilitySets(inheritable=0, permitted=held, effective=held, bounding=mask, ambient=0)
    return evolve(context.without_filters().with_no_new_privs(True), capabilities=sets)


def foretold(facts: ProcessFacts, user: tuple[int, int]) -> Privilege:
    """What the access rules make likely, for one who may not try; dlv itself will show whether it is enough."""
    status = facts.status
    sets, scope = status.capabilities, facts.modules.yama_scope
    plain = isinstance(sets, CapabilitySets) and sets.permitted == 0 and scope in (None, 0)
    one_user = isinstance(status.uid, Ids) and status.uid.real == status.uid.effective == status.uid.saved
    if user != (0, 0) and plain and one_user and facts.dumpable is True:
        return Privilege(user, (), verified=False)
    needs = ("sys_ptrace",) if user[0] == 0 else ("sys_ptrace", "dac_read_search", "kill")
    return Privilege((0, 0), needs, verified=False)


def inner(number: int | Unknown, id_map: tuple[tuple[int, int, int], ...]) -> int:
    """An id as we see it in the numbers of a user namespace (user_namespaces(7)). Raises ValueError without one."""
    for inside, outside, count in id_map:
        if isinstance(number, int) and outside <= number < outside + count:
            return inside + number - outside
    raise ValueError(f"id {number} has no number in the container")

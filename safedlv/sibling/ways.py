"""The ways to a debugger where the plain attach is refused, the least intrusive first, as values. Pure.

A way is offered only where it can work by what is known; whether it does, its own probe shows.
"""

from __future__ import annotations

from attrs import frozen

from safedlv.capabilities import capability_mask
from safedlv.command_line import CLONE, SIDECAR
from safedlv.model import Diagnosis
from safedlv.values import Value

HOST = "host"
NO_WAY_ROUND = frozenset(
    {
        *("no-such-process", "zombie", "kernel-thread", "self-attach", "already-traced", "frozen", "uninterruptible"),
        *("ptrace-unsupported", "delve-missing", "hidepid"),
    }
)
"""Causes that hold from anywhere: no other place to attach from is rid of them."""
NOT_FOR_ROOT = frozenset(
    {
        *("credentials", "not-dumpable", "capability-excess", "user-namespace", "proc-access", "signal-access"),
        *("pid-namespace", "landlock", "seccomp", "yama"),
    }
)
"""Causes that root on the host is rid of: it has every capability, and none of what confines this tracer."""
NOBODY_AT_ALL = 3
"""Yama's scope in which nobody may attach."""


@frozen(eq=False, repr=False)
class Way(Value):
    """One way, and what it does to whom."""

    via: str
    effect: str
    risk: str
    command: str
    """What to type for it."""

    @property
    def chosen_here(self) -> bool:
        """Whether it can be taken from where the user is."""
        return self.via != HOST


def ways(diagnosis: Diagnosis) -> tuple[Way, ...]:
    """Ways round a refusal, the least intrusive first; () where nothing is refused or nothing goes round it."""
    target = diagnosis.target
    if diagnosis.verdict != "blocked" or target is None or target.container is None:
        return ()
    if NO_WAY_ROUND & {cause.id for cause in diagnosis.causes}:
        return ()
    name = f"docker:{target.container}"
    return (
        *_from_the_host(diagnosis, name),
        Way(
            SIDECAR,
            "dlv in a container of its own beside the target, with just the privilege that is needed; the target runs "
            "on and nothing of it is changed; the container goes when the session ends",
            "low",
            f"safedlv attach --via sidecar {name}",
        ),
        Way(
            CLONE,
            "the session is in a copy of the container, started beside the original, which runs on; both write to the "
            "volumes that have a name; the copy goes when the session ends",
            "medium",
            f"safedlv attach --via clone {name}",
        ),
    )


def _from_the_host(diagnosis: Diagnosis, name: str) -> tuple[Way, ...]:
    """As root on the machine itself, where all that refuses is known to be nothing to root there."""
    causes = {cause.id for cause in diagnosis.causes}
    scope = diagnosis.facts.modules.yama_scope if diagnosis.facts else None
    held = diagnosis.tracer.capabilities
    powerful = diagnosis.tracer.uid == 0 and isinstance(held, int) and held & capability_mask(("sys_ptrace",))
    if not causes or not causes <= NOT_FOR_ROOT or scope == NOBODY_AT_ALL or (powerful and not causes & CONFINED):
        return ()
    effect = "dlv attaches as root on the machine itself; nothing is started, and the target runs on"
    return (Way(HOST, effect, "low", f"sudo safedlv attach {name}"),)


CONFINED = frozenset({"user-namespace", "pid-namespace", "landlock", "seccomp"})
"""Causes by which a root with capabilities is one in a container, or another sandbox."""

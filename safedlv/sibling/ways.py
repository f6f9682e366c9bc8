"""The ways to a debugger where the plain attach is refused, the least intrusive first, as values. Pure.

A way is offered only where it can work by what is known; whether it does, its own probe shows.
"""

from __future__ import annotations

from attrs import frozen

from safedlv.model import Diagnosis
from safedlv.values import Value

SIDECAR, CLONE = "sidecar", "clone"
NO_WAY_ROUND = frozenset(
    {
        *("no-such-process", "zombie", "kernel-thread", "self-attach", "already-traced", "frozen", "uninterruptible"),
        *("ptrace-unsupported", "delve-missing", "hidepid"),
    }
)
"""Causes that hold from anywhere: no other place to attach from is rid of them."""


@frozen(eq=False, repr=False)
class Way(Value):
    """One way, and what it does to whom."""

    via: str
    effect: str
    risk: str
    command: str
    """What to type for it."""


def ways(diagnosis: Diagnosis) -> tuple[Way, ...]:
    """Ways round a refusal, the least intrusive first; () where nothing is refused or nothing goes round it."""
    target = diagnosis.target
    if diagnosis.verdict != "blocked" or target is None or target.container is None:
        return ()
    if NO_WAY_ROUND & {cause.id for cause in diagnosis.causes}:
        return ()
    name = f"docker:{target.container}"
    return (
        Way(
            SIDECAR,
            "dlv in a container of its own beside the target, with just the privilege that is needed; the target runs "
            "on and nothing of it is changed; the container goes when the session ends",
            "low",
            f"safedlv attach --via sidecar {name}",
        ),
        Way(
            CLONE,
            "a copy of the container that can be debugged; the original runs on beside it, or is put back at the end",
            "medium",
            f"safedlv relaunch --debuggable {name}",
        ),
    )

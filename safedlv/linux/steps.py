"""Single things that are done to the calling process to give it another security context; each says what it does."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import Final

from attrs import frozen

from safedlv.linux import confine
from safedlv.model import CapabilitySets
from safedlv.values import Value

_MAX_CAPABILITY: Final = 63


@frozen(eq=False, repr=False)
class Step(Value):
    """One thing that is done to the calling process; ``apply`` raises OSError."""

    text: str
    apply: Callable[[], None]

    def take(self) -> None:
        """Apply it; an OSError is raised again with the step's text in front of the call's."""
        try:
            self.apply()
        except OSError as error:
            text = error.strerror or str(error)
            raise OSError(error.errno or errno.EIO, f"{self.text}: {text}") from error


def set_uids(real: int, effective: int, saved: int) -> None:
    """Change the uids but keep the capabilities for the steps that follow; the last step takes them away."""
    confine.set_keepcaps(True)
    os.setresuid(real, effective, saved)
    confine.set_keepcaps(False)
    _, permitted, inheritable = confine.capget()
    confine.capset(permitted, permitted, inheritable)


def inheritable_and_bounding(sets: CapabilitySets) -> Step:
    def apply() -> None:
        # Inheritable before bounding: it can only be raised within the bounding set (capabilities(7)).
        effective, permitted, _ = confine.capget()
        confine.capset(effective, permitted, sets.inheritable)
        for capability in range(_MAX_CAPABILITY + 1):
            try:
                present = confine.capbset_read(capability)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return  # beyond the last capability that this kernel knows
            if present and not sets.bounding >> capability & 1:
                confine.capbset_drop(capability)

    return Step(f"set inheritable to {sets.inheritable:#x} and drop bounding to {sets.bounding:#x}", apply)


def ambient(sets: CapabilitySets) -> Step:
    def apply() -> None:
        confine.cap_ambient_clear_all()
        for capability in range(_MAX_CAPABILITY + 1):
            if sets.ambient >> capability & 1:
                confine.cap_ambient_raise(capability)

    return Step(f"set ambient to {sets.ambient:#x}", apply)


def seccomp_filter(program: bytes) -> Step:
    text = f"load a seccomp filter of {len(program) // 8} instructions"
    return Step(text, partial(confine.seccomp_set_mode_filter, program))

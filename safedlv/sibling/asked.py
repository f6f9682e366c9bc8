"""A question whose answer is to try again: what an editor has in the place of a prompt.

The question is a file that is younger than its limit; trying again takes it away. It is kept per target, and by the
process that the target is now, so that a yes is never one for something else.
"""

from __future__ import annotations

import os
import time
from typing import Final

from safedlv.audit import state_directory

SECONDS: Final = 60
"""For which a question stands."""


def ask(via: str, identity: str) -> None:
    """Put the question. Raises OSError where nothing can be kept."""
    path = _path(via, identity)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    os.utime(path)


def answered(via: str, identity: str) -> bool:
    """Whether this is the second time, soon enough after the first; the question is gone then."""
    path = _path(via, identity)
    try:
        age = time.time() - os.stat(path).st_mtime
        os.unlink(path)
    except OSError:
        return False
    return 0 <= age < SECONDS


def _path(via: str, identity: str) -> str:
    return os.path.join(state_directory(), "asked", f"{via}-{identity.replace('/', '_')}")

"""One line for everything that safedlv makes, changes or removes on a machine, so that it can be looked up later.

The file is ``$SAFEDLV_AUDIT``, else ``safedlv/audit.log`` under ``$XDG_STATE_HOME`` (``~/.local/state``). A line that
cannot be written is said on stderr; it does not keep anything from being undone.
"""

from __future__ import annotations

import os
import sys
import time

from safedlv.errors import printable


def state_directory() -> str:
    """What safedlv keeps from run to run (XDG Base Directory Specification)."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "safedlv")


def path() -> str:
    """Where the lines go."""
    return os.environ.get("SAFEDLV_AUDIT") or os.path.join(state_directory(), "audit.log")


def audit(verb: str, what: str) -> None:
    """Append ``TIME PID VERB WHAT``; ``verb`` is created, changed, relaxed or removed."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = f"{moment} {os.getpid()} {verb} {printable(what, 500)}\n"
    where = path()
    try:
        os.makedirs(os.path.dirname(where), mode=0o700, exist_ok=True)
        fd = os.open(where, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        sys.stderr.write(f"safedlv: no audit line could be written to {printable(where)}: {error.strerror}\n")

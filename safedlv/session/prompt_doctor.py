"""``:doctor``: what ``safedlv doctor`` says of the target, from outside the session, without what the session explains.

The session's own dlv holds the target, so that nobody else can attach: that is said once, and the rest as it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from safedlv.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WITHIN = 20.0  # seconds
OURS = "already-traced"
WIDTH = 200


def ask_doctor(target: int, dlv: int) -> str:
    """What there is to say of process ``target``, in lines; ``dlv``: the session's own."""
    words = [sys.executable, "-m", "safedlv", "doctor", "--json", str(target)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=WITHIN, check=False, stdin=subprocess.DEVNULL)
        return doctors_words(json.loads(done.stdout), target, dlv, _threads(dlv))
    except (subprocess.TimeoutExpired, ValueError):
        return f"safedlv: doctor gives no answer; from another terminal: safedlv doctor {target}"


def _threads(pid: int) -> set[int]:
    try:
        return {int(tid) for tid in os.listdir(f"/proc/{pid}/task")}
    except OSError:
        return set()


def doctors_words(document: Any, target: int, dlv: int, threads: set[int]) -> str:
    """The diagnosis (``safedlv.diagnosis/1``) in lines. Raises ValueError for what is none.

    ``threads``: dlv's, one of which the kernel names as the tracer.
    """
    try:
        causes = [cause for cause in document["causes"] if not _is_ours(cause, threads)]
        checks = [
            check for check in document["checks"] if check["status"] in ("fail", "warn") and check["id"] != "tracer"
        ]
        held = len(causes) < len(document["causes"])
        lines = [f"process {target} is held by this session's own dlv ({dlv}): nobody else can attach to it now"] * held
        lines += [f"{cause['id']}: {cause['summary']}\n    {cause['advice']}" for cause in causes]
        lines += [f"{check['status']}: {check['id']}: {check['summary']}" for check in checks]
    except (KeyError, TypeError) as error:
        raise ValueError("no diagnosis") from error
    if not causes:
        lines.append("nothing else is in the way of a debugger here, or would spoil its session")
    return "\n".join(printable(line, WIDTH) for text in lines for line in text.split("\n"))


def _is_ours(cause: dict[str, Any], threads: set[int]) -> bool:
    return cause["id"] == OURS and cause["detail"].get("tracer_pid") in threads

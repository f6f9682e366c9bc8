"""``doctor --tracer WHO``: whose place the question is asked from."""

from __future__ import annotations

import os

from safedlv.errors import SafedlvError, UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safedlv.probe.context import Context
    from safedlv.target import Found

FORMS = "self, container, container:UID[:GID] or pid:N"


def context_of(who: str, found: Found) -> Context | None:
    """The context that ``who`` names; None for ``self``. Raises UsageError; SafedlvError when it cannot be read."""
    kind, colon, rest = who.partition(":")
    if who == "self":
        return None
    try:
        from safedlv.probe.sources import exec_context, read_context

        if kind == "pid" and rest.isdigit():
            return read_context(int(rest))
        if kind == "container" and (not colon or rest):
            return exec_context(_first_process(found), _user(rest))
    except OSError as error:
        raise SafedlvError(
            f"the context {printable(who)} cannot be read: {error.strerror or error}",
            "reading another's context needs root: sudo safedlv doctor ...",
            code=3,
        ) from error
    except ValueError as error:
        raise UsageError(f"--tracer {printable(who)}: {error}") from error
    raise UsageError(f"--tracer {printable(who)!r} names nobody", f"WHO is {FORMS}")


def _user(text: str) -> tuple[int, int | None] | None:
    if not text:
        return None
    uid, _, gid = text.partition(":")
    if not uid.isdigit() or (gid and not gid.isdigit()):
        raise UsageError(f"container:{printable(text)} names no user", "write container:UID or container:UID:GID")
    return int(uid), int(gid) if gid else None


def _first_process(found: Found) -> int:
    """The first process of the target's container: the highest of its ancestors in its PID namespace, or itself.

    With --pid=host that namespace is the machine's, and only the engine knows.
    """
    from safedlv.facts.sides import read_ancestors

    if found.container and _namespace(found.pid) == _namespace(os.getpid()):
        from safedlv.runtimes.docker import inspect

        return int(inspect(found.container)["State"]["Pid"])
    ancestors = read_ancestors(found.pid)
    first = found.pid
    for pid in ancestors if isinstance(ancestors, tuple) else ():
        if _namespace(pid) != _namespace(found.pid):
            break
        first = pid
    return first


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""

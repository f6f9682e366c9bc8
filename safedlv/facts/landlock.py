"""What can be asked of Landlock without being restricted by it: landlock(7), landlock_create_ruleset(2).

ctypes is imported here and not where it is used: a reader that has entered a container or given up its user could
not load it any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import sys

from safedlv.facts.reading import unknown
from safedlv.model import Unknown

# The same numbers on every architecture (asm-generic/unistd.h) but alpha.
_CREATE_RULESET = 444
_RESTRICT_SELF = 446
_CREATE_RULESET_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_ACCESS_FS_EXECUTE = 1  # LANDLOCK_ACCESS_FS_EXECUTE: known to the first ABI, and the child runs no program
_PR_SET_NO_NEW_PRIVS = 38

MAX_LAYERS = 16
"""LANDLOCK_MAX_NUM_LAYERS (security/landlock/limits.h)."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

_DEADLINE_MS = 5000
_TURNED_OFF = (errno.ENOSYS, errno.EOPNOTSUPP)  # not built in; built in but not enabled at boot


def abi_version() -> int | Unknown | None:
    """The Landlock ABI that this kernel speaks; None when it has none or it is off.

    ENOSYS counts as none, although a seccomp filter may answer so too; any other errno is Unknown.
    """
    try:
        return _call(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        return None if error.errno in _TURNED_OFF else unknown(error, "landlock_create_ruleset")


def free_layers() -> int | Unknown:
    """How many more Landlock layers the calling thread could take, of :data:`MAX_LAYERS`.

    The kernel tells this only by E2BIG, and a layer cannot be given back: a forked child takes them all and ends.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _use_up_layers(writer)
    os.close(writer)
    try:
        return _answer(reader, child)
    finally:
        os.close(reader)
        with contextlib.suppress(PermissionError):  # a filter lets nobody wait
            os.waitpid(child, 0)


def _answer(reader: int, child: int) -> int | Unknown:
    """What the child writes: the number of layers, then the errno that ended it."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    if not poll.poll(_DEADLINE_MS):
        os.kill(child, signal.SIGKILL)
        return Unknown("TIMEOUT", "landlock_restrict_self")
    answer = os.read(reader, 2)
    if len(answer) != 2:  # a filter killed it
        return Unknown("SIGSYS", "landlock_restrict_self")
    layers, code = answer
    if code != errno.E2BIG:
        return Unknown(errno.errorcode.get(code, f"errno {code}"), "landlock_restrict_self")
    return layers


def _use_up_layers(writer: int) -> None:
    """In the child: stack rulesets until the kernel refuses one, write how many it took, and end."""
    layers, code = 0, 0
    try:
        _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # else landlock_restrict_self wants CAP_SYS_ADMIN
        while layers <= MAX_LAYERS:
            _take_layer()
            layers += 1
    except OSError as error:
        code = error.errno or 0
    finally:
        os.write(writer, bytes((layers, code & 0xFF)))
        os._exit(0)


def _take_layer() -> None:
    handled = _ACCESS_FS_EXECUTE.to_bytes(8, sys.byteorder)
    ruleset = _call(_CREATE_RULESET, handled, len(handled), 0)
    try:
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _call(number: int, *arguments: bytes | int | None) -> int:
    words = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = _LIBC.syscall(ctypes.c_long(number), *words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result

"""Names of system calls that python-ptrace does not know, by libseccomp, where it is installed."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_NATIVE = 0  # SCMP_ARCH_NATIVE (seccomp_syscall_resolve_num_arch(3))


def name_by_libseccomp(number: int) -> str | None:
    """The name of a system call of this machine; None when libseccomp is not there or does not know it."""
    resolve, free = _library()
    pointer = resolve(_NATIVE, number) if resolve is not None else None
    if not pointer:
        return None
    try:
        return (ctypes.cast(pointer, ctypes.c_char_p).value or b"").decode("ascii", "replace") or None
    finally:
        free(pointer)  # allocated for the caller


@cache
def _library() -> tuple[Any, Any]:
    try:
        resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_num_arch
    except (OSError, AttributeError):
        return None, None
    resolve.argtypes, resolve.restype = (ctypes.c_uint32, ctypes.c_int), ctypes.c_void_p
    free = ctypes.CDLL(None).free
    free.argtypes, free.restype = (ctypes.c_void_p,), None
    return resolve, free

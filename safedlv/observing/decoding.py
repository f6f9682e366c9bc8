"""A system call in words, by python-ptrace's tables: its name, its arguments, the errno. Pure but for python-ptrace.

Strings of the traced process come through ``read``, are shortened, and are made safe to show. What a process writes,
and the words and the environment that it hands to a program, are not read at all.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Any, Final

from ptrace.func_call import FunctionCall, FunctionCallOptions
from ptrace.syscall import SYSCALL_NAMES, SYSCALL_PROTOTYPES, SyscallArgument

from safedlv.errors import printable
from safedlv.observing.calls import PTRACE_REQUESTS

Read = Callable[[int, int], bytes]
"""(address, size) -> bytes, fewer at the end of what there is. Raises OSError."""
NOT_SHOWN: Final = frozenset({"argv", "envp", "buf", "vec", "msg", "optval", "stat_addr", "siginfo", "statbuf"})
_PATHS: Final = frozenset({"filename", "pathname", "path"})
_LONGEST: Final = 200
_PAGE: Final = 4096
# Newer than python-ptrace's prototypes: how many words, and which of them is a path.
_NEWER: Final = {"faccessat2": (4, 1), "clone3": (2, None), "openat2": (4, 1), "pidfd_open": (2, None)}
# include/linux/errno.h: what the kernel keeps to itself and a tracer sees
_RESTARTS: Final = {512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND", 516: "ERESTART_RESTARTBLOCK"}


def name_of(number: int, unknown: Callable[[int], str | None]) -> str:
    """The name of a system call; ``unknown`` is asked for those that python-ptrace does not know."""
    name: str | None = SYSCALL_NAMES.get(number) or unknown(number)
    return name or f"syscall_{number}"


def errno_name(number: int) -> str:
    """The name of an errno (a positive number)."""
    return _RESTARTS.get(number) or errno.errorcode.get(number) or f"errno {number}"


def path_of(name: str, args: tuple[int, ...], read: Read) -> str | None:
    """The path that a call was made with, as it is; None for a call without one, or where it cannot be read."""
    at = _path_index(name)
    data = _c_string(args[at], read) if at is not None else None
    return None if data is None else data.decode("utf-8", "backslashreplace")


def in_words(name: str, args: tuple[int, ...], read: Read) -> str:
    """The call with its arguments, without its result."""
    call = FunctionCall(name, FunctionCallOptions(string_max_length=_LONGEST), _Argument)
    call.process = _Reader(read)
    _, prototype = SYSCALL_PROTOTYPES.get(name, ("long", ()))
    if name in _NEWER:
        words, _ = _NEWER[name]
        prototype = [("const char *", "filename") if at == _path_index(name) else ("long", "") for at in range(words)]
    for value, (kind, argument) in zip(args, prototype or [("", "")] * len(args), strict=False):
        call.addArgument(value=value, name=argument, type=kind)
    return printable(call.format(), 2 * _LONGEST)


class _Argument(SyscallArgument):  # type: ignore[misc]  # python-ptrace has no types
    """python-ptrace's argument, with what it lacks for ptrace(2), and without what is nobody's to see."""

    def createText(self) -> str:  # noqa: N802  python-ptrace's name
        name = self.name or ""
        if name in NOT_SHOWN:
            return "..." if self.value else "NULL"
        if name in _PATHS:
            data = _c_string(self.value, self.function.process.readBytes)
            return f"{self.value:#x}" if data is None else f'"{printable(data, _LONGEST)}"'
        if self.function.name == "ptrace" and name == "request":
            return PTRACE_REQUESTS.get(self.value, f"{self.value:#x}")
        if name in ("dirfd", "dfd"):
            return "AT_FDCWD" if self.value & 0xFFFFFFFF == 0xFFFFFF9C else str(self.value & 0xFFFFFFFF)  # -100
        try:
            return str(super().createText())
        except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError):
            return f"{self.value:#x}"


class _Reader:
    """What python-ptrace asks of a process."""

    def __init__(self, read: Read) -> None:
        self.readBytes = read

    def readCString(self, address: int, limit: int) -> tuple[bytes, bool]:  # noqa: N802
        data = _c_string(address, self.readBytes)
        if data is None:
            raise OSError(errno.EFAULT, "no string there")
        return data[:limit], len(data) > limit

    def readWord(self, address: int) -> int:  # noqa: N802
        return int(struct.unpack("=Q", self._exactly(address, 8))[0])

    def readStruct(self, address: int, kind: Any) -> Any:  # noqa: N802
        import ctypes

        return kind.from_buffer_copy(self._exactly(address, ctypes.sizeof(kind)))

    def readArray(self, address: int, kind: Any, count: int) -> Any:  # noqa: N802
        return self.readStruct(address, kind * count)

    def _exactly(self, address: int, size: int) -> bytes:
        data = self.readBytes(address, size)
        if len(data) < size:
            raise OSError(errno.EFAULT, "no memory there")
        return data


def _path_index(name: str) -> int | None:
    if name in _NEWER:
        return _NEWER[name][1]
    _, prototype = SYSCALL_PROTOTYPES.get(name, ("long", ()))
    return next((at for at, (_, argument) in enumerate(prototype) if argument in _PATHS), None)


def _c_string(address: int, read: Read) -> bytes | None:
    """The string at an address; it is read by pages, for it may stand at the end of what there is."""
    data = b""
    while b"\0" not in data and len(data) < _PAGE:
        at = address + len(data)
        try:
            piece = read(at, _PAGE - at % _PAGE)
        except OSError:
            break
        if not piece:
            break
        data += piece
    text, end, _ = data.partition(b"\0")
    return text if end else None

"""How the files of one process are read: through a directory that is opened once, so never from a recycled PID.

Every attach pays for this file, so at run time it imports only ``os``.  It raises :class:`OSError` with the file's
full name in it; :mod:`safedlv.facts.reading` is where errors become facts.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

READ_LIMIT = 1 << 20
"""Bytes read from one file unless the caller says otherwise: a hostile target can make cmdline as long as it likes."""

_CHUNK = 1 << 16
_STARTTIME = 22 - 3  # parse_stat's fields begin with field 3 of proc_pid_stat(5)


class ProcDir:
    """/proc/PID, held open: after the process is gone its reads fail with ENOENT or ESRCH, whoever gets the PID."""

    __slots__ = ("_fd", "path", "pid")

    def __init__(self, pid: int | str, proc: str = "/proc") -> None:
        """Open ``proc/pid`` (``self`` and ``thread-self`` work too); OSError, usually ENOENT, if it cannot be."""
        self.pid = pid
        self.path = f"{proc}/{pid}"
        self._fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """The O_PATH descriptor, for calls that take a ``dir_fd``; -1 once closed."""
        return self._fd

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open a file below this directory and return its descriptor; OSError names the full path."""
        try:
            return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            raise self._named(error, name) from error

    def read(self, name: str, limit: int = READ_LIMIT) -> bytes:
        """At most ``limit`` bytes of a file; OSError as open(2) or read(2) give it (ESRCH: the process has ended)."""
        fd = self.open(name)
        try:
            return _read_descriptor(fd, limit)
        except OSError as error:
            raise self._named(error, name) from error
        finally:
            os.close(fd)

    def readlink(self, name: str) -> str:
        """The text of a link (``exe``, ``ns/pid``), decoded as file names are; OSError as readlink(2)."""
        try:
            return os.readlink(name, dir_fd=self._fd)
        except OSError as error:
            raise self._named(error, name) from error

    def stat(self, name: str) -> os.stat_result:
        """stat(2) of a file below this directory, links followed."""
        try:
            return os.stat(name, dir_fd=self._fd)
        except OSError as error:
            raise self._named(error, name) from error

    def listdir(self, name: str) -> list[str]:
        """The names in a directory below this one (``task``, ``fd``)."""
        fd = self.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return os.listdir(fd)
        except OSError as error:
            raise self._named(error, name) from error
        finally:
            os.close(fd)

    def _named(self, error: OSError, name: str) -> OSError:
        """The same error with the whole path in it: with a dir_fd Python knows only the last part, read(2) none."""
        return OSError(error.errno, error.strerror, f"{self.path}/{name}")


def read_path(path: str, limit: int = READ_LIMIT) -> bytes:
    """At most ``limit`` bytes of a file that belongs to no process (/proc/sys, /sys); OSError names the path."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _read_descriptor(fd, limit)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)


def _read_descriptor(fd: int, limit: int) -> bytes:
    """Read to the end or the limit: a proc file may give less than was asked for before its end."""
    chunks = []
    while limit > 0:
        chunk = os.read(fd, min(limit, _CHUNK))
        if not chunk:
            break
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)


def parse_stat(data: bytes) -> tuple[bytes, list[bytes]]:
    """The comm and the fields from 3 (state) on of /proc/PID/stat (proc_pid_stat(5)); ValueError if it is not one.

    The comm is raw: it may hold spaces, newlines and parentheses, so it ends at the *last* parenthesis.
    """
    start, end = data.find(b"("), data.rfind(b")")
    if start < 0 or end < start:
        raise ValueError("no (comm) in stat")
    fields = data[end + 1 :].split()
    if not fields:
        raise ValueError("stat ends after its comm")
    return data[start + 1 : end], fields


def identity(procdir: ProcDir) -> int:
    """When the process started, in clock ticks after boot: with the PID, what tells it from a later one.

    Field 22 of /proc/PID/stat.  OSError as :meth:`ProcDir.read`; ValueError when the file is not a stat.
    """
    _, fields = parse_stat(procdir.read("stat"))
    if len(fields) <= _STARTTIME:
        raise ValueError(f"{procdir.path}/stat has no start time")
    return int(fields[_STARTTIME])

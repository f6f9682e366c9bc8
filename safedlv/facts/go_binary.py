"""The executable behind a process: is it Go, which Go, can dlv make sense of it, and is it still the file on disk.

Everything is read through /proc/PID, opened once, so never from a recycled PID.  The target may be hostile: its
executable is opened without blocking and read with bounds, and its path is looked up inside its own root.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Final, TypeVar

from safedlv.facts.buildinfo import BuildInfo, buildinfo_of
from safedlv.facts.elf import Elf, MalformedElf, read_elf
from safedlv.facts.reading import MALFORMED, unknown
from safedlv.model import GoBinary, Unknown

T = TypeVar("T")

NOT_GO: Final = "NOT_GO"
"""The errno word of a fact that only a Go program has."""
UNRECORDED: Final = "UNRECORDED"
"""The errno word of a fact that this program's linker did not write down."""

_DELETED = " (deleted)"  # fs/d_path.c: path_with_deleted
_OPENAT2 = 437  # on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02  # include/uapi/linux/openat2.h
_RESOLVE_IN_ROOT = 0x10
_TRIES = 8  # EAGAIN: something was renamed while the path was walked (openat2(2))
_MARKS = (".gopclntab", ".note.go.buildid")  # what Go's linker leaves in programs older than build information (1.13)


def read_go_binary(proc_fd: int) -> GoBinary:
    """Everything about a process's executable; ``proc_fd`` is its /proc/PID, open (O_PATH will do), and stays so.

    Never raises: what cannot be read is Unknown with the errno's name or a word: MALFORMED (the file makes no sense),
    NOT_GO (asked of another kind of program), UNRECORDED.
    """
    source = _source(proc_fd)
    link = _fact(lambda: os.readlink("exe", dir_fd=proc_fd), source)
    identity = _fact(lambda: os.stat("exe", dir_fd=proc_fd), source)
    path, deleted = _path(proc_fd, link, identity)
    contents = read_contents(proc_fd)
    return GoBinary(
        path=path,
        deleted=deleted,
        replaced=_replaced(proc_fd, path, deleted, identity),
        is_go=contents.is_go,
        go_version=contents.go_version,
        main_package=contents.main_package,
        has_dwarf=contents.has_dwarf,
        optimized=contents.optimized,
        cgo=contents.cgo,
    )


def _source(proc_fd: int) -> str:
    """The name of the process's executable for an Unknown: only the kernel knows which PID the descriptor is of."""
    try:
        directory = os.readlink(f"/proc/self/fd/{proc_fd}").partition(" ")[0]
    except OSError:
        directory = "/proc/PID"
    return f"{directory}/exe"


# ---------------------------------------------------------------- what is in the file


class Contents:
    """What the bytes of the executable say; the fields are GoBinary's."""

    def __init__(self, why: Unknown) -> None:
        self.is_go: bool | Unknown = why
        self.go_version: str | Unknown | None = why
        self.main_package: str | Unknown | None = why
        self.has_dwarf: bool | Unknown = why
        self.optimized: bool | Unknown = why
        self.cgo: bool | Unknown = why


def read_contents(proc_fd: int) -> Contents:
    """Open the exe of the /proc/PID that is open at ``proc_fd`` and read what it says."""
    source = _source(proc_fd)
    try:
        fd = os.open("exe", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=proc_fd)
    except OSError as error:
        return Contents(unknown(error, source))
    try:
        return contents_of(fd, source)
    finally:
        os.close(fd)


def contents_of(fd: int, source: str) -> Contents:
    """What the file open at ``fd`` says; ``source`` is its name in an Unknown."""
    elf = _fact(lambda: read_elf(fd), source)
    if isinstance(elf, Unknown):
        return Contents(elf)
    contents = Contents(Unknown(NOT_GO, source))
    contents.cgo = elf.has_interpreter
    contents.has_dwarf = any(elf.section(name) is not None for name in (".debug_info", ".zdebug_info"))
    info = _fact(lambda: buildinfo_of(elf), source)
    contents.is_go = info if isinstance(info, Unknown) else info is not None or _has_mark(elf)
    if contents.is_go is False:
        contents.go_version = contents.main_package = None
        return contents
    _fill_go(contents, elf, info, source)
    return contents


def _fill_go(contents: Contents, elf: Elf, info: BuildInfo | Unknown | None, source: str) -> None:
    """The facts that only a Go program has: from its build information; what that leaves open, from its DWARF."""
    missing = info if isinstance(info, Unknown) else Unknown(UNRECORDED, f"{source} .go.buildinfo")
    recorded = info if isinstance(info, BuildInfo) else BuildInfo(None)
    contents.main_package = recorded.main_path or missing
    contents.go_version = recorded.go_version or missing
    by_flags = optimized_by_flags(recorded)
    contents.optimized = missing if by_flags is None else by_flags
    if by_flags is None or recorded.go_version is None:
        _ask_dwarf(contents, elf, source)


def _ask_dwarf(contents: Contents, elf: Elf, source: str) -> None:
    """What the compiler noted with package main, where the linker did not note it. It takes far longer to read."""
    from safedlv.facts.go_dwarf import go_version_of, is_optimized, main_unit

    unit = _fact(lambda: main_unit(elf), f"{source} .debug_info")
    if isinstance(unit, Unknown):
        contents.optimized = unit if isinstance(contents.optimized, Unknown) else contents.optimized
        return
    if unit is None:
        return
    told = is_optimized(unit.producer)
    if isinstance(contents.optimized, Unknown) and told is not None:
        contents.optimized = told
    if isinstance(contents.go_version, Unknown):
        contents.go_version = go_version_of(unit.producer) or contents.go_version


def _has_mark(elf: Elf) -> bool:
    return any(elf.section(name) is not None for name in _MARKS)


def optimized_by_flags(info: BuildInfo) -> bool | None:
    """Whether the build settings say that the main package was optimised; None when they do not say.

    ``-gcflags`` is recorded since Go 1.18, as ``flags`` (for the packages named on the command line) or
    ``pattern=flags`` (cmd/go, load.PerPackageFlag); a pattern that may or may not match says nothing.
    """
    if "-compiler" not in info.settings:
        return None
    flags = info.settings.get("-gcflags", "")
    if flags and not flags.startswith("-"):
        pattern, _, flags = flags.partition("=")
        if pattern not in ("all", "...", "main", info.main_path):
            return None
    words = flags.split()
    return not ("-N" in words and "-l" in words)


def _fact(read: Callable[[], T], source: str) -> T | Unknown:
    try:
        return read()
    except OSError as error:
        return unknown(error, source)
    except MalformedElf:
        return Unknown(MALFORMED, source)


# ---------------------------------------------------------------- where the file is


def _path(
    proc_fd: int, link: str | Unknown, identity: os.stat_result | Unknown
) -> tuple[str | Unknown, bool | Unknown]:
    """The path in the link's text, and whether the file was deleted.

    The kernel's mark is not told from a name that ends like it: a file that is really called so still stands there.
    """
    if isinstance(link, Unknown):
        return link, link
    if not link.endswith(_DELETED):
        return link, False
    standing = _stat_at(proc_fd, link)
    if not isinstance(standing, Unknown) and not isinstance(identity, Unknown) and os.path.samestat(standing, identity):
        return link, False
    return link.removesuffix(_DELETED), True


def _replaced(
    proc_fd: int, path: str | Unknown, deleted: bool | Unknown, identity: os.stat_result | Unknown
) -> bool | Unknown:
    """Another file stands at the path: dlv would find its symbols there only if it read the path, but people do."""
    if isinstance(path, Unknown):
        return path
    if isinstance(identity, Unknown):
        return identity
    standing = _stat_at(proc_fd, path)
    if not isinstance(standing, Unknown):
        return not os.path.samestat(standing, identity)
    nothing = standing.errno in ("ENOENT", "ENOTDIR")
    return False if nothing and deleted is True else standing


def _stat_at(proc_fd: int, path: str) -> os.stat_result | Unknown:
    """The file that now stands at the text of the exe link.

    The text starts at the reader's root where the process shares the reader's mount namespace (a chrooted process
    shows the whole path), else at the root of the process's own (fs/d_path.c: prepend_path).
    """
    own = _fact(lambda: os.readlink("/proc/self/ns/mnt"), "/proc/self/ns/mnt")
    other = _fact(lambda: os.readlink("ns/mnt", dir_fd=proc_fd), "ns/mnt")
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        shared = isinstance(own, str) and own == other
        root = os.open("/", flags) if shared else os.open("root", flags, dir_fd=proc_fd)
    except OSError as error:
        return unknown(error, f"{_source(proc_fd).removesuffix('exe')}root")
    try:
        return stat_in_root(root, path)
    finally:
        os.close(root)


class _OpenHow(ctypes.Structure):
    """struct open_how (openat2(2))."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def stat_in_root(root: int, path: str) -> os.stat_result | Unknown:
    """stat(2) of a path whose links are followed as if the directory open at ``root`` were "/" (openat2(2)).

    No link, ``..`` or /proc magic link leads out of it, and nothing is opened but an O_PATH descriptor, so a FIFO or
    a device there does not matter.  Unknown on any error: ENOENT for nothing there, ENOSYS before Linux 5.6.
    """
    try:
        fd = _open_in_root(root, path)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)
    except OSError as error:
        return unknown(error, path)


def _open_in_root(root: int, path: str) -> int:
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    number = ctypes.c_long(_OPENAT2)
    for _ in range(_TRIES):
        size = ctypes.c_size_t(ctypes.sizeof(how))
        fd = int(syscall(number, ctypes.c_int(root), ctypes.c_char_p(os.fsencode(path)), ctypes.byref(how), size))
        if fd >= 0:
            return fd
        if ctypes.get_errno() != errno.EAGAIN:
            break
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)

"""The program text of the target: which bytes of it are breakpoints that a debugger has written.

Contract: only executable mappings of files count, and only bytes that are a breakpoint instruction in memory and
something else in the file. Which pages were written to at all, the kernel tells: a page that is no longer the file's
is anonymous (bit 61 of /proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst), so that the text of a large
program is not read for it. What was there before the debugger came (another's breakpoints, uprobes, text that a
program has changed itself) is looked up beforehand with the same function, and left alone.
"""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PRESENT, _SWAPPED, _OF_FILE = 1 << 63, 1 << 62, 1 << 61
_ENTRY: Final = 8  # bytes, one for each page
MOST_PAGES: Final = 2048
"""Pages of its text that a program may have written to, for us to compare them all."""
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class Mapping:
    """An executable mapping of a file: addresses, and where in which file."""

    def __init__(self, start: int, end: int, offset: int, path: str) -> None:
        self.start, self.end, self.offset, self.path = start, end, offset, path


def written(procdir: int, instruction: bytes) -> dict[int, bytes]:
    """Where breakpoints (``instruction``) are in the text of the process whose open /proc/PID this is: address ->
    the bytes of the file there.

    A mapping whose file cannot be opened, or is another one by now, is left out. Raises OSError when the process's
    maps or memory cannot be read; ProcessLookupError when it has ended.
    """
    found: dict[int, bytes] = {}
    for page, now, was in _pages(procdir):
        if was is not None:
            found.update(_breakpoints(page, now, was, instruction))
    return found


class Unlike:
    """Where text is not its file's: ``bytes``, address -> the byte there; and pages whose file cannot be opened."""

    def __init__(self, of_bytes: dict[int, int], unseen: set[int]) -> None:
        self.bytes, self.unseen = of_bytes, unseen


def differing(procdir: int) -> Unlike:
    """Every byte of the text that is not its file's. Raises OSError as :func:`written`; OverflowError for a program
    that has written to more than :data:`MOST_PAGES` pages of its text.
    """
    unlike = Unlike({}, set())
    for count, (page, now, was) in enumerate(_pages(procdir)):
        if count >= MOST_PAGES:
            raise OverflowError(f"more than {MOST_PAGES} pages of text were written to")
        if was is None:
            unlike.unseen.add(page)
        elif now != (was := was.ljust(len(now), b"\0")):  # behind its file's end a page is empty
            unlike.bytes.update((page + at, now[at]) for at in range(len(now)) if now[at] != was[at])
    return unlike


def restore(procdir: int, originals: dict[int, bytes]) -> None:
    """Write these bytes into the text. Raises OSError."""
    mem = os.open("mem", os.O_RDWR | os.O_CLOEXEC, dir_fd=procdir)
    try:
        for address, data in originals.items():
            os.pwrite(mem, data, address)
    finally:
        os.close(mem)


def _pages(procdir: int) -> Iterator[tuple[int, bytes, bytes | None]]:
    """The pages of text that are not the file's any more: address, what is there, and what the file has there; None
    where the mapping's file cannot be opened. Raises OSError.
    """
    mem = os.open("mem", os.O_RDONLY | os.O_CLOEXEC, dir_fd=procdir)
    try:
        for mapping in mappings(procdir):
            pages = list(touched(procdir, mapping))
            file = _open_file(procdir, mapping) if pages else None
            try:
                for page in pages:
                    at = page - mapping.start + mapping.offset
                    yield page, os.pread(mem, PAGE, page), None if file is None else os.pread(file, PAGE, at)
            finally:
                if file is not None:
                    os.close(file)
    finally:
        os.close(mem)


def mappings(procdir: int) -> Iterator[Mapping]:
    """The executable mappings of files, from /proc/PID/maps (proc_pid_maps(5)). Raises OSError."""
    fd = os.open("maps", os.O_RDONLY | os.O_CLOEXEC, dir_fd=procdir)
    with open(fd, "rb") as file:
        lines = file.read().splitlines()
    for line in lines:
        span, mode, offset, _, inode, *path = line.split(None, 5)
        if mode[2:3] == b"x" and inode != b"0" and path:
            start, _, end = span.partition(b"-")
            yield Mapping(int(start, 16), int(end, 16), int(offset, 16), os.fsdecode(path[0]))


def touched(procdir: int, mapping: Mapping) -> Iterator[int]:
    """The addresses of its pages that are not the file's any more; all of them where the kernel does not tell."""
    count = (mapping.end - mapping.start) // PAGE
    try:
        fd = os.open("pagemap", os.O_RDONLY | os.O_CLOEXEC, dir_fd=procdir)
        try:
            data = os.pread(fd, count * _ENTRY, mapping.start // PAGE * _ENTRY)
        finally:
            os.close(fd)
    except OSError:
        data = b""
    if len(data) != count * _ENTRY:
        yield from range(mapping.start, mapping.end, PAGE)
        return
    for number, entry in enumerate(struct.unpack(f"={count}Q", data)):
        if entry & _SWAPPED or (entry & _PRESENT and not entry & _OF_FILE):
            yield mapping.start + number * PAGE


def _open_file(procdir: int, mapping: Mapping) -> int | None:
    """The mapping's own file: by the mapping, which takes privilege, or as the program, where it is that one's."""
    try:
        return os.open(f"map_files/{mapping.start:x}-{mapping.end:x}", _READ, dir_fd=procdir)
    except OSError:
        pass
    try:
        same = os.readlink("exe", dir_fd=procdir) == mapping.path
        return os.open("exe", _READ, dir_fd=procdir) if same else None
    except OSError:
        return None


def _breakpoints(page: int, now: bytes, was: bytes, instruction: bytes) -> Iterator[tuple[int, bytes]]:
    size = len(instruction)
    at = now.find(instruction)
    while 0 <= at < len(was):
        original = was[at : at + size]
        if original != instruction and len(original) == size and at % size == 0:
            yield page + at, original
        at = now.find(instruction, at + 1)

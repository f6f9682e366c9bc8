"""ELF headers of a file that nobody vouches for, read by pread(2) and nothing else.

The file may be truncated while it is read, sparse, endless, or made to break its reader: so no mmap (SIGBUS), no
read beyond what was asked for, every count capped, every offset held against the size that fstat(2) gives.
Every attach pays for this file, so at run time it imports only os, stat and struct.

Contract: whatever the bytes are, :class:`MalformedElf` or :class:`OSError`, and soon.
Non-goals: DWARF, relocations, object files with more sections than a linked program has.
Layouts: elf(5), and Go's debug/elf for what real programs get away with.
"""

from __future__ import annotations

import os
import stat
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

PT_LOAD: Final = 1
PT_INTERP: Final = 3
PF_X: Final = 1
PF_W: Final = 2
SHT_SYMTAB: Final = 2
SHT_NOBITS: Final = 8
SHF_COMPRESSED: Final = 0x800

READ_LIMIT: Final = 64 << 20
"""The most bytes that one read returns: the symbols of the largest Go programs fit, a sparse terabyte does not."""

_MAX_SECTIONS = 8192  # a linked program has some forty; gcc -ffunction-sections objects are not our business
_MAX_SEGMENT_BYTES = 1 << 16  # the kernel's own limit on a program header table (fs/binfmt_elf.c: load_elf_phdrs)
_MAX_NAMES = 1 << 20
_MAX_NAME = 256
_IDENT = 16

# (32-bit, 64-bit) layouts, without the byte order
_HEADER = ("HHIIIIIHHHHHH", "HHIQQQIHHHHHH")
_SEGMENT = ("IIIIIIII", "IIQQQQQQ")
_SECTION = ("IIIIIIIIII", "IIQQQQIIQQ")
_SYMBOL = ("IIIBBH", "IBBHQQ")


class MalformedElf(ValueError):  # noqa: N818 - the file is what is malformed, and the contract names it so
    """The file is no ELF file, is cut short, or says something that cannot be true."""


class Segment:
    """One program header: what the kernel maps, at ``vaddr``, from ``offset`` (bytes)."""

    __slots__ = ("filesz", "flags", "memsz", "offset", "type", "vaddr")

    def __init__(self, kind: int, *, flags: int, offset: int, vaddr: int, filesz: int, memsz: int) -> None:
        self.type = kind
        self.flags = flags
        self.offset = offset
        self.vaddr = vaddr
        self.filesz = filesz
        self.memsz = memsz


class Section:
    """One section header: ``offset`` and ``size`` in bytes of the file, ``address`` in the program's memory."""

    __slots__ = ("address", "flags", "link", "name", "offset", "size", "type")

    def __init__(self, name: str, kind: int, *, flags: int, address: int, offset: int, size: int, link: int) -> None:
        self.name = name
        self.type = kind
        self.flags = flags
        self.address = address
        self.offset = offset
        self.size = size
        self.link = link


class Elf:
    """The headers of one ELF file, and bounded reads from it; the descriptor stays the caller's."""

    __slots__ = ("bits", "fd", "file_size", "machine", "order", "sections", "segments", "type")

    def __init__(self, fd: int, file_size: int, bits: int, order: str) -> None:
        self.fd = fd
        self.file_size = file_size
        self.bits = bits
        """32 or 64."""
        self.order = order
        """The byte order as struct spells it: ``<`` or ``>``."""
        self.type = 0
        """e_type: 2 an executable, 3 a position-independent one or a shared object."""
        self.machine = 0
        """e_machine: 62 x86_64, 183 aarch64."""
        self.segments: tuple[Segment, ...] = ()
        self.sections: tuple[Section, ...] = ()

    @property
    def has_interpreter(self) -> bool:
        """PT_INTERP: the kernel hands this program to a dynamic linker."""
        return any(segment.type == PT_INTERP for segment in self.segments)

    def interpreter(self) -> bytes:
        """The path of the dynamic linker; empty for a static program. Raises MalformedElf."""
        for segment in self.segments:
            if segment.type == PT_INTERP:
                return self.read(segment.offset, segment.filesz).rstrip(b"\0")
        return b""

    def section(self, name: str) -> Section | None:
        """The first section of that name that has bytes in the file; None when there is none."""
        for section in self.sections:
            if section.name == name and section.type != SHT_NOBITS and section.size:
                return section
        return None

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes at ``offset`` of the file; MalformedElf when they are not all there."""
        if size < 0 or size > READ_LIMIT:
            raise MalformedElf(f"{size} bytes at {offset:#x} are more than are ever read at once")
        if offset < 0 or offset + size > self.file_size:
            raise MalformedElf(f"{size} bytes at {offset:#x} reach beyond the file's {self.file_size}")
        data = os.pread(self.fd, size, offset)
        while len(data) < size:  # a signal or a FUSE file may give less; an end of file means it was truncated just now
            more = os.pread(self.fd, size - len(data), offset + len(data))
            if not more:
                raise MalformedElf("the file became shorter while it was read")
            data += more
        return data

    def unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        """A struct of the file's byte order at ``offset``."""
        layout = self.order + layout
        return struct.unpack(layout, self.read(offset, struct.calcsize(layout)))

    def offset_of(self, address: int) -> tuple[int, int]:
        """Where an address of the program is in the file, and how many bytes of its segment follow from there."""
        for segment in self.segments:
            if segment.type == PT_LOAD and 0 <= address - segment.vaddr < segment.filesz:
                into = address - segment.vaddr
                return segment.offset + into, segment.filesz - into
        raise MalformedElf(f"address {address:#x} is not in the file")

    def read_address(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes at an address of the program, as the file has them (no relocation is applied)."""
        offset, left = self.offset_of(address)
        if size > left:
            raise MalformedElf(f"{size} bytes at address {address:#x} reach beyond their segment")
        return self.read(offset, size)

    def symbol_addresses(self, names: Iterable[str]) -> dict[str, int]:
        """The values of these symbols of .symtab, as far as it has them; empty for a stripped file."""
        for section in self.sections:
            if section.type == SHT_SYMTAB and section.link < len(self.sections):
                return _symbol_addresses(self, section, self.sections[section.link], names)
        return {}


def read_elf(fd: int) -> Elf:
    """The headers of the regular file open at ``fd``, whatever its position.

    Raises MalformedElf for what is no well-formed ELF file (a FIFO, a device or a directory included: they are never
    read), OSError as fstat(2) and pread(2).
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise MalformedElf("not a regular file")
    if status.st_size < _IDENT:
        raise MalformedElf("shorter than an ELF identification")
    ident = os.pread(fd, _IDENT, 0)
    if len(ident) < _IDENT or ident[:4] != b"\x7fELF":
        raise MalformedElf("no ELF magic")
    if ident[4] not in (1, 2) or ident[5] not in (1, 2):
        raise MalformedElf(f"class {ident[4]}, data encoding {ident[5]}")
    elf = Elf(fd, status.st_size, 32 * ident[4], "<" if ident[5] == 1 else ">")
    header = elf.unpack(_HEADER[ident[4] - 1], _IDENT)
    elf.type, elf.machine = header[0], header[1]
    elf.segments = tuple(_segments(elf, offset=header[4], entry_size=header[8], count=header[9]))
    elf.sections = tuple(_sections(elf, offset=header[5], entry_size=header[10], count=header[11], names=header[12]))
    return elf


def _segments(elf: Elf, *, offset: int, entry_size: int, count: int) -> Iterator[Segment]:
    layout = elf.order + _SEGMENT[elf.bits == 64]
    size = struct.calcsize(layout)
    if not count:
        return
    if entry_size != size or count * size > _MAX_SEGMENT_BYTES:
        raise MalformedElf(f"{count} program headers of {entry_size} bytes")
    for fields in struct.iter_unpack(layout, elf.read(offset, count * size)):
        if elf.bits == 64:
            kind, flags, start, vaddr, _, filesz, memsz, _ = fields
        else:
            kind, start, vaddr, _, filesz, memsz, flags, _ = fields
        yield Segment(kind, flags=flags, offset=start, vaddr=vaddr, filesz=filesz, memsz=memsz)


def _sections(elf: Elf, *, offset: int, entry_size: int, count: int, names: int) -> Iterator[Section]:
    """The section headers; none where the file was freed of them (sstrip, UPX), which the kernel does not mind."""
    layout = elf.order + _SECTION[elf.bits == 64]
    size = struct.calcsize(layout)
    if not offset:
        return
    if entry_size != size:
        raise MalformedElf(f"section headers of {entry_size} bytes")
    first = elf.unpack(layout[1:], offset)
    count = count or first[5]  # with 0xff00 sections or more the numbers stand in the first one (elf(5), SHN_LORESERVE)
    names = first[6] if names == 0xFFFF else names
    if count > _MAX_SECTIONS:
        raise MalformedElf(f"{count} sections")
    table = list(struct.iter_unpack(layout, elf.read(offset, count * size)))
    strings = _name_table(elf, table, names)
    for fields in table:
        name, kind, flags, address, start, length, link = fields[:7]
        yield Section(_name(strings, name), kind, flags=flags, address=address, offset=start, size=length, link=link)


def _name_table(elf: Elf, table: list[tuple[int, ...]], index: int) -> bytes:
    if not index:  # SHN_UNDEF: the sections have no names
        return b""
    if index >= len(table):
        raise MalformedElf(f"section {index} of {len(table)} is said to hold the names")
    offset, size = table[index][4:6]
    if size > _MAX_NAMES:
        raise MalformedElf(f"{size} bytes of section names")
    return elf.read(offset, size)


def _name(strings: bytes, start: int) -> str:
    end = strings.find(b"\0", start, start + _MAX_NAME)  # bounded: thousands of names may share one endless string
    return strings[start : end if end >= 0 else start + _MAX_NAME].decode("ascii", "replace")


def _symbol_addresses(elf: Elf, symtab: Section, strtab: Section, names: Iterable[str]) -> dict[str, int]:
    strings = elf.read(strtab.offset, strtab.size)
    wanted = {}
    for name in names:
        at = strings.find(b"\0" + name.encode() + b"\0")
        if at >= 0:
            wanted[at + 1] = name
    if not wanted:
        return {}
    layout = elf.order + _SYMBOL[elf.bits == 64]
    entry = struct.calcsize(layout)
    table = elf.read(symtab.offset, symtab.size - symtab.size % entry)
    value = 4 if elf.bits == 64 else 1
    found = {}
    for index, name in wanted.items():
        at = _entry_that_begins_with(table, struct.pack(elf.order + "I", index), entry)
        if at >= 0:
            found[name] = struct.unpack_from(layout, table, at)[value]
    return found


def _entry_that_begins_with(table: bytes, start: bytes, size: int) -> int:
    """The offset of the table's first entry that begins with these bytes, -1 without one: st_name comes first (elf(5)).

    A search for the bytes, since a loop over every symbol takes as long as all the rest of the reading.
    """
    at = table.find(start)
    while at >= 0 and at % size:
        at = table.find(start, at + 1)
    return at

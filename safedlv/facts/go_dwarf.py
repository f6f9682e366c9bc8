"""The one thing that DWARF is asked here: with which flags was the main package compiled.

The Go compiler writes its version and flags into the DW_AT_producer of every compile unit, for example
``Go cmd/compile go1.26.8; -N -l; regabi``; dlv decides by it (pkg/proc/bininfo.go, loadDebugInfoMaps).  Only the
first entry of each unit is looked at, in a bounded part of .debug_info, within a bounded time.

pyelftools is loaded here and nowhere else, and only for a Go program with debug information.
"""

from __future__ import annotations

import io
import struct
import time
import zlib
from typing import TYPE_CHECKING, Final

from safedlv.facts.elf import SHF_COMPRESSED, Elf, MalformedElf, Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from elftools.dwarf.die import AttributeValue
    from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DWARFInfo

MAX_UNITS: Final = 600
DEADLINE: Final = 2.0
"""Seconds after which no further unit is looked at."""

_COMPILER = "Go cmd/compile "
_NEEDED: Final = {
    "info": 64 << 20,
    "abbrev": 256 << 10,  # a few hundred bytes from Go, some kilobytes from each C file; slow to parse
    "str": 16 << 20,
    "line_str": 16 << 20,
    "str_offsets": 16 << 20,
    "addr": 16 << 20,
}
"""The debug sections that are read, and how many bytes of each at most."""
_DW_LANG_GO = 0x16
_ELFCOMPRESS_ZLIB = 1


class Unit:
    """The name (a package path) and the producer of one Go compile unit."""

    __slots__ = ("name", "producer")

    def __init__(self, name: str, producer: str) -> None:
        self.name = name
        self.producer = producer


def main_unit(elf: Elf) -> Unit | None:
    """The compile unit of package main, else of the first package that is not the runtime's; None without debug
    information.  Raises MalformedElf for debug information that makes no sense, OSError as pread(2).
    """
    if not _debug_section(elf, "info"):
        return None
    from elftools.common.exceptions import DWARFError, ELFError
    from elftools.construct import ConstructError

    try:
        return _choose(_dwarf(elf))
    except (DWARFError, ELFError, ConstructError, struct.error, zlib.error, ValueError) as error:
        raise MalformedElf(f"debug information: {error}") from error
    except (LookupError, AssertionError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        # pyelftools trusts the numbers in a file further than its own exceptions go
        raise MalformedElf(f"debug information: {error!r}") from error


def is_optimized(producer: str) -> bool | None:
    """True unless the flags in the producer have both -N and -l, as dlv sees it; None when it does not say.

    Go 1.10 and later write the flags after a semicolon, or nothing when there are none; what has no semicolon may
    also be older, and those never wrote flags (pkg/proc/bininfo.go asks for 1.10).
    """
    compiler, semicolon, flags = producer.partition(";")
    if not compiler.startswith(_COMPILER):
        return None
    if semicolon:
        words = flags.replace(";", " ").split()
        return not ("-N" in words and "-l" in words)
    minor = compiler.removeprefix(f"{_COMPILER}go1.")[:2]
    return True if len(minor) == 2 and minor.isascii() and minor.isdigit() else None


def go_version_of(producer: str) -> str | None:
    """The Go version that the producer names, for example ``go1.26.8``; None when it is not Go's compiler."""
    if not producer.startswith(_COMPILER):
        return None
    return producer.removeprefix(_COMPILER).partition(";")[0].strip() or None


def _choose(dwarf: DWARFInfo) -> Unit | None:
    end = time.monotonic() + DEADLINE
    other = None
    for count, entry in enumerate(dwarf.iter_CUs()):
        if count >= MAX_UNITS or time.monotonic() > end:
            break
        attributes = entry.get_top_DIE().attributes
        language = attributes.get("DW_AT_language")
        if language is None or language.value != _DW_LANG_GO:
            continue
        unit = Unit(_text(attributes, "DW_AT_name"), _text(attributes, "DW_AT_producer"))
        if unit.name == "main":
            return unit
        if other is None and not _of_runtime(unit.name):
            other = unit
    return other


def _of_runtime(name: str) -> bool:
    """A package that may be compiled with flags of its own whatever the user asked for (cmd/go: gc.go)."""
    return name == "runtime" or name.startswith(("runtime/", "internal/"))


def _text(attributes: Mapping[str, AttributeValue], name: str) -> str:
    attribute = attributes.get(name)
    value = attribute.value if attribute is not None else b""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else ""


# ---------------------------------------------------------------- the sections, bounded


def _dwarf(elf: Elf) -> DWARFInfo:
    """pyelftools' view of the few sections that a unit's first entry can refer to.

    Not ELFFile.get_dwarf_info: that reads and inflates every debug section of the file, whatever its size.
    """
    from elftools.dwarf.dwarfinfo import DwarfConfig, DWARFInfo

    absent = (
        "aranges frame loc ranges line pubtypes pubnames loclists rnglists sup types"  # not needed for a unit's flags
    )
    sections: dict[str, DebugSectionDescriptor | None] = {f"debug_{name}_sec": None for name in absent.split()}
    for name, limit in _NEEDED.items():
        sections[f"debug_{name}_sec"] = _stream(elf, name, limit)
    config = DwarfConfig(little_endian=elf.order == "<", default_address_size=elf.bits // 8, machine_arch="")
    return DWARFInfo(config=config, eh_frame_sec=None, gnu_debugaltlink_sec=None, **sections)


def _stream(elf: Elf, name: str, limit: int) -> DebugSectionDescriptor | None:
    from elftools.dwarf.dwarfinfo import DebugSectionDescriptor

    section = _debug_section(elf, name)
    if section is None:
        return None
    data = _contents(elf, section, limit)
    return DebugSectionDescriptor(io.BytesIO(data), section.name, section.offset, len(data), section.address)


def _debug_section(elf: Elf, name: str) -> Section | None:
    return elf.section(f".debug_{name}") or elf.section(f".zdebug_{name}")


def _contents(elf: Elf, section: Section, limit: int) -> bytes:
    """The first ``limit`` bytes of a section, inflated where it is compressed in either of the two ways.

    SHF_COMPRESSED puts an Elf_Chdr in front (elf(5)), the older .zdebug_ sections "ZLIB" and the size in 8 bytes.
    """
    packed = bool(section.flags & SHF_COMPRESSED)
    if not packed and not section.name.startswith(".z"):
        return elf.read(section.offset, min(section.size, limit))
    header = (24 if elf.bits == 64 else 12) if packed else 12
    if section.size < header:
        raise MalformedElf(f"{section.name} ends in its header")
    if packed and elf.unpack("I", section.offset)[0] != _ELFCOMPRESS_ZLIB:
        raise MalformedElf(f"{section.name} is compressed, but not by zlib")
    data = elf.read(section.offset + header, min(section.size - header, limit))
    return zlib.decompressobj().decompress(data, limit)

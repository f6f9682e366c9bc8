"""What the Go linker wrote into a program about its build, found as Go's debug/buildinfo finds it.

The blob starts with a 32-byte header (magic, pointer size, flags).  Since Go 1.18 two strings follow it, each after
its length as a varint; Go 1.13 to 1.17 have pointers to two Go strings in the header instead.  The linker puts the
blob into the section .go.buildinfo, which is at or near the start of the data segment: so it is found without
section headers too.  Source: src/debug/buildinfo/buildinfo.go and src/runtime/debug/mod.go of Go.

Every attach pays for this file, so at run time it imports only struct and :mod:`.elf`.
"""

from __future__ import annotations

import struct

from safedlv.facts.elf import PF_W, PF_X, PT_LOAD, Elf, MalformedElf, read_elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

MAGIC: Final = b"\xff Go buildinf:"

_ALIGN = 16
_HEADER = 32
_FLAG_BIG_ENDIAN = 1
_FLAG_INLINE = 2
_CHUNK = 1 << 20
_MAX_SCAN = 64 << 20  # an externally linked program has its relocated read-only data before the blob
_MAX_VERSION = 256
_MAX_MODULE_TEXT = 4 << 20  # a thousand dependencies are 100 KB
_SENTINEL = 16  # the module text stands between two marks of 16 bytes (cmd/go/internal/modload: infoStart, infoEnd)
_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, '"': 34, "'": 39}
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}


class BuildInfo:
    """Go's build information; what the linker did not record is None (or missing in ``settings``)."""

    __slots__ = ("go_version", "main_path", "module_path", "module_version", "settings")

    def __init__(self, go_version: str | None) -> None:
        self.go_version = go_version
        """For example ``go1.26.8``; None where only the blob's header could be understood."""
        self.main_path: str | None = None
        """The package path of the main package; ``command-line-arguments`` for files named on the command line."""
        self.module_path: str | None = None
        self.module_version: str | None = None
        """For example ``v1.27.2`` or ``(devel)``."""
        self.settings: dict[str, str] = {}
        """The ``build`` lines (Go 1.18 and later), for example ``-gcflags``, ``CGO_ENABLED``, ``-ldflags``."""


def read_buildinfo(fd: int) -> BuildInfo | None:
    """The build information of the ELF file open at ``fd``; None when it is not a Go program (1.13 or later).

    Raises as :func:`safedlv.facts.elf.read_elf`, and MalformedElf when the blob is there but makes no sense.
    """
    return buildinfo_of(read_elf(fd))


def buildinfo_of(elf: Elf) -> BuildInfo | None:
    """As :func:`read_buildinfo`, for a file whose headers have been read."""
    address = _find(elf)
    if address is None:
        return None
    header = elf.read_address(address, _HEADER)
    if header[15] & _FLAG_INLINE:
        version, end = _inline_string(elf, address + _HEADER, _MAX_VERSION)
        text, _ = _inline_string(elf, end, _MAX_MODULE_TEXT)
    else:
        version, text = _pointed_strings(elf, header)
    info = BuildInfo(version.decode("utf-8", "backslashreplace") or None)
    if len(text) > 2 * _SENTINEL and text[-_SENTINEL - 1 : -_SENTINEL] == b"\n":
        _parse_module_text(info, text[_SENTINEL:-_SENTINEL].decode("utf-8", "backslashreplace"))
    return info


# ---------------------------------------------------------------- where the blob is


def _find(elf: Elf) -> int | None:
    """The address of the blob; the scan is of the file's bytes, so a large .bss costs nothing."""
    budget = _MAX_SCAN
    for address, size in _places(elf):
        start = -(-address // _ALIGN) * _ALIGN  # the blob is aligned, and so never lies across two chunks
        end = min(address + size, start + budget)
        while start < end:
            length = min(_CHUNK, end - start)
            found = _find_aligned(elf.read_address(start, length))
            if found is not None and start + found + _HEADER <= address + size:
                return start + found
            start += length
            budget -= length
    return None


def _places(elf: Elf) -> Iterator[tuple[int, int]]:
    """Address and size of where the blob may be: its own section, else every segment of data."""
    section = elf.section(".go.buildinfo")
    if section is not None:
        yield section.address, section.size
        return
    for segment in elf.segments:
        if segment.type == PT_LOAD and segment.flags & (PF_W | PF_X) == PF_W:
            yield segment.vaddr, segment.filesz


def _find_aligned(chunk: bytes) -> int | None:
    at = chunk.find(MAGIC)
    while at >= 0 and at % _ALIGN:
        at = chunk.find(MAGIC, at + 1)
    return at if at >= 0 else None


# ---------------------------------------------------------------- what is in it


def _inline_string(elf: Elf, address: int, limit: int) -> tuple[bytes, int]:
    """The string after its length as an unsigned varint (encoding/binary), and the address after it."""
    length = shift = 0
    while True:
        byte = elf.read_address(address, 1)[0]
        address += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > 63:
            raise MalformedElf("the length of a build information string does not end")
    if length > limit:
        raise MalformedElf(f"a build information string of {length} bytes")
    return (elf.read_address(address, length) if length else b""), address + length


def _pointed_strings(elf: Elf, header: bytes) -> tuple[bytes, bytes]:
    """Version and module text of Go 1.13 to 1.17: two pointers to Go strings, each of them a pointer and a length."""
    size = header[14]
    if size not in (4, 8):
        raise MalformedElf(f"build information with pointers of {size} bytes")
    order = ">" if header[15] & _FLAG_BIG_ENDIAN else "<"
    layout = order + ("II" if size == 4 else "QQ")
    version, text = struct.unpack_from(layout, header, 16)
    return _go_string(elf, layout, version, _MAX_VERSION), _go_string(elf, layout, text, _MAX_MODULE_TEXT)


def _go_string(elf: Elf, layout: str, address: int, limit: int) -> bytes:
    if not address:  # not recorded, or left to the dynamic linker in a position-independent program
        return b""
    data, length = struct.unpack(layout, elf.read_address(address, struct.calcsize(layout)))
    if length > limit:
        raise MalformedElf(f"a build information string of {length} bytes")
    return elf.read_address(data, length) if length else b""


# ---------------------------------------------------------------- the module text (runtime/debug.ParseBuildInfo)


def _parse_module_text(info: BuildInfo, text: str) -> None:
    """Lines of a word, a tab and the rest; words that are not known here, of which there will be more, are skipped."""
    for line in text.split("\n"):
        word, _, rest = line.partition("\t")
        if word == "path":
            info.main_path = rest
        elif word == "mod":
            info.module_path, _, version = rest.partition("\t")
            info.module_version = version.partition("\t")[0] or None
        elif word == "build":
            key, value = _setting(rest)
            info.settings[key] = value


def _setting(text: str) -> tuple[str, str]:
    """``key=value``, where either may be quoted as a Go string."""
    if text[:1] in ('"', "`"):
        key, rest = unquote(text)
        value = rest.removeprefix("=")
    else:
        key, _, value = text.partition("=")
    if value[:1] in ('"', "`"):
        value, _ = unquote(value)
    return key, value


def unquote(text: str) -> tuple[str, str]:
    """The Go string literal that ``text`` begins with, and what follows it (strconv.Unquote); MalformedElf if none."""
    quote, at = text[:1], 1
    if quote == "`":
        end = text.find("`", 1)
        if end < 0:
            raise MalformedElf("a quoted build setting does not end")
        return text[1:end], text[end + 1 :]
    value = bytearray()
    while at < len(text) and text[at] != quote:
        if text[at] == "\\":
            piece, at = _escape(text, at + 1)
            value += piece
        else:
            end = at + 1
            while end < len(text) and text[end] not in ("\\", quote):
                end += 1
            value += text[at:end].encode("utf-8", "surrogatepass")
            at = end
    if at >= len(text):
        raise MalformedElf("a quoted build setting does not end")
    return value.decode("utf-8", "backslashreplace"), text[at + 1 :]


def _escape(text: str, at: int) -> tuple[bytes, int]:
    """The bytes of the escape whose letter is at ``at``, and the position after it (the Go specification's escapes)."""
    letter = text[at : at + 1]
    if letter in _ESCAPES:
        return bytes((_ESCAPES[letter],)), at + 1
    width, base, start = _HEX_ESCAPES.get(letter, 3), 16, at + 1
    if letter not in _HEX_ESCAPES:
        base, start = 8, at
    digits = text[start : start + width]
    if len(digits) < width or not digits.isalnum():
        raise MalformedElf(f"escape \\{letter} in a build setting")
    try:
        number = int(digits, base)
        piece = bytes((number,)) if width in (2, 3) else chr(number).encode()
    except (ValueError, OverflowError) as error:  # not the base's digits, or no character of that number
        raise MalformedElf(f"escape {digits} in a build setting") from error
    return piece, start + width

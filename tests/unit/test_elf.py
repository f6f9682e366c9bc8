"""The ELF reader: files made here in all four layouts, and files made to break it."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedlv.facts.buildinfo import buildinfo_of
from safedlv.facts.delve import read_go_range
from safedlv.facts.elf import PF_W, PT_INTERP, PT_LOAD, READ_LIMIT, SHT_SYMTAB, Elf, MalformedElf, read_elf
from safedlv.facts.go_binary import contents_of

BASE = 0x400000
LAYOUTS = [(32, "<"), (32, ">"), (64, "<"), (64, ">")]


def make_elf(
    sections: dict[str, bytes],
    *,
    bits: int = 64,
    order: str = "<",
    interpreter: bool = False,
    stripped: bool = False,
    kinds: dict[str, int] | None = None,
) -> bytes:
    """An executable whose sections all lie, one after the other, in one writable segment at BASE."""
    wide = bits == 64
    header_size, segment_size = (64, 56) if wide else (52, 32)
    count = 1 + interpreter
    data = bytearray(header_size + count * segment_size)
    placed = []
    for name, content in sections.items():
        data += bytes(-len(data) % 16)
        placed.append((name, len(data), len(content)))
        data += content
    end = len(data)
    names, table = section_table(placed, kinds or {}, end, bits, order)
    data += names
    section_offset = 0 if stripped else len(data)
    data += b"" if stripped else table
    segments = [(PT_LOAD, 0, end), *([(PT_INTERP, 0, 4)] if interpreter else [])]
    for index, (kind, offset, size) in enumerate(segments):
        at = header_size + index * segment_size
        if wide:
            struct.pack_into(order + "IIQQQQQQ", data, at, kind, PF_W, offset, BASE + offset, 0, size, size, 16)
        else:
            struct.pack_into(order + "IIIIIIII", data, at, kind, offset, BASE + offset, 0, size, size, PF_W, 16)
    total = 0 if stripped else len(sections) + 2
    data[:16] = b"\x7fELF" + bytes((2 if wide else 1, 1 if order == "<" else 2, 1)) + bytes(9)
    layout = order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH")
    numbers = (segment_size, count, 64 if wide else 40, total, total - 1 if total else 0)
    struct.pack_into(layout, data, 16, 2, 62, 1, BASE, header_size, section_offset, 0, header_size, *numbers)
    return bytes(data)


def section_table(
    placed: list[tuple[str, int, int]], kinds: dict[str, int], end: int, bits: int, order: str
) -> tuple[bytes, bytes]:
    """The names, which will stand at ``end``, and the headers; a symbol table's strings are in the section after it."""
    names, table = bytearray(b"\0"), bytearray(64 if bits == 64 else 40)
    layout = order + ("IIQQQQIIQQ" if bits == 64 else "IIIIIIIIII")
    length = sum(len(name) + 1 for name, _, _ in placed) + len("\0.shstrtab\0")
    for index, (name, offset, size) in enumerate([*placed, (".shstrtab", end, length)], start=1):
        at = len(names)
        names += name.encode() + b"\0"
        table += struct.pack(layout, at, kinds.get(name, 1), 0, BASE + offset, offset, size, index + 1, 0, 1, 0)
    return bytes(names), bytes(table)


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[int]:
    """A descriptor of a regular file with these bytes."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def parse(data: bytes) -> Elf:
    with opened(data) as fd:
        return read_elf(fd)


@pytest.mark.parametrize(("bits", "order"), LAYOUTS)
@pytest.mark.parametrize("interpreter", [False, True])
def test_headers_in_every_layout(bits: int, order: str, interpreter: bool) -> None:
    with opened(make_elf({".text": b"code", ".data": b"12345"}, bits=bits, order=order, interpreter=interpreter)) as fd:
        elf = read_elf(fd)
        section = elf.section(".data")
        assert section is not None
        assert (section.size, elf.read(section.offset, section.size)) == (5, b"12345")
        assert elf.read_address(section.address, 5) == b"12345"
    assert (elf.bits, elf.order, elf.type, elf.machine) == (bits, order, 2, 62)
    assert [each.name for each in elf.sections] == ["", ".text", ".data", ".shstrtab"]
    assert elf.has_interpreter is interpreter
    assert elf.section(".debug_info") is None


def test_sections_agree_with_pyelftools_on_this_python() -> None:
    from elftools.elf.elffile import ELFFile

    with open(sys.executable, "rb") as file:
        theirs = [(each.name, each["sh_offset"], each["sh_size"]) for each in ELFFile(file).iter_sections()]
        ours = [(each.name, each.offset, each.size) for each in read_elf(file.fileno()).sections]
    assert ours == theirs


def test_no_section_headers_is_no_error() -> None:
    elf = parse(make_elf({".data": b"x"}, stripped=True))
    assert elf.sections == ()
    assert len(elf.segments) == 1


@pytest.mark.parametrize(("bits", "order"), LAYOUTS)
def test_symbols(bits: int, order: str) -> None:
    strings = b"\0alpha\0beta\0"
    pack = struct.Struct(order + ("IBBHQQ" if bits == 64 else "IIIBBH"))
    rows = [(0, 0), (1, 0x1234), (7, 0x5678)]
    table = b"".join(pack.pack(*((n, 0, 0, 0, v, 8) if bits == 64 else (n, v, 8, 0, 0, 0))) for n, v in rows)
    kinds = {".symtab": SHT_SYMTAB}
    with opened(make_elf({".symtab": table, ".strtab": strings}, bits=bits, order=order, kinds=kinds)) as fd:
        assert read_elf(fd).symbol_addresses(["beta", "eta", "gamma"]) == {"beta": 0x5678}


def patched(data: bytes, layout: str, offset: int, value: int) -> bytes:
    copy = bytearray(data)
    struct.pack_into(layout, copy, offset, value)
    return bytes(copy)


GOOD = make_elf({".text": b"code", ".data": b"12345"})
BROKEN = {
    "empty": b"",
    "cut in the identification": GOOD[:10],
    "cut in the header": GOOD[:40],
    "cut in the sections": GOOD[:-1],
    "a script": b"#!/bin/sh\nsleep 1000\n" * 10,
    "no class": patched(GOOD, "B", 4, 3),
    "no byte order": patched(GOOD, "B", 5, 0),
    "program headers far away": patched(GOOD, "<Q", 32, 1 << 63),
    "program headers of a size": patched(GOOD, "<H", 54, 3),
    "65535 program headers": patched(GOOD, "<H", 56, 0xFFFF),
    "sections beyond any offset": patched(GOOD, "<Q", 40, (1 << 64) - 1),
    "65535 sections": patched(GOOD, "<H", 60, 0xFFFF),
    "names in no section": patched(GOOD, "<H", 62, 77),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken_headers(data: bytes) -> None:
    with pytest.raises(MalformedElf):
        parse(data)


def test_reads_are_bounded() -> None:
    with opened(GOOD) as fd:
        elf = read_elf(fd)
        for offset, size in ((0, len(GOOD) + 1), (-1, 1), (0, -1), (1 << 70, 1), (0, READ_LIMIT + 1)):
            with pytest.raises(MalformedElf):
                elf.read(offset, size)
        for address in (0, BASE - 1, BASE + len(GOOD), 1 << 70, -1):
            with pytest.raises(MalformedElf):
                elf.read_address(address, 1)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(GOOD)
    with path.open("rb") as file:
        elf = read_elf(file.fileno())
        os.truncate(path, 100)
        with pytest.raises(MalformedElf, match="shorter"):
            elf.read(0, len(GOOD))


def test_a_sparse_terabyte(tmp_path: Path) -> None:
    """Headers that claim all of it: no more than the limits is ever read."""
    path = tmp_path / "huge"
    path.write_bytes(make_elf({".data": b"x" * 64}, stripped=True))
    with path.open("r+b") as file:
        file.seek(64 + 32)
        file.write(struct.pack("<QQ", 1 << 40, 1 << 40))  # p_filesz, p_memsz
        os.truncate(path, 1 << 40)
        begin = time.monotonic()
        assert buildinfo_of(read_elf(file.fileno())) is None
        assert time.monotonic() - begin < 5


def test_what_is_no_regular_file_is_never_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (str(fifo), "/dev/zero", "/dev/null", str(tmp_path)):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            with pytest.raises(MalformedElf):
                read_elf(fd)
        finally:
            os.close(fd)


def test_a_closed_descriptor_is_an_os_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        read_elf(-1)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A small ELF file, stripped or not, with bytes overwritten, and sometimes cut short."""
    bits, order = draw(st.sampled_from(LAYOUTS))
    magic = b"\xff Go buildinf:" + bytes((8, 2)) + bytes(16) + b"\x08go1.26.8\x00"
    sections = {".go.buildinfo": magic, ".symtab": bytes(48), ".strtab": b"\0name\0", ".debug_info": bytes(40)}
    data = bytearray(
        make_elf(sections, bits=bits, order=order, stripped=draw(st.booleans()), kinds={".symtab": SHT_SYMTAB})
    )
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(4, len(data) - 1))
        new = draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, bytes(8)])))
        data[at : at + len(new)] = new
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


@settings(max_examples=400, deadline=2000)
@given(data=st.one_of(mutated(), st.binary(max_size=300), st.binary(max_size=200).map(lambda tail: GOOD[:64] + tail)))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with opened(data) as fd:
        with contextlib.suppress(MalformedElf):
            elf = read_elf(fd)
            with contextlib.suppress(MalformedElf):
                elf.symbol_addresses(["name"])
            buildinfo_of(elf)
        contents_of(fd, "hostile")
        read_go_range(f"/proc/self/fd/{fd}")


def test_the_start_of_every_attach_loads_next_to_nothing() -> None:
    code = (
        "import os, sys; before = set(sys.modules); import safedlv.facts.delve_path; "
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in run.stdout.split() if not name.startswith(("safedlv", "_"))}
    assert loaded <= {"struct", "stat", "errno"}

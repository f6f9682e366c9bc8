"""Go build information, in both of its formats, with and without section headers."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedlv.facts.buildinfo import MAGIC, BuildInfo, read_buildinfo, unquote
from safedlv.facts.elf import MalformedElf
from tests.unit.test_elf import BASE, LAYOUTS, make_elf, opened

MARK = bytes(range(16))
TEXT = (
    "path\texample.com/app/cmd/app\n"
    "mod\texample.com/app\tv1.2.3\th1:abc=\n"
    "dep\texample.com/dep\tv0.1.0\n"
    "=>\t../dep\t(devel)\t\n"
    'build\t-gcflags="all=-N -l"\n'
    "build\t-compiler=gc\n"
    "build\tCGO_ENABLED=0\n"
    'build\t-ldflags="-X main.name=\\"a\\\\tb\\" -s"\n'
    "build\tCGO_CFLAGS=\n"
    "later\tsomething else\n"
)


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def inline_blob(version: bytes, text: bytes) -> bytes:
    framed = MARK + text + MARK if text else b""
    header = MAGIC + bytes((8, 2)) + bytes(16)
    return header + varint(len(version)) + version + varint(len(framed)) + framed


def pointer_elf(bits: int, order: str, text: bytes, stripped: bool = False) -> bytes:
    """Go 1.13 to 1.17: the section, then in the data two Go strings (pointer, length) and their bytes."""
    word = order + ("Q" if bits == 64 else "I")
    size = struct.calcsize(word)
    framed = MARK + text + MARK
    start = make_elf({"a": b""}, bits=bits).find(b"\0a\0")  # where the first section begins
    blob_at = BASE + -(-start // 16) * 16
    data_at = blob_at + 32
    strings_at = data_at + 4 * size
    data = b"".join(struct.pack(word, value) for value in (strings_at, len(b"go1.16.5"), strings_at + 8, len(framed)))
    pointers = struct.pack(word, data_at) + struct.pack(word, data_at + 2 * size)
    header = MAGIC + bytes((size, int(order == ">"))) + pointers
    blob = header.ljust(32, b"\0") + data + b"go1.16.5" + framed
    return make_elf({".go.buildinfo": blob}, bits=bits, order=order, stripped=stripped)


def read(data: bytes) -> BuildInfo | None:
    with opened(data) as fd:
        return read_buildinfo(fd)


def check(info: BuildInfo | None, version: str) -> None:
    assert info is not None
    assert info.go_version == version
    assert (info.main_path, info.module_path, info.module_version) == (
        "example.com/app/cmd/app",
        "example.com/app",
        "v1.2.3",
    )
    assert info.settings == {
        "-gcflags": "all=-N -l",
        "-compiler": "gc",
        "CGO_ENABLED": "0",
        "-ldflags": '-X main.name="a\\tb" -s',
        "CGO_CFLAGS": "",
    }


@pytest.mark.parametrize(("bits", "order"), LAYOUTS)
@pytest.mark.parametrize("stripped", [False, True])
def test_inline_strings(bits: int, order: str, stripped: bool) -> None:
    blob = inline_blob(b"go1.26.8", TEXT.encode())
    sections = {".rodata": b"pad" * 100, ".go.buildinfo": blob, ".data": bytes(100)}
    check(read(make_elf(sections, bits=bits, order=order, stripped=stripped)), "go1.26.8")


@pytest.mark.parametrize(("bits", "order"), LAYOUTS)
@pytest.mark.parametrize("stripped", [False, True])
def test_pointers_to_strings(bits: int, order: str, stripped: bool) -> None:
    check(read(pointer_elf(bits, order, TEXT.encode(), stripped)), "go1.16.5")


def test_the_blob_far_into_the_data_and_across_a_chunk() -> None:
    for before in ((1 << 20) - 16, 3 << 20, (1 << 20) - 128):
        sections = {".data.rel.ro": bytes(before), ".data": inline_blob(b"go1.21", b"")}
        info = read(make_elf(sections, stripped=True))
        assert info is not None
        assert (info.go_version, info.main_path, info.settings) == ("go1.21", None, {})


def test_a_magic_that_is_not_aligned_is_passed_over() -> None:
    data = b"xx" + MAGIC
    assert read(make_elf({".data": data})) is None
    info = read(make_elf({".data": data.ljust(32) + inline_blob(b"go1.22", b"")}))
    assert info is not None
    assert info.go_version == "go1.22"


def test_not_go() -> None:
    assert read(make_elf({".text": b"code", ".data": b"data"})) is None
    assert read(make_elf({".data": b"data"}, stripped=True)) is None
    assert read(make_elf({".data": MAGIC})) is None  # no room for the header


BROKEN = {
    "a version that is longer than the file": MAGIC + bytes((8, 2)) + bytes(16) + varint(200) + b"go",
    "a version of a gigabyte": MAGIC + bytes((8, 2)) + bytes(16) + varint(1 << 30),
    "a length without an end": MAGIC + bytes((8, 2)) + bytes(16) + b"\xff" * 16,
    "pointers of three bytes": MAGIC + bytes((3, 0)) + bytes(16),
    "a pointer to nowhere": MAGIC + bytes((8, 0)) + b"\xff" * 16,
    "a setting that does not end": inline_blob(b"go1.26", b'build\t-gcflags="all=\n'),
    "a bad escape": inline_blob(b"go1.26", b'build\t-gcflags="\\xzz"\n'),
    "a character that does not exist": inline_blob(b"go1.26", b'build\t-gcflags="\\Uffffffff"\n'),
}


@pytest.mark.parametrize("blob", BROKEN.values(), ids=BROKEN)
def test_a_blob_that_makes_no_sense(blob: bytes) -> None:
    with pytest.raises(MalformedElf):
        read(make_elf({".go.buildinfo": blob}))


def test_a_version_that_the_dynamic_linker_would_fill_in() -> None:
    info = read(make_elf({".go.buildinfo": MAGIC + bytes((8, 0)) + bytes(16)}))
    assert info is not None
    assert info.go_version is None


@pytest.mark.parametrize(
    ("text", "value", "rest"),
    [
        ('"plain"', "plain", ""),
        ('"a b"=c', "a b", "=c"),
        ("`raw \\n`x", "raw \\n", "x"),
        ('"\\"\\\\\\n\\t\\a"', '"\\\n\t\a', ""),
        ('"\\x41\\101\\u00e9\\U0001f600"', "AA\u00e9\U0001f600", ""),
        ('"\\xc3\\xa9"', "\u00e9", ""),
        ('"\\xff"', "\\xff", ""),
        ('"\u00e9"', "\u00e9", ""),
    ],
)
def test_unquote(text: str, value: str, rest: str) -> None:
    assert unquote(text) == (value, rest)


@given(text=st.one_of(st.text(), st.text(alphabet='"\\xuU0189aft`').map(lambda text: '"' + text)))
def test_unquote_raises_nothing_else(text: str) -> None:
    with contextlib.suppress(MalformedElf):
        unquote(text)


@given(text=st.binary(max_size=300), version=st.binary(max_size=20))
def test_any_module_text(text: bytes, version: bytes) -> None:
    with contextlib.suppress(MalformedElf):
        read(make_elf({".go.buildinfo": inline_blob(version, b"build\t" + text + b"\n")}))

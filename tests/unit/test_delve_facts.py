"""Finding dlv, its version and the Go that it supports: with files made here and programs that only claim to be dlv."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedlv.facts import delve_asked
from safedlv.facts.delve import parse_go_version, read_delve, read_go_range, supports
from safedlv.facts.delve_path import delve_version_from_binary, find_delve
from safedlv.facts.elf import SHT_SYMTAB
from safedlv.model import Delve, Unknown
from tests.unit.test_buildinfo import inline_blob
from tests.unit.test_elf import BASE, make_elf

NAMES = [
    f"github.com/go-delve/delve/pkg/goversion.{end}SupportedVersionOfGo{part}"
    for end in ("Min", "Max")
    for part in ("Major", "Minor")
]


def program(path: Path, content: bytes | str = "#!/bin/sh\n") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o755)
    return str(path)


# ---------------------------------------------------------------- finding it


def test_the_first_of_path(tmp_path: Path) -> None:
    first, second = program(tmp_path / "a/dlv"), program(tmp_path / "b/dlv")
    path = f"/nowhere:{tmp_path}/a:{tmp_path}/b"
    assert find_delve(path, None) == first
    assert find_delve(path, "") == first
    assert find_delve(path, second) == second
    os.chmod(first, 0o644)
    assert find_delve(path, None) == second


def test_what_is_no_program_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "dir/dlv").mkdir(parents=True)
    (tmp_path / "fifo").mkdir()
    os.mkfifo(tmp_path / "fifo/dlv", 0o755)
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling/dlv").symlink_to("nothing")
    good = program(tmp_path / "good/dlv")
    path = ":".join(f"{tmp_path}/{name}" for name in ("dir", "fifo", "dangling", "good"))
    assert find_delve(path, None) == good
    assert find_delve(None, None) is None
    assert find_delve("", None) is None
    assert find_delve("/bad\0path", None) is None


def test_the_current_directory_is_never_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "dlv")
    program(tmp_path / "sub/dlv")
    monkeypatch.chdir(tmp_path)
    assert find_delve(":.:sub", None) is None
    assert find_delve("", "./dlv") == "./dlv"


def test_an_explicit_choice_is_not_replaced_by_another(tmp_path: Path) -> None:
    program(tmp_path / "dlv")
    other = program(tmp_path / "dlv-1.20")
    assert find_delve(str(tmp_path), "/nowhere/dlv") is None
    assert find_delve(str(tmp_path), "dlv-1.20") == other


def test_our_own_shim_is_not_dlv(tmp_path: Path) -> None:
    program(tmp_path / "shims/dlv", '#!/bin/sh\nexec safedlv dlv "$@"\n')
    real = program(tmp_path / "real/dlv", "#!/bin/sh\nexec /opt/delve/dlv\n")
    assert find_delve(f"{tmp_path}/shims:{tmp_path}/real", None) == real


# ---------------------------------------------------------------- its version


@pytest.mark.parametrize(
    ("mod", "version"),
    [
        ("github.com/go-delve/delve\tv1.27.2\th1:x=", "1.27.2"),
        ("github.com/go-delve/delve\tv1.28.0-0.20260101000000-abcdefabcdef", "1.28.0-0.20260101000000-abcdefabcdef"),
        ("github.com/go-delve/delve\t(devel)\t", None),
        ("github.com/go-delve/delve", None),
        ("example.com/other\tv1.0.0", None),
    ],
)
def test_the_module_version(tmp_path: Path, mod: str, version: str | None) -> None:
    text = f"path\tgithub.com/go-delve/delve/cmd/dlv\nmod\t{mod}\n"
    path = program(tmp_path / "dlv", make_elf({".go.buildinfo": inline_blob(b"go1.26.8", text.encode())}))
    assert delve_version_from_binary(path) == version


def test_no_version_where_there_is_none(tmp_path: Path) -> None:
    for path in (program(tmp_path / "script"), program(tmp_path / "c", make_elf({".data": b"x"})), "/nowhere", "/"):
        assert delve_version_from_binary(path) is None


# ---------------------------------------------------------------- the Go that it supports


def dlv_with_symbols(numbers: list[int], bits: int = 64, order: str = "<") -> bytes:
    word = order + ("q" if bits == 64 else "i")
    size = struct.calcsize(word)
    start = make_elf({"a": b""}, bits=bits).find(b"\0a\0")
    address = BASE + -(-start // 16) * 16
    strings, table = bytearray(b"\0"), bytearray()
    for index, name in enumerate(NAMES):
        at, value = len(strings), address + index * size
        strings += name.encode() + b"\0"
        fields = (at, 1, 0, 3, value, size) if bits == 64 else (at, value, size, 1, 0, 3)
        table += struct.pack(order + ("IBBHQQ" if bits == 64 else "IIIBBH"), *fields)
    data = b"".join(struct.pack(word, number) for number in numbers)
    sections = {".data": data, ".symtab": bytes(table), ".strtab": bytes(strings)}
    return make_elf(sections, bits=bits, order=order, kinds={".symtab": SHT_SYMTAB})


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_range_from_the_symbols(tmp_path: Path, bits: int, order: str) -> None:
    path = program(tmp_path / "dlv", dlv_with_symbols([1, 25, 1, 27], bits, order))
    assert read_go_range(path) == ("1.25", "1.27")


def test_a_range_that_cannot_be(tmp_path: Path) -> None:
    path = program(tmp_path / "dlv", dlv_with_symbols([1, -25, 1, 27]))
    assert read_go_range(path) == Unknown("MALFORMED", path)
    stripped = program(tmp_path / "stripped", make_elf({".data": b"x"}))
    assert read_go_range(stripped) == Unknown("STRIPPED", f"{stripped} .symtab")
    assert read_go_range("/nowhere/dlv") == Unknown("ENOENT", "/nowhere/dlv")


def a_delve(low: str | Unknown = "1.25", high: str | Unknown = "1.27") -> Delve:
    return Delve(path="dlv", version="1.27.2", min_go=low, max_go=high)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("go1.25", True),
        ("go1.26.8", True),
        ("go1.27rc1", True),
        ("go1.27.99", True),
        ("go1.26.8-custom X:boringcrypto", True),
        ("go1.26.5b7", True),
        ("go1.24.9", False),
        ("go1.9.7", False),
        ("go1.28beta1", False),
        ("go1.28", False),
        ("go2.0", False),
        ("devel go1.28-abcdef Tue Jan 6", True),
        ("go1.28-devel_abcdef Tue Jan 6", True),
        ("go1.25-devel_abcdef", False),
        ("devel go1.29-abcdef", False),
    ],
)
def test_supports(version: str, expected: bool) -> None:
    assert supports(a_delve(), version) is expected


@pytest.mark.parametrize("version", ["devel +abc123 Tue", "", "go", "go1", "1.x", "goo1.26", "weekly.2011", None])
def test_supports_cannot_tell_by_such_a_version(version: str | None) -> None:
    assert isinstance(supports(a_delve(), version), Unknown)


def test_supports_cannot_tell_without_the_facts() -> None:
    why = Unknown("EACCES", "/proc/1/exe")
    assert supports(a_delve(), why) == why
    assert supports(a_delve(low=why), "go1.26") == why
    assert supports(a_delve(high=why), "go1.26") == why
    assert isinstance(supports(a_delve(low="odd"), "go1.26"), Unknown)


def test_versions_are_numbers() -> None:
    assert supports(a_delve("1.9", "1.20"), "go1.10") is True
    assert supports(a_delve("1.9", "1.20"), "go1.2") is False
    assert parse_go_version("1.25.0") == (1, 25, 0)


@given(text=st.one_of(st.text(), st.from_regex(r"go[0-9.\-devl_rcb ]{0,12}")))
def test_any_version_text(text: str) -> None:
    assert supports(a_delve(), text) in (True, False) or isinstance(supports(a_delve(), text), Unknown)


# ---------------------------------------------------------------- programs that only claim to be dlv


def test_the_printed_version(tmp_path: Path) -> None:
    path = program(tmp_path / "dlv", "#!/bin/sh\nprintf 'Delve Debugger\\nVersion: 1.22.1\\nBuild: $Id$\\n'\n")
    assert delve_asked.ask_version(path, 5) == "1.22.1"


HOSTILE = {
    "says nothing": "#!/bin/sh\nexit 0\n",
    "fails": "#!/bin/sh\necho no >&2\nexit 1\n",
    "never ends its output": "#!/bin/sh\nexec yes\n",
    "listens, it says, nowhere": "#!/bin/sh\necho 'API server listening at: 127.0.0.1:1'\n",
    "names no port": "#!/bin/sh\necho 'API server listening at: 127.0.0.1:x'\n",
    "names a port beyond all": "#!/bin/sh\necho 'API server listening at: 127.0.0.1:99999999'\n",
    "cannot be run": "\x7fELF nonsense",
}


@pytest.mark.parametrize("script", HOSTILE.values(), ids=HOSTILE)
def test_what_is_not_dlv_leaves_unknowns(tmp_path: Path, script: str) -> None:
    path = program(tmp_path / "dlv", script)
    assert isinstance(delve_asked.ask_version(path, 5), Unknown)
    assert isinstance(delve_asked.ask_go_range(path, 5), Unknown)


def test_a_dlv_that_hangs_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    path = program(tmp_path / "dlv", f"#!/bin/sh\ntrap '' TERM\nsleep 1000 &\necho $! > {note}\nwait\n")
    begin = time.monotonic()
    assert delve_asked.ask_version(path, 0.5) == Unknown("TIMEOUT", f"{path} version")
    assert time.monotonic() - begin < 4
    assert ends(Path("/proc", note.read_text().strip(), "stat"))


def ends(stat: Path) -> bool:
    """The process was killed and is, within two seconds, gone or a zombie."""
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            if ") Z " in stat.read_text():
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"[]\n",
        b'{"result": null}\n',
        b'{"result": {"MinSupportedVersionOfGo": "1.25.0"}}\n',
        b"\xff\xfe\n",
        b"[" * 60000 + b"\n",
        b"x" * (1 << 18),
        b'{"result":{}}\n{}\n',
    ],
)
def test_a_server_that_answers_nonsense(tmp_path: Path, reply: bytes) -> None:
    (tmp_path / "reply").write_bytes(reply)
    script = (
        "#!/usr/bin/env python3\nimport socket\ns = socket.create_server(('127.0.0.1', 0))\n"
        "print('API server listening at: 127.0.0.1:%d' % s.getsockname()[1], flush=True)\n"
        f"c = s.accept()[0]\nc.recv(1000)\nc.sendall(open({str(tmp_path / 'reply')!r}, 'rb').read())\nc.recv(1000)\n"
    )
    path = program(tmp_path / "dlv", script)
    assert isinstance(delve_asked.ask_go_range(path, 1.5), Unknown)


def test_a_script_in_front_of_dlv_is_asked_for_its_version(tmp_path: Path) -> None:
    path = program(tmp_path / "dlv", "#!/bin/sh\nprintf 'Delve Debugger\\nVersion: 1.22.1\\nBuild: $Id$\\n'\n")
    malformed = Unknown("MALFORMED", path)
    assert read_delve(path) == Delve(path=path, version="1.22.1", min_go=malformed, max_go=malformed)

"""Debug information that was damaged, and files that were cut: a fact or an Unknown, soon, and nothing raised."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safedlv.facts.elf import read_elf
from safedlv.facts.go_binary import Contents
from safedlv.model import Unknown
from tests.live.go_programs import DEBUG, NO_CGO, Builder, read_contents


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("go"))


class Damaged:
    """A Go program with plain DWARF, whose first units and their abbreviations can be overwritten for a while."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            elf = read_elf(file.fileno())
        sections = [elf.section(".debug_info"), elf.section(".debug_abbrev")]
        self.places = [section.offset for section in sections if section is not None]
        assert len(self.places) == 2

    def read(self, changes: list[tuple[int, int, bytes]]) -> Contents:
        whole = self.path.read_bytes()
        data = bytearray(whole)
        for section, at, new in changes:
            place = self.places[section] + at
            data[place : place + len(new)] = new
        self.path.write_bytes(data)
        try:
            return read_contents(self.path)
        finally:
            self.path.write_bytes(whole)


@pytest.fixture(scope="session")
def damaged(build: Builder, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    path = build(DEBUG, "-ldflags=-compressdwarf=false", **NO_CGO)
    return Damaged(Path(shutil.copy(path, tmp_path_factory.mktemp("damaged") / "program")))


PIECE = st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from([b"\xff" * 8, bytes(8), b"\x16" * 16]))


@settings(max_examples=60, deadline=8000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 1), st.one_of(st.integers(0, 60), st.integers(0, 350)), PIECE), min_size=1, max_size=8
    )
)
def test_damaged_debug_information_is_a_fact_or_unknown(
    damaged: Damaged, changes: list[tuple[int, int, bytes]]
) -> None:
    contents = damaged.read(changes)
    assert (contents.is_go, contents.has_dwarf) == (True, True)
    assert isinstance(contents.optimized, bool | Unknown)


def test_debug_information_that_makes_no_sense_leaves_the_settings(damaged: Damaged) -> None:
    contents = damaged.read([(1, 0, b"\xff" * 200)])
    assert contents.optimized is False  # by -gcflags


def test_truncated_everywhere(build: Builder, tmp_path: Path) -> None:
    path = tmp_path / "short"
    whole = build(DEBUG, **NO_CGO).read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:size])
        assert isinstance(read_contents(path).is_go, bool | Unknown)

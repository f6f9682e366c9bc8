"""What a producer string says about optimisation; damaged debug information is in tests/live/test_go_binary.py."""

from __future__ import annotations

import pytest

from safedlv.facts.buildinfo import BuildInfo
from safedlv.facts.go_binary import optimized_by_flags
from safedlv.facts.go_dwarf import go_version_of, is_optimized


@pytest.mark.parametrize(
    ("producer", "optimized"),
    [
        ("Go cmd/compile go1.26.8; -N -l; regabi", False),
        ("Go cmd/compile go1.26.8; -N -l regabi", False),
        ("Go cmd/compile go1.26.8; -l -N", False),
        ("Go cmd/compile go1.26.8; -N; regabi", True),
        ("Go cmd/compile go1.26.8; -l; regabi", True),
        ("Go cmd/compile go1.26.8; regabi", True),
        ("Go cmd/compile go1.12", True),
        ("Go cmd/compile go1.10.8; -N -l", False),
        ("Go cmd/compile go1.9.7", None),
        ("Go cmd/compile devel +abc; -N -l", False),
        ("Go cmd/compile devel +abc", None),
        ("GNU C17 12.2.0 -O2", None),
        ("GNU Go 12.2.0; -N -l", None),
        ("", None),
    ],
)
def test_is_optimized(producer: str, optimized: bool | None) -> None:
    assert is_optimized(producer) is optimized


@pytest.mark.parametrize(
    ("producer", "version"),
    [
        ("Go cmd/compile go1.26.8; -N -l; regabi", "go1.26.8"),
        ("Go cmd/compile go1.12", "go1.12"),
        ("Go cmd/compile ;", None),
        ("GNU C17 12.2.0", None),
    ],
)
def test_go_version_of(producer: str, version: str | None) -> None:
    assert go_version_of(producer) == version


@pytest.mark.parametrize(
    ("settings", "optimized"),
    [
        ({}, None),
        ({"-compiler": "gc"}, True),
        ({"-compiler": "gc", "-gcflags": "-N -l"}, False),
        ({"-compiler": "gc", "-gcflags": "all=-N -l"}, False),
        ({"-compiler": "gc", "-gcflags": "example.com/app=-l -N"}, False),
        ({"-compiler": "gc", "-gcflags": "all=-N"}, True),
        ({"-compiler": "gc", "-gcflags": "example.com/...=-N -l"}, None),
        ({"-compiler": "gc", "-gcflags": "-m=2"}, True),
    ],
)
def test_optimized_by_flags(settings: dict[str, str], optimized: bool | None) -> None:
    info = BuildInfo("go1.26")
    info.main_path = "example.com/app"
    info.settings = settings
    assert optimized_by_flags(info) is optimized

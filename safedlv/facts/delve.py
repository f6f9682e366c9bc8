"""What a dlv on this machine is: its version, and which versions of Go it understands.

The cheap ways come first: the build information and the symbol table of the binary are read, not run.  Only a dlv
that was stripped of them is asked: ``dlv version``, and a headless server on dlv itself for RPCServer.GetVersion.
Finding dlv, which every attach does, is in :mod:`.delve_path`.
"""

from __future__ import annotations

from typing import Final

from safedlv.facts.delve_path import delve_version_from_binary, find_delve
from safedlv.facts.elf import MalformedElf
from safedlv.facts.go_range import is_within, parse_go_version, range_in_file
from safedlv.facts.reading import MALFORMED, unknown
from safedlv.model import Delve, Unknown

__all__ = ["delve_version_from_binary", "find_delve", "parse_go_version", "read_delve", "read_go_range", "supports"]

VERSION_DEADLINE: Final = 5.0
EXPERIMENT_DEADLINE: Final = 10.0
"""Seconds; a headless dlv on itself answers in about half a second."""

Range = tuple[str, str]


def read_delve(path: str) -> Delve:
    """The facts about the dlv at ``path``; what neither its file nor itself tells is Unknown.

    May run dlv: at most VERSION_DEADLINE plus EXPERIMENT_DEADLINE seconds, and only where the file does not tell.
    """
    version: str | Unknown | None = delve_version_from_binary(path)
    supported = read_go_range(path)
    if isinstance(supported, Unknown) and supported.errno == "STRIPPED":
        from safedlv.facts.delve_asked import ask_go_range

        answer = ask_go_range(path, EXPERIMENT_DEADLINE)
        supported = _range(answer) if not isinstance(answer, Unknown) else answer
    if version is None:
        from safedlv.facts.delve_asked import ask_version

        version = ask_version(path, VERSION_DEADLINE)
    low, high = (supported, supported) if isinstance(supported, Unknown) else supported
    return Delve(path=path, version=version, min_go=low, max_go=high)


def read_go_range(path: str) -> Range | Unknown:
    """The oldest and the newest Go that this dlv supports, as its file tells; Unknown STRIPPED where it does not."""
    try:
        return range_in_file(path) or Unknown("STRIPPED", f"{path} .symtab")
    except OSError as error:
        return unknown(error, path)
    except MalformedElf:
        return Unknown(MALFORMED, path)


def _range(answer: tuple[str, str]) -> Range | Unknown:
    """GetVersion's ``1.25.0`` as ``1.25``: dlv compares no more than that."""
    low, high = (parse_go_version(text) for text in answer)
    if low is None or high is None:
        return Unknown(MALFORMED, "RPCServer.GetVersion")
    return f"{low[0]}.{low[1]}", f"{high[0]}.{high[1]}"


# ---------------------------------------------------------------- versions of Go


def supports(delve: Delve, go_version: str | Unknown | None) -> bool | Unknown:
    """Whether this dlv supports programs built by that Go (``go1.26.8``), as dlv's own goversion.Compatible decides.

    Betas and release candidates count as their release; a development version of 1.28 counts as the last of 1.27.
    Unknown when the version is, when it names no number (``devel +abc``), or when dlv's range is unknown.
    """
    if isinstance(go_version, Unknown):
        return go_version
    number = parse_go_version(go_version or "")
    if number is None:
        return Unknown(MALFORMED, f"Go version {go_version!r}")
    for end in (delve.min_go, delve.max_go):
        if isinstance(end, Unknown):
            return end
    within = is_within(number, str(delve.min_go), str(delve.max_go))
    return Unknown(MALFORMED, f"supported Go of {delve.path}") if within is None else within

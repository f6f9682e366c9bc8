"""Facts about real dlvs: what their files tell is what they answer when they are asked."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from safedlv.facts.delve import read_delve, supports
from safedlv.facts.delve_asked import ask_go_range, ask_version
from safedlv.facts.delve_path import delve_version_from_binary
from safedlv.model import Unknown
from tests.support import require


def dlv(variable: str, name: str | None) -> str:
    path = os.environ.get(variable) or (shutil.which(name) if name else None)
    require(path is not None, f"no dlv: set {variable}")
    assert path is not None
    return path


DLVS = [("SAFEDLV_TEST_DLV", "dlv"), ("SAFEDLV_TEST_DLV_OLD", None)]


@pytest.mark.parametrize(("variable", "name"), DLVS)
def test_what_the_file_tells_is_what_dlv_answers(variable: str, name: str | None) -> None:
    path = dlv(variable, name)
    delve = read_delve(path)
    assert delve.version == ask_version(path, 5)
    answer = ask_go_range(path, 20)
    assert not isinstance(answer, Unknown), answer
    assert tuple(end.removesuffix(".0") for end in answer) == (delve.min_go, delve.max_go)
    built_from_module = delve_version_from_binary(path)
    assert built_from_module in (None, delve.version)


def test_the_old_dlv_knows_its_limits() -> None:
    delve = read_delve(dlv("SAFEDLV_TEST_DLV_OLD", None))
    assert (delve.version, delve.min_go, delve.max_go) == ("1.20.2", "1.18", "1.20")
    assert supports(delve, "go1.26.8") is False


def test_a_stripped_dlv_is_asked(tmp_path: Path) -> None:
    require(shutil.which("strip") is not None, "no binutils")
    path = dlv("SAFEDLV_TEST_DLV", "dlv")
    stripped = tmp_path / "dlv"
    subprocess.run(["strip", "-o", str(stripped), path], check=True)
    delve = read_delve(str(stripped))
    assert (delve.version, delve.min_go, delve.max_go) == (
        read_delve(path).version,
        read_delve(path).min_go,
        read_delve(path).max_go,
    )
    assert not left_behind(str(stripped))


def left_behind(path: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "exe") == path:
                found.append(entry.name)
                os.kill(int(entry.name), signal.SIGKILL)
    return found

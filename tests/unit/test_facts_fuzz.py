"""Whatever bytes the files hold, the readers give facts or unknowns: they never raise and never hang."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safedlv.facts import cgroup, credentials, namespaces, process, security_modules, status
from safedlv.facts.procfs import ProcDir, parse_stat
from safedlv.model import Unknown
from tests.unit.test_facts_cgroup import CONTAINER_V1_MOUNTS, HYBRID, HYBRID_MOUNTS, V1_ONLY
from tests.unit.test_facts_process import KTHREADD, STAT, STATUS, VFORK

REAL = (STAT, KTHREADD, STATUS, HYBRID, V1_ONLY, HYBRID_MOUNTS, CONTAINER_V1_MOUNTS, VFORK, b"0 100000 65536\n")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real file with pieces cut out, put in or doubled."""
    data = draw(st.sampled_from(REAL))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        data = data[:start] + draw(st.one_of(st.binary(max_size=20), st.just(data[start:end] * 2))) + data[end:]
    return data


FILE = st.one_of(st.binary(max_size=400), mutated())

FILES = ("stat", "status", "cmdline", "cgroup", "wchan", "syscall")

PARSERS: tuple[Callable[[bytes], object], ...] = (
    parse_stat,
    status.parse_stat_fields,
    status.parse_status,
    process.parse_cmdline,
    cgroup.parse_membership,
    cgroup.parse_mountinfo,
    cgroup.parse_limit,
    cgroup.parse_throttled,
    credentials.parse_id_map,
    security_modules.parse_lsm_list,
    security_modules.parse_label,
)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.__name__)
@given(data=FILE)
def test_parsers_raise_nothing_but_value_error(parser: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parser(data)


@given(data=FILE)
def test_vfork_call_is_a_fact_or_unknown(data: bytes) -> None:
    assert isinstance(process.parse_vfork_call(data, "x86_64", "f"), bool | Unknown)


@given(membership=FILE, mounts=FILE, controller=st.sampled_from(["", "pids", "memory"]))
def test_levels_are_found_or_unknown(membership: bytes, mounts: bytes, controller: str) -> None:
    try:
        paths = cgroup.parse_membership(membership)
    except ValueError:
        return
    found = cgroup.levels(paths, cgroup.parse_mountinfo(mounts), controller)
    assert isinstance(found, tuple | Unknown)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(files=st.fixed_dictionaries(dict.fromkeys(FILES, FILE)))
def test_readers_never_raise(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as root:
        directory = Path(root, "9")
        (directory / "attr").mkdir(parents=True)
        for name, data in {**files, "uid_map": files["stat"], "gid_map": files["stat"]}.items():
            (directory / name).write_bytes(data)
        (directory / "attr/current").write_bytes(files["cmdline"])
        with ProcDir(9, proc=root) as procdir:
            stat = status.read_stat(procdir)
            read = status.read_status(procdir)
            process.read_cmdline(procdir)
            process.vfork_parent(procdir, stat)
            credentials.dumpable(procdir, read, stat, credentials.proc_owner(procdir))
            namespaces.read_namespaces(procdir)
            security_modules.read_security_modules(procdir)
            cgroup.read_cgroup(procdir)

"""The cgroup of a process, from captured text of v1, v2, hybrid and containers, and from made-up trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from safedlv.facts import cgroup
from safedlv.facts.cgroup import FREEZERS, LIMITS, V2, Mount, frozen_in, levels, relative, tightest
from safedlv.facts.procfs import ProcDir
from safedlv.model import Cgroup, Unknown

HYBRID = b"""9:name=systemd:/
8:pids:/app
4:memory:/process_api/12622e2f777ab8d90ea24af395491fda
2:cpuacct,cpu:/
0::/guard
"""
V2_ONLY = b"0::/user.slice/user-1000.slice/session-2.scope\n"
V1_ONLY = b"""11:pids:/docker/8b5c
5:freezer:/docker/8b5c
4:cpu,cpuacct:/docker/8b5c
2:memory:/docker/8b5c
1:name=systemd:/docker/8b5c
"""
HYBRID_MOUNTS = rb"""31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
63 43 0:38 /../.. /tmp/facts/a\040b rw,relatime shared:1 master:2 - cgroup2 none rw
"""
CONTAINER_V1_MOUNTS = b"""905 888 0:30 /docker/8b5c /sys/fs/cgroup/pids ro,nosuid master:15 - cgroup cgroup rw,pids
906 888 0:31 /docker/8b5c /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:16 - cgroup cgroup rw,cpu,cpuacct
"""


def test_versions() -> None:
    assert cgroup.version(cgroup.parse_membership(HYBRID)) == "hybrid"
    assert cgroup.version(cgroup.parse_membership(V2_ONLY)) == "v2"
    assert cgroup.version(cgroup.parse_membership(V1_ONLY)) == "v1"


def test_membership() -> None:
    paths = cgroup.parse_membership(HYBRID)
    assert paths[V2] == "/guard"
    assert paths["cpu"] == paths["cpuacct"] == "/"
    assert paths["name=systemd"] == "/"
    odd = "1:pids:/a:b\u2028\x0bc (deleted)\n".encode()  # colons and every other separator may be in a name
    assert cgroup.parse_membership(odd)["pids"] == "/a:b\u2028\x0bc (deleted)"


@pytest.mark.parametrize("data", [b"", b"\n", b"0::\n", b"0:/\n", b"x::/\n", b"0::relative\n", HYBRID + b"junk\n"])
def test_what_is_no_membership(data: bytes) -> None:
    with pytest.raises(ValueError):
        cgroup.parse_membership(data)


def test_mounts() -> None:
    mounts = cgroup.parse_mountinfo(HYBRID_MOUNTS)
    assert [mount.point for mount in mounts[-2:]] == ["/sys/fs/cgroup/unified", "/tmp/facts/a b"]
    assert mounts[-1] == Mount("/../..", "/tmp/facts/a b", frozenset({V2}))
    assert "pids" in mounts[1].hierarchies
    assert cgroup.parse_mountinfo(b"41 31 0:38 / /sys rw - cgroup2\nx - cgroup y z\n\n - \n") == ()


def test_escapes() -> None:
    assert cgroup.unescape(rb"a\040b\011c\134d\043\012") == "a b\tc\\d#\n"
    assert cgroup.unescape(rb"\400\8\04") == r"\400\8\04"


@pytest.mark.parametrize(
    ("path", "root", "below"),
    [
        ("/", "/", ""),
        ("/a/b", "/", "a/b"),
        ("/docker/8b5c", "/docker/8b5c", ""),
        ("/docker/8b5c/x", "/docker/8b5c", "x"),
        ("/docker/8b5cd", "/docker/8b5c", None),
        ("/docker", "/docker/8b5c", None),
        ("/../side", "/", None),
        ("/..", "/", None),
        ("/../..", "/../..", ""),
        ("/../../x", "/../..", "x"),
        ("/../..", "/..", None),
        ("/../side", "/../..", None),  # the name of the cgroup in between is not told
        ("/", "/../..", None),
        ("/..hidden", "/", "..hidden"),
    ],
)
def test_path_below_a_mount(path: str, root: str, below: str | None) -> None:
    assert relative(path, root) == below


def test_levels_from_own_to_mount(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    mounts = (Mount("/", str(tmp_path), frozenset({"rw", "pids"})),)
    assert levels({"pids": "/a/b"}, mounts, "pids") == (f"{tmp_path}/a/b", f"{tmp_path}/a", str(tmp_path))
    assert levels({"pids": "/"}, mounts, "pids") == (str(tmp_path),)
    assert levels({"pids": "/gone"}, mounts, "pids") == Unknown("ENOENT", f"{tmp_path}/gone")
    assert isinstance(levels({"memory": "/"}, mounts, "pids"), Unknown)
    assert isinstance(levels({V2: "/"}, mounts, V2), Unknown)
    assert isinstance(levels({"pids": "/.."}, mounts, "pids"), Unknown)


def test_levels_in_a_container_without_a_cgroup_namespace(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    mounts = (Mount("/docker/8b5c", str(tmp_path), frozenset({"pids"})),)
    assert levels({"pids": "/docker/8b5c/x"}, mounts, "pids") == (f"{tmp_path}/x", str(tmp_path))
    assert isinstance(levels({"pids": "/docker/other"}, mounts, "pids"), Unknown)


def test_captured_container_mounts_hold_its_own_cgroup() -> None:
    mounts = cgroup.parse_mountinfo(CONTAINER_V1_MOUNTS)
    paths = cgroup.parse_membership(V1_ONLY)
    assert relative(paths["pids"], mounts[0].root) == ""
    assert isinstance(levels(paths, mounts, "freezer"), Unknown)


# ---------------------------------------------------------------- limits


def tree(tmp_path: Path, *files: tuple[str, str]) -> tuple[str, ...]:
    """A hierarchy a/b with files; the levels of b."""
    (tmp_path / "a/b").mkdir(parents=True)
    for name, text in files:
        (tmp_path / name).write_text(text)
    return (f"{tmp_path}/a/b", f"{tmp_path}/a", str(tmp_path))


def test_the_level_with_the_least_room_counts(tmp_path: Path) -> None:
    where = tree(
        tmp_path,
        *(("a/b/pids.max", "100\n"), ("a/b/pids.current", "5\n"), ("a/pids.max", "60\n"), ("a/pids.current", "58\n")),
    )
    assert tightest(where, LIMITS["pids", "v2"]) == (58, 60)


def test_no_limit_anywhere(tmp_path: Path) -> None:
    where = tree(tmp_path, ("a/b/pids.max", "max\n"), ("a/b/pids.current", "5\n"))
    assert tightest(where, LIMITS["pids", "v2"]) == (5, None)


def test_controller_that_is_not_enabled_below(tmp_path: Path) -> None:
    where = tree(tmp_path, ("a/pids.max", "max\n"), ("a/pids.current", "9\n"))
    assert tightest(where, LIMITS["pids", "v1"]) == (9, None)


def test_root_cgroup_has_no_limit_and_no_count(tmp_path: Path) -> None:
    assert tightest((str(tmp_path),), LIMITS["pids", "v1"]) == (Unknown("ENOENT", f"{tmp_path}/pids.current"), None)


def test_unreadable_limit_is_unknown_unless_another_is_known(tmp_path: Path) -> None:
    where = tree(tmp_path, ("a/b/pids.max", "?\n"), ("a/b/pids.current", "5\n"))
    assert tightest(where, LIMITS["pids", "v2"]) == (5, Unknown("MALFORMED", f"{tmp_path}/a/b/pids.max"))
    (tmp_path / "a/pids.max").write_text("7\n")
    (tmp_path / "a/pids.current").write_text("6\n")
    assert tightest(where, LIMITS["pids", "v2"]) == (6, 7)


def test_memory_without_a_limit_is_a_huge_number_in_v1(tmp_path: Path) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for none in (0x7FFFFFFFFFFFF000, 0x7FFFFFFFFFFF0000):  # pages of 4 and of 64 KiB
        assert cgroup.parse_limit(b"%d\n" % none) is None
    where = tree(tmp_path, (f"a/b/{names[0]}", f"{0x7FFFFFFFFFFFF000}\n"), (f"a/b/{names[1]}", "4096\n"))
    assert tightest(where, LIMITS["memory", "v1"]) == (4096, None)
    (tmp_path / "a" / names[0]).write_text("8192\n")
    (tmp_path / "a" / names[1]).write_text("8000\n")
    assert tightest(where, LIMITS["memory", "v1"]) == (8000, 8192)


def test_throttled() -> None:
    v1 = b"nr_periods 0\nnr_throttled 17\nthrottled_time 0\nnr_bursts 0\nburst_time 0\n"
    v2 = b"usage_usec 1\nuser_usec 1\nsystem_usec 0\n"
    assert cgroup.parse_throttled(v1) == 17
    assert cgroup.parse_throttled(v2) is None
    with pytest.raises(ValueError, match="number"):
        cgroup.parse_throttled(b"nr_throttled many\n")


# ---------------------------------------------------------------- frozen


@pytest.mark.parametrize("freezer", FREEZERS, ids=["v2", "v1"])
def test_freezers(tmp_path: Path, freezer: cgroup.Freezer) -> None:
    where = tree(tmp_path)
    assert frozen_in(where, freezer) == (False, None)  # no freezer there
    thawed = "populated 1\nfrozen 0\n" if freezer.controller == V2 else "THAWED\n"
    (tmp_path / "a/b" / freezer.state).write_text(thawed)
    (tmp_path / "a/b" / freezer.request).write_text("0\n")
    assert frozen_in(where, freezer) == (False, None)
    (tmp_path / "a" / freezer.request).write_text("1\n")
    assert frozen_in(where, freezer) == (True, f"{tmp_path}/a")
    (tmp_path / "a/b" / freezer.request).write_text("1\n")
    assert frozen_in(where, freezer) == (True, f"{tmp_path}/a/b")


@pytest.mark.parametrize(
    ("name", "text"), [("cgroup.events", "populated 1\nfrozen 1\n"), ("freezer.state", "FREEZING\n")]
)
def test_frozen_from_above_the_mount(tmp_path: Path, name: str, text: str) -> None:
    where = tree(tmp_path, (f"a/b/{name}", text))
    freezer = next(freezer for freezer in FREEZERS if freezer.state == name)
    assert frozen_in(where, freezer) == (True, None)


# ---------------------------------------------------------------- whole


def read_fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: bytes, mounts: bytes) -> Cgroup:
    (tmp_path / "proc/9").mkdir(parents=True)
    (tmp_path / "proc/9/cgroup").write_bytes(membership)
    (tmp_path / "mountinfo").write_bytes(mounts)
    monkeypatch.setattr(cgroup, "MOUNTINFO", str(tmp_path / "mountinfo"))
    with ProcDir(9, proc=str(tmp_path / "proc")) as procdir:
        return cgroup.read_cgroup(procdir)


def test_v2_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cg"
    root.mkdir()
    files = {
        "pids.max": "64",
        "pids.current": "60",
        "memory.max": "1048576",
        "memory.current": "4096",
        "cpu.stat": "usage_usec 1\nnr_throttled 3",
        "cgroup.events": "populated 1\nfrozen 1",
        "cgroup.freeze": "1",
    }
    for name, text in files.items():
        (root / name).write_text(text + "\n")
    mounts = f"41 31 0:38 / {root} ro,nosuid - cgroup2 cgroup rw,nsdelegate\n".encode()
    found = read_fake(tmp_path, monkeypatch, b"0::/\n", mounts)
    expected = ("v2", "/", True, str(root), 60, 64, 4096, 1048576, 3)
    assert found == Cgroup(*expected)


def test_nothing_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_fake(tmp_path, monkeypatch, HYBRID, b"")
    assert (found.version, found.path) == ("hybrid", "/guard")
    for fact in (found.frozen, found.pids_max, found.memory_current, found.throttled_periods):
        assert isinstance(fact, Unknown)
        assert fact.errno == "ENOENT"


def test_malformed_membership(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_fake(tmp_path, monkeypatch, b"no cgroup\n", HYBRID_MOUNTS)
    why = Unknown("MALFORMED", f"{tmp_path}/proc/9/cgroup")
    assert found == Cgroup(why, why, why, None, why, why, why, why, why)

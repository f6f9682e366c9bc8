"""Namespaces and security modules, from captured text and from a made-up /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from safedlv.facts import namespaces, security_modules
from safedlv.model import Unknown
from tests.unit.test_facts_process import fake_proc


def test_namespace_links() -> None:
    assert namespaces.parse_link("pid:[4026531836]") == 4026531836
    for text in ("", "pid:[]", "pid:[x]", "pid:[1]\n", "/etc/passwd", "pid:[\u0663]"):
        with pytest.raises(ValueError, match="namespace"):
            namespaces.parse_link(text)


def test_namespaces_are_compared_by_inode(tmp_path: Path) -> None:
    (tmp_path / "9/ns").mkdir(parents=True)
    os.symlink(os.readlink("/proc/self/ns/pid"), tmp_path / "9/ns/pid")
    os.symlink("user:[1]", tmp_path / "9/ns/user")
    os.symlink("somewhere", tmp_path / "9/ns/mnt")
    with fake_proc(tmp_path) as procdir:
        found = {namespace.kind: namespace for namespace in namespaces.read_namespaces(procdir)}
    assert found["pid"].same is True
    assert (found["user"].inode, found["user"].same) == (1, False)
    assert found["mnt"].same == Unknown("MALFORMED", f"{tmp_path}/9/ns/mnt")
    assert found["time"].inode == Unknown("ENOENT", f"{tmp_path}/9/ns/time")


@pytest.mark.parametrize(
    ("data", "label"),
    [
        (b"docker-default (enforce)\n", "docker-default (enforce)"),
        (b"unconfined\n", "unconfined"),
        (b"system_u:system_r:container_t:s0:c1,c2\0", "system_u:system_r:container_t:s0:c1,c2"),
        (b"_", "_"),
    ],
)
def test_labels(data: bytes, label: str) -> None:
    assert security_modules.parse_label(data) == label


def test_module_list() -> None:
    parse = security_modules.parse_lsm_list
    assert parse(b"lockdown,capability,landlock,yama,apparmor,bpf") == (
        *("lockdown", "capability", "landlock", "yama", "apparmor", "bpf"),
    )
    assert parse(b"") == ()
    for data in (b"a,,b", b"a b", b"\xff", b","):
        with pytest.raises(ValueError):
            parse(data)


def test_labels_when_the_module_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "lsm"
    listed.write_bytes(b"capability,yama,apparmor")
    scope = tmp_path / "scope"
    monkeypatch.setattr(security_modules, "LSM_LIST", str(listed))
    monkeypatch.setattr(security_modules, "YAMA_SCOPE", str(scope))
    with fake_proc(tmp_path, attr__current=b"docker-default (enforce)\n") as procdir:
        modules = security_modules.read_security_modules(procdir)
        assert modules.loaded == ("capability", "yama", "apparmor")
        assert modules.apparmor == "docker-default (enforce)"
        assert modules.selinux is modules.smack is None
        assert modules.landlock_free_layers is None
        assert modules.yama_scope == Unknown("ENOENT", str(scope))  # loaded, so it must be there
        scope.write_bytes(b"1\n")
        (tmp_path / "9/attr/apparmor").mkdir()
        (tmp_path / "9/attr/apparmor/current").write_bytes(b"other (complain)\n")
        modules = security_modules.read_security_modules(procdir)
        assert (modules.yama_scope, modules.apparmor) == (1, "other (complain)")
        listed.write_bytes(b"capability,selinux")
        scope.unlink()
        modules = security_modules.read_security_modules(procdir)
        assert (modules.selinux, modules.apparmor, modules.yama_scope) == ("docker-default (enforce)", None, None)


def test_labels_when_the_list_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enabled, known = tmp_path / "enabled", tmp_path / "filesystems"
    monkeypatch.setattr(security_modules, "LSM_LIST", str(tmp_path / "nowhere"))
    monkeypatch.setattr(security_modules, "APPARMOR_ENABLED", str(enabled))
    monkeypatch.setattr(security_modules, "FILESYSTEMS", str(known))
    enabled.write_bytes(b"Y\n")
    known.write_bytes(b"nodev\tproc\nnodev\tselinuxfs\n")
    with fake_proc(tmp_path, attr__current=b"label") as procdir:
        modules = security_modules.read_security_modules(procdir)
        assert modules.loaded == Unknown("ENOENT", str(tmp_path / "nowhere"))
        assert (modules.apparmor, modules.selinux, modules.smack) == ("label", "label", None)
        enabled.write_bytes(b"N\n")
        known.unlink()
        modules = security_modules.read_security_modules(procdir)
        assert modules.apparmor is None
        assert modules.selinux == Unknown("ENOENT", str(known))

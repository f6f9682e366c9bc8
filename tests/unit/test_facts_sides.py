"""What the sides of the access table are read from."""

from __future__ import annotations

import os

import pytest

from safedlv.diagnosis.sides import AppArmorProfile
from safedlv.facts.sides import apparmor_profile, parse_hidepid, read_ancestors, read_pid_namespaces
from safedlv.model import Unknown

PROC = b"25 1 0:23 / /proc rw,relatime shared:12 - proc proc "


@pytest.mark.parametrize(
    ("options", "level"),
    [
        (b"rw", 0),
        (b"rw,hidepid=0", 0),
        (b"rw,hidepid=2", 2),
        (b"rw,gid=5,hidepid=invisible", 2),
        (b"rw,hidepid=noaccess", 1),
        (b"rw,hidepid=ptraceable,subset=pid", 4),
    ],
)
def test_hidepid(options: bytes, level: int) -> None:
    assert parse_hidepid(b"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + PROC + options + b"\n") == level


def test_the_proc_that_was_mounted_last_counts() -> None:
    assert parse_hidepid(PROC + b"rw,hidepid=2\n" + PROC + b"rw\n") == 0
    other = b"31 1 0:23 / /mnt/proc rw - proc proc rw,hidepid=2\n"
    assert parse_hidepid(PROC + b"rw\n" + other) == 0


@pytest.mark.parametrize("text", [b"", b"20 1 8:1 / / rw - ext4 x rw\n", PROC + b"rw,hidepid=9\n", b"\xff - \xfe\n"])
def test_no_hidepid_to_be_seen(text: bytes) -> None:
    with pytest.raises(ValueError, match="no /proc"):
        parse_hidepid(text)


@pytest.mark.parametrize(
    ("label", "profile"),
    [
        ("unconfined", AppArmorProfile("unconfined", "unconfined")),
        ("docker-default (enforce)", AppArmorProfile("docker-default", "enforce")),
        ("a (b)//null-/bin/x (complain)", AppArmorProfile("a (b)//null-/bin/x", "complain")),
        ("odd", AppArmorProfile("odd", "unknown")),
        ("", AppArmorProfile("", "unknown")),
        (None, None),
        (Unknown("EACCES", "x"), Unknown("EACCES", "x")),
    ],
)
def test_apparmor_labels(label: str | Unknown | None, profile: AppArmorProfile | Unknown | None) -> None:
    assert apparmor_profile(label) == profile


def test_ancestors_that_were_met_are_not_read_again() -> None:
    met: dict[int, tuple[int, ...]] = {}
    above = read_ancestors(os.getpid(), met)
    assert isinstance(above, tuple)
    assert above == read_ancestors(os.getpid())
    assert met == {pid: above[place + 1 :] for place, pid in enumerate(above)}
    met[os.getppid()] = (4194304,)
    assert read_ancestors(os.getpid(), met) == (os.getppid(), 4194304)


def test_a_process_that_is_not_there() -> None:
    nobody = 1 << 22
    assert isinstance(read_ancestors(nobody), Unknown)
    assert isinstance(read_pid_namespaces(nobody), Unknown)


def test_own_ancestors() -> None:
    ancestors = read_ancestors(os.getpid())
    assert isinstance(ancestors, tuple)
    assert ancestors[:1] == ((os.getppid(),) if os.getppid() else ())

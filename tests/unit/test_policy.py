"""Questions to the policies of SELinux and Smack: what their answers mean. The kernels here have neither."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedlv.facts import policy
from safedlv.model import Unknown

PTRACE = 10  # a permission's number, as class/process/perms/ptrace has it


@pytest.mark.parametrize(
    ("said", "allows"),
    [
        (b"ffffffff ffffffff 0 fffffff 12 0", True),
        (b"200 ffffffff 0 fffffff 12 0\0", True),
        (b"1ff ffffffff 0 fffffff 12 0", False),
        (b"0 ffffffff 0 fffffff 12 1", True),  # a permissive domain
        (b"0 ffffffff 0 fffffff 12", False),  # before Linux 2.6.32 there were no flags
    ],
)
def test_an_access_decision(said: bytes, allows: bool) -> None:
    assert policy.parse_decision(said, PTRACE) is allows


def test_a_flag() -> None:
    assert policy.parse_flag(b"1\0") is True
    assert policy.parse_flag(b"0") is False


@given(st.binary(max_size=64))
def test_nonsense_is_no_answer(said: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert policy.parse_decision(said, PTRACE) in (True, False)
    with contextlib.suppress(ValueError):
        assert policy.parse_flag(said) in (True, False)


def test_a_policy_that_cannot_be_asked_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "SELINUX", str(tmp_path))
    monkeypatch.setattr(policy, "SMACK_ACCESS", str(tmp_path / "access2"))
    answers = (policy.selinux_allows("a:b:c", "d:e:f"), policy.smack_allows("a", "b"))
    assert all(isinstance(answer, Unknown) and answer.errno == errno.errorcode[errno.ENOENT] for answer in answers)
    assert isinstance(policy.selinux_allows(None, "d:e:f"), Unknown)
    assert isinstance(policy.smack_allows("a", Unknown("EACCES", "attr")), Unknown)

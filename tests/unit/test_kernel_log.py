"""Records of the kernel's log, as AppArmor and seccomp write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedlv.facts import kernel_log
from safedlv.facts.kernel_log import is_refusal, message
from safedlv.model import Unknown

# as seen on Linux 6.1 with AppArmor
DENIED = (
    'audit: type=1400 audit(1795420000.123:77): apparmor="DENIED" operation="ptrace" profile="no-ptrace" pid=4711 '
    'comm="dlv" requested_mask="trace" denied_mask="trace" peer="no-ptrace"'
)
KILLED = (
    "audit: type=1326 audit(1795420000.456:78): auid=4294967295 uid=0 gid=0 ses=4294967295 subj=docker-default "
    'pid=4711 comm="dlv" exe="/dlv" sig=31 arch=c000003e syscall=101 compat=0 ip=0x7f code=0x80000000'
)


@pytest.mark.parametrize("text", [DENIED, KILLED])
def test_a_refusal_is_known_by_its_process(text: str) -> None:
    assert is_refusal(text, {1, 4711})
    assert not is_refusal(text, {711, 47110})
    assert not is_refusal(text, set())


@pytest.mark.parametrize(
    "text",
    [
        DENIED.replace("DENIED", "ALLOWED"),  # a profile in complain mode
        DENIED.replace('"ptrace"', '"open"'),
        'usb 1-1: pid=4711 apparmor="DENIED"',
        "",
    ],
)
def test_other_records_are_none(text: str) -> None:
    assert not is_refusal(text, {4711})


def test_the_text_of_a_record() -> None:
    assert message(b"6,339,5140900,-;NET: Registered\x1b[31m family 10\n SUBSYSTEM=net\n") == (
        "NET: Registered\x1b[31m family 10"
    )


@given(st.binary(max_size=300))
def test_nonsense_is_no_refusal(record: bytes) -> None:
    assert is_refusal(message(record), {1}) in (True, False)


def test_a_log_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_log, "LOG", "/nowhere/kmsg")
    assert kernel_log.refusals_of({1}) == Unknown("ENOENT", "/nowhere/kmsg")

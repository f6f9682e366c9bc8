"""``safedlv observe`` agrees with strace where Yama or AppArmor refuses, and where a capability gets past Yama."""

from __future__ import annotations

import pytest

from tests.live.observed import EXIT_CODES
from tests.vm import machine
from tests.vm.conftest import Found
from tests.vm.observe_cases import CASES
from tests.vm.test_lab import played


@pytest.mark.timeout(machine.SECONDS + 60)
@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_strace(lab: dict[str, Found], name: str) -> None:
    """The same calls failed with the same errnos, dlv said and ended the same, and the target was not touched."""
    found, case = played(lab, name), CASES[name]
    assert (found["verdict"], tuple(found["first"])) == (case.verdict, case.first)
    assert (found["code"], found["stderr"]) == (EXIT_CODES[case.verdict], "")
    assert found["observe"]["failed"]
    assert found["observe"] == found["strace"]
    assert not found["harm"]

"""``safedlv observe`` agrees with strace where Yama or AppArmor refuses, and where a capability gets past Yama."""

from __future__ import annotations

import pytest

from tests.live.observed import EXIT_CODES
from tests.vm import machine
from tests.vm.conftest import Found
from tests.vm.observe_cases import CASES
from tests.vm.scenes import OBSERVED, UNOBSERVED
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


@pytest.mark.timeout(machine.SECONDS + 60)
@pytest.mark.parametrize("name", OBSERVED)
def test_it_agrees_with_strace_in_the_lab(lab: dict[str, Found], name: str) -> None:
    """The same, in every scene that somebody outside can see, at every scope."""
    found = played(lab, name)["observation"]
    assert (found["code"], found["stderr"]) == (EXIT_CODES[found["verdict"]], "")
    assert found["observe"] == found["strace"]


@pytest.mark.timeout(machine.SECONDS + 60)
@pytest.mark.parametrize("name", UNOBSERVED)
def test_where_nobody_may_trace(lab: dict[str, Found], name: str) -> None:
    """No sentence about a way that there is not."""
    found = played(lab, name)["observation"]
    assert found["code"] == 3
    assert found["stderr"].endswith("\n  kernel.yama.ptrace_scope is 3: nobody may trace here until the next boot\n")

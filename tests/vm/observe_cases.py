"""``safedlv observe`` under Yama and AppArmor: where dlv stands, and what it meets there. Played beside strace."""

from __future__ import annotations

from typing import Any, Final

from attrs import asdict, frozen

from tests.vm.places import USERS_PTRACE, as_user


@frozen
class Case:
    """A tracer on the machine; the target is a server of user 1000."""

    scope: int
    tracer: tuple[str, ...]
    """The words in front of its program."""
    verdict: str
    first: tuple[str | None, str | None, str | None]
    """The call that matters first, its request and its errno."""


def confined(profile: str) -> tuple[str, ...]:
    """The words that put a process under an AppArmor profile."""
    return ("aa-exec", "-p", profile, "--")


REFUSED: Final = ("ptrace", "PTRACE_ATTACH", "EPERM")
DENIED: Final = ("ptrace", "PTRACE_ATTACH", "EACCES")
USER: Final = as_user(1000)
CASES = {
    "observe: AppArmor against ptrace": Case(0, confined("lab-no-ptrace"), "fails", DENIED),
    "observe: same user, scope 1": Case(1, USER, "fails", REFUSED),
    "observe: same user, scope 2": Case(2, USER, "fails", REFUSED),
    "observe: same user with SYS_PTRACE, scope 1": Case(1, (*USER, *USERS_PTRACE), "works", (None, None, None)),
}


def for_the_guest() -> list[dict[str, Any]]:
    """What is to be played, as JSON knows it."""
    return [{"name": name, **asdict(case)} for name, case in CASES.items()]

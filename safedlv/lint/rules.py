"""What is wrong with a container, as a table of rules; each gives its findings, with the patch. Pure.

The facts: a tracer by ``docker exec`` has the container's user, capabilities and filter, so that ids and capabilities
are no obstacle by themselves; Docker's and containerd's own seccomp profile allows ptrace from kernel 4.8 on; what dlv
takes of threads and memory is charged to the container.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from attrs import frozen

from safedlv.lint import excess, hosts, refusing
from safedlv.lint.values import ERROR, NOTE, WARNING, Container, Finding, Look


@frozen
class Rule:
    """A kind of finding."""

    id: str
    level: str
    words: str
    """What it is about, in general."""
    look: Callable[[Container, Look], Iterator[Finding]]


def found(container: Container, look: Look) -> Iterator[Finding]:
    """All findings of a container."""
    for rule in RULES:
        yield from rule.look(container, look)


RULES: Final = (
    Rule("seccomp", ERROR, "The seccomp profile refuses a call that dlv cannot do without.", refusing.seccomp),
    Rule(
        "credentials",
        ERROR,
        "The debugger is another user than the program, and may not trace it.",
        refusing.other_user,
    ),
    Rule("pid-namespace", ERROR, "The debugger does not see the program: another PID namespace.", refusing.beside),
    Rule("thread-limit", ERROR, "The limit of threads leaves no room for dlv.", refusing.thread_limit),
    Rule("memory-limit", ERROR, "The limit of memory leaves no room for dlv.", refusing.memory_limit),
    Rule("forbidden-sysctl", ERROR, "A container cannot set kernel.yama.ptrace_scope.", refusing.forbidden_sysctl),
    Rule("privileged", WARNING, "privileged is more than a debugger needs.", excess.privileged),
    Rule("all-capabilities", WARNING, "All capabilities are more than a debugger needs.", excess.all_capabilities),
    Rule("seccomp-unconfined", WARNING, "No seccomp filter is more than a debugger needs.", excess.seccomp_unconfined),
    Rule(
        "apparmor-unconfined", WARNING, "No AppArmor profile is more than a debugger needs.", excess.apparmor_unconfined
    ),
    Rule("seccomp-unknown", NOTE, "The seccomp profile could not be judged.", lambda container, look: iter(())),
    Rule("apparmor-unknown", NOTE, "The AppArmor profile is the host's.", hosts.custom_apparmor),
    Rule("sandbox-runtime", NOTE, "The kernel is a sandbox's.", hosts.sandbox),
    Rule("emulated-platform", NOTE, "It may run under emulation.", hosts.emulated),
    Rule("idle-capability", NOTE, "A capability that its user does not get.", hosts.idle_capability),
    Rule("elsewhere", NOTE, "A part of the settings is in another file.", hosts.elsewhere),
)
"""Every rule, in the order in which findings of one line are told."""
BY_ID: Final = {rule.id: rule for rule in RULES}

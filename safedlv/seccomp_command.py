"""``safedlv seccomp``: the filters that are loaded, what they refuse, and profiles under which dlv works."""

from __future__ import annotations

import importlib
import sys

from safedlv.errors import UsageError, printable

HELP = """\
usage:
  safedlv seccomp show TARGET|FILE [--as text|rules|bpf|json]     the filter that is really loaded
  safedlv seccomp explain TARGET|FILE [SYSCALL[(ARG...)] ...]     what happens to each call; without: to all dlv makes
  safedlv seccomp resolve NAME|NUMBER ... [--arch ARCH]           numbers and names of calls on every architecture
  safedlv seccomp generate --for dlv --base BASE [-o FILE]        a profile under which dlv works
  safedlv seccomp diff BASE BASE                                  what differs between two profiles
  safedlv seccomp lint FILE ...                                   will a debugger be able to attach under this

FILE is a profile, the config.json of a bundle, the output of docker inspect or crictl inspect, or - (standard input).
safedlv seccomp COMMAND --help tells more.
"""
COMMANDS = {
    "show": "safedlv.seccomp_show.show",
    "explain": "safedlv.seccomp_explain.explain",
    "resolve": "safedlv.seccomp_resolve.resolve",
    "generate": "safedlv.seccomp_generate.generate",
    "diff": "safedlv.seccomp_generate.diff",
    "lint": "safedlv.lint_command.lint",
}
"""Commands that take their words, and where they are."""


def seccomp(words: list[str]) -> int:
    """The command; returns the exit code. Raises UsageError, SafedlvError."""
    command = words[0] if words else ""
    if command in ("help", "--help", "-h"):
        sys.stdout.write(HELP)
        return 0
    if command not in COMMANDS:
        said = f"there is no command seccomp {printable(command)}" if command else "a command of seccomp is required"
        raise UsageError(said, f"it is one of {', '.join(COMMANDS)}")
    module, _, name = COMMANDS[command].rpartition(".")
    return int(getattr(importlib.import_module(module), name)(words[1:]))

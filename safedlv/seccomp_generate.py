"""``safedlv seccomp generate`` and ``diff``: a profile under which dlv works, made from the one that refuses it."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Final

from safedlv.errors import UsageError, printable
from safedlv.seccomp.difference import Difference, differences
from safedlv.seccomp.profile import Profile, allowing_dlv
from safedlv.seccomp_show import write_file
from safedlv.seccomp_source import BASES, base

SCHEMA: Final = "safedlv.seccomp-difference/1"
SAME: Final = 0
DIFFERENT: Final = 1
USE: Final = """The profile is OCI JSON: docker run --security-opt seccomp=FILE; podman the same; nerdctl the same;
Kubernetes: a file below /var/lib/kubelet/seccomp on the node, and securityContext.seccompProfile of the type Localhost
with its name there as localhostProfile."""


def generate(words: list[str]) -> int:
    """The command; its exit code."""
    options = _options(words)
    before = _profile(options.base)
    try:
        made = allowing_dlv(before, starts=options.starts)
    except ValueError as error:
        raise UsageError(f"{printable(options.base)}: {printable(str(error))}") from error
    text = json.dumps(made, indent=2) + "\n"
    if options.output is None:
        sys.stdout.write(text)
    else:
        write_file(options.output, text.encode())
    if options.diff:
        sys.stderr.write(in_words(differences(before, made)))
    return 0


def diff(words: list[str]) -> int:
    """The command; its exit code: as diff(1) has them."""
    parser = argparse.ArgumentParser(prog="safedlv seccomp diff", description="What differs between two profiles.")
    parser.add_argument("before", metavar="BASE", help=BASES)
    parser.add_argument("after", metavar="BASE", help="the same")
    parser.add_argument("--json", action="store_true", help=f"one JSON object on stdout (schema {SCHEMA})")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of safedlv's own failures")
    options = parser.parse_args(words)
    profiles = _profile(options.before), _profile(options.after)
    try:
        found = differences(*profiles)
    except ValueError as error:
        raise UsageError(printable(str(error))) from error
    if options.json:
        rows = [{"what": one.what, "before": one.before, "after": one.after} for one in found]
        sys.stdout.write(json.dumps({"schema": SCHEMA, "differences": rows}, indent=2) + "\n")
    else:
        sys.stdout.write(in_words(found))
    return DIFFERENT if found else SAME


def _options(words: list[str]) -> argparse.Namespace:
    about = "The same profile, and exactly what dlv needs besides."
    parser = argparse.ArgumentParser(prog="safedlv seccomp generate", description=about, epilog=USE)
    parser.add_argument("--for", dest="program", choices=["dlv"], required=True, help="the program that shall work")
    parser.add_argument("--base", required=True, help=BASES)
    parser.add_argument("--starts", action="store_true", help="for a dlv that starts its target, not one that attaches")
    parser.add_argument("-o", dest="output", metavar="FILE", help="write it there; without: to stdout")
    parser.add_argument("--diff", action="store_true", help="say on stderr what was changed, call by call")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of safedlv's own failures")
    return parser.parse_args(words)


def _profile(text: str) -> Profile:
    try:
        return base(text)
    except ValueError as error:
        raise UsageError(f"{printable(text)}: {printable(str(error))}") from error


def in_words(found: tuple[Difference, ...]) -> str:
    """A line for each call; those with the same change together."""
    if not found:
        return "nothing differs\n"
    groups: dict[tuple[str, str], list[str]] = {}
    for one in found:
        groups.setdefault((one.before, one.after), []).append(one.what)
    lines = [Difference(", ".join(what), *change).in_words() for change, what in groups.items()]
    return "".join(f"{printable(line, 4000)}\n" for line in [*lines, "all else is as it was"])

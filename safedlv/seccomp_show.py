"""``safedlv seccomp show``: the filter that is really loaded, as a listing, as rules, as bytes, as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from safedlv.capabilities import CAPABILITY_BITS
from safedlv.errors import SafedlvError, UsageError, printable
from safedlv.linux.libseccomp import Libseccomp
from safedlv.seccomp import bpf, rules_text
from safedlv.seccomp.bpf import ArchNamer, Namer
from safedlv.seccomp.paths import TooManyWaysError
from safedlv.seccomp.rules import rules
from safedlv.seccomp_source import Filters, filters

SCHEMA: Final = "safedlv.seccomp/1"
FORMS: Final = ("text", "rules", "bpf", "json")
SOURCES: Final = (
    "a PID, docker:NAME, name:PATTERN; docker, containerd or podman (what each has built in); a profile, a bundle's "
    "config.json, docker inspect's or crictl inspect's output, a program; - for standard input"
)


def show(words: list[str]) -> int:
    """The command; its exit code."""
    options = _options(words)
    found = filters(options.source, more=options.cap_add, fewer=options.cap_drop)
    if options.form == "bpf":
        return _write_bytes(found, options.output, options.number)
    lines = _document(found) if options.form == "json" else "".join(f"{line}\n" for line in _lines(found, options.form))
    _write(lines, options.output)
    return 0


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="safedlv seccomp show", description="The filter that is really loaded.")
    parser.add_argument("source", metavar="TARGET|FILE", help=SOURCES)
    parser.add_argument(
        "--as", dest="form", choices=FORMS, default="text", help="text: the programs; rules: what they say"
    )
    parser.add_argument("--json", dest="form", action="store_const", const="json", help="the same as --as json")
    parser.add_argument("--filter", dest="number", type=int, help="with --as bpf: which of several programs, from 1 on")
    parser.add_argument("-o", dest="output", metavar="FILE", help="write it there; without: to stdout")
    add_capabilities(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks of safedlv's own failures")
    return parser.parse_args(words)


def add_capabilities(parser: argparse.ArgumentParser) -> None:
    """What a profile's ``includes`` and ``excludes`` are asked with, where nothing else tells."""
    for word, means in (("add", "has besides Docker's usual ones"), ("drop", "has not")):
        help_text = f"a capability that the container {means}; a profile may say more with it"
        parser.add_argument(
            f"--cap-{word}", type=_capability, action=_Gather, default=frozenset(), metavar="CAP", help=help_text
        )


class _Gather(argparse.Action):
    """Every value given, as a set."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, getattr(namespace, self.dest) | {values})


def _capability(text: str) -> str:
    name = text.lower().removeprefix("cap_")
    if name not in CAPABILITY_BITS:
        raise argparse.ArgumentTypeError(f"there is no capability {printable(text)}")
    return name


def namers() -> tuple[Namer, ArchNamer]:
    """libseccomp's names; without it, a line on stderr and numbers only."""
    try:
        library = Libseccomp()
    except SafedlvError as error:
        sys.stderr.write(f"safedlv: {error.sentence}: numbers only ({error.hint})\n")
        return (lambda _, __: None), (lambda _: None)
    return library.name_of, library.arch_name


# ---------------------------------------------------------------- the forms


def _lines(found: Filters, form: str) -> Iterator[str]:
    yield printable(found.origin, 400)
    if found.programs and form == "rules":
        names = namers()
        try:
            yield from rules_text.text(rules(found.programs), *names)
        except TooManyWaysError as error:
            raise SafedlvError(f"no rules can be given: {error}", "--as text shows the program") from error
    elif found.programs:
        yield from _listings(found)


def _listings(found: Filters) -> Iterator[str]:
    names = namers()
    for number, program in enumerate(found.programs, 1):
        yield ""
        place = f"{number} of {len(found.programs)}{_place(number, len(found.programs))}"
        yield f"; program {place}: {len(program)} instructions"
        yield from bpf.listing(program, *names)


def _place(number: int, count: int) -> str:
    if count == 1:
        return ""
    return ", loaded first" if number == 1 else ", loaded last: the kernel asks it first" if number == count else ""


def _document(found: Filters) -> str:
    names = namers()
    try:
        said = rules_text.as_list(rules(found.programs), *names) if found.programs else []
    except TooManyWaysError:
        said = None
    document = {
        "schema": SCHEMA,
        "loaded": found.loaded,
        "origin": found.origin,
        "programs": [
            {"instructions": [list(instruction) for instruction in program], "text": list(bpf.listing(program, *names))}
            for program in found.programs
        ],
        "rules": said,
        "profile": found.profile,
    }
    return json.dumps(document, indent=2) + "\n"


def _write_bytes(found: Filters, output: str | None, number: int | None) -> int:
    """One program, as seccomp(2) takes it."""
    programs = found.programs
    if not programs:
        raise SafedlvError(f"there is no program: {found.origin}")
    if number is None and len(programs) > 1:
        raise UsageError(f"there are {len(programs)} programs", f"--filter 1 to --filter {len(programs)} says which")
    if not 1 <= (number or 1) <= len(programs):
        raise UsageError(f"--filter is 1 to {len(programs)}")
    data = bpf.dump(programs[(number or 1) - 1])
    if output is None and sys.stdout.isatty():
        raise UsageError("a program is bytes, not for a terminal", "-o FILE writes it there")
    if output is None:
        sys.stdout.buffer.write(data)
    else:
        write_file(output, data)
    sys.stderr.write(f"{printable(found.origin, 400)}\n")
    return 0


def _write(text: str, output: str | None) -> None:
    if output is None:
        sys.stdout.write(text)
    else:
        write_file(output, text.encode())


def write_file(output: str, data: bytes) -> None:
    """Raises SafedlvError."""
    try:
        Path(output).write_bytes(data)
    except OSError as error:
        raise SafedlvError(f"cannot write {printable(output)}: {error.strerror}") from error

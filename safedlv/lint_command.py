"""``safedlv seccomp lint FILE...``: will a debugger be able to attach under what these files say?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from attrs import evolve, frozen

from safedlv.errors import SafedlvError, UsageError, printable
from safedlv.lint import report, sarif
from safedlv.lint.documents import Document, Judge, findings, fixed, read, verdicts
from safedlv.lint.overrides import overrides
from safedlv.lint.report import Linted, Unread
from safedlv.lint.rules import BY_ID
from safedlv.lint.tree import LARGEST, TornError
from safedlv.lint.values import COMPOSE, DEVCONTAINER, Finding, Look

CLEAN, FOUND, UNREADABLE = 0, 1, 2
STDIN: Final = "-"
BOM: Final = "\ufeff"
ABOUT: Final = """\
Will a debugger be able to attach (docker exec, dlv attach) under what these files say? Compose files, scripts and texts
with docker run in them, devcontainer.json, Kubernetes pods and what makes them, seccomp profiles; - is standard input.
Exit code: 0 nothing found (--fix: nothing left), 1 something was, 2 wrong usage, or a file that could not be read. What
depends on the host is a note, and notes do not count."""


def lint(words: list[str]) -> int:
    """The command; its exit code. Raises UsageError, SafedlvError."""
    options = _options(words)
    chosen = _Chosen(frozenset(options.allow), frozenset(options.only))
    linted: list[Linted] = []
    unread: list[Unread] = []
    for name in options.files:
        try:
            linted.append(chosen.linted(read(name, _text(name))))
        except TornError as error:
            unread.append(Unread(name, error.line, error.sentence, error.hint))
        except UsageError as error:
            unread.append(Unread(name, None, error.sentence, error.hint))
    if options.sarif:
        sys.stdout.write(json.dumps(sarif.as_dict(linted, unread), indent=2) + "\n")
    elif options.json:
        sys.stdout.write(json.dumps(report.as_dict(linted, unread), indent=2) + "\n")
    else:
        sys.stdout.write(report.text(linted, unread))
    if options.fix:
        for one in linted:
            _fix(one.document, chosen.judged, override=options.override)
    return UNREADABLE if unread else FOUND if report.is_bad(linted, fixed=options.fix) else CLEAN


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="safedlv seccomp lint", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--fix", action="store_true", help="write the patches into the files")
    parser.add_argument(
        "--override", action="store_true", help="with --fix: write an override file beside each instead"
    )
    parser.add_argument("--allow", action="append", default=[], metavar="RULE", choices=BY_ID, help="leave a rule out")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="look at this service or container alone"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help=f"one JSON object on stdout (schema {report.SCHEMA})")
    form.add_argument("--sarif", action="store_true", help="SARIF 2.1.0 on stdout")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of safedlv's own failures")
    options = parser.parse_intermixed_args(words)
    if options.override and not options.fix:
        raise UsageError("--override goes with --fix")
    if options.fix and STDIN in options.files:
        raise UsageError("--fix writes into files, and standard input is none")
    return options


@frozen
class _Chosen:
    """What the words leave out."""

    allowed: frozenset[str]
    """Rules."""
    only: frozenset[str]
    """Names of services and containers; none: all."""

    def linted(self, document: Document) -> Linted:
        narrowed = self._narrowed(document)
        return Linted(document, self.judged(document, _look(document)), verdicts(narrowed, _look(document)))

    def judged(self, document: Document, look: Look) -> tuple[Finding, ...]:
        return tuple(one for one in findings(self._narrowed(document), look) if one.rule not in self.allowed)

    def _narrowed(self, document: Document) -> Document:
        kept = tuple(one for one in document.containers if not self.only or self.only & set(one.name.split()))
        return evolve(document, containers=kept)


# ---------------------------------------------------------------- files


def _text(name: str) -> str:
    """A file's text. Raises UsageError."""
    try:
        if name == STDIN:
            raw = sys.stdin.buffer.read(4 * LARGEST + 1)
        else:
            path = Path(name)
            if path.exists() and not path.is_file():
                raise UsageError("it is no file")
            with path.open("rb") as file:
                raw = file.read(4 * LARGEST + 1)
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror}") from error
    if len(raw) > 4 * LARGEST:
        raise TornError(f"it is longer than {LARGEST >> 20} MiB of text", 1)
    try:
        return raw.decode("utf-8").removeprefix(BOM)
    except UnicodeDecodeError as error:
        raise TornError("it is no UTF-8 text", raw.count(b"\n", 0, error.start) + 1) from error


def _look(document: Document) -> Look:
    """Reads files that the document names, from where its engine would."""

    def look(name: str) -> str | None:
        path = _place(document, name)
        try:
            return _text(str(path))
        except UsageError:
            return None

    return look


def _place(document: Document, name: str) -> Path:
    """Compose's paths begin at its file's directory, docker run's at the working directory, or the script's."""
    own = Path(document.name).parent if document.name != STDIN else Path()
    workspace = own.parent if document.form == DEVCONTAINER and own.name == ".devcontainer" else own
    for variable in ("${localWorkspaceFolder}/", "$PWD/", "${PWD}/", "$(pwd)/"):
        name = name.removeprefix(variable)
    path = Path(name).expanduser()
    if document.form in (COMPOSE, DEVCONTAINER):
        return workspace / path
    return path if path.exists() else own / path


# ---------------------------------------------------------------- writing


def _fix(document: Document, judge: Judge, *, override: bool) -> None:
    """Write what mends the findings, and say what was written on stderr."""
    text, files = fixed(document, _look(document), judge)
    if text == document.text:
        return
    more = overrides(document, text) if override else ()
    for file in files:
        _write(_place(document, file.beside).with_name(Path(file.name).name), file.text, new=True)
    for one in more:
        _write(Path(document.name).parent / one.name, one.text, new=True)
        sys.stderr.write(f"safedlv: {printable(one.use)}\n")
    if not override:
        path = Path(document.name)
        mark = BOM if path.read_bytes().startswith(BOM.encode()) else ""
        _write(path, mark + text, new=False)


def _write(path: Path, text: str, *, new: bool) -> None:
    """A ``new`` file takes no other's place. Raises SafedlvError."""
    try:
        if new and path.exists() and path.read_text("utf-8") != text:
            raise SafedlvError(f"{printable(str(path))} is there already, with something else in it", "move it away")
        path.write_bytes(text.encode())
    except OSError as error:
        raise SafedlvError(f"cannot write {printable(str(path))}: {error.strerror}") from error
    sys.stderr.write(f"safedlv: wrote {printable(str(path))}\n")

"""One linted file: what kind it is, its containers, its findings, and its text with the patches made. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import unified_diff
from typing import Final

from attrs import frozen

from safedlv.errors import SafedlvError, printable
from safedlv.lint import compose, devcontainer, docker_run, edits, kubernetes, profiles
from safedlv.lint.rules import found
from safedlv.lint.tree import Node, TornError, read_json, read_yaml
from safedlv.lint.values import (
    COMPOSE,
    DEVCONTAINER,
    DOCKER_RUN,
    ERROR,
    KUBERNETES,
    LEVELS,
    PROFILE,
    Container,
    Edit,
    Finding,
    Look,
    NewFile,
    Patch,
)

KNOWN: Final = (
    "lint knows Compose files, scripts and texts with docker run in them, devcontainer.json, Kubernetes pods and what "
    "makes them, and seccomp profiles"
)
Judge = Callable[["Document", Look], tuple[Finding, ...]]
"""What finds what is to be mended."""
ROUNDS: Final = 4
REFUSED, UNKNOWN, ALLOWED = "refused", "unknown", "allowed"
_YAML_NAME: Final = re.compile(r"\.ya?ml$", re.IGNORECASE)
_JSON_NAME: Final = re.compile(r"\.jsonc?$", re.IGNORECASE)
_YAML_TEXT: Final = re.compile(r"^(?:services|apiVersion|kind)\s*:", re.MULTILINE)


@frozen
class Document:
    """A text, read."""

    name: str
    form: str
    text: str
    containers: tuple[Container, ...]
    json: bool

    def changed(self, wanted: Iterable[Edit]) -> str:
        """The text with edits made."""
        if self.form == DOCKER_RUN:
            return docker_run.changed(self.text, wanted)
        return edits.changed(self.text, wanted, json=self.json)


# ---------------------------------------------------------------- reading


def read(name: str, text: str) -> Document:
    """Raises TornError when it cannot be read, or is nothing that lint knows."""
    looks_like_json = text.lstrip()[:1] == "{" and not text.lstrip().startswith("{{")
    if _JSON_NAME.search(name) or (looks_like_json and not _YAML_NAME.search(name)):
        return _from_json(name, text)
    if _YAML_NAME.search(name) or _YAML_TEXT.search(text):
        document = _from_trees(name, text, read_yaml(text), json=False)
        if document is not None:
            return document
    found = docker_run.containers(text)
    if not found:
        raise TornError("there is nothing in it that lint knows", 1, KNOWN)
    return Document(name, DOCKER_RUN, text, found, json=False)


def _from_json(name: str, text: str) -> Document:
    tree = read_json(text)
    if profiles.is_profile(tree):
        return Document(name, PROFILE, text, (), json=True)
    if name.rpartition("/")[2] in ("devcontainer.json", ".devcontainer.json") or devcontainer.is_devcontainer(tree):
        return Document(name, DEVCONTAINER, text, (devcontainer.container(tree),), json=True)
    document = _from_trees(name, text, (tree,), json=True)
    if document is None:
        raise TornError("there is nothing in it that lint knows", 1, KNOWN)
    return document


def _from_trees(name: str, text: str, trees: tuple[Node, ...], *, json: bool) -> Document | None:
    for form, is_form, containers in (
        (COMPOSE, compose.is_compose, compose.containers),
        (KUBERNETES, kubernetes.is_kubernetes, kubernetes.containers),
    ):
        if any(is_form(tree) for tree in trees):
            all_of_them = (
                one for number, tree in enumerate(trees) if is_form(tree) for one in containers(tree, number)
            )
            return Document(name, form, text, tuple(all_of_them), json)
    return None


# ---------------------------------------------------------------- findings


def findings(document: Document, look: Look) -> tuple[Finding, ...]:
    """What is to be said, by line; what several containers share is said once. Raises TornError for a torn profile."""
    if document.form == PROFILE:
        return _of_profile(document)
    first: dict[tuple[str, int], Finding] = {}
    for container in document.containers:
        for finding in found(container, look):
            first.setdefault((finding.rule, finding.line), finding)
    return tuple(sorted(first.values(), key=lambda finding: (finding.line, LEVELS.index(finding.level))))


def _of_profile(document: Document) -> tuple[Finding, ...]:
    """A profile by itself: as it works in a container with Docker's own capabilities."""
    profile = profiles.read_profile(document.text)
    tree = profiles.tree_of(document.text)
    usual = Container(form=PROFILE, name="", line=1, at=())
    refused = profiles.refusals(profile, usual.holds)
    patch = Patch(profiles.edits(profile))
    return tuple(
        Finding(
            "seccomp",
            "note" if profiles.is_undecided(one) else ERROR,
            profiles.line_of(tree, one.place),
            "the default action" if one.place is None else f"rule {one.place + 1}",
            f"it makes {printable(one.words)} {profiles.consequence(one.action)}, and dlv cannot do without",
            how="inferred from the file, for a container without further capabilities",
            advice="exactly what dlv needs allowed, all else as it is",
            patch=patch,
            decides=profiles.is_undecided(one),
        )
        for one in refused
    )


def verdicts(document: Document, look: Look) -> tuple[tuple[Container, str], ...]:
    """Each container, and whether a debugger can attach there as far as the file says."""
    return tuple((container, _verdict(list(found(container, look)))) for container in document.containers)


def _verdict(found_in: list[Finding]) -> str:
    if any(finding.level == ERROR for finding in found_in):
        return REFUSED
    return UNKNOWN if any(finding.decides for finding in found_in) else ALLOWED


# ---------------------------------------------------------------- patches


def fixed(document: Document, look: Look, judge: Judge) -> tuple[str, tuple[NewFile, ...]]:
    """The text with all patches made, and the files that belong to it, until there is nothing left to patch.

    One patch may bring up the next: a profile holds again when privileged is gone. Raises SafedlvError when that does
    not end.
    """
    files: dict[str, NewFile] = {}

    def look_here_too(name: str) -> str | None:
        return files[name].text if name in files else look(name)

    for _ in range(len(document.containers) + ROUNDS):  # what several share on one line is found one by one
        patches = [finding.patch for finding in judge(document, look_here_too) if finding.patch is not None]
        if not patches:
            return document.text, tuple(files.values())
        files |= {file.name: file for patch in patches for file in patch.files}
        changed = read(document.name, document.changed(_each_once(edit for patch in patches for edit in patch.edits)))
        if [one.name for one in changed.containers] != [one.name for one in document.containers]:
            break
        document = changed
    raise SafedlvError(f"{printable(document.name)} could not be mended: the patches do not fit together")


def _each_once(wanted: Iterable[Edit]) -> list[Edit]:
    """Two findings may share an edit; their values, which may be mappings, have no hash."""
    kept: list[Edit] = []
    for edit in wanted:
        if edit not in kept:
            kept.append(edit)
    return kept


def difference(document: Document, patch: Patch) -> tuple[str, ...]:
    """The lines that a patch takes (``-``) and gives (``+``)."""
    before, after = document.text.splitlines(), document.changed(patch.edits).splitlines()
    lines = unified_diff(before, after, n=0, lineterm="")
    return tuple(line for line in list(lines)[2:] if not line.startswith("@@"))

"""Every file of the tables: exactly its findings; mended, none that a patch could mend; and nothing else changed."""

from __future__ import annotations

import contextlib
import json
import re
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest
import yaml

from safedlv.errors import SafedlvError
from safedlv.lint.tree import blanked
from safedlv.lint_command import lint
from tests.unit import lint_files, lint_pods
from tests.unit.lint_files import Case

TABLES = {
    "compose.yaml": lint_files.COMPOSE,
    "run.sh": lint_files.SCRIPTS,
    "devcontainer.json": lint_files.DEVCONTAINERS,
    "pods.yaml": lint_pods.KUBERNETES,
    "profile.json": lint_pods.PROFILES,
}
CASES = {f"{file}: {name}": (file, case) for file, table in TABLES.items() for name, case in table.items()}
UNPATCHED = {
    "seccomp-unknown",
    "apparmor-unknown",
    "sandbox-runtime",
    "emulated-platform",
    "idle-capability",
    "elsewhere",
}
"""Notes; and of other rules, what is to be done elsewhere than in the file, see BY_WORDS."""
BY_WORDS = "docker exec --user"


def test_there_are_fifty() -> None:
    assert len(CASES) >= 50


@pytest.fixture
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file, case = CASES[request.getfixturevalue("name")]
    return write(tmp_path, file, case)


def write(directory: Path, file: str, case: Case) -> Path:
    for name, text in case.beside.items():
        (directory / name).write_text(text)
    path = directory / (case.file or file)
    path.write_text(case.text)
    return path


def answer(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = lint([str(path), "--json", *words])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, told


def found(told: dict[str, Any]) -> list[tuple[int, str]]:
    return sorted((one["line"], one["rule"]) for one in told["files"][0]["findings"])


@pytest.mark.parametrize("name", CASES)
def test_no_more_and_no_less(path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES[name][1]
    code, told = answer(path, capsys)
    assert found(told) == list(case.expected), json.dumps(told, indent=1)
    assert told["unread"] == []
    assert code == any(one["level"] != "note" for one in told["files"][0]["findings"])
    assert path.read_text() == case.text


@pytest.mark.parametrize("name", CASES)
def test_mended(path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is left cannot be mended there; lines that no finding is about are as they were; a second time is idle."""
    monkeypatch.chdir(path.parent)
    before = path.read_text()
    shaped = shape(path) if path.suffix in (".yaml", ".json") else None
    answer(path, capsys, "--fix")
    after = path.read_text()
    assert shaped is None or same_where_both(shaped, shape(path)), after
    code, told = answer(path, capsys)
    left = [one for one in told["files"][0]["findings"] if one["rule"] not in UNPATCHED]
    assert all(BY_WORDS in one["fix"] for one in left), (after, left)
    assert code == bool(left)
    if path.name != "profile.json":  # its rules are made anew
        assert untouched(before, after, {line for line, _ in CASES[name][1].expected}), after
    answer(path, capsys, "--fix")
    assert path.read_text() == after


def shape(path: Path) -> Any:
    """What is a list, a mapping, a text."""

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: of(one) for key, one in value.items()}
        return type(value).__name__ if isinstance(value, list) else "scalar"

    return [of(one) for one in yaml.load_all(blanked(path.read_text()), Loader=Lenient)]


def same_where_both(before: Any, after: Any) -> bool:
    if isinstance(before, dict) and isinstance(after, dict):
        return all(same_where_both(before[key], after[key]) for key in before.keys() & after.keys())
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(same_where_both, before, after))
    return bool(before == after)


def untouched(before: str, after: str, named: set[int]) -> bool:
    """Whether no line went but those that were named, or that a list or mapping left empty had begun on."""
    old, new = ([line.rstrip(",") for line in text.split("\n")] for text in (before, after))
    gone = [
        number + 1
        for what, start, end, _, _ in SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes()
        if what in ("replace", "delete")
        for number in range(start, end)
    ]
    begun = [number for number in gone if number + 1 in named and old[number - 1].rstrip().endswith(":")]
    more = [number for number in gone if any(set(old[number - 1].split()) < set(line.split()) for line in new)]
    below = [number for number in gone if number - 1 in named and re.search("runAsUser|deploy:", old[number - 1])]
    return set(gone) <= {*named, *begun, *more, *below}


KINDS_OF_OVERRIDE = {name for name, (file, _) in CASES.items() if file in ("compose.yaml", "pods.yaml")}


@pytest.mark.parametrize("name", sorted(KINDS_OF_OVERRIDE))
def test_an_override_says_the_same(path: Path, name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The file stays; merged with its override it is what ``--fix`` would have made of it."""
    before = path.read_text()
    answer(path, capsys, "--fix", "--override")
    assert path.read_text() == before
    files = [one for one in tmp_path.iterdir() if "debug" in one.name]
    merged = list(yaml.load_all(before, Loader=Lenient))
    for file in files:
        patch = yaml.load(file.read_text(), Loader=Lenient)
        merged = [merged_into(one, patch) for one in merged]
    answer(path, capsys, "--fix")
    assert plain(merged) == plain(list(yaml.load_all(path.read_text(), Loader=Lenient)))


class Lenient(yaml.SafeLoader):
    """Knows Compose's tags."""


Lenient.add_constructor("!reset", lambda loader, node: None)
Lenient.add_constructor("!override", lambda loader, node: ("override", sequence(loader, node)))


def sequence(loader: Any, node: yaml.Node) -> list[Any]:
    assert isinstance(node, yaml.SequenceNode)
    return list(loader.construct_sequence(node))


def merged_into(document: Any, patch: Any) -> Any:
    """The document with the patch, where that is for it."""
    if "services" in patch:
        return merge(document, appended(patch))
    if "items" in document:
        return {**document, "items": [merged_into(one, patch) for one in document["items"]]}
    same = patch["kind"] == document["kind"] and patch["metadata"]["name"] == document["metadata"]["name"]
    return merge(document, patch) if same else document


def merge(old: Any, new: Any) -> Any:
    """As Compose merges files, and as Kubernetes merges strategically."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: merge(old.get(key), new[key]) if key in new else old[key] for key in [*old, *(new.keys() - old)]}
    if isinstance(new, tuple):
        return new[1]
    if isinstance(old, list) and isinstance(new, Appended):
        return [*old, *new]
    if isinstance(old, list) and isinstance(new, list) and all(isinstance(one, dict) and "image" in one for one in old):
        by_name = {one["name"]: one for one in new}
        return [merge(one, by_name.get(one["name"], {})) for one in old]
    return new


class Appended(list[Any]):
    """A list of Compose's: those of a later file come after the first one's."""


def appended(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: appended(one) for key, one in value.items()}
    return Appended(value) if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """Without what is null, empty or false, which says nothing; numbers and their texts are one."""
    if isinstance(value, dict):
        cleaned = {key: plain(one) for key, one in value.items() if not str(key).startswith("x-")}
        return {key: one for key, one in cleaned.items() if one not in (None, False, "False", [], {})}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if value is None else str(value)


@pytest.mark.parametrize("name", CASES)
def test_sarif(path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each finding is a result at its line, and a fix's replacements make what the patch makes."""
    case = CASES[name][1]
    lint([str(path), "--sarif"])
    log = json.loads(capsys.readouterr().out)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    lines = [(one["locations"][0]["physicalLocation"]["region"]["startLine"], one["ruleId"]) for one in run["results"]]
    assert sorted(lines) == list(case.expected)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        for fix in result.get("fixes", []):
            (change,) = fix["artifactChanges"]
            mended = replaced(case.text, change["replacements"])
            path.write_text(mended)
            _, told = answer(path, capsys)
            path.write_text(case.text)
            names = [rule for _, rule in found(told)]
            assert names.count(result["ruleId"]) < [rule for _, rule in case.expected].count(result["ruleId"]), mended


def replaced(text: str, replacements: list[dict[str, Any]]) -> str:
    lines = text.splitlines(keepends=True)
    for one in reversed(replacements):
        region = one["deletedRegion"]
        assert (region["startColumn"], region["endColumn"]) == (1, 1)
        lines[region["startLine"] - 1 : region["endLine"] - 1] = [one["insertedContent"]["text"]]
    return "".join(lines)


@pytest.mark.parametrize("name", CASES)
def test_never_advises_what_is_more_than_needed(path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, told = answer(path, capsys)
    for finding in told["files"][0]["findings"]:
        given = [line for line in finding["patch"] or [] if line.startswith("+")]
        assert not [line for line in given if "unconfined" in line.lower() and "lint:" not in line], given
        assert "--privileged" not in finding["fix"]
        assert "unconfined" not in finding["fix"]


@pytest.mark.parametrize("name", CASES)
def test_torn_anywhere(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that ends too early is read as far as it means something, or refused with a line of its own."""
    file, case = CASES[name]
    for end in range(0, len(case.text), max(len(case.text) // 6, 1)):
        torn = write(tmp_path, file, Case(case.text[:end], beside=case.beside, file=case.file))
        code, told = answer(torn, capsys)
        assert code in (0, 1, 2)
        for one in told["unread"]:
            assert 1 <= one["line"] <= case.text[:end].count("\n") + 2
            assert one["reason"]
        with contextlib.suppress(SafedlvError):
            answer(torn, capsys, "--fix")
        capsys.readouterr()
        for made in tmp_path.glob("*-dlv.json"):
            made.unlink()

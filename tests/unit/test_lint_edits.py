"""Edits of YAML and JSON texts: they mean what they should, for any document, and leave every other line alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from safedlv.lint.edits import changed
from safedlv.lint.tree import blanked
from safedlv.lint.values import Add, Drop, Edit, Put, Take
from tests.support import count

KEYS = st.sampled_from(["a", "b", "c", "on", "1", "x y", "k:l", "#n"])
SCALARS = st.sampled_from(
    ["x", "seccomp=unconfined", "seccomp:./a.json", "64m", "true", "no", "", "1000", "# c", "a: b", "é"]
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)
DOCUMENTS = st.dictionaries(KEYS, TREES, min_size=1, max_size=4)
WRITTEN: dict[str, Callable[[Any], str]] = {
    "block": lambda document: yaml.safe_dump(document, allow_unicode=True, sort_keys=False),
    "wide": lambda document: yaml.safe_dump(document, default_flow_style=None, sort_keys=False),
    "flow": lambda document: yaml.safe_dump(document, default_flow_style=True, sort_keys=False, width=30),
    "indented": lambda document: yaml.dump(document, Dumper=Indented, indent=4, sort_keys=False),
    "json": json.dumps,
    "pretty json": lambda document: json.dumps(document, indent=2) + "\n",
    "tabbed json": lambda document: json.dumps(document, indent="\t"),
}


class Indented(yaml.SafeDumper):
    """Lists below their key are indented."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def paths(document: Any, at: tuple[str | int, ...] = (0,)) -> list[tuple[str | int, ...]]:
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path for key, value in inner for path in ((*at, key), *paths(value, (*at, key)))]


def there(document: Any, path: tuple[str | int, ...]) -> Any:
    for part in path[1:]:
        document = document[part]
    return document


def modelled(document: Any, edit: Edit) -> Any:
    """The edit made in plain values: what is left empty goes with its key."""
    made = deepcopy(document)
    path = edit.path
    if isinstance(edit, Put):
        there(made, path[:-1])[path[-1]] = edit.value
    elif isinstance(edit, Add):
        there(made, path).append(edit.value)
    elif isinstance(edit, Drop):
        left = [one for one in there(made, path) if one not in edit.values]
        made = modelled(made, Put(path, left)) if left else modelled(made, Take(path))
    else:
        owner = there(made, path[:-1])
        del owner[path[-1]]
        if not owner and len(path) > 2:
            return modelled(document, Take(path[:-1]))
    return made


@st.composite
def edited(draw: st.DrawFn) -> tuple[Any, Edit]:
    document = draw(DOCUMENTS)
    path = draw(st.sampled_from(paths(document)))
    value = there(document, path)
    choices: list[Edit] = [Take(path)]
    if isinstance(value, str):
        choices += [Put(path, "new value"), Put(path, 7)]
    if isinstance(value, dict):
        choices += [Put((*path, "new"), ["v", "w"]), Put((*path, "new"), {"inner": "v"})]
    if isinstance(value, list):
        choices.append(Add(path, "new"))
        texts = [one for one in value if isinstance(one, str)]
        choices += [Drop(path, (texts[0],))] if texts else []
    return document, draw(st.sampled_from(choices))


@settings(max_examples=count(1500), deadline=None)
@given(edited(), st.sampled_from(sorted(WRITTEN)))
def test_any_edit_of_any_document(case: tuple[Any, Edit], style: str) -> None:
    document, edit = case
    text = WRITTEN[style](document)
    made = changed(text, [edit], json="json" in style)
    loaded = json.loads(made) if "json" in style else yaml.safe_load(made)
    assert loaded == modelled(document, edit), (text, edit, made)


CASES: dict[str, tuple[str, list[Edit], str]] = {
    "comments stay, the removed line's goes": (
        "a:\n  # above\n  k: 1 # of k\n  # between\n  l: 2 # of l\n",
        [Take((0, "a", "k"))],
        "a:\n  # above\n  # between\n  l: 2 # of l\n",
    ),
    "the first key beside a dash": ("- k: 1\n  l: 2\n", [Take((0, 0, "k"))], "- l: 2\n"),
    "after a text of several lines": (
        "a:\n  c: |\n    one\n\n    two\n\n\nb: 1\n",
        [Put((0, "a", "k"), True)],
        "a:\n  c: |\n    one\n\n    two\n  k: true\n\n\nb: 1\n",
    ),
    "nothing where a mapping is to be": (
        "a:\nb: # none\n",
        [Put((0, "a", "k"), "v"), Put((0, "b", "k"), "v")],
        "a: {k: v}\nb: {k: v} # none\n",
    ),
    "an anchor stays": (
        "x: &l 64m\na: *l\n",
        [Put((0, "x"), "320m")],
        "x: &l 320m\na: *l\n",
    ),
    "a mapping that others are made of": (
        "x: &x\n  p: true\na:\n  <<: *x\n  i: a\n",
        [Take((0, "a", "p"))],
        "x: &x\n  {}\na:\n  <<: *x\n  i: a\n",
    ),
    "an own list before a shared one": (
        "x: &x [l, m]\na: {l: *x}\n",
        [Drop((0, "a", "l"), ("l",))],
        "x: &x [m]\na: {l: *x}\n",
    ),
    "twice the same": ("l: [a]\n", [Add((0, "l"), "b"), Add((0, "l"), "b")], "l: [a, b]\n"),
    "what is not there": ("l: [a]\n", [Take((0, "m")), Drop((0, "m"), ("a",)), Drop((0, "l"), ("b",))], "l: [a]\n"),
    "parents are made": ("a: 1\n", [Put((0, "b", "c", "d"), ["e"])], "a: 1\nb:\n  c:\n    d:\n      - e\n"),
    "no newline at the end": ("a: 1", [Put((0, "b"), 2)], "a: 1\nb: 2"),
    "the second document": ("a: 1\n---\na: 2\n", [Put((1, "a"), 3)], "a: 1\n---\na: 3\n"),
}


@pytest.mark.parametrize("name", CASES)
def test_edited(name: str) -> None:
    text, wanted, expected = CASES[name]
    assert changed(text, wanted, json=False) == expected


def test_json_with_comments() -> None:
    text = '{\n\t// one\n\t"a": ["x", /* , */ "y"], // of a\n\t"b": {"c": 1,}, // of b\n'
    text += '\t"d": "// \\"no comment\\"", // last\n}\n'
    made = changed(text, [Drop((0, "a"), ("y",)), Take((0, "b")), Put((0, "d"), "e"), Put((0, "f"), [1])], json=True)
    assert made == '{\n\t// one\n\t"a": ["x"], // of a\n\t"d": "e", // last\n\t"f": [1],\n}\n'


def test_blanked_keeps_every_place() -> None:
    text = '{"a": "// \\" /* x", // c\n\t"b": /* d\n */ "\\ud83d\\ude00"}'
    assert len(blanked(text)) == len(text)
    assert json.loads(blanked(text)) == {"a": '// " /* x', "b": "\ufffd\ufffd"}

"""YAML and JSON with comments as a tree in which every value knows where it stands. Pure.

Built from the parser's events, not by its constructor: nothing is expanded (an alias stays a reference, so that a bomb
of aliases is a small tree), nothing is converted, and the nesting is bounded. PyYAML does the parsing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from attrs import field, frozen

from safedlv.errors import SafedlvError, UsageError, printable

LARGEST: Final = 1 << 20
"""Characters; a file of this kind that a person wrote has a hundredth of it."""
DEEPEST: Final = 100
MERGED_AT_MOST: Final = 200
"""Mappings that one takes in by ``<<``, those that they take in among them."""
VALUES_AT_MOST: Final = 100_000
"""With every alias taken for what it stands for."""

SCALAR, SEQUENCE, MAPPING, ALIAS = "scalar", "sequence", "mapping", "alias"
NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
TRUTHS: Final = frozenset({"true", "yes", "on", "y"})

Path = tuple[str | int, ...]
"""Keys of mappings and places in sequences, from a document's root."""
Data = Any
"""What a tree says, without places: list, dict, str, int, bool, None."""


class TornError(UsageError):
    """A text that is not what it should be, and where."""

    def __init__(self, sentence: str, line: int, hint: str = "") -> None:
        super().__init__(sentence, hint)
        self.line = line


@frozen(eq=False)
class Node:
    """A value in a text. ``start`` and ``end`` are offsets, its anchor and tag not between them.

    A block collection begins where its first child does, and ends where its last one does.
    """

    kind: str
    start: int
    end: int
    line: int
    """Counted from 1."""
    text: str = ""
    """A scalar's value, unquoted."""
    plain: bool = True
    """A scalar without quotes, which may mean null, a truth or a number."""
    flow: bool = False
    """A collection in brackets."""
    children: tuple[Node, ...] = field(default=(), repr=False)
    """Of a sequence; of a mapping, its keys and values in turn; of an alias, what it stands for."""

    @property
    def real(self) -> Node:
        """What is meant: the anchored value where this is an alias."""
        return self.children[0] if self.kind == ALIAS else self

    @property
    def is_null(self) -> bool:
        return self.real.kind == SCALAR and self.real.plain and self.real.text in NULLS

    def pairs(self) -> Iterator[tuple[Node, Node]]:
        """A mapping's own entries, those of ``<<`` not among them."""
        if self.kind == MAPPING:
            yield from zip(self.children[::2], self.children[1::2], strict=True)


# ---------------------------------------------------------------- reading


def read_yaml(text: str) -> tuple[Node, ...]:
    """The documents of a YAML text. Raises TornError; SafedlvError where PyYAML is missing."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise SafedlvError("lint needs PyYAML, which is not installed", "python3 -m pip install pyyaml") from error
    if len(text) > LARGEST:
        raise TornError(f"it is longer than {LARGEST >> 20} MiB of text", 1)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _documents(text, yaml.parse(text, Loader=loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        hint = "a template is no YAML yet: lint what it becomes (helm template ... | safedlv seccomp lint -)"
        line = min(mark.line + 1 if mark else 1, max(len(text.splitlines()), 1))
        raise TornError(f"it cannot be read: {printable(str(what))}", line, hint if "{{" in text else "") from error


def _documents(text: str, events: Iterator[Any]) -> tuple[Node, ...]:
    documents: list[Node] = []
    anchors: dict[str, Node] = {}
    open_ones: list[tuple[Any, list[Node]]] = []
    for event in events:
        kind = type(event).__name__
        if kind == "DocumentStartEvent":
            anchors = {}
        elif kind in ("SequenceStartEvent", "MappingStartEvent"):
            if len(open_ones) == DEEPEST:
                raise TornError(f"it is nested more than {DEEPEST} deep", event.start_mark.line + 1)
            open_ones.append((event, []))
        elif kind in ("ScalarEvent", "AliasEvent", "SequenceEndEvent", "MappingEndEvent"):
            node, anchor = _finished(text, event, kind, open_ones, anchors)
            if anchor:
                anchors[anchor] = node
            (open_ones[-1][1] if open_ones else documents).append(node)
    return tuple(documents)


def _finished(
    text: str, event: Any, kind: str, open_ones: list[tuple[Any, list[Node]]], anchors: dict[str, Node]
) -> tuple[Node, str | None]:
    """The node that this event completes, and the name it is anchored under."""
    line = event.start_mark.line + 1
    if kind == "ScalarEvent":
        start, end = event.start_mark.index, event.end_mark.index
        if event.anchor or event.tag:
            start = _PROPERTIES.match(text, start, end).end()  # type: ignore[union-attr]
        return Node(SCALAR, start, end, line, event.value, not event.style and event.tag is None), event.anchor
    if kind == "AliasEvent":
        if event.anchor not in anchors:
            raise TornError(f"*{printable(event.anchor)} stands for nothing that is complete before it", line)
        return Node(ALIAS, event.start_mark.index, event.end_mark.index, line, children=(anchors[event.anchor],)), None
    began, children = open_ones.pop()
    flow = event.end_mark.index > event.start_mark.index  # a bracket; the end of a block is no character
    end = event.end_mark.index if flow or not children else max(child.end for child in children)
    made = SEQUENCE if kind == "SequenceEndEvent" else MAPPING
    if flow or not children:
        start = began.end_mark.index - 1  # the bracket, after its anchor and tag
    elif made == MAPPING:
        start = children[0].start
    else:
        start = text.rindex("-", 0, children[0].start)
    return Node(made, start, end, began.start_mark.line + 1, flow=flow, children=tuple(children)), began.anchor


_PROPERTIES: Final = re.compile(r"(?:[&!]\S*\s*)*")
_PIECES: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/|\t', re.DOTALL)
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def blanked(text: str) -> str:
    """JSON with comments as text of the same length without them (devcontainer.json reference: JSON with comments).

    YAML's flow style then takes all of it, trailing commas too.
    """

    def without(match: re.Match[str]) -> str:
        piece = match[0]
        if piece.startswith('"'):
            return _SURROGATE.sub(r"\\uFFFD", piece)  # YAML knows no pairs
        return "".join(character if character == "\n" else " " for character in piece)

    return _PIECES.sub(without, text)


def read_json(text: str) -> Node:
    """A JSON text, comments and trailing commas allowed. Raises TornError."""
    documents = read_yaml(blanked(text))
    if len(documents) != 1 or not documents[0].flow:
        raise TornError("it is no JSON", 1)
    return documents[0]


# ---------------------------------------------------------------- looking up


def entries(node: Node) -> dict[str, tuple[Node, Node]]:
    """A mapping's entries by key, with those that ``<<`` brings where it has none of its own; {} for other kinds."""
    found: dict[str, tuple[Node, Node]] = {}
    waiting = [node.real]
    for _ in range(MERGED_AT_MOST):
        if not waiting:
            break
        mapping = waiting.pop(0)
        own = {key.text: (key, value) for key, value in mapping.pairs() if key.kind == SCALAR}
        merged = own.pop("<<", None)
        found = own | found
        if merged is not None:
            real = merged[1].real
            waiting += [child.real for child in real.children] if real.kind == SEQUENCE else [real]
    return found


def get(node: Node | None, *keys: str) -> Node | None:
    """The value under keys, one within the other; None where there is none, or null."""
    for key in keys:
        if node is None:
            return None
        found = entries(node).get(key)
        node = found[1].real if found else None
    return None if node is None or node.is_null else node


def items(node: Node | None) -> tuple[Node, ...]:
    """A sequence's items; () for other kinds."""
    return tuple(child.real for child in node.real.children) if node is not None and node.real.kind == SEQUENCE else ()


def scalar(node: Node | None) -> str | None:
    """A scalar's text; None for null and for collections."""
    return node.real.text if node is not None and node.real.kind == SCALAR and not node.is_null else None


def is_true(text: str | None) -> bool:
    """What Compose and Kubernetes take for true (YAML 1.1's words among them)."""
    return text is not None and text.lower() in TRUTHS


def data(node: Node | None) -> Data:
    """What a tree says, aliases and ``<<`` resolved. Raises TornError where that is too much: a bomb of aliases."""
    left = VALUES_AT_MOST

    def of(node: Node) -> Data:
        nonlocal left
        left -= 1
        if left < 0:
            raise TornError("its aliases stand for more than a file can mean", node.line)
        node = node.real
        if node.kind == MAPPING:
            return {key: of(value) for key, (_, value) in entries(node).items()}
        if node.kind == SEQUENCE:
            return [of(child) for child in node.children]
        return _meant(node)

    return None if node is None else of(node)


def _meant(node: Node) -> Data:
    """A scalar's value, as far as it matters here."""
    if node.is_null:
        return None
    if node.plain and _NUMBER.fullmatch(node.text):
        return int(node.text)
    return node.text.lower() == "true" if node.plain and node.text.lower() in ("true", "false") else node.text


_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,17}")

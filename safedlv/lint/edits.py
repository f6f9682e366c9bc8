"""Edits made in a text of YAML or JSON: what they do not touch stays as it is, comments and all. Pure.

Each edit is made at the places that a fresh reading of the text gives, so that none has to know of another. Lines go
with the comment at their end; comments above them stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from attrs import frozen

from safedlv.lint import styles
from safedlv.lint.tree import MAPPING, SCALAR, SEQUENCE, Data, Node, Path, entries, read_json, read_yaml
from safedlv.lint.values import Add, Drop, Edit, Put, Take

_REST_OF_LINE: Final = re.compile(r"[ \t]*(,)?[ \t]*(?:(?://|#|/\*)[^\n]*)?\r?$")
_COMMA: Final = re.compile(r"\s*,")


@frozen
class Step:
    """One step down a path: the collection that holds a child, and the child's place among its units."""

    owner: Node
    place: int

    @property
    def child(self) -> Node:
        return _units(self.owner)[self.place][1]


def changed(text: str, edits: Iterable[Edit], *, json: bool) -> str:
    """The text with the edits made, in order; what an edit does not find is left. Raises TornError."""
    for edit in edits:
        documents = (read_json(text),) if json else read_yaml(text)
        text = _Editor(text, json).made(documents, edit)
    return text


def _units(owner: Node) -> tuple[tuple[Node, Node], ...]:
    """A collection's parts as (first node, last node): key and value, or an item twice."""
    if owner.kind == MAPPING:
        return tuple(owner.pairs())
    return tuple((child, child) for child in owner.children)


def _steps(documents: tuple[Node, ...], path: Path) -> list[Step]:
    """As far down the path as there is something. The first part of a path is the document's number."""
    steps: list[Step] = []
    node = documents[int(path[0])]
    for part in path[1:]:
        step = _step(node.real, part)
        if step is None:
            break
        steps.append(step)
        node = step.child
    return steps


def _step(node: Node, part: str | int) -> Step | None:
    if isinstance(part, int):
        return Step(node, part) if node.kind == SEQUENCE and part < len(node.children) else None
    found = entries(node).get(part)
    if found is None:
        return None
    waiting = [node]  # the mapping that has the key itself: this one, or one that << brings
    while waiting:
        mapping = waiting.pop(0)
        for place, (key, value) in enumerate(mapping.pairs()):
            if key is found[0]:
                return Step(mapping, place)
            if key.text == "<<":
                waiting += (
                    [child.real for child in value.real.children] if value.real.kind == SEQUENCE else [value.real]
                )
    return None


class _Editor:
    """One text, as it stands before one edit."""

    def __init__(self, text: str, json: bool) -> None:
        self.text, self.json = text, json
        self.newline = "\r\n" if "\r\n" in text else "\n"

    def made(self, documents: tuple[Node, ...], edit: Edit) -> str:
        steps = _steps(documents, edit.path)
        missing = edit.path[len(steps) + 1 :]
        at = steps[-1].child if steps else documents[int(edit.path[0])]
        if isinstance(edit, Put):
            return self._put_new(at, missing, edit.value) if missing else self._replaced(at, edit.value)
        if isinstance(edit, Add):
            if missing or at.is_null or not at.real.children:
                return self._put_new(at, missing, [edit.value])
            there = isinstance(edit.value, str) and any(child.real.text == edit.value for child in at.real.children)
            return self.text if there else self._appended(at.real, None, edit.value)
        return self.text if missing else self._less(steps, at, edit)

    def _less(self, steps: list[Step], at: Node, edit: Take | Drop) -> str:
        if isinstance(edit, Take):
            return self._removed(steps, {steps[-1].place})
        places = _places(
            [child.real.text if child.real.kind == SCALAR else None for child in at.real.children], edit.values
        )
        return self._removed([*steps, Step(at.real, 0)], places) if places else self.text

    # ------------------------------------------------------------ more

    def _put_new(self, at: Node, missing: Path, value: Data) -> str:
        for part in reversed(missing[1:]):
            value = {part: value}
        if at.is_null or not at.real.children:
            made = {missing[0]: value} if missing else value
            space = " " if self.text[at.start - 1 : at.start] == ":" else ""
            return self._spliced(at.start, at.end, space + styles.flow(made, json=self.json))
        return self._appended(at.real, str(missing[0]), value)

    def _appended(self, owner: Node, key: str | None, value: Data) -> str:
        """One entry or item more, as the others are written."""
        first, last = _units(owner)[0][0], _units(owner)[-1][1]
        if not owner.flow:
            indent = self._indent_of_block(owner, first)
            lines = styles.block(key, value, indent)
            end = self._line_end(self._solid_end(last))
            return self._spliced(end, end, "".join(self.newline + line for line in lines))
        own_lines = self._before(_units(owner)[-1][0].start).strip() == ""
        indent = self._before(_units(owner)[-1][0].start) if own_lines else ""
        unit = indent[: len(indent) - len(self._indent(owner.start))] if own_lines else ""
        written = styles.in_flow(key, value, json=self.json, indent=indent, unit=unit, newline=self.newline)
        if not own_lines:
            return self._spliced(last.end, last.end, f", {written}")
        end = self._line_end(last.end)
        rest = _REST_OF_LINE.match(self.text[last.end : end])
        if rest is None:
            return self._spliced(last.end, last.end, f",{self.newline}{indent}{written}")
        comma = "" if rest[1] else ","
        text = self._spliced(end, end, f"{self.newline}{indent}{written}{rest[1] or ''}")
        return text[: last.end] + comma + text[last.end :]

    def _replaced(self, node: Node, value: Data) -> str:
        if not node.plain and isinstance(value, str) and not self.json:
            return self._spliced(node.start, node.end, styles.quoted(value))
        indent = self._indent(node.start)
        several = "\n" in self.text[node.start : node.end]
        unit = self._indent(node.children[0].start)[len(indent) :] if several and node.children else ""
        written = styles.in_flow(None, value, json=self.json, indent=indent, unit=unit, newline=self.newline)
        return self._spliced(node.start, node.end, written)

    # ------------------------------------------------------------ less

    def _removed(self, steps: list[Step], places: set[int]) -> str:
        """Without these units of the last step's owner; without the owner too, where nothing of it is left."""
        owner = steps[-1].owner
        units = _units(owner)
        if len(places) == len(units):
            if len(steps) > 1 and steps[-2].child is owner:  # it is not anchored somewhere else
                return self._removed(steps[:-1], {steps[-2].place})
            return self._spliced(owner.start, owner.end, "{}" if owner.kind == MAPPING else "[]")
        text = self.text
        for start, end in reversed(_runs(places)):
            editor = _Editor(text, self.json)
            then = units[end][0] if end < len(units) else None
            before = units[start - 1][1] if start and then is None else None
            cut = editor._without_flow if owner.flow else editor._without_block
            text = cut(units[start][0], units[end - 1][1], before, then)
        return text

    def _without_block(self, first: Node, last: Node, before: Node | None, then: Node | None) -> str:
        prefix = self._before(first.start)
        end = self._line_end(self._solid_end(last))
        if prefix.strip() in ("", "-") and not (prefix.strip() and then is not None and self._is_key(first)):
            start = first.start - len(prefix)
            return self._spliced(start, end + (len(self.newline) if end < len(self.text) else 0), "")
        return self._spliced(first.start, then.start if then is not None else end, "")

    def _is_key(self, node: Node) -> bool:
        """Whether a mapping's entry begins here, and not an item of a list."""
        return self.text[node.end : node.end + 1] == ":"

    def _without_flow(self, first: Node, last: Node, before: Node | None, then: Node | None) -> str:
        end = self._line_end(last.end)
        rest = _REST_OF_LINE.match(self.text[last.end : end])
        prefix = self._before(first.start)
        if rest is not None and not prefix.strip():  # alone on its lines
            text = self._spliced(first.start - len(prefix), end + len(self.newline), "")
            comma = _COMMA.match(text, before.end) if before is not None and not rest[1] else None
            return text[: comma.end() - 1] + text[comma.end() :] if comma else text
        if then is not None:
            return self._spliced(first.start, then.start, "")
        return self._spliced(before.end if before is not None else first.start, last.end, "")

    # ------------------------------------------------------------ places

    def _spliced(self, start: int, end: int, text: str) -> str:
        return self.text[:start] + text + self.text[end:]

    def _before(self, start: int) -> str:
        """What stands before it on its line."""
        return self.text[self.text.rfind("\n", 0, start) + 1 : start]

    def _indent(self, start: int) -> str:
        before = self._before(start)
        return before[: len(before) - len(before.lstrip())]

    def _line_end(self, start: int) -> int:
        end = self.text.find("\n", start)
        end = len(self.text) if end < 0 else end
        return end - 1 if self.text[end - 1 : end] == "\r" else end

    def _solid_end(self, node: Node) -> int:
        """A block scalar's end is where the next thing begins: without the blank lines before that."""
        return node.start + len(self.text[node.start : node.end].rstrip())

    def _indent_of_block(self, owner: Node, first: Node) -> str:
        """Of an entry's key, or an item's dash with its space: what a further one's line begins with."""
        before = self._before(first.start)
        if owner.kind == SEQUENCE:
            return re.sub(r"[^ ](?=.*-)", " ", before)
        return re.sub(r"[^ ]", " ", before)


def _places(texts: list[str | None], wanted: tuple[str, ...]) -> set[int]:
    """Where these texts stand one after the other."""
    size = len(wanted)
    starts = [i for i in range(len(texts) - size + 1) if tuple(texts[i : i + size]) == wanted]
    return {start + step for start in starts for step in range(size)}


def _runs(places: set[int]) -> list[tuple[int, int]]:
    """Places that follow each other as (first, one past the last)."""
    starts = sorted(place for place in places if place - 1 not in places)
    ends = sorted(place + 1 for place in places if place + 1 not in places)
    return list(zip(starts, ends, strict=True))

"""Two or more things side by side: a table whose cells wrap, in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

WIDTH = 80
GAP = "  "
NARROWEST = 6


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH) -> list[str]:
    """The lines of a table: a heading for each column, and rows whose cells wrap in theirs.

    A column is as wide as its widest cell; where that is too much for ``width``, the widest give way. The cells are
    shown as they are: text of other processes has to be made printable before.
    """
    cells = [tuple(headings), *(tuple(row) for row in rows)]
    widths = column_widths([max(len(row[column]) for row in cells) for column in range(len(headings))], width)
    return [line for row in cells for line in _row(row, widths)]


def column_widths(natural: Sequence[int], width: int) -> list[int]:
    """The width of each column: its natural one, or less, the widest first, until the line fits."""
    widths = [max(column, 1) for column in natural]
    room = width - len(GAP) * (len(widths) - 1)
    while sum(widths) > room and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _row(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    wrapped = [_wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    lines = zip_longest(*wrapped, fillvalue="")
    return [GAP.join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _wrap(cell: str, width: int) -> list[str]:
    """At spaces where there are any; a word that is longer than the column is cut, so that columns stay columns."""
    return textwrap.wrap(cell, width, break_on_hyphens=False) or [""]


def paragraph(text: str, indent: str = "", hang: str | None = None) -> list[str]:
    """A text in lines of the same width; ``hang``: the indent of all lines but the first."""
    later = indent + "  " if hang is None else hang
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [indent]

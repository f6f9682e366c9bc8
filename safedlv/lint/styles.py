"""Values written as YAML's block style, as its flow style, and as JSON. Pure."""

from __future__ import annotations

import json as encoder
import re
from typing import Final

from safedlv.lint.tree import NULLS, TRUTHS, Data

STEP: Final = "  "
_PLAIN: Final = re.compile(r"[A-Za-z/.][\w./=+$-]*(?::[\w./$-]+)*|[1-9]\d*(?:[kmg]|[KMG]i?)")
_NOT_TEXT: Final = NULLS | TRUTHS | {"false", "no", "off", "n"}


def quoted(text: str) -> str:
    """JSON's string is YAML's too."""
    return encoder.dumps(text, ensure_ascii=False)


def _scalar(value: Data) -> str:
    """True, a number or a text; a text is quoted where YAML would take it for something else."""
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT else quoted(value)
    return encoder.dumps(value)


def flow(value: Data, *, json: bool) -> str:
    """On one line."""
    if json:
        return encoder.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {flow(one, json=False)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(one, json=False) for one in value) + "]"
    return _scalar(value)


def in_flow(key: str | None, value: Data, *, json: bool, indent: str, unit: str, newline: str) -> str:
    """An entry or an item inside brackets; over several lines where ``unit``, the indentation of a level, is given."""
    if json and unit and isinstance(value, dict):
        text = encoder.dumps(value, indent=unit, ensure_ascii=False).replace("\n", newline + indent)
    else:
        text = flow(value, json=json)
    if key is None:
        return text
    return f"{quoted(key) if json else _scalar(key)}: {text}"


def block(key: str | None, value: Data, indent: str) -> list[str]:
    """Lines of an entry, or of an item where there is no key and ``indent`` ends in its dash."""
    begin = indent if key is None else f"{indent}{_scalar(key)}:"
    if isinstance(value, dict) and key is not None and value:
        return [begin, *(line for inner, one in value.items() for line in block(inner, one, indent + STEP))]
    if isinstance(value, list) and key is not None and value:
        return [begin, *(line for one in value for line in block(None, one, f"{indent}{STEP}- "))]
    return [f"{begin}{' ' if key is not None else ''}{flow(value, json=False)}"]

"""When dlv's terminal is asked to work out where the sources are: go.mod and dlv's configuration, read."""

from __future__ import annotations

import pytest

from safedlv.sibling.checkout import has_rules, module_of


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("module example.com/x\n\ngo 1.21\n", "example.com/x"),
        ('// a comment\nmodule "example.com/x" // another\n', "example.com/x"),
        ("go 1.21\nmodule\texample.com/x/v2", "example.com/x/v2"),
        ("// module example.com/x\n", ""),
        ("modules example.com/x\n", ""),
        ("", ""),
    ],
)
def test_module(text: str, module: str) -> None:
    assert module_of(text) == module


UNTOUCHED = """# Configuration file for the delve debugger.
aliases:
  # command: ["alias1", "alias2"]
# Define sources path substitution rules.
substitute-path:
  # - {from: path, to: path}
max-string-len: 64
"""


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (UNTOUCHED, False),
        ("", False),
        ("substitute-path: []\n", False),
        (UNTOUCHED.replace("  # - {", "  - {"), True),
        ("substitute-path:\n- from: /a\n  to: /b\n", True),
        ("substitute-path: [{from: /a, to: /b}]\n", True),
        ("aliases:\n  - x\nsubstitute-path:\n", False),
    ],
)
def test_rules(text: str, rules: bool) -> None:
    assert has_rules(text) is rules

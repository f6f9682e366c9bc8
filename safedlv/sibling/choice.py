"""The question which way round a refusal shall be taken."""

from __future__ import annotations

import textwrap

from safedlv.sibling.ways import Way

WIDTH = 80
NONE = "n"


def listed(ways: tuple[Way, ...]) -> str:
    """The ways with what they do, numbered, and what to type for each."""
    lines = ["", "A debugger all the same, the least intrusive way first; nothing is done yet:"]
    for number, way in enumerate(ways, 1):
        text = f"{number}. {way.via} (risk: {way.risk}): {way.effect}"
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="     ")
        lines.append(f"       $ {way.command}")
    return "\n".join(lines) + "\n"


def choose(ways: tuple[Way, ...]) -> str | None:
    """Ask the user at the terminal; the way's name, None for none of them. What is no answer is asked again.

    Numbers are those of :func:`listed`; a way that is to be typed elsewhere cannot be chosen.
    """
    from prompt_toolkit import prompt

    numbers = {str(number): way for number, way in enumerate(ways, 1) if way.chosen_here}
    while True:
        try:
            answer = prompt(f"Take which way? [{'/'.join(numbers)}/{NONE}] ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            return None
        if answer in ("", NONE, "no"):
            return None
        if answer in numbers:
            return numbers[answer].via

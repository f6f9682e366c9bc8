"""Completion in the terminal: words that fit (prompt_words.py), asked of dlv as far as they are the program's.

dlv is asked only while the program stands, and has a moment to answer. An answer that comes later serves the next time.
"""

from __future__ import annotations

import re
import time

from prompt_toolkit.completion import Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from safedlv.errors import printable
from safedlv.session import prompt_words as words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from prompt_toolkit.completion import CompleteEvent

    from safedlv.session.prompt_wire import Asked, Wire

WITHIN = 0.3
"""Seconds that a completion may take."""
HERE = {"GoroutineID": -1, "Frame": 0}
SHALLOW = {"MaxStringLen": 32, "MaxArrayValues": 0, "MaxStructFields": 0}
FIELDS = {**SHALLOW, "FollowPointers": True, "MaxVariableRecurse": 1, "MaxStructFields": -1}
POINTER = 22  # reflect.Pointer
SHOWN = 48
"""Columns of what stands beside a word."""


class DelveCompleter(Completer):
    """``stands``: whether the program stands still, so that dlv can be asked about it."""

    def __init__(self, wire: Wire, stands: Callable[[], bool]) -> None:
        self.wire, self.stands = wire, stands
        self.known: dict[str, Asked] = {}
        """What does not change: functions, sources."""
        self.here: dict[str, Asked] = {}
        """What holds while the program stands where it is."""
        self.at = -1
        self.deadline = 0.0
        self.paths = PathCompleter(expanduser=False)
        self.sources: dict[str, Callable[[str], Iterable[tuple[str, str]]]] = {
            words.COMMAND: words.command_words,
            words.LOCATION: self._locations,
            words.FUNCTION: self._functions,
            words.EXPRESSION: self._names,
            words.GOROUTINE: self._goroutines,
            words.BREAKPOINT: self._breakpoints,
            words.FRAME: self._frames,
            words.THREAD: self._threads,
            words.CONFIG: lambda typed: [(word, "") for word in words.CONFIGS if word.startswith(typed)],
        }

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """What may stand at the cursor."""
        self.deadline = time.monotonic() + WITHIN
        kind, typed = words.wanted(document.current_line_before_cursor)
        if kind == words.FILE:
            yield from self.paths.get_completions(Document(typed), complete_event)
        if kind not in self.sources:
            return
        for word, about in self.sources[kind](typed):
            yield Completion(word, start_position=-len(typed), display_meta=printable(about, SHOWN))

    # ------------------------------------------------------------ what dlv is asked

    def _ask(self, kept: dict[str, Asked], method: str, **arguments: Any) -> dict[str, Any]:
        if self.at != self.wire.seen:
            self.at = self.wire.seen
            self.here.clear()
        key = f"{method} {arguments}"
        if key not in kept:
            if not self.stands():
                return {}
            kept[key] = self.wire.ask(method, **arguments)
        result = kept[key].wait(self.deadline - time.monotonic())
        if result is None and kept[key].done.is_set():
            del kept[key]
        return result if isinstance(result, dict) else {}

    def _list(self, kept: dict[str, Asked], method: str, key: str, **arguments: Any) -> list[Any]:
        found = self._ask(kept, method, **arguments).get(key)
        return found if isinstance(found, list) else []

    def _functions(self, typed: str) -> list[tuple[str, str]]:
        found = self._list(self.known, "ListFunctions", "Funcs", Filter="", FollowCalls=0)
        return [(name, "") for name in words.fitting(found, typed)]

    def _locations(self, typed: str) -> list[tuple[str, str]]:
        sources = self._list(self.known, "ListSources", "Sources", Filter="")
        return [(name, "") for name in words.files_fitting(sources, typed)] + self._functions(typed)

    def _names(self, typed: str) -> list[tuple[str, str]]:
        """Arguments, variables and their fields; package variables and functions once a package is named."""
        base = words.base_of(typed)
        if not base:
            found = self._list(self.here, "ListFunctionArgs", "Args", Scope=HERE, Cfg=SHALLOW)
            found = found + self._list(self.here, "ListLocalVars", "Variables", Scope=HERE, Cfg=SHALLOW)
            return _described(found, "", typed)
        variable = self._ask(self.here, "Eval", Scope=HERE, Expr=base, Cfg=FIELDS).get("Variable")
        if isinstance(variable, dict):
            return _described(_fields(variable), f"{base}.", typed)
        package = f"^{re.escape(typed)}"
        return _described(self._list(self.here, "ListPackageVars", "Variables", Filter=package, Cfg=SHALLOW), "", typed)

    def _goroutines(self, typed: str) -> list[tuple[str, str]]:
        found = self._list(self.here, "ListGoroutines", "Goroutines", Start=0, Count=words.MOST)
        return [_numbered(one, _where(one.get("userCurrentLoc"))) for one in found if _begins(one, typed)]

    def _breakpoints(self, typed: str) -> list[tuple[str, str]]:
        found = self._ask({}, "ListBreakpoints").get("Breakpoints") or []
        return [_numbered(one, _where(one)) for one in found if one.get("id", 0) > 0 and _begins(one, typed)]

    def _frames(self, typed: str) -> list[tuple[str, str]]:
        found = self._list(self.here, "Stacktrace", "Locations", Id=-1, Depth=50)
        return [(str(at), _where(one)) for at, one in enumerate(found) if str(at).startswith(typed)]

    def _threads(self, typed: str) -> list[tuple[str, str]]:
        found = self._list(self.here, "ListThreads", "Threads")
        return [_numbered(one, _where(one)) for one in found if _begins(one, typed)]


def _begins(one: dict[str, Any], typed: str) -> bool:
    return str(one.get("id")).startswith(typed)


def _numbered(one: dict[str, Any], about: str) -> tuple[str, str]:
    return str(one.get("id")), about


def _where(location: Any) -> str:
    """A place as dlv's JSON has it, for people."""
    if not isinstance(location, dict):
        return ""
    function = location.get("function")
    name = function.get("name") if isinstance(function, dict) else location.get("functionName")
    return f"{name or '?'} {str(location.get('file', '')).rpartition('/')[2]}:{location.get('line', '')}"


def _fields(variable: dict[str, Any]) -> list[Any]:
    children = variable.get("children") or []
    if variable.get("kind") == POINTER and children:
        children = children[0].get("children") or []
    return [child for child in children if isinstance(child, dict) and str(child.get("name", "")).isidentifier()]


def _described(variables: list[Any], before: str, typed: str) -> list[tuple[str, str]]:
    """Variables as words, with what they are: their value where that is short, and their type."""
    about = {}
    for one in variables:
        value = one.get("value") or ""
        shown = f'"{value}"' if one.get("type") == "string" else value
        about[f"{before}{one.get('name')}"] = f"{one.get('type', '')}  {shown}" if shown else str(one.get("type", ""))
    return [(name, about[name]) for name in words.fitting(about, typed)]

"""The line editor at the prompt: prompt_toolkit, with history across sessions, completion and a status line."""

from __future__ import annotations

import contextlib
import os

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app, run_in_terminal
from prompt_toolkit.buffer import CompletionState
from prompt_toolkit.completion import CompleteEvent, get_common_complete_suffix
from prompt_toolkit.data_structures import Size
from prompt_toolkit.filters import is_searching
from prompt_toolkit.formatted_text import ANSI, to_formatted_text
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.defaults import create_input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyBindings, KeyPress
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.key_binding import KeyPressEvent

EVERY = 0.5
"""Seconds between two looks at the status."""
DRAWN = "bg:ansidefault"
"""Has the prompt's last space drawn as well, and not left out: scripts wait for it."""
STYLE = Style.from_dict({"bottom-toolbar": "reverse"})


class _Output(Vt100_Output):
    """The terminal is not asked where its cursor is: what it answers would mix with what is typed."""

    def get_rows_below_cursor_position(self) -> int:
        """So that the status line comes right below the prompt."""
        return 1


class LeftError(Exception):
    """The prompt was left, since the session is over."""


class Editor:
    """Asks for lines. ``status`` gives the status line for so many columns; ``interrupt`` is told of Ctrl-C."""

    def __init__(
        self,
        size: Callable[[], tuple[int, int]],
        completer: Completer,
        status: Callable[[int], str],
        interrupt: Callable[[], None],
    ) -> None:
        self.size, self.status, self.interrupt = size, status, interrupt
        self.input = create_input()
        output = _Output(_stdout(), lambda: Size(*size()), term=os.environ.get("TERM"), enable_cpr=False)
        self.session: PromptSession[str] = PromptSession(
            input=self.input,
            output=output,
            history=_history(),
            completer=completer,
            complete_while_typing=False,
            enable_history_search=True,
            key_bindings=self._keys(),
            style=STYLE,
            bottom_toolbar=lambda: self.status(self.size()[1]),
            refresh_interval=EVERY,
        )

    def ask(self, prompt: bytes, ahead: bytes, watched: dict[int, Callable[[], None]]) -> str:
        """A line. Raises EOFError on Ctrl-D, LeftError when ``leave`` was called.

        ``ahead``: keys that came before; ``watched``: what to call when one of these descriptors can be read.
        """
        self._put_back(ahead)

        def watch() -> None:
            loop = get_app().loop
            assert loop is not None  # it runs
            for fd, call in watched.items():
                loop.add_reader(fd, call)

        text = to_formatted_text(ANSI(prompt.decode("utf-8", "replace")), style=DRAWN)
        return self.session.prompt(text, pre_run=watch)

    @staticmethod
    def leave() -> None:
        """Leave the prompt. To be called from what is watched."""
        with contextlib.suppress(Exception):  # it is being left
            get_app().exit(exception=LeftError())

    @staticmethod
    def above(write: Callable[[], None]) -> None:
        """Write something above the prompt."""
        run_in_terminal(write)

    def confirm(self, question: str) -> bool:
        """Whether the answer is yes, said with a y."""
        session: PromptSession[str] = PromptSession(input=self.input, output=self.session.output)
        try:
            return session.prompt(question).strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            return False

    def _put_back(self, ahead: bytes) -> None:
        keys: list[KeyPress] = []
        Vt100Parser(keys.append).feed_and_flush(ahead.decode("utf-8", "replace"))
        store_typeahead(self.input, keys)

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-c", filter=~is_searching)
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.cancel_completion()
            event.current_buffer.reset()
            self.interrupt()

        @keys.add("c-z")
        def _(event: KeyPressEvent) -> None:
            """Nothing: a session that is suspended could not end a pause that is too long."""

        @keys.add("tab", filter=~is_searching)
        def _(event: KeyPressEvent) -> None:
            if event.current_buffer.complete_state:
                event.current_buffer.complete_next()
            else:
                _complete(event.current_buffer)

        return keys


def _complete(buffer: Buffer) -> None:
    """Insert what all completions begin with, and offer them where there are several.

    At once, where prompt_toolkit's own way is a task in the background: Enter just after it would take the line as it
    was before.
    """
    event = CompleteEvent(completion_requested=True)
    found = list(buffer.completer.get_completions(buffer.document, event))
    if len(found) == 1:
        buffer.apply_completion(found[0])
        return
    common = get_common_complete_suffix(buffer.document, found)
    if common:
        buffer.insert_text(common)
        found = list(buffer.completer.get_completions(buffer.document, event))
    if found:
        buffer.complete_state = CompletionState(buffer.document, found)
        buffer.on_completions_changed.fire()


def _stdout() -> TextIO:
    return os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")


def _history() -> History:
    """In $XDG_STATE_HOME/safedlv/history, for its user only; only in memory where that cannot be written."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = os.path.join(base, "safedlv", "history")
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)

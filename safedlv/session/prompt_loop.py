"""The loop of the prompt: a line is asked for, dlv's terminal carries it out, and what it writes is shown meanwhile."""

from __future__ import annotations

import importlib.util
import select
import signal
import sys
import time

from safedlv.session import prompt_text
from safedlv.session.listen import listen
from safedlv.session.prompt_inner import Inner
from safedlv.session.prompt_keys import CTRL_C
from safedlv.session.prompt_status import RUNNING, status_text
from safedlv.session.prompt_watch import Watch
from safedlv.session.prompt_wire import Wire, dial_within

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from safedlv.session.prompt import Session
    from safedlv.session.prompt_keys import Screen

SOON = 0.03
"""Seconds for dlv's terminal to write the rest of a line."""
QUIET = 0.5
"""Seconds of silence after which it is shown that the program runs."""
LAST_WORDS_WITHIN = 0.5
DIAL_WITHIN = 5.0
KILL_WITHIN = 30.0
SETTLES_WITHIN = 3.0
CHUNK = 65536
BLOCKS = "safedlv: the program runs, and dlv would not answer before it stops, nor hear a halt; Ctrl-C halts it first"
ERASE = b"\r\x1b[K"
HELP = """\
Everything is dlv's terminal (help lists its commands). safedlv adds:
  Tab          completes commands, functions, files, variables and their fields, goroutines, breakpoints
  Up, Ctrl-R   go back in the history, which is kept across sessions
  Ctrl-C       halts the program when it runs; else clears the line
  Ctrl-D, exit, quit, q   leave: breakpoints go, the program runs on; nothing is asked and nothing is killed
  kill         ends the program, after a question
  :doctor      what safedlv doctor says of the program
  :watch       what happens around the program, until a key is pressed
  :help        this
safedlv attach --plain gives dlv's own terminal, untouched."""


class Prompt:
    """One user and one terminal of dlv's. ``channel``: what the relay has to say; its end is the session's."""

    def __init__(
        self,
        session: Session,
        screen: Screen,
        channel: socket.socket,
        dial: Callable[[], socket.socket],
        *,
        unix: bool,
    ) -> None:
        self.session, self.screen, self.channel = session, screen, channel
        back = listen(f"unix:{session.directory}/back" if unix else "127.0.0.1:0")
        address = f"unix:{back.shown}" if unix else back.shown
        self.inner = Inner([*session.words, address], session.directory, screen.size())
        self.wire = Wire(back, lambda: dial_within(dial, DIAL_WITHIN))
        self.wire.start()
        self.watch = Watch(session.target, session.dlv, self.wire)
        self.text = prompt_text.Output()
        self.held: bytes | None = b""
        """What dlv's terminal said before it had a dlv that has attached; None once it is known that it has."""
        self.last = b""
        """The last prompt of dlv's terminal."""
        self.lines: list[str] = []
        """Lines that were pasted with others, and wait for their turn."""
        self.over = self.ended = False
        """The session is to end; dlv's terminal has ended by itself."""
        self.lent = False
        """Keys go to dlv's terminal: it asks something, or a program that it has started does."""

    def run(self) -> int:
        """Until the user leaves or the session ends; the exit code."""
        from safedlv.session.prompt_completion import DelveCompleter  # while dlv attaches
        from safedlv.session.prompt_editor import Editor

        completer = DelveCompleter(self.wire, self.watch.stands)
        self.editor = Editor(self.screen.size, completer, self._status, self._interrupt)
        prompt = self._follow()
        while prompt is not None and not self.over:
            line = self._next(prompt)
            if line is not None and not self._is_ours(line):
                self._lend(prompt_text.takes_the_terminal(line))
                self.inner.type(line.encode("utf-8", "surrogateescape") + b"\n")
                prompt = self._follow()
        self.wire.settle(SETTLES_WITHIN)
        self.wire.hang_up()
        code = self.inner.end()
        return code if self.ended else 0

    # ------------------------------------------------------------ lines

    def _next(self, prompt: bytes) -> str | None:
        """The next line to carry out; None when the user leaves, or the session has ended."""
        if self.lines:
            line = self.lines.pop(0)
            self.screen.write(prompt + line.encode("utf-8", "replace") + b"\r\n")
            return line
        from safedlv.session.prompt_editor import LeftError

        ahead, self.screen.ahead = self.screen.ahead, b""
        try:
            text = self.editor.ask(
                prompt, ahead, {self.inner.fd: self._inner_spoke, self.channel.fileno(): self._relay_spoke}
            )
        except (EOFError, LeftError):
            self.over = True
            return None
        line, *self.lines = prompt_text.lines_of(text)
        return line

    def _is_ours(self, line: str) -> bool:
        """Do what is ours to do."""
        word = line.strip()
        if prompt_text.leaves(line):
            self.over = True
        elif word == prompt_text.KILL:
            self._kill()
        elif word.startswith(":"):
            self._own(word)
        elif len(line.encode("utf-8", "replace")) > prompt_text.LONGEST:
            self.screen.say(f"safedlv: dlv reads no line of more than {prompt_text.LONGEST} bytes")
        elif self.watch.look() == RUNNING and not prompt_text.needs_no_program(line):
            self.screen.say(BLOCKS)
        else:
            return False
        return True

    def _own(self, word: str) -> None:
        if word == ":help":
            self.screen.say(HELP)
        elif word not in (":doctor", ":watch"):
            self.screen.say(f"safedlv: there is no {word}; :help lists what there is")
        elif not self.session.target:
            self.screen.say("safedlv: the program was started by dlv, and has no session but this one")
        elif word == ":doctor":
            from safedlv.session.prompt_doctor import ask_doctor

            self.screen.say(ask_doctor(self.session.target, self.session.dlv))
        elif importlib.util.find_spec("safedlv.watch") is None:
            self.screen.say("safedlv: there is nothing to watch with")
        else:
            self.screen.say("safedlv: any key ends it")
            self.screen.run([sys.executable, "-m", "safedlv", "watch", str(self.session.target)])

    def _kill(self) -> None:
        what = f"process {self.session.target}" if self.session.target else "the program"
        if self.editor.confirm(f"Kill {what}? [y/N] "):
            self.wire.ask("Detach", Kill=True).wait(KILL_WITHIN)
            self.over = True

    # ------------------------------------------------------------ while the editor has the terminal

    def _status(self, width: int) -> str:
        self.inner.resize(self.screen.size())
        return status_text(self.watch.status(), width)

    def _interrupt(self) -> None:
        if self.watch.look() == RUNNING:  # somebody else has continued it
            self.inner.interrupt()

    def _inner_spoke(self) -> None:
        data = self.inner.read()
        if not data:
            self.over = self.ended = True
            self.editor.leave()
            return
        shown = self.text.feed(data) + self.text.rest()
        self.editor.above(lambda: self.screen.write(shown))

    def _relay_spoke(self) -> None:
        data = self._from_relay()
        if self.over:
            self.editor.leave()
        elif data:
            self.editor.above(lambda: self.screen.write(data))

    # ------------------------------------------------------------ while dlv's terminal has it

    def _follow(self) -> bytes | None:
        """Show what dlv's terminal writes until it asks for a command: its prompt; None when the session is over."""
        signal.signal(signal.SIGWINCH, lambda _number, _frame: self.inner.resize(self.screen.size()))
        self.inner.resize(self.screen.size())
        poll = select.poll()
        for fd in (0, self.channel.fileno(), self.inner.fd):
            poll.register(fd, select.POLLIN)
        heard, prompt = time.monotonic(), None
        while prompt is None and not self.over:
            ready = {fd for fd, _ in poll.poll((SOON if self.text.tail else QUIET / 5) * 1000)}
            if 0 in ready:
                self._keys()
            if self.channel.fileno() in ready:
                self._relay_said()
            elif self.inner.fd in ready:
                heard, prompt = time.monotonic(), self._inner_said()
            elif self.lent:
                prompt = self._prompt() if self.text.tail == self.last and self.inner.waits_for_a_line() else None
            else:
                prompt = self._silence(time.monotonic() - heard)
        if self.lent:
            self._lend(False)
        return prompt

    def _keys(self) -> None:
        keys = self.screen.keys()
        if not keys:  # the user's terminal is gone
            self.over = True
        elif self.lent:
            self.inner.type(keys)
        elif CTRL_C in keys:
            self.screen.ahead = keys.rpartition(CTRL_C)[2]
            self.lines = []
            self.inner.interrupt()
        else:
            self.screen.ahead += keys

    def _from_relay(self) -> bytes:
        """What it has to say to people; it is over when it says nothing."""
        data = self.channel.recv(CHUNK)
        self.over = self.over or not data
        if data.startswith(prompt_text.LIMIT):
            limit = data.removeprefix(prompt_text.LIMIT)
            self.watch.limit = float(limit) if limit else None
            return b""
        return data.replace(b"\n", b"\r\n")

    def _relay_said(self) -> None:
        self.screen.write(self._from_relay())
        if not self.over:
            return
        deadline = time.monotonic() + LAST_WORDS_WITHIN
        while not self.text.is_prompt() and self.inner.has_more(deadline - time.monotonic()):
            if not (data := self.inner.read()):
                break
            self._show(self.text.feed(data))

    def _inner_said(self) -> bytes | None:
        """Show it; the prompt when that has come."""
        data = self.inner.read()
        if not data:
            self.over = self.ended = True
            return None
        self._show(self.text.feed(data))
        if self.text.is_prompt() and not self.inner.has_more():
            return self._prompt()
        if self.lent and not self.text.may_become_prompt():
            self._show(self.text.rest())
        return None

    def _prompt(self) -> bytes:
        again = ERASE if self.text.shown else b""
        before, self.last = self.text.take_prompt()
        self._show(again + before + (b"" if self.held is None else self.last))
        return self.last

    def _show(self, data: bytes) -> None:
        if self.held is not None:
            self.held += data
            if not any(greeting in self.held for greeting in prompt_text.GREETINGS):
                return
            data, self.held = self.held.removesuffix(prompt_text.PROMPT), None
        self.screen.write(data)

    def _silence(self, seconds: float) -> bytes | None:
        """Nothing has come for a moment: find out what dlv's terminal waits for. Its prompt, if that is it."""
        if self.text.tail and self.inner.waits_for_a_line():
            if not self.text.is_question():
                return self._prompt()
            answer = prompt_text.safe_answer(self.text.tail)
            self._show(self.text.rest())
            self._lend(True)
            if answer:
                self.inner.type(answer.encode() + b"\n")
            return None
        self._show(self.text.rest())
        if self.inner.has_child():  # which says itself what becomes of keys
            self.screen.pass_by("")
            self.lent = True
        elif seconds > QUIET and self.held is None and not self.text.tail:
            self.screen.pass_by(status_text(self.watch.status(), self.screen.size()[1] - 1))
        return None

    def _lend(self, lent: bool) -> None:
        """Have keys go to dlv's terminal, and show there; or no more."""
        self.screen.pass_by("")
        self.inner.echo(on=lent)
        self.lent = lent
        if lent and self.screen.ahead:
            self.inner.type(self.screen.ahead)
            self.screen.ahead = b""

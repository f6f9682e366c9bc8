"""A child that takes on a context, waits for a word, and becomes a program there.

Between taking on the context and the program there is a moment in which its parent can take hold of it. A step that is
refused is not taken and said; the others are taken all the same (as in probe/elsewhere.py). Seccomp filters are loaded
last, after the word: from then on there is only the execve(2).
"""

from __future__ import annotations

import errno
import marshal
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, NoReturn

from safedlv.errors import SafedlvError, printable
from safedlv.linux import confine
from safedlv.linux.descriptors import keep_open
from safedlv.linux.steps import Step
from safedlv.probe.context import Context, steps
from safedlv.probe.runner import shared_pages

Program = Callable[[], None]
"""In the child: the execve(2). Raises OSError."""
_NOT_EXECUTED: Final = 127
_PATH: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Standing:
    """The child; ``context`` None: it stays where we are.

    ``prepare`` is run in it first, with whatever privilege we have; it returns the program that the child becomes.
    ``keep``: the descriptors that these two need. Raises SafedlvError where the child cannot stand there, OSError
    where none can be made.
    """

    def __init__(self, context: Context | None, prepare: Callable[[], Program], keep: tuple[int, ...]) -> None:
        self.context, self.prepare, self.keep = context, prepare, keep
        self.told = shared_pages()
        self._tell("began", [])
        self.missing: list[str] = list(context.unread) if context else []
        self.ready, self._said = os.pipe()
        self._word, self.word = os.pipe()
        try:
            self.pid = self._start()
        finally:
            os.close(self._said)
            os.close(self._word)

    def until_ready(self) -> None:
        """Wait until it stands there. Raises SafedlvError when it could not even try."""
        ready = os.read(self.ready, 1)
        os.close(self.ready)
        if not ready:
            os.waitpid(self.pid, 0)
            os.close(self.word)
            raise SafedlvError(f"nobody can stand there: {printable(self.stage()[1])}", code=3)

    def begin(self) -> None:
        """The word: it loads the filters and becomes the program."""
        os.write(self.word, b"!")
        os.close(self.word)

    def end(self) -> None:
        """Instead of the word: it ends."""
        os.close(self.word)
        os.waitpid(self.pid, 0)

    def stage(self) -> tuple[str, str]:
        """How far it came, and why no further."""
        stage, text, _ = marshal.loads(self.told[:])  # noqa: S302  written by our own child
        return stage, text

    def lacks(self) -> list[str]:
        """What of the context it has not, a sentence each."""
        return [*self.missing, *marshal.loads(self.told[:])[2]]  # noqa: S302  written by our own child

    # ------------------------------------------------------------ the fork

    def _start(self) -> int:
        """Fork into the context's PID namespace (setns(2) concerns only children there)."""
        link = self.context.namespace("pid") if self.context else None
        if link is None or link.fd is None:
            return self._fork()
        with ExitStack() as undo:
            own = os.open("/proc/thread-self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, own)
            try:
                confine.setns(link.fd, "pid")
            except OSError as error:
                self.missing.append(f"join the pid namespace: {error.strerror}")
                return self._fork()
            undo.callback(confine.setns, own, "pid")
            try:
                return self._fork()
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    raise
                raise SafedlvError("the PID namespace of that place has ended", code=3) from error

    def _fork(self) -> int:
        child = os.fork()
        if child == 0:
            self._stand()
        return child

    def _stand(self) -> NoReturn:
        lacks: list[str] = []
        try:
            _leave_our_signals()
            os.setsid()
            if self.context is not None:  # whoever lives there may not look into it
                confine.set_dumpable(False)
            program = self.prepare()
            own = os.open("/proc/self", _PATH)
            links = [link.fd for link in self.context.namespaces if link.fd is not None] if self.context else []
            keep_open(0, 1, 2, self._said, self._word, own, *self.keep, *links)
            todo = steps(self.context, own) if self.context else []
            filters = len(self.context.filters) if self.context else 0
            ordinary = os.geteuid() != 0
            lacks += _take(todo[: len(todo) - filters])
            if ordinary:  # then it is what we are, and we may trace it only if it is dumpable
                confine.set_dumpable(True)
            keep_open(0, 1, 2, self._said, self._word, *self.keep)
            self._tell("stands", lacks)
            os.write(self._said, b"!")
            if os.read(self._word, 1):
                lacks += _take(todo[len(todo) - filters :])
                self._tell("executes", lacks)
                program()
        except BaseException as error:  # noqa: BLE001  it is said to the parent
            self._tell("failed", lacks, f"{type(error).__name__}: {error}")
        finally:
            os._exit(_NOT_EXECUTED)

    def _tell(self, stage: str, lacks: list[str], text: str = "") -> None:
        self.told.seek(0)
        self.told.write(marshal.dumps((stage, text, lacks)))


def _leave_our_signals() -> None:
    """Handlers go with execve(2); what Python ignores would stay ignored."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)


def _take(todo: list[Step]) -> list[str]:
    lacks = []
    for step in todo:
        try:
            step.take()
        except OSError as error:
            lacks.append(str(error.strerror))
    return lacks


def executing(path: str | int, words: list[str], environment: dict[str, str]) -> Program:
    """The program that executes ``path`` (a descriptor: the file that is open there)."""

    def execute() -> None:
        os.execve(path, words, environment)

    return execute

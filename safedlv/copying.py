"""A copy of a container, made, used and undone: what ``relaunch`` and ``attach --via clone`` do about it alike.

container -> the copy, as a value -> its steps -> done, each on record before it is begun -> used -> undone
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from attrs import frozen

from safedlv.audit import audit
from safedlv.errors import SafedlvError, printable
from safedlv.runtimes.docker import NOT_FOUND, Engine, inspect
from safedlv.runtimes.engine import EngineError
from safedlv.session.launch import LEAVING
from safedlv.sibling import clone_record
from safedlv.sibling.clone import BESIDE, Clone, Document, Wish, clone_of
from safedlv.sibling.clone_difference import differences, undeclared
from safedlv.sibling.clone_exec import Debugger, under_dlv
from safedlv.sibling.clone_program import EndedError
from safedlv.sibling.clone_record import Record
from safedlv.sibling.clone_refusals import refuse
from safedlv.sibling.clone_steps import Create, Start, Step, steps_of
from safedlv.values import Value


@frozen(eq=False, repr=False)
class Work(Value):
    """All that there is to do for one copy."""

    clone: Clone
    container: Document
    """The original, as the engine tells about it."""
    ident: str
    prepare: tuple[Step, ...]
    switch: tuple[Step, ...]

    @property
    def copy(self) -> str:
        """The copy's name while it runs."""
        return next(step.name for step in self.switch if isinstance(step, Start))

    def describe(self) -> list[str]:
        """What the copy has, and the steps to it."""
        steps = enumerate((*self.prepare, *self.switch), 1)
        return [
            f"The copy of {self.clone.name} has",
            *(f"  {line}" for line in self.clone.describe()),
            "",
            "Steps",
            *(f"  {number}. {step.describe()}" for number, step in steps),
        ]


def plan(
    engine: Engine, container: Document, wish: Wish, name: str | None = None, debugger: Debugger | None = None
) -> Work:
    """Work out the copy that ``wish`` is for; ``debugger``: the dlv that its program is to be started by.

    ``name``: of a copy beside the original. Raises SafedlvError with why there can be none. Changes nothing.
    """
    refuse(container, _others(engine, container), wish.mode)
    clone = clone_of(container, image_of(engine, container), wish)
    if debugger is not None:
        clone = under_dlv(clone, container, debugger)
    steps = steps_of(clone, container, wish.record, name, snapshot=wish.image is not None)
    return Work(clone, container, wish.record, *steps)


def carry_out(engine: Engine, work: Work, use: Callable[[Record], int]) -> int:
    """Do the steps, let the copy be used, undo; what ``use`` returns, 0 when the user ended it before.

    Signals that end a session are held back from before the first step until the last is undone; ``use`` may look for
    them, or let them come for as long as it handles them. A record that it has kept is not undone.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LEAVING)
    try:
        record = Record.write(work.ident, work.clone.name, engine, [*work.prepare, *work.switch])
        try:
            _do(engine, work, record)
            code = use(record)
        except EndedError:
            code = 0
        except BaseException as error:
            signal.pthread_sigmask(signal.SIG_BLOCK, LEAVING)
            _undo_after(error, record, engine)
            raise
        signal.pthread_sigmask(signal.SIG_BLOCK, LEAVING)
        if record.kept:
            record.close()
        else:
            say(record.undo(engine))
        return code
    finally:
        while signal.sigtimedwait(LEAVING, 0):  # they have had their effect
            pass
        signal.set_wakeup_fd(-1)  # a session's, which is closed
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _undo_after(error: BaseException, record: Record, engine: Engine) -> None:
    try:
        say(record.undo(engine))
    except SafedlvError as second:
        said = getattr(error, "sentence", str(error))
        raise SafedlvError(f"{said}; and then {second.sentence}", second.hint) from error


def _do(engine: Engine, work: Work, record: Record) -> None:
    for number, step in enumerate((*work.prepare, *work.switch)):
        if number == len(work.prepare):
            _compare(engine, work)
        if signal.sigpending() & set(LEAVING):
            raise EndedError
        record.begin(number)
        try:
            step.do(engine)
        except EngineError:
            record.done(number)  # it was answered: nothing is under way
            raise
        audit(step.verb, f"for a copy of {work.clone.name}: {step.describe()}")
        record.done(number)


def _compare(engine: Engine, work: Work) -> None:
    """Before the original is touched: the copy is what was declared, by the engine's own account."""
    name = next(step.name for step in work.prepare if isinstance(step, Create))
    copy = engine.ask("tell about the copy", lambda: engine.api.inspect_container(name))
    found = undeclared(differences(work.container, copy), work.clone.changes)
    if found:
        shown = "; ".join(printable(one.shown()) for one in found[:5])
        raise SafedlvError(f"this engine does not make the same container again: {shown}", "the copy is removed")


def say(lines: list[str]) -> None:
    """To the user, a line each."""
    with suppress(OSError):  # a terminal that is gone keeps nothing from being undone
        sys.stderr.write("".join(f"safedlv: {line}\n" for line in lines))
        sys.stderr.flush()


# ---------------------------------------------------------------- for attach


def in_a_copy(container: str, session: Callable[[str], int]) -> int:
    """Have a session in an unchanged copy beside a container, and remove it; what the session returns.

    Who attaches from outside needs no change in it. ``session`` is called with the copy's name, signals held back.
    Raises SafedlvError, with everything undone.
    """
    original = inspect(container)
    with Engine() as engine:
        try:
            ident = clone_record.new_id()
            wish = wish_for(engine, original, BESIDE, ident)
            work = plan(engine, original, wish, f"{original['Name'].lstrip('/')}-debug-{ident[:6]}")
            say(["\n".join(work.describe())])
            return carry_out(engine, work, lambda _: session(work.copy))
        except EngineError as error:
            raise SafedlvError(str(error)) from error


def wish_for(engine: Engine, container: Document, mode: str, ident: str, ids: tuple[str, ...] = ()) -> Wish:
    """The wish for a copy with these changes and no other. Raises EngineError, SafedlvError."""
    path = clone_record.place(clone_record.path_of(ident))
    named = _told(engine, engine.api.inspect_image, container["Config"].get("Image") or container["Image"])
    image = None if named is None else str(named["Id"])
    return Wish(mode=mode, ids=ids, named_image=image, record=ident, record_path=path)


# ---------------------------------------------------------------- what the engine tells


def image_of(engine: Engine, container: Document) -> Document:
    """The image that the container was made from. Raises SafedlvError when it is gone."""
    found = _told(engine, engine.api.inspect_image, container["Image"])
    if found is None:
        raise SafedlvError("the image that the container was made from is not there any more")
    return found


def _others(engine: Engine, container: Document) -> tuple[Document, ...]:
    listed = engine.ask("list its containers", engine.api.containers)
    found = (_told(engine, engine.api.inspect_container, other["Id"]) for other in listed)
    return tuple(other for other in found if other is not None and other["Id"] != container["Id"])


def _told(engine: Engine, ask: Callable[[str], Document], name: str) -> Document | None:
    """The engine's document about a thing; None when it is not there (any more)."""
    try:
        return engine.ask(f"tell about {printable(name)}", lambda: ask(name))
    except EngineError as error:
        if error.status == NOT_FOUND:
            return None
        raise

"""The record of a copy: what was begun, on disk before it is done, so that a later run can undo it.

One file per copy, ``$XDG_STATE_HOME/safedlv/swaps/ID.json`` (``~/.local/state``), JSON lines: first all the steps
there will be, then ``{"begun": N}`` before step N is done and ``{"done": N}`` after it, ``{"kept": true}`` where the
copy shall stay. A line counts when it is whole. Who works with a record holds a lock on it (fcntl(2), F_SETLK: gone
with the process, and not inherited by its children), so that a record without one belongs to nobody alive.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, Self

from safedlv.audit import audit, state_directory
from safedlv.errors import SafedlvError, printable
from safedlv.runtimes.docker import Engine
from safedlv.runtimes.engine import EngineError
from safedlv.sibling.clone import COPY, RECORD
from safedlv.sibling.clone_steps import Step, remove, step_of

SCHEMA: Final = "safedlv.copy/1"
BEGINNING: Final = ".new"
TRIES: Final = 3


def directory() -> str:
    """Where the records are."""
    return os.path.join(state_directory(), "swaps")


def place(path: str) -> str:
    """The value of the label :data:`RECORD` for a record."""
    return f"{os.uname().nodename}:{path}"


class Record:
    """One record, locked: its steps, and how far they were taken."""

    def __init__(self, path: str, fd: int, head: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        self.path, self.fd, self.head = path, fd, head
        self.steps: list[Step] = [step_of(document) for document in head["steps"]]
        self.begun: list[int] = [int(line["begun"]) for line in lines if "begun" in line]
        self.finished: set[int] = {int(line["done"]) for line in lines if "done" in line}
        self.kept = any(line.get("kept") for line in lines)

    @classmethod
    def write(cls, ident: str, name: str, engine: Engine, steps: list[Step]) -> Self:
        """A new record, on disk and locked, with nothing begun. Raises SafedlvError when it cannot be written."""
        path = path_of(ident)
        head = {
            "schema": SCHEMA,
            "id": ident,
            "engine": engine_id(engine),
            "name": name,
            "steps": [step.document() for step in steps],
        }
        try:
            os.makedirs(directory(), mode=0o700, exist_ok=True)
            fd = os.open(path + BEGINNING, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made = cls(path, fd, head, [])
            made._append(head)
            os.rename(path + BEGINNING, path)  # seen by others only when it is whole, and locked
            _sync_directory()
        except OSError as error:
            raise SafedlvError(
                f"cannot write {printable(path)}: {error.strerror}: nothing is done without a record",
                "set XDG_STATE_HOME to a directory that you may write to",
            ) from error
        made.steps = steps
        return made

    def begin(self, number: int) -> None:
        """To be called before a step is done. Raises SafedlvError when it cannot be written."""
        self.begun.append(number)
        try:
            self._append({"begun": number})
        except OSError as error:
            raise SafedlvError(f"cannot write {printable(self.path)}: {error.strerror}") from error

    def done(self, number: int) -> None:
        """To be called after it; a line that is lost only makes the way back slower."""
        self.finished.add(number)
        with suppress(OSError):
            os.write(self.fd, _line({"done": number}))

    def keep(self) -> None:
        """The copy stays, until somebody asks for the way back."""
        self.kept = True
        self._append({"kept": True})

    def _append(self, document: dict[str, Any]) -> None:
        os.write(self.fd, _line(document))
        os.fsync(self.fd)

    def close(self) -> None:
        """Let go of it, and leave it where it is."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def undo(self, engine: Engine) -> list[str]:
        """Undo what was begun, the last first, and remove the record; what was done, in words.

        Raises SafedlvError with what could not be undone; the record stays then.
        """
        said: list[str] = []
        if self.begun and self.begun[-1] not in self.finished:
            _wait_for(self.steps[self.begun[-1]], engine)
        for attempt in range(1, TRIES + 1):
            failures = list(self._undo_each(engine, said))
            if not failures:
                break
            if attempt == TRIES:
                raise SafedlvError(f"not all could be undone: {'; '.join(failures)}", "safedlv clean tries again")
            time.sleep(0.2 * attempt)
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        self.close()
        return said

    def _undo_each(self, engine: Engine, said: list[str]) -> Iterator[str]:
        """What fails does not keep the rest from being undone."""
        for number in sorted(set(self.begun), reverse=True):
            try:
                words = self.steps[number].undo(engine)
            except EngineError as error:
                yield str(error)
            except SafedlvError as error:
                yield error.sentence
            else:
                if words:
                    verb, _, what = words.partition(" ")
                    audit(*((verb, what) if verb == "removed" else ("changed", words)))
                    said.append(words)


def new_id() -> str:
    """The name of a record."""
    return uuid.uuid4().hex[:12]


def path_of(ident: str) -> str:
    """Where a record is written."""
    return os.path.join(directory(), f"{ident}.json")


def engine_id(engine: Engine) -> str:
    """Which engine it is, by whatever way it is reached."""
    return str(engine.ask("say who it is", engine.api.info).get("ID") or "")


def _wait_for(step: Step, engine: Engine) -> None:
    """A request that its sender did not live to see answered may still be under way."""
    deadline = time.monotonic() + step.patience()
    while time.monotonic() < deadline:
        with suppress(EngineError, SafedlvError):
            if step.settled(engine):
                return
        time.sleep(0.02)


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _sync_directory() -> None:
    fd = os.open(directory(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---------------------------------------------------------------- after a run that could not


def restore(engine: Engine, *, dry: bool = False) -> list[str]:
    """Undo what killed runs have left: what was done, and what could not be, a line each.

    Records of runs that live, and of copies that are to stay, are left alone. ``dry``: only say what there is.
    """
    return _undo_all(engine, lambda record: not record.kept, dry=dry) + _orphans(engine, dry=dry)


def bring_back(engine: Engine, name: str) -> list[str]:
    """The way back from the copy of the container ``name``, kept or not. Raises SafedlvError when there is none."""
    found: list[bool] = []

    def wanted(record: Record) -> bool:
        found.append(record.head["name"] == name)
        return found[-1]

    said = _undo_all(engine, wanted)
    if not any(found):
        raise SafedlvError(
            f"no copy of container {printable(name)} is on record here",
            "one that a safedlv which runs has made ends with that: press Ctrl-C there",
        )
    return said


def _undo_all(engine: Engine, wanted: Callable[[Record], bool], *, dry: bool = False) -> list[str]:
    """Undo the records that are wanted, of this engine, and nobody's."""
    said: list[str] = []
    ident = engine_id(engine)
    for path in _paths():
        record = _opened(path, said)
        if record is None:
            continue
        try:
            if record.head.get("engine") == ident and wanted(record):
                said += [f"would undo the copy of {record.head['name']}"] if dry else record.undo(engine)
        except SafedlvError as error:
            said.append(f"{record.head['name']}: {error.sentence}")
        finally:
            record.close()
    return said


def _paths() -> list[str]:
    try:
        names = os.listdir(directory())
    except OSError:
        return []
    return [os.path.join(directory(), name) for name in sorted(names) if name.endswith((".json", BEGINNING))]


def _opened(path: str, said: list[str]) -> Record | None:
    """A record, locked; None when somebody alive has it, or its writer did not live to begin anything."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.endswith(BEGINNING):
            with open(fd, "rb", closefd=False) as file:
                whole, _, _ = file.read().rpartition(b"\n")
            lines = [json.loads(line) for line in whole.splitlines()]
            return Record(path, fd, lines[0], lines[1:])
        os.unlink(path)
    except OSError:
        pass  # somebody alive has it
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        said.append(f"{printable(path)} is no record that this safedlv understands: {printable(str(error))}")
    os.close(fd)
    return None


def _orphans(engine: Engine, *, dry: bool) -> list[str]:
    """Copies of this machine whose record is gone: the engine made them after it was undone."""
    said: list[str] = []
    found: list[dict[str, Any]] = engine.ask(
        "list its containers", lambda: engine.api.containers(all=True, filters={"label": COPY})
    )
    for container in found:
        host, _, path = str((container.get("Labels") or {}).get(RECORD) or "").partition(":")
        if host != os.uname().nodename or not path or os.path.exists(path):
            continue
        what = f"container {container['Id'][:12]}, a copy without a record"
        said.append(f"would remove {what}" if dry else _removed(engine, container["Id"], what))
    return said


def _removed(engine: Engine, container: str, what: str) -> str:
    try:
        remove(engine, container)
    except EngineError as error:
        return str(error)
    audit("removed", what)
    return f"removed {what}"

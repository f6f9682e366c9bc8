"""Containers that are hard to debug in, and what a sidecar and a debuggable copy make of each under Yama and AppArmor.

Every case is played at ptrace_scope 1 and 2, in a real session (tests/vm/sessions.py): a few by every test run, all
by the long one. Where there can be no session the sentence that safedlv ends with is given here.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import evolve, field, frozen

from tests.docker.sidecars import SERVER, line_of
from tests.support import LONG
from tests.vm.places import apparmor, seccomp

SIDECAR, SWAP = "sidecar", "swap"
SCOPES: Final = (1, 2)
SOURCE: Final = SERVER / "main.go"
LINE: Final = line_of(SOURCE, "text := fmt.Sprintf")
PORT: Final = 7000
SCRATCH, BASE = "scratch", "base"
SHELL = ("sh", "-c", "/in/server 127.0.0.1:{port} & wait")


@frozen
class Box:
    """How a container is started: with options of the docker package for Python."""

    options: dict[str, Any] = field(factory=dict)
    image: str = BASE
    program: tuple[str, ...] = ("/in/server", "127.0.0.1:{port}")
    during: str = ""
    """``paused``"""
    says: str = ""
    """Why there can be neither a sidecar nor a copy."""
    notes: str = ""
    """What a sidecar says besides, on stderr."""


@frozen
class Label:
    """An AppArmor profile of the container."""

    option: tuple[str, ...]
    sidecar: str = ""
    """Why there can be no sidecar."""
    swap: str = ""
    """Why there can be no copy."""


BOXES: Final = {
    "default": Box(),
    "non-root": Box({"user": "1000:1000"}),
    "cap_drop ALL": Box({"cap_drop": ["ALL"]}),
    "no-new-privileges": Box({"security_opt": ["no-new-privileges"]}),
    "read-only": Box({"read_only": True}),
    "scratch": Box(image=SCRATCH, program=("/server", "127.0.0.1:{port}")),
    "network none": Box({"network_mode": "none"}),
    "a filter against ptrace": Box({"security_opt": [seccomp("no-ptrace")]}),
    "paused": Box(during="paused", says="is paused\n  docker unpause "),
    "a shell is PID 1": Box({"stop_signal": "SIGKILL"}, program=SHELL, notes="is what will be debugged"),
    "--init": Box({"init": True}, SCRATCH, ("/server", "127.0.0.1:{port}"), notes="is what will be debugged"),
    "--pid=host": Box({"pid_mode": "host"}),
    "64 MiB": Box({"mem_limit": "64m"}),
}
LABELS: Final = {
    "docker-default": Label(()),
    "unconfined": Label((apparmor("unconfined"),)),
    "a profile of its own": Label((apparmor("lab-other"),)),
}
REFUSING: Final = {
    "a profile against ptrace": Label(
        (apparmor("lab-no-ptrace"),), "AppArmor profile lab-no-ptrace", "--apparmor PROFILE names another profile"
    ),
    "a profile for one program": Label((apparmor("lab-narrow"),), "under the target's AppArmor profile lab-narrow"),
}
"""Played with the default container only."""


@frozen
class Case:
    """One container, one profile, one scope, one way."""

    box: str
    label: str
    scope: int
    via: str

    @property
    def name(self) -> str:
        return f"{self.via}, {self.box}, {self.label}, scope {self.scope}"

    @property
    def container(self) -> str:
        """A name for the container, which the cases of both scopes and ways share."""
        return "".join(letter if letter.isalnum() else "-" for letter in f"box-{self.box}-{self.label}")

    @property
    def said(self) -> str:
        """The sentence that it ends with; empty for a session."""
        label = {**LABELS, **REFUSING}[self.label]
        return BOXES[self.box].says or (label.sidecar if self.via == SIDECAR else label.swap)


def cases() -> tuple[Case, ...]:
    """Those of this run."""
    pairs = [(box, label) for box in BOXES for label in LABELS] + [("default", label) for label in REFUSING]
    every = [Case(*pair, scope, via) for pair in pairs for scope in SCOPES for via in (SIDECAR, SWAP)]
    every = [case for case in every if (case.label, case.via) != ("a profile for one program", SWAP)]
    return tuple(case for case in every if LONG or case in OFTEN)


OFTEN: Final = (
    Case("default", "docker-default", 2, SIDECAR),
    Case("default", "docker-default", 1, SWAP),
    Case("a filter against ptrace", "docker-default", 1, SIDECAR),
    Case("non-root", "a profile of its own", 2, SIDECAR),
    Case("scratch", "unconfined", 1, SIDECAR),
    Case("default", "a profile against ptrace", 1, SIDECAR),
)
"""The cases of every run: each scope, way and kind of profile once."""


def for_the_guest(chosen: tuple[Case, ...]) -> dict[str, Any]:
    """What is to be played, as JSON knows it."""
    boxes: dict[str, dict[str, Any]] = {}
    for case in chosen:
        spec = boxes.setdefault(case.container, _container(case, PORT + len(boxes)))
        spec["plays"].append({"scene": case.name, "scope": case.scope, "via": case.via})
    return {"source": str(SOURCE), "line": LINE, "boxes": boxes}


def _container(case: Case, port: int) -> dict[str, Any]:
    box = BOXES[case.box]
    security = [*box.options.get("security_opt", []), *{**LABELS, **REFUSING}[case.label].option]
    box = evolve(box, program=tuple(word.format(port=port) for word in box.program))
    options = {**box.options, "security_opt": security}
    return {
        "image": box.image,
        "options": options,
        "program": box.program,
        "during": box.during,
        "port": port,
        "plays": [],
    }

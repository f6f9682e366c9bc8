"""dlv in a container of its own beside the target: prepared as a plan, then started, led to us, and removed.

Theory of operation: the session's private directory holds one directory that the container is given; dlv makes its
socket there, and writes its log into a FIFO. The keeper is told of the container before it is made, so that whatever
becomes of safedlv, dlv leaves the target in order and the container is removed. What is killed together with its
keeper is found by its label and ended by the next run, or by ``safedlv clean`` (sweep.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from attrs import evolve

from safedlv.audit import audit
from safedlv.command_line import CommandLine
from safedlv.delegate import version_of
from safedlv.errors import SafedlvError, printable
from safedlv.probe import runner
from safedlv.runtimes.docker import Engine, inspect
from safedlv.runtimes.engine import EngineError, unix_socket
from safedlv.session import keeper, parting
from safedlv.session.bystander import ended
from safedlv.session.guard import until_looked
from safedlv.session.launch import (
    Delve,
    arguments,
    is_guarded,
    listens_on_unix,
    number_of,
    private_directory,
    start_keeper,
)
from safedlv.session.listen import UNIX, Listener
from safedlv.sibling import checkout, needs
from safedlv.sibling.directory import LOG, make
from safedlv.sibling.plan import SESSION, Sidecar
from safedlv.sibling.sweep import owner_label, sweep
from safedlv.sibling.toolbox import Toolbox, ensure, given_image, is_there, toolbox_of
from safedlv.target import Found

KILLED: Final = 137
ENDS_WITHIN: Final = 2.0
"""Seconds for a target to end after the dlv that its PID namespace took along, and for an engine to notice an end."""


class Prepared:
    """A sidecar that can be described, and started."""

    def __init__(self, engine: Engine, toolbox: Toolbox, plan: Sidecar, verified: bool) -> None:
        self.engine, self.toolbox, self.plan, self.verified = engine, toolbox, plan, verified
        self.made_before = is_there(engine, toolbox)
        self.first_commands = ""
        self.guarded = True
        self.socket_path = ""
        """Where a unix socket for clients will be."""

    def describe(self) -> tuple[str, ...]:
        """What it will do, and how it is known to be enough."""
        tried_it = "the probe passes from there" if self.verified else "not tried: that takes root"
        image = () if self.made_before else (self.toolbox.describe(),)
        return (*image, *self.plan.describe(), f"privilege: the least that is needed ({tried_it})")


def prepare(found: Found, dlv: str, line: CommandLine) -> Prepared:
    """Work out a sidecar for a target in a container. Raises SafedlvError with why it cannot be.

    Changes nothing, but that sidecars whose safedlv was killed are ended first: one might hold the target.
    """
    container = _container(found, line)
    document = inspect(container)
    if document["State"].get("Paused"):
        raise SafedlvError(f"container {printable(container)} is paused", f"docker unpause {printable(container)}")
    engine = Engine()
    with _in_sentences():
        for done in sweep(engine):
            sys.stderr.write(f"safedlv: {done}\n")
        toolbox = _toolbox(engine, dlv, found, line)
    first = int(document["State"]["Pid"])
    user = needs.user_inside(found.pid, first)
    apparmor, timeout = document.get("AppArmorProfile") or None, line.number("probe-timeout", runner.STOP_WITHIN)
    privilege = needs.least_privilege(found, first, user, timeout, apparmor)
    pid = needs.pid_inside(found, first)
    plan = Sidecar(
        target=document["Id"],
        process=found.pid,
        inner_pid=pid,
        image=toolbox.tag,
        command=_command(toolbox, line, pid),
        user=privilege.user,
        capabilities=privilege.capabilities,
        directory=os.path.join(private_directory(), keeper.INSIDE),
        memory=needs.memory_limit(found),
        apparmor=apparmor,
        user_namespace=(document.get("HostConfig") or {}).get("UsernsMode") or "",
        name=f"safedlv-sidecar-{os.urandom(6).hex()}",
    )
    with _in_sentences():
        prepared = Prepared(engine, toolbox, plan, privilege.verified)
    prepared.guarded = is_guarded(line)
    address = line.text("listen")
    if line.on("headless") and address.startswith(UNIX) and address[len(UNIX) :][:1] not in ("", "@"):
        prepared.socket_path = os.path.abspath(address.removeprefix(UNIX))
    if not line.on("headless"):
        prepared.first_commands = checkout.commands(found.procdir, number_of(version_of(dlv) or ""))
    return prepared


def _container(found: Found, line: CommandLine) -> str:
    if found.container is None:
        raise SafedlvError("a sidecar stands beside a container", "name the target as docker:NAME")
    if unix_socket() is None:
        raise SafedlvError(
            "the Docker Engine is reached over a network: a sidecar's socket would lie on its machine",
            "run safedlv there",
        )
    if line.on("no-proxy"):
        raise SafedlvError("--no-proxy cannot be had with a sidecar: only safedlv leads to its dlv")
    return found.container


def _toolbox(engine: Engine, dlv: str, found: Found, line: CommandLine) -> Toolbox:
    """Where dlv comes from; it is one that can be reached, and that supports the target's Go as far as it is known."""
    image, for_everybody = line.text("toolbox-image"), os.geteuid() != 0
    if image:
        return given_image(engine, image, for_everybody=for_everybody)
    version = version_of(dlv)
    if not listens_on_unix(version):
        raise SafedlvError(
            f"dlv {version or 'of unknown version'} does not listen on unix sockets, and there is no other "
            "way out of a sidecar",
            "dlv can since 1.23: go install github.com/go-delve/delve/cmd/dlv@latest",
        )
    if line.on("check-go-version", default=True):
        needs.require_supported_go(dlv, found)
    return toolbox_of(dlv, for_everybody=for_everybody)


def _command(toolbox: Toolbox, line: CommandLine, pid: int) -> tuple[str, ...]:
    words = arguments("dlv", line, pid, f"unix:{SESSION}/dlv", -1, terminal=not line.on("headless"))
    words = [f"--log-dest={SESSION}/{LOG}" if word.startswith("--log-dest=") else word for word in words]
    return (*toolbox.entry, *words[1:])


@contextlib.contextmanager
def _in_sentences() -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        raise SafedlvError(str(error)) from error


# ---------------------------------------------------------------- start


def start(
    prepared: Prepared, found: Found, open_listener: Callable[[], Listener | None]
) -> tuple[Delve, Listener | None]:
    """Make the image if need be, and the container; start it, and open where clients come in.

    Raises SafedlvError, with nothing left behind.
    """
    directory, listener = os.path.dirname(prepared.plan.directory), None
    keeper_pid, lifeline = start_keeper(directory, found, guarded=prepared.guarded)
    try:
        if prepared.socket_path and not os.path.lexists(prepared.socket_path):
            lifeline.send(keeper.SOCKET + os.fsencode(prepared.socket_path))
        listener = open_listener()
        with _in_sentences():
            links = {"root": f"/proc/{prepared.plan.inner_pid}/root"}
            log = make(prepared.plan.directory, links)
            before = parting.look(found.pid, stopped=found.before.stopped)
            until_looked(lifeline)
            pid = _run(prepared, evolve(prepared.plan, owner=owner_label(keeper_pid, os.getpid())), lifeline)
            delve = SidecarDelve(prepared, pid, found.pid, log, keeper_pid, lifeline)
            delve.found, delve.awaits_guard = before, True
            return delve, listener
    except BaseException:
        if listener is not None:
            listener.close()
        lifeline.close()
        os.waitpid(keeper_pid, 0)
        raise


def _run(prepared: Prepared, plan: Sidecar, lifeline: socket.socket) -> int:
    """Make and start it; the PID of its dlv. The keeper is told before each step that it would have to undo."""
    engine = prepared.engine
    if ensure(engine, prepared.toolbox):
        audit("created", f"image {plan.image}")
    lifeline.send(keeper.CONTAINER + os.fsencode(f"{plan.name} {unix_socket()}"))
    try:
        engine.ask("make the sidecar", lambda: engine.api.create_container_from_config(plan.config(), name=plan.name))
    except EngineError:
        lifeline.send(keeper.CONTAINER)  # there is none to remove; one of that name would be somebody else's
        raise
    lifeline.send(keeper.MADE)
    audit("created", f"container {plan.name} beside {plan.target[:12]}")
    engine.ask("start the sidecar", lambda: engine.api.start(plan.name))
    pid = int(_state(engine, plan.name)["Pid"])
    if pid:
        lifeline.send(keeper.DLV + b"%d" % pid)
    return pid


class SidecarDelve(Delve):
    """A dlv that is no child of ours: it ends when its container's first process does."""

    def __init__(
        self, prepared: Prepared, pid: int, target: int, log: int, keeper_pid: int, lifeline: socket.socket
    ) -> None:
        self.engine, self.plan, self.first_commands = prepared.engine, prepared.plan, prepared.first_commands
        try:
            self.target, self.attached_to = os.pidfd_open(target), target
            super().__init__(pid, os.path.dirname(self.plan.directory), True, log, keeper_pid, lifeline)
        except OSError as error:  # EINVAL: PID 0, the container has ended before it was looked at
            if error.errno not in (errno.ESRCH, errno.EINVAL):
                raise
            raise self._ended_at_once() from error
        self.address = os.path.join(self.plan.directory, "dlv")

    def _ended_at_once(self) -> SafedlvError:
        state, words = self._state_at_the_end(), self.last_words()
        code, reason = state.get("ExitCode"), printable(str(state.get("Error") or ""), 300)
        said = words or reason or "it said nothing"
        return SafedlvError(
            f"the sidecar ended at once with exit code {code}{needs.under(self.plan.apparmor)}: {said}",
            "journalctl -k or dmesg tells what AppArmor has refused it" if self.plan.apparmor else "",
        )

    def reap(self) -> int:
        """Wait for dlv to end; its exit code, and its last words on stderr when that is not 0."""
        if self.code is None:
            while not ended(self.pidfd, 60.0):
                pass
            self.code = self._exit_code()
        return self.code

    def _exit_code(self) -> int:
        """What the engine says; 0 where the container is gone already: the keeper removes it when dlv has left."""
        try:
            state = self._state_at_the_end()
            code = int(state["ExitCode"])
            if code == KILLED and ended(self.target, ENDS_WITHIN):  # pid_namespaces(7)
                sys.stderr.write("safedlv: the target's container has ended, and the sidecar with it\n")
                self.found = None
                return 1
            if code == KILLED and self.leaving:
                return 0  # by the keeper, which is in order
            if state.get("OOMKilled"):
                sys.stderr.write(f"safedlv: dlv was killed: it needed more than {self.plan.memory >> 20} MiB\n")
            if code and (said := self.last_words()):
                sys.stderr.write(f"{said}\n")
        except EngineError:
            return 0
        return code

    def _state_at_the_end(self) -> dict[str, Any]:
        """The engine's account once it has noticed that dlv ended."""
        deadline = time.monotonic() + ENDS_WITHIN
        while (state := _state(self.engine, self.plan.name))["Running"] and time.monotonic() < deadline:
            time.sleep(0.01)
        return state

    def last_words(self) -> str:
        engine, name = self.engine, self.plan.name
        said: Any = engine.ask("tell what dlv said", lambda: engine.api.logs(name, tail=5))
        lines = said.decode("utf-8", "backslashreplace").strip().splitlines()
        return "\n".join(printable(line, 1000) for line in lines)

    def close(self) -> None:
        super().close()
        os.close(self.target)
        with contextlib.suppress(EngineError):
            _state(self.engine, self.plan.name)
            sys.stderr.write(f"safedlv: container {self.plan.name} could not be removed\n  safedlv clean does it\n")


def _state(engine: Engine, name: str) -> dict[str, Any]:
    document: dict[str, Any] = engine.ask("look at it", lambda: engine.api.inspect_container(name))
    state: dict[str, Any] = document["State"]
    return state

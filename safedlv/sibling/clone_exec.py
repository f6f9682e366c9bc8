"""A copy whose first process is dlv, with the program under it from its first instruction (``dlv exec``). Pure.

dlv is the local one: it and the libraries that it links are mounted into the copy read-only, file by file, so that a
scratch image and a read-only root will do and no shell is needed; one directory leads to its socket and log. The
program keeps its user, environment and working directory, which dlv hands on. dlv traces a child of its own, which
takes no capability: only a filter, or a limit without room for dlv, can be in its way (kernel/ptrace.c:
ptrace_traceme), and Yama from scope 2 on (security/yama/yama_lsm.c: yama_ptrace_traceme).
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from attrs import evolve, frozen

from safedlv.errors import printable
from safedlv.model import Unknown
from safedlv.sibling.clone import Change, Clone, Document
from safedlv.sibling.directory import LOG
from safedlv.sibling.toolbox import DIRECTORY, Toolbox
from safedlv.values import Value

PLACE: Final = "/.safedlv"
"""Where all of it is in the copy."""
INSIDE: Final = f"{PLACE}/session"
NEEDS: Final = {
    "seccomp": "seccomp",
    "thread-limit": "limit:pids",
    "memory-limit": "limit:memory",
    "apparmor": "label:apparmor",
}
"""Causes that a dlv meets which starts its target, too, and the change that helps. Ids, capabilities, dumpability and
Yama's scope 1 are no obstacle to the tracer of its own child."""
YAMA_ADMIN: Final = 2
"""The scope from which on also PTRACE_TRACEME takes CAP_SYS_PTRACE."""


@frozen(eq=False, repr=False)
class Debugger(Value):
    """The dlv of a copy."""

    entry: tuple[str, ...]
    """How it is started there."""
    flags: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    """What it consists of: (path there, path here)."""
    directory: str
    """The directory on this machine that it makes its socket in."""

    def command(self, program: str, arguments: list[str]) -> list[str]:
        """The command line of the copy, for the original's."""
        ours = ["--headless=true", f"--listen=unix:{INSIDE}/dlv", f"--log-dest={INSIDE}/{LOG}"]
        return [*self.entry, "exec", *self.flags, *ours, program, "--", *arguments]

    def mounts(self) -> list[dict[str, Any]]:
        """As ContainerCreate takes them."""
        files = [{"Type": "bind", "Source": here, "Target": there, "ReadOnly": True} for there, here in self.files]
        return [*files, {"Type": "bind", "Source": self.directory, "Target": INSIDE}]


def debugger_of(toolbox: Toolbox, flags: tuple[str, ...], directory: str) -> Debugger:
    """The dlv of a toolbox, at a place of its own in the copy."""
    files = tuple((_moved(there), here) for there, here in toolbox.files)
    return Debugger(tuple(_moved(word) for word in toolbox.entry), flags, files, directory)


def _moved(path: str) -> str:
    return PLACE + path.removeprefix(DIRECTORY) if path.startswith(DIRECTORY) else path


def under_dlv(clone: Clone, container: Document, debugger: Debugger) -> Clone:
    """The same copy, with its program under dlv."""
    body = deepcopy(clone.body)
    host = body["HostConfig"]
    first, *rest = debugger.command(container["Path"], list(container.get("Args") or []))
    body["Entrypoint"], body["Cmd"] = [first], rest
    host["Mounts"] = [*(host.get("Mounts") or []), *debugger.mounts()]
    changes = [
        Change(("Config", "Entrypoint"), f"dlv as its first process, which starts {printable(container['Path'])}"),
        *(Change(path, "") for path in (("Config", "Cmd"), ("Path",), ("Args",))),
    ]
    words = f"the local dlv, read-only, and a directory for its socket, in {PLACE}"
    for mount in debugger.mounts():
        changes.append(Change(("HostConfig", "Mounts", mount["Target"]), words))
        changes.append(Change(("Mounts", mount["Target"]), ""))
        words = ""
    if (host.get("RestartPolicy") or {}).get("Name") not in (None, "", "no"):
        host["RestartPolicy"] = {"Name": "no"}
        changes.append(Change(("HostConfig", "RestartPolicy"), "no restart policy: it ends with the session"))
    notes = [
        "dlv adds PWD and CGO_CFLAGS to the program's environment",  # os/exec: Cmd.environ; Delve cmd/dlv/main.go
        f"its output is in docker logs, not here; it ends with the session, by SIGKILL{_beware(container)}",
    ]
    return evolve(clone, body=body, changes=(*clone.changes, *changes), notes=(*clone.notes, *notes))


def _beware(container: Document) -> str:
    """The program stands at its first instruction until somebody lets it run."""
    tested = ((container["Config"].get("Healthcheck") or {}).get("Test") or ["NONE"])[0] != "NONE"
    return "; until it is let run, its health check fails" if tested else ""


def needs_of(causes: tuple[str, ...], yama_scope: int | Unknown | None) -> tuple[str, ...]:
    """The ids of the changes without which dlv could not start the program, for the causes that doctor names."""
    found = [NEEDS[cause] for cause in causes if cause in NEEDS]
    if "yama" in causes and isinstance(yama_scope, int) and yama_scope >= YAMA_ADMIN:
        found.append("cap:sys_ptrace")
    return tuple(found)

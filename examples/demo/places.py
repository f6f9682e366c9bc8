"""Places that a debugger may stand in: a shell in a sandbox, with the ids, capabilities and filter of that place.

A place can be mended by the changes that `safedlv doctor --json` names in fix.ids, and by no others.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
from attrs import evolve, frozen
from pexpect.fdpexpect import fdspawn

from means import PATIENCE, WINDOW, DemoError, Screen, expect
from safedlv.capabilities import capability_mask
from safedlv.linux import confine
from safedlv.model import CapabilitySets
from safedlv.runtimes.sandbox import Sandbox, start
from safedlv.seccomp.program import Refuse, assemble

USER = 1000
DOCKERS = 0xA80425FB  # the capabilities that docker gives a container: CAP_SYS_PTRACE is not among them
NEEDED = DOCKERS | capability_mask(["sys_admin", "sys_ptrace"])
"""To make the places, and to prove what refuses there."""
PACKAGES = ("safedlv", "attr", "attrs", "elftools", "pexpect", "ptyprocess")
"""What `safedlv attach` imports beyond the standard library."""
FOR_EVERYONE = """\
#!/bin/sh
PYTHONPATH={tools}/lib exec {python} -P -m safedlv "$@"
"""


def can_be_made() -> bool:
    """Whether we are root and hold what the places need: root in a container often does not."""
    return os.geteuid() == 0 and confine.capget()[0] & NEEDED == NEEDED


@frozen
class Place:
    """Where a debugger stands."""

    spec: Sandbox
    rules: tuple[Refuse, ...] = ()
    """What its seccomp filter refuses; without rules there is no filter."""

    def sandbox(self) -> Sandbox:
        return evolve(self.spec, seccomp=assemble(self.rules, os.uname().machine)) if self.rules else self.spec


# ------------------------------------------------------------ mending


def mended(place: Place, diagnosis: dict[str, Any]) -> Place:
    """The place with exactly the changes that the diagnosis names. Raises DemoError."""
    fix = diagnosis["fix"]
    if not fix or not fix["ids"]:
        raise DemoError("the doctor knows no change that would help here")
    for change in fix["ids"]:
        kind, _, name = change.partition(":")
        if kind not in MENDS:
            raise DemoError(f"the doctor asks for the change {change!r}, which this demo cannot make")
        place = MENDS[kind](place, name, diagnosis["target"])
    return place


def _as_user(place: Place, _: str, target: dict[str, Any]) -> Place:
    return evolve(place, spec=evolve(place.spec, uid=target["uid"], gid=target["gid"], groups=()))


def _with_capability(place: Place, name: str, _: dict[str, Any]) -> Place:
    """Also inheritable and ambient: another user than root keeps a capability over execve only so (capabilities(7))."""
    sets, more = place.spec.capabilities, capability_mask([name])
    if sets is None:
        raise DemoError(f"the doctor asks for CAP_{name.upper()}, which this place has")
    wider = CapabilitySets(
        inheritable=sets.inheritable | more,
        permitted=sets.permitted | more,
        effective=sets.effective | more,
        bounding=sets.bounding | more,
        ambient=sets.ambient | more,
    )
    return evolve(place, spec=evolve(place.spec, capabilities=wider))


def _let_through(place: Place, _: str, __: dict[str, Any]) -> Place:
    """The same filter, but for what it refuses of dlv's calls: all of that is ptrace here."""
    return evolve(place, rules=tuple(rule for rule in place.rules if rule.syscall != "ptrace"))


MENDS: dict[str, Callable[[Place, str, dict[str, Any]], Place]] = {
    "user": _as_user,
    "cap": _with_capability,
    "seccomp": _let_through,
}
"""By the kind of change, as it begins an id."""


# ------------------------------------------------------------ a shell there


class Shell:
    """A shell at a terminal of its own, in a place."""

    def __init__(self, pid: int, terminal: fdspawn, prompt: str) -> None:
        self.pid = pid
        self.terminal = terminal
        self.prompt = prompt

    def type_until(self, line: str, wanted: str, otherwise: str) -> None:
        """Type a line and wait for what it is to say. Raises DemoError(otherwise) when the prompt comes first."""
        self.terminal.sendline(line)
        try:
            missed = self.terminal.expect_exact([wanted, self.prompt])
        except (pexpect.EOF, pexpect.TIMEOUT) as error:
            raise DemoError(f"{line!r} stood still before it said {wanted!r}") from error
        if missed:
            raise DemoError(otherwise)

    def foreground(self) -> int:
        """The program that it waits for: every one leads a process group of its own (tcgetpgrp(3))."""
        return os.tcgetpgrp(self.terminal.fileno())


@contextlib.contextmanager
def shell(place: Place, prompt: str, environment: dict[str, str]) -> Iterator[Shell]:
    """A shell in the place, until the block ends; then it and all that it has started are gone."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(ours, WINDOW)

    def become() -> None:
        os.login_tty(theirs)
        os.chdir(environment["HOME"])
        os.execvpe("sh", ["sh", "-i"], {**environment, "PS1": prompt})

    with contextlib.ExitStack() as last:
        try:
            running = last.enter_context(start(place.sandbox(), become, timeout=PATIENCE))
        except (OSError, RuntimeError) as error:
            os.close(ours)
            raise DemoError(f"that place cannot be made here: {error}") from error
        finally:
            os.close(theirs)
        terminal = fdspawn(ours, timeout=PATIENCE, encoding="utf-8")
        last.callback(terminal.close)  # it hangs up; what still runs after that ends with the sandbox
        screen = terminal.logfile_read = Screen()
        last.callback(screen.close, prompt)
        expect(terminal, prompt)
        yield Shell(running.pid, terminal, prompt)


# ------------------------------------------------------------ tools


def tools_for_everyone(directory: Path) -> dict[str, str]:
    """An environment in which every user finds safedlv and dlv: copies, since ours may lie where only root enters."""
    tools, home = directory / "tools", directory / "home"
    home.mkdir()
    home.chmod(0o1777)
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise DemoError(f"there is no Python package {package} here")
        shutil.copytree(Path(found.origin).parent, tools / "lib" / package)
    dlv = shutil.which(os.environ.get("SAFEDLV_DLV") or "dlv")
    if dlv is None:
        raise DemoError("there is no dlv on the PATH; `make demo` finds or installs it")
    shutil.copy(dlv, tools / "dlv")
    (tools / "safedlv").write_text(FOR_EVERYONE.format(tools=tools, python=python_for_everyone()))
    for path in (tools, *tools.rglob("*")):  # whatever the umask of whoever made the originals
        path.chmod(0o755 if path.is_dir() or path.parent == tools else 0o644)
    return {
        **{name: value for name, value in os.environ.items() if name not in ("ENV", "SAFEDLV_DLV")},
        "PATH": f"{tools}:{os.environ['PATH']}",
        **dict.fromkeys(("HOME", "TMPDIR", "XDG_RUNTIME_DIR"), str(home)),
        "TERM": "dumb",  # no cursor movements
        "NO_COLOR": "1",
    }


def python_for_everyone() -> str:
    """A Python that the user of the servers may start; our own may lie in a home directory."""
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        try:
            done = subprocess.run(
                [python, "-c", check], user=USER, group=USER, extra_groups=(), capture_output=True, check=False
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    raise DemoError(f"the denied attaches need a Python of at least 3.11 that user {USER} may start")

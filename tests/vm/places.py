"""Targets and tracers in the virtual machine: the containers, processes and profiles that the scenes are made of."""

from __future__ import annotations

import json
from typing import Any, Final

from attrs import field, frozen

from tests.docker.test_context import profile, rule

ATTACH, SETOPTIONS, ENOSYS = 16, 0x4200, 38
SERVER, UNREADABLE = ("/in/server",), ("/in/unreadable",)


# ---------------------------------------------------------------- profiles

SECCOMP: Final = {
    "no-attach": profile(rule("SCMP_ACT_ERRNO", ATTACH)),
    "no-ptrace": json.dumps(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}],
        }
    ),
    "no-setoptions": profile(rule("SCMP_ACT_ERRNO", SETOPTIONS)),
}
_COMMON = "network, capability, mount, umount, pivot_root,"
APPARMOR: Final = "\n".join(
    f"profile {name} flags=(attach_disconnected,mediate_deleted{mode}) {{ {_COMMON} {rules} }}"
    for name, mode, rules in (
        ("lab-open", "", "file, signal, ptrace,"),
        ("lab-other", "", "file, signal, ptrace peer=lab-other,"),
        ("lab-no-ptrace", "", "file, signal, deny ptrace,"),
        ("lab-no-trace", "", "file, signal, ptrace (read, readby, tracedby),"),
        ("lab-no-signal", "", "file, signal (receive), ptrace,"),
        ("lab-complain", ",complain", "file, signal,"),
        ("lab-narrow", "", "/** r, /in/* rmix, signal, ptrace peer=lab-narrow,"),
    )
)


def seccomp(name: str) -> str:
    """A security option of docker run."""
    return f"seccomp={SECCOMP[name]}"


def apparmor(name: str) -> str:
    """A security option of docker run."""
    return f"apparmor={name}"


# ---------------------------------------------------------------- who and whom

Options = dict[str, Any]
"""Of docker run and docker exec, as the docker package for Python names them."""


@frozen
class Target:
    """A process that serves: in a container of its own, or (``machine``: the words in front) on the machine itself."""

    options: Options = field(factory=dict)
    machine: tuple[str, ...] | None = None
    program: tuple[str, ...] = SERVER


@frozen
class Tracer:
    """Where the question is asked from."""

    kind: str
    """``exec``: docker exec in the target's container; ``sidecar``: a container in its PID namespace; ``machine``."""
    options: Options = field(factory=dict)
    machine: tuple[str, ...] = ()
    """On the machine: the words in front of the program."""
    child: bool = False
    """The target is this tracer's own child, a second server."""

    @property
    def who(self) -> str:
        """The same place in the words of ``doctor --tracer``."""
        if self.kind != "exec" or self.child or "privileged" in self.options:
            return "pid"
        return f"container:{self.options['user']}" if self.options else "container"


def in_container(*security: str, program: tuple[str, ...] = SERVER, **options: Any) -> Target:
    """A container of its own, with these options."""
    return Target({**options, "security_opt": list(security)}, program=program)


def exec_as(uid: int) -> Tracer:
    """docker exec --user."""
    return Tracer("exec", {"user": str(uid)})


def sidecar(*capabilities: str, security: tuple[str, ...] = ()) -> Tracer:
    """A container with no capability but these, in the target's PID namespace."""
    return Tracer("sidecar", {"cap_drop": ["ALL"], "cap_add": list(capabilities), "security_opt": list(security)})


def as_user(uid: int) -> tuple[str, ...]:
    """The words that make a process somebody's, on the machine."""
    return ("setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups")


def machine(*words: str) -> Tracer:
    """A process of the machine itself."""
    return Tracer("machine", machine=words)


def _first(statement: str) -> tuple[str, ...]:
    """A program that does one thing to itself and becomes the next."""
    text = f"import os, sys; from safedlv.linux import confine; {statement}; os.execvp(sys.argv[1], sys.argv[1:])"
    return ("python3", "-c", text)


USERS_PTRACE = ("--inh-caps", "+sys_ptrace", "--ambient-caps", "+sys_ptrace")
USERNS = ("unshare", "--user", "--map-root-user")
NAMES_ANYBODY = _first("confine.set_ptracer(confine.PR_SET_PTRACER_ANY)")
NAMES_TRACER = _first("confine.set_ptracer({tracer})")
NAMES_ITSELF = _first("confine.set_ptracer(os.getpid())")
LANDLOCKED = _first(
    "confine.set_no_new_privs(); "
    "confine.landlock_restrict_self(confine.landlock_create_ruleset(confine.LANDLOCK_ACCESS_FS_MAKE_BLOCK))"
)
HIDEPID = ("unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh")
ROOT = Tracer("exec")

PRIVILEGED = Tracer("exec", {"privileged": True})

TARGETS: Final = {
    "default": in_container(),
    "capable": in_container(cap_add=["SYS_PTRACE"]),
    "every-capability": in_container(cap_add=["ALL"]),
    "seccomp-unconfined": in_container("seccomp=unconfined"),
    "apparmor-unconfined": in_container(apparmor("unconfined")),
    "user": in_container(user="1000"),
    "user-capable": in_container(user="1000", cap_add=["SYS_PTRACE"]),
    "dropped": in_container("no-new-privileges", cap_drop=["ALL"]),
    "no-attach": in_container(seccomp("no-attach")),
    "no-setoptions": in_container(seccomp("no-setoptions")),
    "no-ptrace-user": in_container(seccomp("no-ptrace"), user="1000"),
    "everything": in_container(seccomp("no-attach"), apparmor("lab-no-ptrace"), user="1000"),
    "no-ptrace-profile": in_container(apparmor("lab-no-ptrace")),
    "no-ptrace-profile-capable": in_container(apparmor("lab-no-ptrace"), cap_add=["SYS_PTRACE"]),
    "no-trace-profile": in_container(apparmor("lab-no-trace")),
    "no-signal-profile": in_container(apparmor("lab-no-signal")),
    "complaining-profile": in_container(apparmor("lab-complain")),
    "other-profile": in_container(apparmor("lab-other")),
    "open-profile": in_container(apparmor("lab-open")),
    "unreadable": in_container(user="1000", program=UNREADABLE),
    "small": in_container(),
    "on-machine": Target(machine=as_user(1000)),
    "on-machine-other": Target(machine=as_user(1001)),
    "on-machine-named": Target(machine=(*as_user(1000), *NAMES_TRACER)),
    "on-machine-any": Target(machine=(*as_user(1000), *NAMES_ANYBODY)),
    "on-machine-itself": Target(machine=(*as_user(1000), *NAMES_ITSELF)),
    "on-machine-userns": Target(machine=(*as_user(1000), *USERNS)),
}

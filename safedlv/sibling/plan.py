"""A sidecar as a value: what it will be, what it will be allowed, and how the engine is told. Pure but for nothing.

The container joins the target's PID namespace, and nothing else of it. It has no network, a read-only root, no new
privileges, no capability but those that were shown to be needed, a seccomp filter that knows only the calls that dlv
makes, and limits of its own, so that it cannot take memory or threads from the target. The target's container is not
touched. Field names of :meth:`Sidecar.config` are the Engine API's (ContainerCreate, version 1.40 and later).
"""

from __future__ import annotations

import json
from typing import Any, Final

from attrs import frozen

from safedlv.seccomp.profile import allowing_dlv
from safedlv.values import Value

LABEL: Final = "safedlv.sidecar"
"""The label of every sidecar; its value is the target's container."""
OWNER: Final = "safedlv.owner"
"""The label that says whose it is: the keeper that ends it, and its safedlv (sweep.py)."""
PROCESS: Final = "safedlv.process"
"""The label with the target's PID as safedlv's machine numbers it."""
PIDS: Final = 128
SESSION: Final = "/session"
ARCHITECTURES: Final = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")
ENGINES_CALLS: Final = (
    "capget",
    "capset",
    "close_range",
    "fstatfs",
    "statx",
    "getppid",
    "setgid",
    "setgroups",
    "setuid",
    "umask",
)
"""What the container's runtime itself calls between loading the filter and starting dlv (runc libcontainer), and what
a shell calls that starts it (toolbox.py)."""


@frozen(eq=False, repr=False)
class Sidecar(Value):
    """Everything that decides what the container can do."""

    target: str
    """The target's container: name or id."""
    process: int
    """The target's PID as we see it."""
    inner_pid: int
    """The target's PID in the namespace that the sidecar joins."""
    image: str
    command: tuple[str, ...]
    user: tuple[int, int]
    capabilities: tuple[str, ...]
    """Names without CAP_."""
    directory: str
    """The session's directory on this machine; it is mounted on /session."""
    memory: int
    """Bytes."""
    apparmor: str | None = None
    """The profile, where the sidecar must have the target's; None: the engine's default."""
    user_namespace: str = ""
    """``host`` where the target's container was started so."""
    name: str = ""
    owner: str = ""

    def describe(self) -> tuple[str, ...]:
        """What starting it does, a line each."""
        capabilities = ", ".join(name.upper() for name in self.capabilities) or "no capability"
        return (
            (
                f"start a container of the image {self.image} that shares the PID namespace of {self.target}, as "
                f"uid {self.user[0]}, gid {self.user[1]}, with {capabilities}, no network, a read-only root, no new "
                f"privileges, a seccomp filter made for dlv, {self._profile()}at most {self.memory >> 20} MiB of "
                f"memory and {PIDS} threads"
            ),
            f"mount {self.directory} there, for the socket that leads to dlv",
            "remove the container at the end; the target's container is not touched",
        )

    def _profile(self) -> str:
        return f"the AppArmor profile {self.apparmor} as the target, " if self.apparmor else ""

    def config(self) -> dict[str, Any]:
        """The body of the engine's request to make it."""
        security = ["no-new-privileges", f"seccomp={json.dumps(profile())}"]
        security += [f"apparmor={self.apparmor}"] if self.apparmor else []
        return {
            "Image": self.image,
            "Entrypoint": [self.command[0]],
            "Cmd": list(self.command[1:]),
            "User": f"{self.user[0]}:{self.user[1]}",
            "WorkingDir": "/",
            "Env": ["HOME=/tmp"],
            "AttachStdout": True,
            "AttachStderr": True,
            "NetworkDisabled": True,
            "Labels": {LABEL: self.target, OWNER: self.owner, PROCESS: str(self.process)},
            "HostConfig": {
                "PidMode": f"container:{self.target}",
                "NetworkMode": "none",
                "UsernsMode": self.user_namespace,
                "CapDrop": ["ALL"],
                "CapAdd": [name.upper() for name in self.capabilities],
                "SecurityOpt": security,
                "ReadonlyRootfs": True,
                "Init": False,
                "Tmpfs": {"/tmp": "rw,nosuid,nodev,noexec,size=16m"},  # noqa: S108  in the container: dlv's configuration
                "Mounts": [{"Type": "bind", "Source": self.directory, "Target": SESSION}],
                "Memory": self.memory,
                "MemorySwap": self.memory,
                "PidsLimit": PIDS,
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
                "RestartPolicy": {"Name": "no"},
            },
        }


def profile() -> dict[str, Any]:
    """The seccomp profile of every sidecar: nothing but what dlv needs, ptrace request by request."""
    nothing = {"defaultAction": "SCMP_ACT_ERRNO", "architectures": list(ARCHITECTURES), "syscalls": []}
    made = allowing_dlv(nothing)
    made["syscalls"].append({"names": list(ENGINES_CALLS), "action": "SCMP_ACT_ALLOW"})
    made["syscalls"].append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38})  # ENOSYS: then clone
    return made

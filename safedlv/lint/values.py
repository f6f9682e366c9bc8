"""What the readers, the rules and the patches hand to each other. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import field, frozen

from safedlv.lint.tree import Data, Path

ERROR, WARNING, NOTE = LEVELS = ("error", "warning", "note")
"""The attach is refused; it is given more than it needs; the host decides."""

COMPOSE, DOCKER_RUN, DEVCONTAINER, KUBERNETES, PROFILE = (
    *("compose", "docker-run", "devcontainer", "kubernetes"),
    "seccomp-profile",
)
INFERRED: Final = "inferred from the file"
DOCKER_CAPABILITIES: Final = frozenset(
    (
        *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE"),
        *("NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP"),
    )
)
"""What root in a container has unless told otherwise (moby oci/caps/defaults.go; containerd's are the same)."""

# ---------------------------------------------------------------- edits


@frozen
class Put:
    """The value at a path, in the place of the scalar or the brackets there; made with its parents where nothing is."""

    path: Path
    value: Data


@frozen
class Take:
    """The entry at a path, away."""

    path: Path


@frozen
class Add:
    """An item more at the end of the list at a path, unless it is there."""

    path: Path
    value: Data


@frozen
class Drop:
    """These items, which follow each other, away from the list at a path, however often they are there."""

    path: Path
    values: tuple[str, ...]


Edit = Put | Take | Add | Drop


# ---------------------------------------------------------------- what a file says


@frozen
class Setting:
    """One thing that a file says of a container."""

    value: str
    line: int
    path: Path
    items: tuple[str, ...] = ()
    """The items of the list at ``path`` that say it; () where it is an entry of its own."""
    twin: Path = ()
    """Another entry that says the same, and has to go on doing so."""

    @property
    def away(self) -> Edit:
        """The edit that takes it out."""
        return Drop(self.path, self.items) if self.items else Take(self.path)


@frozen
class Container:
    """What one container will get. Fields that are None or empty are not said, and the engine's default holds."""

    form: str
    name: str
    """As messages call it: ``service web``."""
    line: int
    at: Path
    """Where its settings stand."""
    privileged: Setting | None = None
    cap_add: tuple[Setting, ...] = ()
    cap_drop: tuple[Setting, ...] = ()
    capabilities: Path = ()
    """The list to which a capability is added."""
    seccomp: Setting | None = None
    """``unconfined``, ``builtin`` (the runtime's own), or the name of a file."""
    security: Path = ()
    """The list (Kubernetes: the mapping) that chooses a seccomp profile."""
    apparmor: Setting | None = None
    user: str | None = None
    pids: Setting | None = None
    memory: Setting | None = None
    swap: Setting | None = None
    """Memory and swap together, as Docker counts."""
    sysctls: tuple[Setting, ...] = ()
    command: tuple[Setting, ...] = ()
    """Entry point and arguments, as far as they are said."""
    runtime: Setting | None = None
    platform: Setting | None = None
    elsewhere: Setting | None = None
    """The file that holds the rest of its settings."""
    pod: Path | None = None
    """Kubernetes: the pod's spec."""
    shares_pids: bool = False
    """Kubernetes: with the other containers of its pod."""
    others: tuple[tuple[str, str | None], ...] = ()
    """Kubernetes: name and user of the pod's other containers."""

    @property
    def is_other_user(self) -> bool:
        """Whether it is said to be another than root; what a variable holds is not known."""
        return is_other_user(self.user)

    def holds(self, name: str) -> bool:
        """Whether root in it has a capability (in capital letters, without CAP_)."""
        if self.privileged:
            return True
        added, dropped = ({capability(setting.value) for setting in group} for group in (self.cap_add, self.cap_drop))
        if name in added:
            return True
        if name in dropped:
            return False
        return "ALL" in added or (name in DOCKER_CAPABILITIES and "ALL" not in dropped)


def capability(text: str) -> str:
    """Its name as the rules know it: in capital letters, without CAP_."""
    return text.upper().removeprefix("CAP_")


def is_other_user(user: str | None) -> bool:
    """Whether a user is certainly another than root."""
    name = (user or "").partition(":")[0]
    return bool(name) and name not in ("0", "root") and "$" not in name


# ---------------------------------------------------------------- what is found

Look = Callable[[str], str | None]
"""The text of a file that the linted one names; None where it cannot be read."""


@frozen
class NewFile:
    """A file to be made, in the directory of another."""

    name: str
    """As the linted file is to name it."""
    beside: str
    """The other, as it is named there now."""
    text: str


@frozen
class Patch:
    """What mends a finding: edits of the file it was found in, and files that they name."""

    edits: tuple[Edit, ...]
    files: tuple[NewFile, ...] = ()


@frozen
class Finding:
    """One thing that somebody should look at."""

    rule: str
    level: str
    line: int
    subject: str
    """The container, or the profile's rule."""
    what: str
    """What is refused or too much, and why, in a sentence."""
    how: str = INFERRED
    """How it is known, and what of it depends on the host."""
    advice: str = ""
    """What to do, in words; what the patch does, where there is one."""
    patch: Patch | None = None
    decides: bool = field(default=False)
    """Less than an error, but without it nobody can say whether the attach works."""

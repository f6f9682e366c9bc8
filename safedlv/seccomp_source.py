"""Whose filters ``safedlv seccomp`` is about: of a process, of a container as its engine tells, of a file.

Two kinds, and every output says which of them it is. *Loaded*: the programs that the kernel gave. *Made from*: a
profile that an engine, a bundle or a file names, turned into a program as runc does it, by this machine's libseccomp.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from safedlv.capabilities import CAPABILITIES
from safedlv.command_line import is_pid
from safedlv.errors import SafedlvError, UsageError, printable
from safedlv.linux.libseccomp import Libseccomp
from safedlv.seccomp import bpf
from safedlv.seccomp.answers import outcome
from safedlv.seccomp.bpf import Program
from safedlv.seccomp.evaluate import Call, answer
from safedlv.seccomp.oci import X32_BIT, machine
from safedlv.seccomp.oci import rules as rules_of
from safedlv.seccomp.profile import Profile

if TYPE_CHECKING:
    from safedlv.target import Found

SHIPPED: Final = {
    "docker": "docker-default.json",
    "containerd": "containerd-default.json",
    "podman": "podman-default.json",
}
"""The profiles that engines have built in, which no engine shows; the licence of each (Apache-2.0) is beside it as
NAME-default.LICENSE. docker: github.com/moby/profiles/seccomp v0.2.4, default.json. podman: seccomp.json of
github.com/containers/common v0.64.2, pkg/seccomp. containerd makes its own in Go: what DefaultProfile of
github.com/containerd/containerd/v2 v2.4.2, contrib/seccomp, answers for each architecture and each capability, written
as Docker writes its own. An engine may have another one: an older version, or one of its settings."""
BASES: Final = (
    "docker:NAME (the profile of that container); docker, containerd, podman (what each has built in); FILE; "
    "a PID or name:PATTERN (the programs that are loaded in it)"
)
DOCKERS_CAPABILITIES: Final = (
    *(
        "chown",
        "dac_override",
        "fowner",
        "fsetid",
        "kill",
        "setgid",
        "setuid",
        "setpcap",
        "net_bind_service",
        "net_raw",
    ),
    *("sys_chroot", "mknod", "audit_write", "setfcap"),
)
"""What a container of Docker and of containerd has unless told otherwise (moby oci/caps/defaults.go)."""
_INPUT: Final = "-"
_LARGEST_FILE: Final = 16 << 20
_STRICT: Final = 1


@frozen
class Filters:
    """The programs that calls go through, in the order of their loading, and how that is known."""

    programs: tuple[Program, ...]
    origin: str
    """A sentence for people."""
    loaded: bool
    """Whether the kernel gave them; False: made from a profile."""
    profile: Profile | None = None


def filters(text: str, *, more: frozenset[str] = frozenset(), fewer: frozenset[str] = frozenset()) -> Filters:
    """Those of a TARGET, a file, ``-`` (standard input) or a built-in profile.

    ``more`` and ``fewer``: capabilities (``sys_ptrace``) that a container has beyond the usual, or lacks, where a
    profile asks and the document does not tell. Raises UsageError, SafedlvError.
    """
    usual = (frozenset(DOCKERS_CAPABILITIES) | more) - fewer
    if is_target(text):
        return _of_target(text)
    if text in SHIPPED:
        return made_from(shipped(text), f"{text}'s built-in profile", usual)
    data = _data(text)
    try:
        document = json.loads(data)
    except ValueError:
        return _of_bytes(text, data)
    return _of_document(text, document, usual)


def is_target(text: str) -> bool:
    """Whether a word names a process or a container; else it names a file."""
    return is_pid(text) or text.startswith(("docker:", "name:"))


# ---------------------------------------------------------------- of a process


def _of_target(text: str) -> Filters:
    from safedlv.target import resolve

    found = resolve(text)
    try:
        return _loaded(found)
    except OSError as error:
        reason = f"the programs of process {found.pid} could not be read: {error.strerror or error}"
        if found.container is not None:
            return of_container(found.container, reason)
        raise SafedlvError(
            reason,
            "it takes root (CAP_SYS_ADMIN), no filter of one's own, and no other tracer; what an engine says is "
            "told by docker:NAME, or by the config.json of its bundle or crictl inspect's output",
        ) from error
    finally:
        found.close()


def _loaded(found: Found) -> Filters:
    """What the kernel gives. Raises OSError, SafedlvError."""
    from safedlv.facts.procfs import ProcDir
    from safedlv.facts.status import read_status
    from safedlv.probe.filters import read_filters

    with ProcDir(found.pid) as procdir:
        mode = read_status(procdir).seccomp
    if mode == 0:
        return Filters((), f"process {found.pid} has no seccomp filter: every call reaches the kernel", True)
    if mode == _STRICT:
        raise SafedlvError(
            f"process {found.pid} is in seccomp's strict mode, which is no filter: it may read, write, _exit and "
            "return from a signal, and is killed for everything else"
        )
    raw = read_filters(found.pid, found.procdir)
    kept = f"{len(raw)} program" + ("s" if len(raw) != 1 else "")
    return Filters(tuple(map(_checked, raw)), f"{kept} loaded in process {found.pid}, as the kernel gave them", True)


def _checked(program: bytes) -> Program:
    try:
        return bpf.load(program)
    except bpf.BadProgramError as error:
        raise SafedlvError(f"this is no program that the kernel would take: {error}") from error


# ---------------------------------------------------------------- what an engine says


def of_container(name: str, reason: str = "") -> Filters:
    """What the Docker Engine says that a container was started with. Raises UsageError, SafedlvError."""
    from safedlv.runtimes.docker import inspect

    prefix = f"{reason}; " if reason else ""
    return _of_inspect(inspect(name), f"{prefix}this is what the Docker Engine says, not what is loaded")


def _of_inspect(document: dict[str, Any], origin: str) -> Filters:
    """docker inspect's and podman inspect's document about a container."""
    bundle = document.get("OCIConfigPath")  # podman's
    if isinstance(bundle, str) and Path(bundle).exists():
        return _of_document(bundle, json.loads(_data(bundle)), frozenset())
    config = document.get("HostConfig") or {}
    engine = "podman" if bundle is not None else "docker"
    profile = profile_of(config, engine)
    if profile is None:
        return Filters((), f"{origin}: it has no seccomp filter", False)
    if not any(str(option).startswith("seccomp=") for option in config.get("SecurityOpt") or []):
        origin += f": the engine's own profile, for which {engine}'s built-in one is taken as safedlv knows it"
    return made_from(profile, origin, _capabilities(config))


def profile_of(config: dict[str, Any], engine: str) -> Profile | None:
    """The profile that a HostConfig asks for; None: no filter. Raises SafedlvError, ValueError."""
    options = [str(option) for option in config.get("SecurityOpt") or []]
    chosen = [option.partition("=")[2] for option in options if option.startswith("seccomp=")]
    if config.get("Privileged") or chosen[-1:] == ["unconfined"]:
        return None
    if not chosen or chosen[-1] == "builtin":
        return shipped(engine)
    text = chosen[-1] if chosen[-1].lstrip().startswith("{") else _data(chosen[-1])
    return parsed(text)


def _capabilities(config: dict[str, Any]) -> frozenset[str]:
    """The bounding set of a container (moby oci/caps/utils.go, TweakCapabilities)."""
    added, dropped = (frozenset(_bare(str(one)) for one in config.get(key) or []) for key in ("CapAdd", "CapDrop"))
    if "all" in added:
        return frozenset(CAPABILITIES) - dropped
    return added | (frozenset() if "all" in dropped else frozenset(DOCKERS_CAPABILITIES) - dropped)


def _bare(name: str) -> str:
    return name.lower().removeprefix("cap_")


# ---------------------------------------------------------------- of a file


def _data(text: str) -> bytes:
    try:
        if text == _INPUT:
            return sys.stdin.buffer.read(_LARGEST_FILE)
        with Path(text).open("rb") as file:
            return file.read(_LARGEST_FILE)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"cannot read {printable(text)}: {reason}",
            "write a PID, docker:NAME, name:PATTERN, docker, containerd, podman, a FILE, or - for standard input",
        ) from error


def _of_bytes(text: str, data: bytes) -> Filters:
    """A program as ``show --as bpf`` writes it."""
    if data.lstrip()[:1] in (b"{", b"["):
        raise UsageError(f"{printable(text)}: it begins like JSON and is none")
    try:
        program = bpf.load(data)
    except bpf.BadProgramError as error:
        raise UsageError(
            f"{printable(text)}: neither JSON nor a program that the kernel would take: {error}"
        ) from error
    return Filters((program,), f"the program in {_called(text)}", False)


def _called(text: str) -> str:
    return "standard input" if text == _INPUT else printable(text)


def _of_document(text: str, document: Any, usual: frozenset[str]) -> Filters:
    """A profile, a bundle's config.json, or what crictl, docker or podman inspect print."""
    where = _called(text)
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    if not isinstance(document, dict):
        raise UsageError(f"{where}: it is no seccomp profile, no bundle's config.json, and no container's description")
    if "defaultAction" in document:
        return made_from(document, f"the profile in {where}", usual)
    if "HostConfig" in document:
        return _of_inspect(document, f"this is what the engine said in {where}, not what is loaded")
    info = document.get("info")
    spec = info.get("runtimeSpec") if isinstance(info, dict) else document if "ociVersion" in document else None
    if not isinstance(spec, dict):
        raise UsageError(f"{where}: it is no seccomp profile, no bundle's config.json, and no container's description")
    origin = f"this is what the runtime was told by {where}, not what is loaded"
    profile = (spec.get("linux") or {}).get("seccomp")
    if not profile:
        return Filters((), f"{origin}: it has no seccomp filter", False)
    bounding = ((spec.get("process") or {}).get("capabilities") or {}).get("bounding") or []
    return made_from(profile, origin, frozenset(_bare(str(name)) for name in bounding))


# ---------------------------------------------------------------- profiles


def made_from(profile: Profile, origin: str, capabilities: frozenset[str]) -> Filters:
    """The program that runc makes of a profile on this machine.

    Raises UsageError for what is no profile, SafedlvError where libseccomp is not there or does not take it.
    """
    host = os.uname()
    held = frozenset(f"CAP_{name.upper()}" for name in capabilities)
    try:
        found = rules_of(profile, machine(host.machine, host.release), held)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UsageError(f"{origin}: {printable(str(error))}") from error
    return Filters((_checked(Libseccomp().program(found)),), origin, False, profile)


def shipped(name: str) -> Profile:
    """A profile of :data:`SHIPPED`."""
    return parsed(resources.files("safedlv.seccomp").joinpath(SHIPPED[name]).read_text("utf-8"))


def parsed(text: str | bytes) -> Profile:
    """A profile from JSON. Raises ValueError."""
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("it is no seccomp profile: no JSON object")
    return document


def base(text: str) -> Profile:
    """The profile that ``--base`` names. Raises UsageError, SafedlvError; ValueError when it is no JSON."""
    if text in SHIPPED:
        return shipped(text)
    if text.startswith("docker:"):
        from safedlv.runtimes.docker import inspect

        name = text.removeprefix("docker:").partition("/")[0]
        profile = profile_of(inspect(name).get("HostConfig") or {}, "docker")
        if profile is None:
            raise SafedlvError(f"container {printable(name)} has no seccomp filter: none has to be changed for dlv")
        return profile
    if is_target(text):
        return _of_programs(_of_target(text))
    try:
        return parsed(Path(text).read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {printable(text)}: {error.strerror}", f"--base is {BASES}") from error


def _of_programs(found: Filters) -> Profile:
    """A profile that says what loaded programs do. Raises SafedlvError when there is no such profile."""
    from safedlv.seccomp.rules import profile, rules

    if not found.programs:
        raise SafedlvError(f"{found.origin}: none has to be changed for dlv")
    library = Libseccomp()
    native = library.tokens[library.native]
    others = [one.audit for one in rules(found.programs) if one.audit not in (None, native)]
    audits = [native, *(audit for audit in others if audit is not None and library.arch_name(audit))]
    architectures = [f"SCMP_ARCH_{str(library.arch_name(audit)).upper()}" for audit in audits]
    x32 = answer(found.programs, Call(native, X32_BIT)).value
    if library.native == "x86_64" and outcome(x32) != "killed":  # read(2) of x32
        architectures.append("SCMP_ARCH_X32")
    try:
        made = profile(found.programs, {audit: partial(library.name_of, audit) for audit in audits}, architectures)
        made_from(made, "what was made of it", frozenset())  # libseccomp has to take it
    except (ValueError, SafedlvError) as error:
        raise SafedlvError(
            f"what is loaded cannot be said as a profile: {error}", "give the profile that it was made from with --base"
        ) from error
    return made

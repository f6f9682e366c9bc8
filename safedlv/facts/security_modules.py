"""The Linux security modules and a process's label under each: /sys/kernel/security/lsm, /proc/PID/attr."""

from __future__ import annotations

import os

from attrs import evolve

from safedlv.facts import landlock
from safedlv.facts.procfs import ProcDir
from safedlv.facts.reading import decimal, parsed, read, read_system, unknown
from safedlv.model import SecurityModules, Unknown

LSM_LIST = "/sys/kernel/security/lsm"
FILESYSTEMS = "/proc/filesystems"
APPARMOR_ENABLED = "/sys/module/apparmor/parameters/enabled"
YAMA_SCOPE = "/proc/sys/kernel/yama/ptrace_scope"

LABEL_FILES = {
    "apparmor": ("attr/apparmor/current", "attr/current"),  # a directory of its own since Linux 5.8 (6413f852ce08)
    "selinux": ("attr/current",),
    "smack": ("attr/smack/current", "attr/current"),
}
"""Where a module shows a process's label, best first: attr/current belongs to whichever module comes first."""

MODULE_FILESYSTEMS = {"selinux": "selinuxfs", "smack": "smackfs"}
"""The file system that a module registers exactly when it is enabled."""


def read_security_modules(procdir: ProcDir, count_landlock_layers: bool = False) -> SecurityModules:
    """What is loaded, and the process's labels.

    ``count_landlock_layers`` forks a child that uses up the caller's free Landlock layers in itself, so the caller
    should have one thread only; without it ``landlock_free_layers`` is None.
    """
    loaded = parsed(read_system(LSM_LIST), parse_lsm_list, LSM_LIST)
    abi = landlock.abi_version()
    return SecurityModules(
        loaded=loaded,
        apparmor=_label(procdir, "apparmor", loaded),
        selinux=_label(procdir, "selinux", loaded),
        smack=_label(procdir, "smack", loaded),
        yama_scope=yama_scope(loaded),
        landlock_abi=abi,
        landlock_free_layers=landlock.free_layers() if count_landlock_layers and abi is not None else None,
    )


def labels_beside(procdir: ProcDir, machine: SecurityModules) -> SecurityModules:
    """The labels of another process of a machine whose modules have been read: what is loaded is not read again."""
    return evolve(
        machine,
        apparmor=_label(procdir, "apparmor", machine.loaded),
        selinux=_label(procdir, "selinux", machine.loaded),
        smack=_label(procdir, "smack", machine.loaded),
        landlock_free_layers=None,
    )


def parse_lsm_list(data: bytes) -> tuple[str, ...]:
    """The names in /sys/kernel/security/lsm, in the kernel's order of asking; ValueError when it is no such list."""
    text = data.decode("ascii").strip("\n\0")
    names = tuple(text.split(",")) if text else ()
    if not all(name.isidentifier() for name in names):
        raise ValueError("not a list of security modules")
    return names


def parse_label(data: bytes) -> str:
    """A label as attr/current gives it: SELinux ends it with a NUL, AppArmor with a newline, Smack with nothing."""
    return os.fsdecode(data).rstrip("\n\0")


def yama_scope(loaded: tuple[str, ...] | Unknown) -> int | Unknown | None:
    """kernel.yama.ptrace_scope; None when Yama is not in this kernel (Documentation/admin-guide/LSM/Yama.rst)."""
    scope = parsed(read_system(YAMA_SCOPE), decimal, YAMA_SCOPE)
    if not (isinstance(scope, Unknown) and scope.errno == "ENOENT"):
        return scope
    if isinstance(loaded, Unknown):  # Yama always makes its sysctl; without /proc/sys nothing is known
        return None if os.path.isdir("/proc/sys/kernel") else scope
    return scope if "yama" in loaded else None


def _label(procdir: ProcDir, module: str, loaded: tuple[str, ...] | Unknown) -> str | Unknown | None:
    present = _enabled(module) if isinstance(loaded, Unknown) else module in loaded
    if isinstance(present, Unknown):
        return present
    return _read_label(procdir, module) if present else None


def _read_label(procdir: ProcDir, module: str) -> str | Unknown:
    label: bytes | Unknown = Unknown("ENOENT", f"{procdir.path}/attr")
    for name in LABEL_FILES[module]:
        label = read(procdir, name)
        if not (isinstance(label, Unknown) and label.errno == "ENOENT"):
            break
    return label if isinstance(label, Unknown) else parse_label(label)


def _enabled(module: str) -> bool | Unknown:
    """Whether a module is at work, where the list is hidden (a container without securityfs)."""
    if module == "apparmor":
        return _apparmor_enabled()
    known = read_system(FILESYSTEMS)
    if isinstance(known, Unknown):
        return known
    return MODULE_FILESYSTEMS[module].encode() in known.split()


def _apparmor_enabled() -> bool | Unknown:
    enabled = read_system(APPARMOR_ENABLED)
    if not isinstance(enabled, Unknown):
        return enabled.strip() == b"Y"
    if enabled.errno != "ENOENT":
        return enabled
    try:
        os.stat("/sys/module")
    except OSError as error:  # no sysfs here: a missing file says nothing
        return unknown(error, APPARMOR_ENABLED)
    return False

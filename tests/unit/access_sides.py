"""Sides of the access table, made up: what its tests share."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from safedlv.capabilities import CAPABILITIES, capability_mask
from safedlv.diagnosis.sides import (
    INITIAL_PID_NAMESPACE,
    INITIAL_USER_NAMESPACE,
    AppArmorProfile,
    Side,
    UserNamespace,
    World,
)
from safedlv.model import CapabilitySets, Ids, Unknown

FULL = (1 << len(CAPABILITIES)) - 1
DOCKER = 0xA80425FB
PTRACE = capability_mask(["sys_ptrace"])
INIT = (UserNamespace(INITIAL_USER_NAMESPACE, 0),)
UNCONFINED = AppArmorProfile("unconfined", "unconfined")
NO_PTRACE = AppArmorProfile("no-ptrace", "enforce", (), ())
NOT_KNOWN = Unknown("EACCES", "somewhere")
MATRIX_MODULES = ("lockdown", "capability", "landlock", "yama", "apparmor")


def caps(permitted: int, effective: int | None = None) -> CapabilitySets:
    return CapabilitySets(0, permitted, permitted if effective is None else effective, permitted, 0)


def ids(*numbers: int) -> Ids:
    real, effective, saved = numbers * 3 if len(numbers) == 1 else numbers
    return Ids(real, effective, saved, effective)


def side(**changes: Any) -> Side:
    """A process about which everything is known, and that nothing keeps from being traced by its like."""
    plain = Side(
        pid=10,
        tgid=10,
        uid=ids(0),
        gid=ids(0),
        capabilities=caps(DOCKER),
        user_ns=INIT,
        mm_user_ns=INIT,
        dumpable=True,
        kernel_thread=False,
        state="S",
        tracer_pid=0,
        ancestors=(5, 1),
        ptracer=None,
        seccomp=None,
        landlock=(),
        apparmor=None,
        selinux=None,
        smack=None,
        pid_ns=(INITIAL_PID_NAMESPACE,),
        visible=True,
    )
    return evolve(plain, **changes)


TARGET = side(pid=20, tgid=20)
QUIET = World(("capability",), None, 0, False, False, True, True)


def inner(*inodes: int, owner: int | Unknown = 0) -> tuple[UserNamespace, ...]:
    return (*(UserNamespace(inode, owner) for inode in inodes), *INIT)

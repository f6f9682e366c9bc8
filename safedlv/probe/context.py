"""A security context as a value: all that a process's ptrace calls are judged by, and the steps that take it on.

A :class:`Context` is read from a process (probe/sources.py), changed one layer at a time (:meth:`Context.as_user`,
:meth:`Context.without_filters`, ...), and taken on by a fresh child (probe/elsewhere.py). Each part of it is a
:class:`~safedlv.linux.steps.Step`, which can say what it does and do it to the calling process; the
order is in :func:`steps`. Nothing here is decided and nothing runs until a step is taken.

What cannot be taken on: a Landlock domain (the kernel shows it to nobody), a label that this process may not change
to, securebits, a place among the target's ancestors. The cgroup is not joined: no rule of ptrace asks for it, and one
that is frozen would hold the child.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Final, Self

from attrs import evolve, frozen

from safedlv.capabilities import CAPABILITY_BITS, capability_names
from safedlv.errors import printable
from safedlv.linux import confine
from safedlv.linux.steps import Step, ambient, inheritable_and_bounding, seccomp_filter, set_uids
from safedlv.model import CapabilitySets, Ids
from safedlv.values import Value

JOIN_ORDER: Final = ("ipc", "uts", "net", "cgroup", "time", "mnt")
"""mnt last, for it changes what paths mean. pid is entered by the fork, and user after the ids (see :func:`steps`)."""

_CAP_SYS_ADMIN: Final = 1 << CAPABILITY_BITS["sys_admin"]


@frozen(eq=False, repr=False)
class NamespaceLink(Value):
    """One namespace of a process. ``fd`` holds it open; None: it is the reader's own."""

    kind: str
    inode: int
    fd: int | None


@frozen(eq=False, repr=False)
class Context(Value):
    """The context of a process, or of one that does not exist. Ids are numbered as the reader's user namespace does.

    It holds namespaces open: use it as a context manager, or close it; copies made by the methods share them.
    """

    who: str
    """For people: ``process 12``, ``docker exec beside process 12``."""
    source: int
    """The PID of the process that it was read from."""
    namespaces: tuple[NamespaceLink, ...]
    uid: Ids
    gid: Ids
    groups: tuple[int, ...]
    capabilities: CapabilitySets
    no_new_privs: bool
    filters: tuple[bytes, ...]
    """seccomp programs, the one that was loaded first comes first."""
    labels: tuple[tuple[str, str], ...]
    """(security module, label) where the label is another than the reader's."""
    unread: tuple[str, ...] = ()
    """What could not be read, a sentence each that begins with the part's name."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the namespaces, for every copy too."""
        for link in self.namespaces:
            if link.fd is not None:
                os.close(link.fd)

    def namespace(self, kind: str) -> NamespaceLink | None:
        """The namespace of one kind, where it is another than the reader's."""
        return next((link for link in self.namespaces if link.kind == kind and link.fd is not None), None)

    def describe(self) -> list[str]:
        """What taking it on will do, in order, one line each."""
        pid = self.namespace("pid")
        forks = ["fork into the pid namespace, and open a /proc of it that is mounted nowhere"] if pid else []
        return forks + [step.text for step in steps(self)]

    # ------------------------------------------------------------ the same with one layer changed

    def without_filters(self) -> Context:
        """No seccomp program."""
        return evolve(self, filters=(), unread=self._read_but("seccomp"))

    def with_filters(self, *programs: bytes) -> Context:
        """Exactly these seccomp programs, in this order."""
        return evolve(self, filters=programs, unread=self._read_but("seccomp"))

    def with_capability(self, *names: str) -> Context:
        """These too in the bounding, permitted and effective sets. KeyError for a name that is none."""
        mask = sum(1 << CAPABILITY_BITS[name] for name in set(names))
        sets = self.capabilities
        return self.with_capabilities(
            evolve(
                sets,
                bounding=sets.bounding | mask,
                permitted=sets.permitted | mask,
                effective=sets.effective | mask,
            )
        )

    def without_capability(self, *names: str) -> Context:
        """These in none of the five sets. KeyError for a name that is none."""
        mask = sum(1 << CAPABILITY_BITS[name] for name in set(names))
        sets = self.capabilities
        kept = (sets.inheritable, sets.permitted, sets.effective, sets.bounding, sets.ambient)
        return self.with_capabilities(CapabilitySets(*(value & ~mask for value in kept)))

    def with_capabilities(self, sets: CapabilitySets) -> Context:
        """These five sets instead."""
        return evolve(self, capabilities=sets)

    def as_user(self, uid: int, gid: int, groups: tuple[int, ...] | None = None) -> Context:
        """All four uids and gids (numbered as we see them), and the groups where given; no capability changes."""
        return evolve(
            self,
            uid=Ids(uid, uid, uid, uid),
            gid=Ids(gid, gid, gid, gid),
            groups=self.groups if groups is None else groups,
        )

    def with_namespaces_of(self, other: Context, *kinds: str) -> Context:
        """The namespaces of these kinds that ``other`` has (it has to stay open). ValueError for a kind it has not."""
        theirs = {link.kind: link for link in other.namespaces}
        if not set(kinds) <= theirs.keys():
            raise ValueError(f"{other.who} has no namespace of the kind {', '.join(set(kinds) - theirs.keys())}")
        return evolve(self, namespaces=tuple(theirs[n.kind] if n.kind in kinds else n for n in self.namespaces))

    def without_namespaces(self, *kinds: str) -> Context:
        """The reader's own namespaces of these kinds (the links stay open until the original is closed)."""
        kept = tuple(evolve(link, fd=None) if link.kind in kinds else link for link in self.namespaces)
        return evolve(self, namespaces=kept)

    def with_label(self, module: str, label: str | None) -> Context:
        """Another label under one security module; None: the reader's own."""
        others = tuple(pair for pair in self.labels if pair[0] != module)
        new = () if label is None else ((module, label),)
        return evolve(self, labels=others + new, unread=self._read_but(module))

    def with_no_new_privs(self, on: bool) -> Context:
        """no_new_privs or not."""
        return evolve(self, no_new_privs=on)

    def _read_but(self, part: str) -> tuple[str, ...]:
        return tuple(line for line in self.unread if not line.startswith(f"{part}:"))


# ---------------------------------------------------------------- the steps, in order


def steps(context: Context, own_procdir: int = -1) -> list[Step]:
    """What puts the calling process into a context, the PID namespace apart, which its fork has entered.

    ``own_procdir`` is the process's own open /proc/self; without it the steps are good for their text only.

    The ids change before the user namespace is joined: so they are those that we see, also where the namespace has no
    name for them, and joining it gives every capability inside it (kernel/user_namespace.c, set_cred_user_ns). The
    filters come last, with no_new_privs where CAP_SYS_ADMIN is gone by then (seccomp(2)): between the first filter and
    the probe there is no call that a filter could refuse, but the loading of the next.
    """
    joined = [_join(link) for kind in JOIN_ORDER if (link := context.namespace(kind))]
    user = context.namespace("user")
    sets = context.capabilities
    load = [seccomp_filter(program) for program in context.filters]
    return [
        *joined,
        *_ids(context),
        *([_join(user)] if user else []),
        # Whoever lives in there may not look into a process that came from outside (as runc since CVE-2016-9962).
        Step("set dumpable to 0", partial(confine.set_dumpable, False)),
        _clipped(sets, inheritable_and_bounding),
        _clipped(sets, ambient),
        *[_label(module, label, own_procdir) for module, label in context.labels],
        _permitted(sets),
        *_no_new_privs(context),
        *load,
    ]


def _join(link: NamespaceLink) -> Step:
    assert link.fd is not None
    return Step(f"join the {link.kind} namespace {link.inode}", partial(confine.setns, link.fd, link.kind))


def _ids(context: Context) -> list[Step]:
    gid, uid = context.gid, context.uid

    def gids() -> None:
        os.setresgid(gid.real, gid.effective, gid.saved)
        confine.setfsgid(gid.filesystem)

    def groups() -> None:
        if set(os.getgroups()) != set(context.groups):  # without privilege even the same ones are refused
            os.setgroups(context.groups)

    def uids() -> None:
        set_uids(uid.real, uid.effective, uid.saved)
        confine.setfsuid(uid.filesystem)

    return [
        Step(f"setgroups {list(context.groups)}", groups),
        Step(f"set the gids to {_listed(gid)}", gids),
        Step(f"set the uids to {_listed(uid)}", uids),
    ]


def _listed(ids: Ids) -> str:
    numbers = (ids.real, ids.effective, ids.saved, ids.filesystem)
    return str(numbers[0]) if len(set(numbers)) == 1 else ", ".join(map(str, numbers))


def _clipped(sets: CapabilitySets, make: Callable[[CapabilitySets], Step]) -> Step:
    """A step on the sets, as far as they are ours to give: what is not, the step on the permitted set says."""

    def apply() -> None:
        make(_within(sets, confine.capget()[1])).apply()

    return Step(make(sets).text, apply)


def _permitted(sets: CapabilitySets) -> Step:
    def apply() -> None:
        possible = _within(sets, confine.capget()[1])
        confine.capset(possible.effective, possible.permitted, possible.inheritable)
        beyond = (sets.permitted | sets.inheritable) & ~(possible.permitted | possible.inheritable)
        if beyond:
            raise PermissionError(errno.EPERM, f"not ours to give: {', '.join(capability_names(beyond))}")

    return Step(f"set permitted to {sets.permitted:#x} and effective to {sets.effective:#x}", apply)


def _within(sets: CapabilitySets, mask: int) -> CapabilitySets:
    return CapabilitySets(
        inheritable=sets.inheritable & mask,
        permitted=sets.permitted & mask,
        effective=sets.effective & mask,
        bounding=sets.bounding,
        ambient=sets.ambient & sets.inheritable & mask,
    )


def _no_new_privs(context: Context) -> list[Step]:
    if context.no_new_privs:
        return [Step("set no_new_privs", confine.set_no_new_privs)]
    if context.filters and not context.capabilities.effective & _CAP_SYS_ADMIN:
        text = "set no_new_privs, which the context has not: to load its filters, and without effect before an execve"
        return [Step(text, confine.set_no_new_privs)]
    return []


# ---------------------------------------------------------------- labels


def _label(module: str, label: str, own_procdir: int) -> Step:
    """Change the label now, not at the next execve (proc_pid_attr(5)): AppArmor takes a command, others the label."""
    name = label.rpartition(" (")[0] or label  # AppArmor shows the mode in parentheses
    text = f"changeprofile {name}" if module == "apparmor" else label

    def apply() -> None:
        try:
            fd = os.open(f"attr/{module}/current", os.O_WRONLY | os.O_CLOEXEC, dir_fd=own_procdir)
        except FileNotFoundError:  # SELinux has no directory of its own, AppArmor none before Linux 5.8
            fd = os.open("attr/current", os.O_WRONLY | os.O_CLOEXEC, dir_fd=own_procdir)
        try:
            os.write(fd, os.fsencode(text))
        finally:
            os.close(fd)

    return Step(f"{module}: change the label to {printable(label)}", apply)

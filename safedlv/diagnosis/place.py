"""Where target and tracer stand, as far as remedies and their commands depend on it. Pure."""

from __future__ import annotations

import re

from attrs import evolve, frozen

from safedlv.model import CapabilitySets, Ids, ProcessFacts, Target, Tracer, Unknown, known
from safedlv.values import Value

_NAME = re.compile(r"[a-zA-Z0-9._-]+")
"""Of a container (moby daemon/names) or a Compose service (its schema); whatever else is there is no name."""


@frozen(eq=False, repr=False)
class Place(Value):
    """A target and a tracer. Numbers are as we see them unless they are called inner; None: not known."""

    pid: int
    inner_pid: int | None = None
    """The target's PID in its own PID namespace."""
    uid: int | None = None
    gid: int | None = None
    inner_uid: int | None = None
    """The target's ids as its container numbers them; None also where that is not known."""
    inner_gid: int | None = None
    one_user: bool = False
    """The target's real, effective and saved ids are one: somebody can be its user (the kernel compares all three)."""
    permitted: int | None = None
    """The target's permitted capabilities, as a mask."""
    yama_scope: int | None = None
    apparmor: str | None = None
    """The target's AppArmor profile."""
    cgroup: str | None = None
    """The cgroup that is frozen."""
    pids_max: int | None = None
    memory_max: int | None = None
    """Bytes."""
    tracer_uid: int = 0
    tracer_gid: int = 0
    tracer_caps: int = 0
    """The tracer's effective capabilities, as a mask; 0 where they are not known."""
    inside: bool = False
    """The tracer stands in a container."""
    exec_as: str | None = None
    """The tracer's user there, ``UID`` or ``UID:GID`` as the container numbers them; None: the container's own."""
    runtime: str | None = None
    """What runs the container that the commands are for: docker, podman, kubernetes; None: unknown, or a plain host."""
    container: str | None = None
    service: str | None = None
    """The Compose service that the container belongs to."""

    @property
    def name(self) -> str:
        """The container in commands, where it is known."""
        return self.container or "NAME"

    def without_names(self) -> Place:
        """The same, with placeholders for what the user calls things, and for what is often a path."""
        return evolve(
            self,
            container=self.container and "NAME",
            service=self.service and "SERVICE",
            apparmor=self.apparmor and "TARGET",
            cgroup=self.cgroup and "UNIT.service",
        )

    @property
    def containers(self) -> bool:
        """A container has a part in it."""
        return self.inside or self.container is not None


def place_of(
    target: Target,
    facts: ProcessFacts | None,
    tracer: Tracer,
    *,
    inside: bool = False,
    runtime: str | None = None,
    service: str | None = None,
) -> Place:
    """The place as facts tell it. ``inside``, ``runtime``: of the tracer; the target's own runtime comes first."""
    inner_pid = None if isinstance(target.inner_pid, Unknown) else target.inner_pid
    caps = known(tracer.capabilities, 0)
    place = Place(
        pid=target.pid,
        inner_pid=inner_pid,
        tracer_uid=tracer.uid,
        tracer_gid=tracer.gid,
        tracer_caps=caps,
        inside=inside,
        exec_as=_exec_as(tracer, inside=inside),
        runtime=target.runtime or runtime,
        container=target.container if _NAME.fullmatch(target.container or "") else None,
        service=service if _NAME.fullmatch(service or "") else None,
    )
    # Inside, our numbers are the container's; from outside they are if it has no user namespace of its own.
    return place if facts is None else _with_facts(place, facts, numbered_alike=inside and tracer.who == "self")


def _with_facts(place: Place, facts: ProcessFacts, *, numbered_alike: bool) -> Place:
    status, cgroup, label = facts.status, facts.cgroup, facts.modules.apparmor
    uid, gid = (_one(status.uid), _one(status.gid))
    same_numbers = numbered_alike or any(link.kind == "user" and link.same is True for link in facts.namespaces)
    return evolve(
        place,
        uid=uid[0],
        gid=gid[0],
        inner_uid=uid[0] if same_numbers else None,
        inner_gid=gid[0] if same_numbers else None,
        one_user=uid[1] and gid[1],
        permitted=status.capabilities.permitted if isinstance(status.capabilities, CapabilitySets) else None,
        yama_scope=None if isinstance(facts.modules.yama_scope, Unknown) else facts.modules.yama_scope,
        apparmor=label.rpartition(" (")[0] or label if isinstance(label, str) else None,
        cgroup=cgroup.frozen_by,
        pids_max=None if isinstance(cgroup.pids_max, Unknown) else cgroup.pids_max,
        memory_max=None if isinstance(cgroup.memory_max, Unknown) else cgroup.memory_max,
    )


def _exec_as(tracer: Tracer, *, inside: bool) -> str | None:
    """From ``--tracer container:UID[:GID]``; or of us, inside, who may be another user than the container's."""
    kind, _, user = tracer.who.partition(":")
    if kind == "container":
        return user or None
    return f"{tracer.uid}:{tracer.gid}" if kind == "self" and inside else None


def _one(ids: Ids | Unknown) -> tuple[int | None, bool]:
    """The real id, and whether the other two are the same."""
    if isinstance(ids, Unknown):
        return None, False
    return ids.real, ids.real == ids.effective == ids.saved

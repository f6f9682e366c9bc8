"""The change that was shown to be enough, as what to type. Pure. So far: another user in the same container."""

from __future__ import annotations

from safedlv.model import ProcessFacts, Target, Unknown


def commands(changes: tuple[str, ...], target: Target, facts: ProcessFacts) -> tuple[tuple[str, str], ...]:
    """(runtime, command) for a set of changes (``user``, ``seccomp``, ``cap:NAME``) on a target.

    A user is chosen by ``docker exec --user`` and needs nothing of the container changed. Where the container has a
    user namespace of its own its numbers are others than ours, and no command is given. All other changes mean a
    container that is started differently, which one command cannot say of an existing one.
    """
    uid, gid = facts.status.uid, facts.status.gid
    if changes != ("user",) or target.runtime != "docker" or isinstance(uid, Unknown) or isinstance(gid, Unknown):
        return ()
    if not any(link.kind == "user" and link.same is True for link in facts.namespaces):
        return ()
    if isinstance(target.inner_pid, Unknown) or target.inner_pid is None:
        return ()
    user = f"{uid.real}:{gid.real}"
    return (("docker", f"docker exec -it --user {user} {target.container} dlv attach {target.inner_pid}"),)

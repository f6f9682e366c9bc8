"""What to type, or to write into a file, to make a set of changes: one text per runtime. Pure.

The table :data:`ENGINE` says what one change is to a container engine; the functions below merge what the changes ask
for into one text. A runtime has a text only when it can make all of the changes. ``...`` stands for the options that a
container is started with anyway (but for those that these replace), its image and its command; NAME, POD, IMAGE and
the like are for the reader to fill in.

Sources: docker-run(1), docker-exec(1), the Compose specification, containers.dev's devcontainer.json reference,
kubectl-debug(1), Kubernetes' "Configure a Security Context", systemd.exec(5), sudo(8).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable

from attrs import frozen

from safedlv.diagnosis.place import Place

PROFILE = "dlv-seccomp.json"
"""The file that the commands make and use."""
ROOM_FOR_DLV = 64
"""Threads; dlv's runtime starts about 20."""
MEMORY_FOR_DLV = 256 << 20
"""Bytes; dlv on a middling program takes about this much."""


@frozen
class Parts:
    """What one change is to a container engine."""

    before: tuple[str, ...] = ()
    """Commands of their own."""
    run: tuple[str, ...] = ()
    """Options of ``run``: the container has to be made anew."""
    exec: tuple[str, ...] = ()
    """Options of ``exec``."""


ENGINE = {
    "user": Parts(exec=("--user {inner_uid}:{inner_gid}",)),
    "root": Parts(exec=("--user 0:0",)),
    "cap": Parts(run=("--cap-add={capability}",)),
    "seccomp": Parts(
        before=("safedlv seccomp generate --for dlv --base {base} -o " + PROFILE,),
        run=("--security-opt seccomp=" + PROFILE,),
    ),
    "namespace:pid": Parts(),
    "namespace:user": Parts(),
    "thaw": Parts(before=("{engine} unpause {name}",)),
    "limit:pids": Parts(before=("{engine} update --pids-limit {pids} {name}",)),
    "limit:memory": Parts(before=("{engine} update --memory {memory} --memory-swap {memory} {name}",)),
}
"""By the change's id, ``cap`` for every capability. ``exec`` by itself joins the container's namespaces."""
BASES = {"docker": "docker:{name}", "podman": "/usr/share/containers/seccomp.json"}
"""The profile to start from; podman's is a file (containers-common)."""
LIVING = frozenset({"thaw", "limit:pids", "limit:memory"})
"""After these, the same attempt is to be made again."""


def commands(ids: tuple[str, ...], place: Place) -> tuple[tuple[str, str], ...]:
    """(runtime, text) for the changes, the most fitting runtime first; () where nothing can be typed."""
    texts = ((runtime, RUNTIMES[runtime](ids, place)) for runtime in _order(place))
    return tuple((runtime, text) for runtime, text in texts if text)


def _order(place: Place) -> tuple[str, ...]:
    """By where the tracer stands."""
    if not place.containers:
        return ("host", "systemd", "apparmor")
    if place.runtime == "kubernetes":
        return ("kubectl-debug", "kubernetes", "apparmor")
    engines = ("podman",) if place.runtime == "podman" else ("compose", "docker") if place.service else ("docker",)
    first = (engines[0], "host") if place.inside else ("host", engines[0])
    others = ("docker", "compose", "devcontainer", "podman", "kubectl-debug", "kubernetes", "apparmor")
    return tuple(dict.fromkeys((*first, *others)))


# ---------------------------------------------------------------- container engines


def _kind(change: str) -> str:
    return "cap" if change.startswith("cap:") else change


def _parts(ids: tuple[str, ...], place: Place, engine: str = "docker") -> Parts | None:
    """All changes' parts, their fields filled in; None when one of them is nothing that an engine can make."""
    if any(_kind(change) not in ENGINE for change in ids):
        return None
    if "user" in ids and (place.inner_uid is None or place.inner_gid is None):
        return None
    if ("limit:pids" in ids and not place.pids_max) or ("limit:memory" in ids and not place.memory_max):
        return None
    name = shlex.quote(place.name)
    values = {
        "engine": engine,
        "name": name,
        "inner_uid": place.inner_uid,
        "inner_gid": place.inner_gid,
        "base": BASES[engine].format(name=name),
        "pids": (place.pids_max or 0) + ROOM_FOR_DLV,
        "memory": (place.memory_max or 0) + MEMORY_FOR_DLV,
    }

    def filled(field: str) -> tuple[str, ...]:
        return tuple(
            part.format(capability=change.partition(":")[2].upper(), **values)
            for change in ids
            for part in getattr(ENGINE[_kind(change)], field)
        )

    same_user = () if {"user", "root"} & set(ids) or place.exec_as is None else (f"--user {place.exec_as}",)
    return Parts(filled("before"), filled("run"), (*same_user, *filled("exec")))


def _attach(place: Place) -> str:
    return f"dlv attach {place.inner_pid or 'PID'}"


def _with_engine(ids: tuple[str, ...], place: Place, engine: str) -> str:
    """Commands for a shell, one a line."""
    parts = _parts(ids, place, engine)
    if parts is None:
        return ""
    lines = list(parts.before)
    if parts.run:
        lines.append(f"{engine} run {' '.join(parts.run)} ...")
    if not set(ids) <= LIVING:
        lines.append(_words(engine, "exec -it", *parts.exec, shlex.quote(place.name), _attach(place)))
    return "\n".join(lines)


def _words(*words: str) -> str:
    return " ".join(word for word in words if word)


def docker(ids: tuple[str, ...], place: Place) -> str:
    """docker run and docker exec."""
    return _with_engine(ids, place, "docker")


def podman(ids: tuple[str, ...], place: Place) -> str:
    """The same options as Docker's (podman-run(1), podman-exec(1))."""
    return _with_engine(ids, place, "podman")


def compose(ids: tuple[str, ...], place: Place) -> str:
    """A command where that is enough, else a file to be read after the project's own, its commands as comments."""
    parts = _parts(ids, place)
    if parts is None or set(ids) <= LIVING:
        return ""
    service = place.service or "SERVICE"
    attach = _words("docker compose exec", *parts.exec, shlex.quote(service), _attach(place))
    if not parts.run:
        return "\n".join([*parts.before, attach])
    up = ("docker compose -f compose.yaml -f compose.debug.yaml up -d", attach)
    return "\n".join(
        [
            "# compose.debug.yaml",
            *(f"# {line}" for line in (*parts.before, *up)),
            "services:",
            f"  {json.dumps(service)}:",  # JSON is YAML, where a bare no is false
            *_yaml_list("cap_add", _capabilities(ids), 4),
            *_yaml_list("security_opt", _security_options(ids), 4),
        ]
    )


def devcontainer(ids: tuple[str, ...], place: Place) -> str:
    """Properties to add to devcontainer.json; a comment is allowed there."""
    parts = _parts(ids, place)
    if parts is None or set(ids) <= LIVING:
        return ""
    added: dict[str, object] = {}
    uid = _runs_as(ids, place)[0]
    if uid is not None:
        added["remoteUser"] = str(uid) if uid else "root"
    if _capabilities(ids):
        added["capAdd"] = list(_capabilities(ids))
    if _security_options(ids):
        added["securityOpt"] = [f"seccomp=${{localWorkspaceFolder}}/{PROFILE}"]
    return "\n".join([*(f"// {line}" for line in parts.before), json.dumps(added, indent=2)]) if added else ""


def _runs_as(ids: tuple[str, ...], place: Place) -> tuple[int | None, int | None]:
    """uid and gid of the debugger in its container; None where the container's own will do, or where not known."""
    if "user" in ids:
        return place.inner_uid, place.inner_gid
    if "root" in ids:
        return 0, 0
    uid, _, gid = (place.exec_as or "").partition(":")
    return int(uid) if uid else None, int(gid) if gid else None


def _capabilities(ids: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(change.partition(":")[2].upper() for change in ids if change.startswith("cap:"))


def _security_options(ids: tuple[str, ...]) -> tuple[str, ...]:
    return (f"seccomp=./{PROFILE}",) if "seccomp" in ids else ()


def _yaml_list(key: str, values: tuple[str, ...], indent: int) -> list[str]:
    return [" " * indent + f"{key}:", *(" " * indent + f"  - {value}" for value in values)] if values else []


# ---------------------------------------------------------------- Kubernetes

IN_A_POD = frozenset({"user", "root", "cap", "seccomp", "namespace:pid", "namespace:user"})


def _security_context(ids: tuple[str, ...], place: Place) -> dict[str, object] | None:
    """The securityContext of a container; None when it cannot say all of the changes."""
    if any(_kind(change) not in IN_A_POD for change in ids) or ("user" in ids and place.inner_uid is None):
        return None
    uid, gid = _runs_as(ids, place)
    if uid is None and _capabilities(ids):
        uid = 0  # others hold none of them
    made: dict[str, object] = {}
    made |= {"runAsUser": uid} if uid is not None else {}
    made |= {"runAsGroup": gid} if gid is not None else {}
    made |= {"runAsNonRoot": False} if uid == 0 else {}
    if _capabilities(ids):
        made["capabilities"] = {"add": list(_capabilities(ids))}
    if "seccomp" in ids:
        made["seccompProfile"] = {"type": "Localhost", "localhostProfile": PROFILE}
    return made


def kubectl_debug(ids: tuple[str, ...], place: Place) -> str:
    """An ephemeral container beside the target: nothing of the pod has to be started anew (kubectl 1.32: --custom)."""
    context = _security_context(ids, place)
    if context is None:
        return ""
    spec = json.dumps({"securityContext": context}) if context else ""
    write = [f"echo {shlex.quote(spec)} > debugger.json"] if spec else []
    options = "--profile=baseline" + (" --custom=debugger.json" if spec else "")
    target = "--image=IMAGE --target=CONTAINER"
    return "\n".join([*_node_profile(ids), *write, f"kubectl debug -it POD {target} {options} -- {_attach(place)}"])


def kubernetes(ids: tuple[str, ...], place: Place) -> str:
    """A patch of a Deployment's container, for a debugger that ``kubectl exec`` starts in it.

    Only for what the container as a whole gets: kubectl exec cannot choose a user, so that is left to kubectl debug.
    """
    context = _security_context(ids, place)
    if not context or {"user", "root"} & set(ids) or place.exec_as is not None:
        return ""
    body = [f"{key}: {json.dumps(context[key])}" for key in ("capabilities", "seccompProfile") if key in context]
    if not body:
        return ""
    return "\n".join(
        [
            *(f"# {line}" for line in _node_profile(ids)),
            "# kubectl patch deployment DEPLOYMENT --patch-file debug.yaml",
            f"# kubectl exec -it POD -c CONTAINER -- {_attach(place)}",
            "spec:",
            "  template:",
            "    spec:",
            "      containers:",
            "        - name: CONTAINER",
            "          securityContext:",
            *(f"            {line}" for line in body),
        ]
    )


def _node_profile(ids: tuple[str, ...]) -> list[str]:
    """A Localhost profile is a file of the node (Kubernetes: Restrict a Container's Syscalls with seccomp)."""
    if "seccomp" not in ids:
        return []
    return [f"safedlv seccomp generate --for dlv --base docker -o /var/lib/kubelet/seccomp/{PROFILE}"]


# ---------------------------------------------------------------- a plain host

NOT_ON_A_HOST = frozenset({"label:apparmor", "label:selinux", "label:smack", "namespace:user"})
"""Changes that no command makes there: labels are the policy's, and a user namespace is joined by its owner."""


def host(ids: tuple[str, ...], place: Place) -> str:
    """sudo, or systemd-run where a filter or a domain that a shell has inherited must be left behind."""
    if {"end-tracer", "reboot"} & set(ids):
        return ""
    if set(ids) <= {*LIVING, "delve"}:
        return "\n".join(_on_a_host[change](place) for change in ids if change in _on_a_host)
    target = f"docker:{shlex.quote(place.container)}" if place.container else str(place.pid)
    if place.inside:  # root outside is under none of the container's layers
        return f"sudo safedlv attach {target}" if place.container else ""
    if NOT_ON_A_HOST & set(ids):
        return ""
    as_user = "user" in ids and place.uid is not None
    if "user" in ids:
        target = str(place.pid)  # another user may not ask the engine
    if {"seccomp", "outside:landlock"} & set(ids) or (place.tracer_uid == 0 and "user" not in ids):
        user = f"--uid={place.uid} --gid={place.gid} " if as_user else ""
        return f"sudo systemd-run --pty {user}safedlv attach {target}"
    user = f"-u '#{place.uid}' -g '#{place.gid}' " if as_user else ""
    return f"sudo {user}safedlv attach {target}"


def _thawed(place: Place) -> str:
    """systemctl thaw, where the cgroup is a unit's (systemd.unit(5), for the characters of a name)."""
    unit = (place.cgroup or "").rpartition("/")[2]
    return f"sudo systemctl thaw {shlex.quote(unit)}" if _UNIT.fullmatch(unit) else ""


_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(service|scope|slice)")
_on_a_host: dict[str, Callable[[Place], str]] = {
    "thaw": lambda place: "" if place.containers else _thawed(place),
    "delve": lambda place: "go install github.com/go-delve/delve/cmd/dlv@latest",
}


def systemd(ids: tuple[str, ...], place: Place) -> str:
    """A drop-in for the unit that the debugger runs in (systemd.exec(5)); an ambient capability needs no root.

    SystemCallFilter= adds to an allow list that the unit has, takes from its deny list, and begins an allow list where
    the unit has neither; it cannot look at arguments.
    """
    kinds = {_kind(change) for change in ids}
    if not kinds <= {"user", "root", "cap", "seccomp"}:
        return ""
    lines = ["# systemctl edit UNIT", "[Service]"]
    if "user" in ids:
        lines += [f"User={place.uid}", f"Group={place.gid}"]
    elif "root" in ids:
        lines += ["User=0", "Group=0"]
    lines += [f"AmbientCapabilities=CAP_{name}" for name in _capabilities(ids)]
    if "seccomp" in ids:
        lines += ["# only in a unit that has a SystemCallFilter= already: without one, it would allow nothing else"]
        lines += ["SystemCallFilter=ptrace process_vm_readv kill tgkill wait4"]
    return "\n".join(lines)


def apparmor(ids: tuple[str, ...], place: Place) -> str:
    """The rules to add to the two profiles (apparmor.d(5)); DEBUGGER is the debugger's profile."""
    if "label:apparmor" not in ids or not place.apparmor:
        return ""
    target = json.dumps(place.apparmor)
    return "\n".join(
        [
            "# in the debugger's profile",
            f"ptrace (trace, read) peer={target},",
            f"signal (send) peer={target},",
            f"# in the target's profile, {target}",
            "ptrace (tracedby, readby) peer=DEBUGGER,",
            "signal (receive) peer=DEBUGGER,",
        ]
    )


RUNTIMES: dict[str, Callable[[tuple[str, ...], Place], str]] = {
    "docker": docker,
    "compose": compose,
    "devcontainer": devcontainer,
    "podman": podman,
    "kubectl-debug": kubectl_debug,
    "kubernetes": kubernetes,
    "systemd": systemd,
    "host": host,
    "apparmor": apparmor,
}
"""Every runtime that there is a text for, by its key in the JSON's ``commands``."""

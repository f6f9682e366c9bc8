"""The copy as something to type, or to write into a file: for those who start their containers themselves. Pure.

:func:`docker_run` says the whole container in docker run's options (docker-run(1)); what it has no option for stands
in a comment. :func:`patch` is the change alone, in the words of diagnosis/remedy_commands.py. No value of an
environment variable is shown: ``--env NAME`` takes it from the environment of whoever types it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any, Final

from safedlv.diagnosis.place import Place
from safedlv.diagnosis.remedy_commands import MEMORY_FOR_DLV, PROFILE, ROOM_FOR_DLV, commands
from safedlv.sibling.clone_networks import endpoints

Document = dict[str, Any]
SERVICE: Final = "com.docker.compose.service"


def patch(form: str, container: Document, ids: tuple[str, ...]) -> str:
    """The change for ``compose``, ``devcontainer`` or ``kubernetes``; "" where that cannot say it."""
    labels, host = container["Config"].get("Labels") or {}, container["HostConfig"]
    place = Place(
        pid=1,
        inner_pid=1,
        runtime="docker",
        container=container["Name"].lstrip("/"),
        service=labels.get(SERVICE),
        pids_max=host.get("PidsLimit") or None,
        memory_max=host.get("Memory") or None,
    )
    return dict(commands(ids, place)).get(form, "")


def docker_run(container: Document, image: Document, ids: tuple[str, ...]) -> str:
    """docker run with the container's own options and the change."""
    config, host, name = container["Config"], _changed(container["HostConfig"], ids), container["Name"].lstrip("/")
    copy = shlex.quote(f"{name}-debug")
    lines = [f"docker run --detach --name {copy}"]
    lines += [f"  {option}" for option in (*_of_config(config, image, container["Id"]), *_of_host(host))]
    lines += [f"  {option}" for option in _of_network(container)]
    command = [*(config.get("Entrypoint") or [])[1:], *(config.get("Cmd") or [])]
    lines.append("  " + " ".join(shlex.quote(str(word)) for word in (config["Image"], *command)))
    before = []
    if "seccomp" in ids:
        before.append(f"safedlv seccomp generate --for dlv --base docker:{shlex.quote(name)} -o {PROFILE}")
    if config.get("Env"):
        before.append("# --env NAME takes the value of NAME from the environment that this is typed in")
    rest = sorted(key for key, value in host.items() if _is_set(key, value) and key not in SAID)
    if rest:
        before.append(f"# not said below: {', '.join(rest)} (docker inspect {shlex.quote(name)})")
    return "\n".join([*before, " \\\n".join(lines), *_further_networks(container, copy)])


def _changed(host: Document, ids: tuple[str, ...]) -> Document:
    made = dict(host)
    capabilities = [change.partition(":")[2].upper() for change in ids if change.startswith("cap:")]
    made["CapAdd"] = [*(host.get("CapAdd") or []), *capabilities]
    if "seccomp" in ids:
        kept = [option for option in host.get("SecurityOpt") or [] if not str(option).startswith("seccomp")]
        made["SecurityOpt"] = [*kept, f"seccomp={PROFILE}"]
    if "limit:pids" in ids and host.get("PidsLimit"):
        made["PidsLimit"] += ROOM_FOR_DLV
    if "limit:memory" in ids and host.get("Memory"):
        made |= {key: host[key] + MEMORY_FOR_DLV for key in ("Memory", "MemorySwap") if (host.get(key) or 0) > 0}
    return made


# ---------------------------------------------------------------- what docker run calls it

Words = Callable[[Any], Iterator[str]]


def _one(option: str) -> Words:
    def words(value: Any) -> Iterator[str]:
        yield f"{option} {shlex.quote(str(value))}"

    return words


def _each(option: str) -> Words:
    def words(values: Any) -> Iterator[str]:
        for value in values:
            yield f"{option} {shlex.quote(str(value))}"

    return words


def _switch(option: str) -> Words:
    def words(value: Any) -> Iterator[str]:
        yield option

    return words


def _pairs(option: str) -> Words:
    def words(values: Any) -> Iterator[str]:
        for key, value in values.items():
            yield f"{option} {shlex.quote(f'{key}={value}')}"

    return words


def _tmpfs(values: Any) -> Iterator[str]:
    for path, how in values.items():
        yield f"--tmpfs {shlex.quote(f'{path}:{how}' if how else path)}"


def _restart(policy: Any) -> Iterator[str]:
    count = policy.get("MaximumRetryCount")
    yield f"--restart {policy['Name']}" + (f":{count}" if count else "")


def _log(log: Any) -> Iterator[str]:
    yield f"--log-driver {shlex.quote(log['Type'])}"
    yield from _pairs("--log-opt")(log.get("Config") or {})


def _devices(devices: Any) -> Iterator[str]:
    for one in devices:
        words = f"{one['PathOnHost']}:{one['PathInContainer']}:{one['CgroupPermissions']}"
        yield f"--device {shlex.quote(words)}"


def _ulimits(limits: Any) -> Iterator[str]:
    for one in limits:
        words = f"{one['Name']}={one['Soft']}:{one['Hard']}"
        yield f"--ulimit {shlex.quote(words)}"


def _mounts(mounts: Any) -> Iterator[str]:
    for one in mounts:
        fields = {"type": one.get("Type"), "source": one.get("Source"), "target": one.get("Target")}
        words = ",".join(f"{key}={value}" for key, value in fields.items() if value)
        yield f"--mount {shlex.quote(words + (',readonly' if one.get('ReadOnly') else ''))}"


def _security(options: Any) -> Iterator[str]:
    """A profile is kept as its text: the file that it was is not known."""
    for option in options:
        text = str(option)
        inline = text.startswith("seccomp={")
        yield f"--security-opt {shlex.quote('seccomp=PROFILE.json' if inline else text)}"


HOST: Final[dict[str, Words]] = {
    "Binds": _each("--volume"),
    "Mounts": _mounts,
    "Tmpfs": _tmpfs,
    "VolumesFrom": _each("--volumes-from"),
    "RestartPolicy": _restart,
    "LogConfig": _log,
    "CapAdd": _each("--cap-add"),
    "CapDrop": _each("--cap-drop"),
    "SecurityOpt": _security,
    "Privileged": _switch("--privileged"),
    "ReadonlyRootfs": _switch("--read-only"),
    "Init": _switch("--init"),
    "GroupAdd": _each("--group-add"),
    "Dns": _each("--dns"),
    "DnsOptions": _each("--dns-option"),
    "DnsSearch": _each("--dns-search"),
    "ExtraHosts": _each("--add-host"),
    "Devices": _devices,
    "DeviceCgroupRules": _each("--device-cgroup-rule"),
    "Ulimits": _ulimits,
    "Sysctls": _pairs("--sysctl"),
    "StorageOpt": _pairs("--storage-opt"),
    "IpcMode": _one("--ipc"),
    "PidMode": _one("--pid"),
    "UTSMode": _one("--uts"),
    "UsernsMode": _one("--userns"),
    "CgroupnsMode": _one("--cgroupns"),
    "CgroupParent": _one("--cgroup-parent"),
    "Runtime": _one("--runtime"),
    "ShmSize": _one("--shm-size"),
    "Memory": _one("--memory"),
    "MemorySwap": _one("--memory-swap"),
    "MemoryReservation": _one("--memory-reservation"),
    "MemorySwappiness": _one("--memory-swappiness"),
    "CpuShares": _one("--cpu-shares"),
    "CpuPeriod": _one("--cpu-period"),
    "CpuQuota": _one("--cpu-quota"),
    "CpusetCpus": _one("--cpuset-cpus"),
    "CpusetMems": _one("--cpuset-mems"),
    "BlkioWeight": _one("--blkio-weight"),
    "PidsLimit": _one("--pids-limit"),
    "OomScoreAdj": _one("--oom-score-adj"),
    "OomKillDisable": _switch("--oom-kill-disable"),
    "VolumeDriver": _one("--volume-driver"),
}
"""HostConfig's fields."""
ELSEWHERE: Final = frozenset({"NetworkMode", "PortBindings", "PublishAllPorts", "NanoCpus", "AutoRemove", "Links"})
BY_ITSELF: Final = frozenset({"MaskedPaths", "ReadonlyPaths", "ConsoleSize", "ContainerIDFile", "Isolation", "Cgroup"})
"""What the engine puts there without having been asked."""
SAID: Final = frozenset(HOST) | ELSEWHERE | BY_ITSELF
DEFAULTS: Final[dict[str, object]] = {
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "IpcMode": "private",
    "Runtime": "runc",
    "ShmSize": 64 << 20,
    "MemorySwappiness": -1,
}


def _is_set(key: str, value: Any) -> bool:
    return bool(value) and value != DEFAULTS.get(key)


def _of_host(host: Document) -> Iterator[str]:
    for key, words in HOST.items():
        if _is_set(key, host.get(key)):
            yield from words(host[key])
    if host.get("NanoCpus"):
        yield f"--cpus {host['NanoCpus'] / 1e9:g}"
    if host.get("PublishAllPorts"):
        yield "--publish-all"
    for port, bindings in (host.get("PortBindings") or {}).items():
        for one in bindings or []:
            address = one.get("HostIp") or ""
            here = f"[{address}]::" if ":" in address else f"{address}::" if address else ""
            yield f"--publish {shlex.quote(f'{here}{port}')}"
    for link in host.get("Links") or []:
        other, _, alias = str(link).partition(":")
        yield f"--link {shlex.quote(other.lstrip('/') + ':' + alias.rpartition('/')[2])}"


CONFIG: Final[dict[str, Words]] = {
    "Domainname": _one("--domainname"),
    "User": _one("--user"),
    "WorkingDir": _one("--workdir"),
    "StopSignal": _one("--stop-signal"),
    "StopTimeout": _one("--stop-timeout"),
    "Tty": _switch("--tty"),
    "OpenStdin": _switch("--interactive"),
}


def _of_config(config: Document, image: Document, container: str) -> Iterator[str]:
    """What the image does not say already."""
    of_image = image.get("Config") or {}
    if config.get("Hostname") and config["Hostname"] != container[:12]:
        yield f"--hostname {shlex.quote(config['Hostname'])}"
    for key, words in CONFIG.items():
        if config.get(key) and config[key] != of_image.get(key):
            yield from words(config[key])
    own = [text for text in config.get("Env") or [] if text not in (of_image.get("Env") or [])]
    yield from _each("--env")(str(text).partition("=")[0] for text in own)
    labels = of_image.get("Labels") or {}
    changed = {key: value for key, value in (config.get("Labels") or {}).items() if labels.get(key) != value}
    yield from _pairs("--label")(changed)
    yield from _each("--expose")(port for port in config.get("ExposedPorts") or {} if not of_image.get("ExposedPorts"))
    volumes = of_image.get("Volumes") or {}
    yield from _each("--volume")(path for path in config.get("Volumes") or {} if path not in volumes)
    if config.get("Entrypoint"):
        yield f"--entrypoint {shlex.quote(config['Entrypoint'][0])}"
    elif of_image.get("Entrypoint"):
        yield "--entrypoint ''"
    yield from _health(config.get("Healthcheck") or {}, of_image.get("Healthcheck") or {})


def _health(check: Document, of_image: Document) -> Iterator[str]:
    if not check or check == of_image:
        return
    kind, *words = check.get("Test") or [""]
    if kind == "NONE":
        yield "--no-healthcheck"
    elif kind:
        yield f"--health-cmd {shlex.quote(words[0] if kind == 'CMD-SHELL' else shlex.join(words))}"
    for key, option in (("Interval", "interval"), ("Timeout", "timeout"), ("StartPeriod", "start-period")):
        if check.get(key):
            yield f"--health-{option} {check[key]}ns"
    if check.get("Retries"):
        yield f"--health-retries {check['Retries']}"


def _of_network(container: Document) -> Iterator[str]:
    mode = str(container["HostConfig"].get("NetworkMode") or "default")
    if mode != "default":
        yield f"--network {shlex.quote(mode)}"


def _further_networks(container: Document, name: str) -> Iterator[str]:
    """Commands for the networks after the first; without addresses and aliases, which the original has."""
    first, joins, _ = endpoints(container, beside=True)
    for endpoint in (*first[1:], *joins):
        yield f"docker network connect {shlex.quote(endpoint.key)} {name}"

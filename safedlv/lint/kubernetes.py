"""Pods and what makes them. Pure. Kubernetes' API reference: PodSpec, SecurityContext.

Init containers that end are left out: nobody attaches there. So are pods of Windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from safedlv.lint.tree import Node, Path, get, is_true, items, scalar
from safedlv.lint.values import KUBERNETES, Container, Setting

_TEMPLATE: Final = ("spec", "template", "spec")
POD_SPECS: Final[dict[str, tuple[str, ...]]] = {
    "Pod": ("spec",),
    "Deployment": _TEMPLATE,
    "StatefulSet": _TEMPLATE,
    "DaemonSet": _TEMPLATE,
    "ReplicaSet": _TEMPLATE,
    "ReplicationController": _TEMPLATE,
    "Job": _TEMPLATE,
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
    "PodTemplate": ("template", "spec"),
}
"""Where the pod's spec is, by kind."""
PROFILES: Final = {"Unconfined": "unconfined", "RuntimeDefault": "builtin"}
APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"


def is_kubernetes(document: Node) -> bool:
    return get(document, "apiVersion") is not None and get(document, "kind") is not None


def objects(document: Node, number: int) -> Iterator[tuple[Node, Path]]:
    """The object of a document, or those of its list, each with its path."""
    if (scalar(get(document, "kind")) or "").endswith("List"):
        for place, item in enumerate(items(get(document, "items"))):
            yield item, (number, "items", place)
    else:
        yield document, (number,)


def containers(document: Node, number: int) -> tuple[Container, ...]:
    """A container for each that stays."""
    return tuple(
        container
        for node, at in objects(document, number)
        if (keys := POD_SPECS.get(scalar(get(node, "kind")) or "")) and (spec := get(node, *keys)) is not None
        for container in _Pod(node, spec, (*at, *keys)).containers()
    )


class _Pod:
    def __init__(self, owner: Node, spec: Node, at: Path) -> None:
        self.spec, self.at = spec, at
        kind, name = (scalar(get(owner, *keys)) or "?" for keys in (("kind",), ("metadata", "name")))
        self.title = f"{kind} {name}"
        self.annotations = get(owner, *_metadata(at), "annotations")

    def containers(self) -> Iterator[Container]:
        if scalar(get(self.spec, "os", "name")) == "windows":
            return
        listed = [
            (key, place, node)
            for key in ("containers", "initContainers")
            for place, node in enumerate(items(get(self.spec, key)))
            if key == "containers" or scalar(get(node, "restartPolicy")) == "Always"
        ]
        for key, place, node in listed:
            others = tuple((self._name(one), self._user(one)) for _, _, one in listed if one is not node)
            yield self._container(node, (*self.at, key, place), others)

    def _name(self, node: Node) -> str:
        return scalar(get(node, "name")) or "?"

    def _user(self, node: Node) -> str | None:
        return scalar(get(node, "securityContext", "runAsUser")) or scalar(
            get(self.spec, "securityContext", "runAsUser")
        )

    def _container(self, node: Node, at: Path, others: tuple[tuple[str, str | None], ...]) -> Container:
        context = (*at, "securityContext")

        def one(*keys: str) -> Setting | None:
            found = get(node, *keys)
            text = scalar(found)
            return Setting(text, found.line, (*at, *keys)) if found is not None and text is not None else None

        def every(*keys: str) -> tuple[Setting, ...]:
            found = [(child, scalar(child)) for child in items(get(node, *keys))]
            return tuple(Setting(text, child.line, (*at, *keys), (text,)) for child, text in found if text is not None)

        privileged, runtime = one("securityContext", "privileged"), get(self.spec, "runtimeClassName")
        name = scalar(runtime)
        return Container(
            form=KUBERNETES,
            name=f"container {self._name(node)} of {self.title}",
            line=node.line,
            at=at,
            privileged=privileged if privileged and is_true(privileged.value) else None,
            cap_add=every("securityContext", "capabilities", "add"),
            cap_drop=every("securityContext", "capabilities", "drop"),
            capabilities=(*context, "capabilities", "add"),
            seccomp=self._profile(node, at, "seccompProfile"),
            security=(*context, "seccompProfile"),
            apparmor=self._profile(node, at, "appArmorProfile") or self._annotated(node),
            user=self._user(node),
            memory=one("resources", "limits", "memory"),
            sysctls=tuple(self._sysctls()),
            command=(*every("command"), *every("args")),
            runtime=Setting(name, runtime.line, (*self.at, "runtimeClassName")) if runtime and name else None,
            pod=self.at,
            shares_pids=is_true(scalar(get(self.spec, "shareProcessNamespace"))),
            others=others,
        )

    def _profile(self, node: Node, at: Path, key: str) -> Setting | None:
        """The container's profile, else the pod's."""
        for owner, path in ((node, at), (self.spec, self.at)):
            found = get(owner, "securityContext", key)
            kind = get(found, "type")
            if kind is not None:
                value = PROFILES.get(scalar(kind) or "") or f"localhost/{scalar(get(found, 'localhostProfile')) or '?'}"
                return Setting(value, kind.line, (*path, "securityContext", key, "type"))
        return None

    def _annotated(self, node: Node) -> Setting | None:
        """Before Kubernetes 1.30."""
        key = APPARMOR + self._name(node)
        found = get(self.annotations, key)
        value = scalar(found)
        if found is None or value is None or value == "runtime/default":
            return None
        return Setting(value, found.line, (*self.at[:-1], "metadata", "annotations", key))

    def _sysctls(self) -> Iterator[Setting]:
        for place, item in enumerate(items(get(self.spec, "securityContext", "sysctls"))):
            text = f"{scalar(get(item, 'name'))}={scalar(get(item, 'value'))}"
            yield Setting(text, item.line, (*self.at, "securityContext", "sysctls", place))


def _metadata(at: Path) -> tuple[str, ...]:
    """The pod's metadata are beside its spec; its path begins with the numbers of document and item."""
    keys = [part for part in at if isinstance(part, str) and part != "items"]
    return (*keys[:-1], "metadata")

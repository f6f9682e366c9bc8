"""Services of a Compose file. Pure. The Compose specification."""

from __future__ import annotations

import re
from typing import Final

from attrs import evolve

from safedlv.lint.readers import security, split
from safedlv.lint.tree import MAPPING, Node, Path, entries, get, is_true, items, scalar
from safedlv.lint.values import COMPOSE, Container, Setting

EXTENDED_AT_MOST: Final = 10
_VARIABLE: Final = re.compile(r"\$\$|\$\{(\w+)(?::?-([^{}]*))?\}")


def interpolated(text: str) -> str:
    """With the default in the place of a variable that has one; any other stays as it is written."""
    return _VARIABLE.sub(lambda match: "$" if match[0] == "$$" else match[0] if match[2] is None else match[2], text)


def is_compose(document: Node) -> bool:
    services = get(document, "services")
    return services is not None and services.kind == MAPPING and get(document, "apiVersion") is None


def containers(document: Node, number: int) -> tuple[Container, ...]:
    """A container for each service."""
    services = get(document, "services")
    if services is None:
        return ()
    return tuple(
        _Service(services, (number, "services"), name).container(key.line)
        for name, (key, value) in entries(services).items()
        if value.real.kind == MAPPING
    )


class _Service:
    """A service and, behind it, what it extends in the same file."""

    def __init__(self, services: Node, at: Path, name: str) -> None:
        self.name, self.at, self.chain = name, (*at, name), [((*at, name), get(services, name))]
        self.elsewhere: Setting | None = None
        while len(self.chain) < EXTENDED_AT_MOST:
            extends = get(self.chain[-1][1], "extends")
            base, file = scalar(extends) or scalar(get(extends, "service")), get(extends, "file")
            if file is not None:
                path = (*self.chain[-1][0], "extends")
                self.elsewhere = Setting(scalar(file) or "?", file.line, path)
            if base is None or file is not None or get(services, base) is None:
                break
            self.chain.append(((*at, base), get(services, base)))

    def one(self, *keys: str) -> Setting | None:
        """The value that holds: the service's own before that of what it extends."""
        for at, node in self.chain:
            found = get(node, *keys)
            text = scalar(found)
            if found is not None and text is not None:
                return Setting(interpolated(text), found.line, (*at, *keys))
        return None

    def limit(self, key: str, deployed: str) -> Setting | None:
        """Compose has two places for a limit, and refuses to be told two of them."""
        found, twin = self.one(key), self.one("deploy", "resources", "limits", deployed)
        if found is None or twin is None:
            return found or twin
        return evolve(found, twin=twin.path)

    def every(self, key: str) -> tuple[Setting, ...]:
        """The items of a list: those of what it extends come first."""
        return tuple(
            Setting(interpolated(text), child.line, (*at, key), (text,))
            for at, node in reversed(self.chain)
            for child in items(get(node, key))
            if (text := scalar(child)) is not None
        )

    def pairs(self, key: str) -> tuple[Setting, ...]:
        """``name=value``, of a list or of a mapping."""
        mapped = tuple(
            Setting(f"{name}={scalar(value) or ''}", named.line, (*at, key, name))
            for at, node in reversed(self.chain)
            if (found := get(node, key)) is not None
            for name, (named, value) in entries(found).items()
        )
        return (*self.every(key), *mapped)

    def words(self, key: str) -> tuple[Setting, ...]:
        """A command, as a list or as one text."""
        whole = self.one(key)
        if whole is None:
            return self.every(key)
        return tuple(Setting(word, whole.line, whole.path) for word in split(whole.value))

    def container(self, line: int) -> Container:
        options, privileged, user = self.every("security_opt"), self.one("privileged"), self.one("user")
        return Container(
            form=COMPOSE,
            name=f"service {self.name}",
            line=line,
            at=self.at,
            privileged=privileged if privileged and is_true(privileged.value) else None,
            cap_add=self.every("cap_add"),
            cap_drop=self.every("cap_drop"),
            capabilities=(*self.at, "cap_add"),
            seccomp=security(options, "seccomp"),
            security=(*self.at, "security_opt"),
            apparmor=security(options, "apparmor"),
            user=user.value if user else None,
            pids=self.limit("pids_limit", "pids"),
            memory=self.limit("mem_limit", "memory"),
            swap=self.one("memswap_limit"),
            sysctls=self.pairs("sysctls"),
            command=(*self.words("entrypoint"), *self.words("command")),
            runtime=self.one("runtime"),
            platform=self.one("platform"),
            elsewhere=self.elsewhere,
        )

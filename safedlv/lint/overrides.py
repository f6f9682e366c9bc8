"""The same changes as files of their own, which leave the linted one as it is. Pure.

Compose: a file to be read after the project's own (``!override`` and ``!reset`` are Compose 2.24's). Kubernetes: a
strategic-merge patch for each object (kubectl-patch(1), Kustomize).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from attrs import frozen

from safedlv.errors import UsageError, printable
from safedlv.lint import styles
from safedlv.lint.compose import EXTENDED_AT_MOST
from safedlv.lint.documents import Document
from safedlv.lint.kubernetes import objects
from safedlv.lint.tree import Data, data, read_json, read_yaml
from safedlv.lint.values import COMPOSE, KUBERNETES

COMPOSE_NAME: Final = "compose.debug.yaml"
_NAME: Final = "name"


@frozen
class Override:
    """A file to be made beside the linted one."""

    name: str
    text: str
    use: str
    """The command that puts it to use."""


@frozen
class _Tagged:
    tag: str
    value: Data


def overrides(document: Document, text: str) -> tuple[Override, ...]:
    """What makes of the document what it says with the changed text. Raises UsageError for other formats."""
    if document.form == COMPOSE:
        return _of_compose(document, text)
    if document.form == KUBERNETES:
        return tuple(_of_kubernetes(document, text))
    raise UsageError(
        f"{printable(document.name)}: override files are Compose's and Kubernetes'", "--fix alone writes into the file"
    )


def _said(text: str, *, json: bool) -> list[Data]:
    return [data(tree) for tree in ((read_json(text),) if json else read_yaml(text))]


# ---------------------------------------------------------------- Compose


def _of_compose(document: Document, text: str) -> tuple[Override, ...]:
    lines: list[str] = []
    for before, after in zip(_said(document.text, json=document.json), _said(text, json=document.json), strict=True):
        for name in _mapping(_mapping(before).get("services")):
            changes = _compose_changes(*(_whole(said["services"], name) for said in (before, after)))
            if changes:
                lines += [f"{styles.STEP}{styles.flow(name, json=False)}:", *_written(changes, styles.STEP * 2)]
    if not lines:
        return ()
    own = document.name.rpartition("/")[2]
    use = f"docker compose -f {own} -f {COMPOSE_NAME} up -d"
    return (Override(COMPOSE_NAME, "\n".join([f"# {printable(use)}", "services:", *lines]) + "\n", use),)


def _mapping(said: Data) -> dict[str, Data]:
    """A mapping, also where something else stands in its place."""
    return said if isinstance(said, dict) else {}


def _whole(services: dict[str, Data], name: str, left: int = EXTENDED_AT_MOST) -> dict[str, Data]:
    """A service with what it extends in the same file: Compose looks there before it reads an override."""
    own = _mapping(services.get(name))
    extends = own.get("extends")
    base = extends.get("service") if isinstance(extends, dict) and "file" not in extends else extends
    if not isinstance(base, str) or base not in services or not left:
        return dict(own)
    return _extended(_whole(services, base, left - 1), {key: own[key] for key in own if key != "extends"})


def _extended(base: dict[str, Data], own: dict[str, Data]) -> dict[str, Data]:
    made = dict(base)
    for key, value in own.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            made[key] = _extended(old, value)
        else:
            made[key] = [*old, *value] if isinstance(old, list) and isinstance(value, list) else value
    return made


def _compose_changes(before: dict[str, Data], after: dict[str, Data]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            changes[key] = _compose_changes(old, new)
        elif isinstance(old, list) and isinstance(new, list):
            kept = all(item in new for item in old)  # Compose appends the items of a later file
            changes[key] = [item for item in new if item not in old] if kept else _Tagged("!override", new)
        elif key == "privileged":
            changes[key] = False
        else:
            changes[key] = _Tagged("!reset", None) if new is None else new
    return changes


def _written(changes: dict[str, Any], indent: str) -> Iterator[str]:
    for key, value in changes.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _written(value, indent + styles.STEP)
        elif isinstance(value, _Tagged):
            yield f"{indent}{key}: {value.tag} {styles.flow(value.value, json=False)}"
        else:
            yield from styles.block(key, value, indent)


# ---------------------------------------------------------------- Kubernetes


def _of_kubernetes(document: Document, text: str) -> Iterator[Override]:
    before, after = (_objects(one, json=document.json) for one in (document.text, text))
    for old, new in zip(before, after, strict=True):
        changes = _merge_patch(old, new)
        if not changes:
            continue
        kind, metadata = str(old.get("kind")), _mapping(old.get("metadata"))
        name = str(metadata.get(_NAME, "?"))
        patched = {key: metadata[key] for key in (_NAME, "namespace") if key in metadata}
        head = {"apiVersion": old.get("apiVersion"), "kind": kind, "metadata": patched | changes.pop("metadata", {})}
        lines = [line for key, value in (head | changes).items() for line in styles.block(key, value, "")]
        file = f"debug-{kind}-{name}.yaml".lower().replace("/", "-")
        space = f" --namespace {patched['namespace']}" if "namespace" in patched else ""
        use = f"kubectl patch {kind.lower()} {name}{space} --patch-file {file}"
        yield Override(file, "\n".join(lines) + "\n", use)


def _objects(text: str, *, json: bool) -> list[dict[str, Data]]:
    trees = (read_json(text),) if json else read_yaml(text)
    said = [data(node) for number, tree in enumerate(trees) for node, _ in objects(tree, number)]
    return [one for one in said if isinstance(one, dict)]


def _merge_patch(before: Data, after: Data) -> Any:
    """What a strategic merge has to be told: lists of named things merge by name, others are told whole."""
    changes: dict[str, Any] = {}
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            changes[key] = _merge_patch(old, new)
        elif key in ("containers", "initContainers"):
            pairs = [(one, other) for one, other in zip(old, new, strict=True) if one != other]
            changes[key] = [{_NAME: one.get(_NAME), **_merge_patch(one, other)} for one, other in pairs]
        else:
            changes[key] = new  # null takes a key away
    return changes

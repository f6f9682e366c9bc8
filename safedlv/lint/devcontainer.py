"""devcontainer.json. Pure. The reference on containers.dev: runArgs, privileged, capAdd, securityOpt, containerUser.

``remoteUser`` is left alone: what an editor starts in there, program and debugger, it starts as the same user.
"""

from __future__ import annotations

from attrs import evolve

from safedlv.lint.readers import from_options, security
from safedlv.lint.tree import Node, get, is_true, items, scalar
from safedlv.lint.values import DEVCONTAINER, Container, Setting
from safedlv.lint.words import Option, Word, options_of

KEYS = (
    *("runArgs", "capAdd", "securityOpt", "containerEnv", "remoteUser", "containerUser", "dockerComposeFile"),
    *("dockerFile", "build", "image", "features", "customizations", "postCreateCommand"),
)
"""What shows that a JSON object is of this kind, where its file's name does not."""


def is_devcontainer(document: Node) -> bool:
    return sum(get(document, key) is not None for key in KEYS) > 1


def container(document: Node) -> Container:
    """The one container."""
    said = _from_run_args(document)
    options = _listed(document, "securityOpt")
    privileged, user = get(document, "privileged"), scalar(get(document, "containerUser"))
    if privileged is not None and is_true(scalar(privileged)):
        said = evolve(said, privileged=Setting("true", privileged.line, (0, "privileged")))
    return evolve(
        said,
        cap_add=(*_listed(document, "capAdd"), *said.cap_add),
        seccomp=said.seccomp or security(options, "seccomp"),
        apparmor=said.apparmor or security(options, "apparmor"),
        user=said.user or user,
    )


def _listed(document: Node, key: str) -> tuple[Setting, ...]:
    return tuple(
        Setting(text, child.line, (0, key), (text,))
        for child in items(get(document, key))
        if (text := scalar(child)) is not None
    )


def _from_run_args(document: Node) -> Container:
    """``runArgs`` are options of docker run, a word each."""
    words = [Word(child.text, child.start, child.end, child.line) for child in items(get(document, "runArgs"))]
    options, _ = options_of(words, image=False)

    def setting(option: Option) -> Setting:
        return Setting(option.value, option.line, (0, "runArgs"), tuple(word.text for word in option.words))

    return Container(
        form=DEVCONTAINER,
        name="the dev container",
        line=document.line,
        at=(0,),
        capabilities=(0, "capAdd"),
        security=(0, "securityOpt"),
        **from_options(options, setting),
    )

"""``safedlv seccomp generate``: a seccomp profile under which dlv works, made from the one that refuses it."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from safedlv.errors import SafedlvError, UsageError, printable
from safedlv.seccomp.profile import Profile, allowing_dlv

DOCKER_DEFAULT = "docker-default.json"
"""The profile that Docker has built in, which no engine shows: github.com/moby/profiles/seccomp v0.2.4, default.json
(Apache-2.0, docker-default.LICENSE). An engine may have another one: an older version, or --seccomp-profile."""
BASES = "docker:NAME (the profile of that container), FILE, or docker (the one that Docker has built in)"


def seccomp(words: list[str]) -> int:
    """The command; returns the exit code. Raises UsageError, SafedlvError."""
    options = _options(words)
    try:
        text = json.dumps(allowing_dlv(base(options.base)), indent=2) + "\n"
    except ValueError as error:
        raise UsageError(f"{printable(options.base)}: {printable(str(error))}") from error
    if options.output is None:
        sys.stdout.write(text)
        return 0
    try:
        Path(options.output).write_text(text, "utf-8")
    except OSError as error:
        raise SafedlvError(f"cannot write {printable(options.output)}: {error.strerror}") from error
    return 0


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="safedlv seccomp", description="Seccomp profiles under which dlv works.")
    commands = parser.add_subparsers(dest="command", metavar="generate", required=True)
    generate = commands.add_parser("generate", help="the same profile, and exactly what dlv needs besides")
    generate.add_argument("--for", dest="program", choices=["dlv"], required=True, help="the program that shall work")
    generate.add_argument("--base", required=True, help=BASES)
    generate.add_argument("-o", dest="output", metavar="FILE", help="write it there; without: to stdout")
    generate.add_argument("--debug", action="store_true", help="show tracebacks of safedlv's own failures")
    return parser.parse_args(words)


def base(text: str) -> Profile:
    """The profile that ``--base`` names. Raises UsageError, SafedlvError; ValueError when it is no JSON."""
    if text == "docker":
        return _parsed(resources.files("safedlv.seccomp").joinpath(DOCKER_DEFAULT).read_text("utf-8"))
    if text.startswith("docker:"):
        return _of_container(text.removeprefix("docker:"))
    try:
        return _parsed(Path(text).read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {printable(text)}: {error.strerror}", f"--base is {BASES}") from error


def _of_container(name: str) -> Profile:
    """What the container was started with: the engine keeps the whole profile (HostConfig.SecurityOpt)."""
    from safedlv.runtimes.docker import inspect

    config: dict[str, Any] = inspect(name).get("HostConfig") or {}
    options = [str(option) for option in config.get("SecurityOpt") or []]
    chosen = [option.partition("=")[2] for option in options if option.startswith("seccomp=")]
    if config.get("Privileged") or chosen[-1:] == ["unconfined"]:
        raise SafedlvError(f"container {printable(name)} has no seccomp filter: none has to be changed for dlv")
    if not chosen or chosen[-1] == "builtin":
        return base("docker")
    return _parsed(chosen[-1])


def _parsed(text: str) -> Profile:
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("it is no seccomp profile: no JSON object")
    return document

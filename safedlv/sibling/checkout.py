"""Whether the sources of a target are here: then dlv's terminal is told to work out where (substitute-path).

dlv (since 1.24) compares the paths in the program with those that ``go list`` gives in the current directory; it is
asked to only where the module there is the target's, and where the user has no rules of his own, which it would
replace (pkg/terminal/config.go: configureSetSubstitutePath). Editors have rules of their own for the same.
"""

from __future__ import annotations

import os
import shutil
from typing import Final

from safedlv.wrappers import build_info

GUESS: Final = "config substitute-path -guess\n"
SINCE: Final = (1, 24)
CONFIG: Final = "dlv/config.yml"
"""Under $XDG_CONFIG_HOME, else ~/.config (pkg/config: GetConfigFilePath)."""


def commands(procdir: int, dlv_version: tuple[int, int]) -> str:
    """What dlv's terminal is to be told for the target whose /proc/PID is open at ``procdir``; "" for nothing."""
    module = _module_of_program(procdir)
    if not module or dlv_version < SINCE or shutil.which("go") is None:
        return ""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    if has_rules(_text(os.path.join(base, CONFIG))) or _module_here(os.getcwd()) != module:
        return ""
    return GUESS


def is_here(procdir: int) -> bool:
    """Whether the module of a target (``procdir``: its open /proc/PID) is the one in the current directory."""
    module = _module_of_program(procdir)
    return bool(module) and shutil.which("go") is not None and _module_here(os.getcwd()) == module


def module_of(go_mod: str) -> str:
    """The module that a go.mod declares; "" when it declares none (go.dev/ref/mod: module directive)."""
    for line in go_mod.splitlines():
        words = line.partition("//")[0].split()
        if len(words) == 2 and words[0] == "module":
            return words[1].strip('"`')
    return ""


def has_rules(config: str) -> bool:
    """Whether dlv's config.yml holds a substitute-path rule."""
    inside = False
    for line in config.splitlines():
        text = line.partition("#")[0].rstrip()
        if text and not text.startswith((" ", "-")):
            key, _, value = text.partition(":")
            inside = key == "substitute-path"
            text = value
        if inside and text.strip() not in ("", "[]"):
            return True
    return False


def _module_of_program(procdir: int) -> str | None:
    try:
        info = build_info(procdir)
    except OSError:
        return None
    return info.module_path if info else None


def _module_here(directory: str) -> str:
    """The module that a directory belongs to."""
    while not os.path.isfile(os.path.join(directory, "go.mod")):
        if directory == os.path.dirname(directory):
            return ""
        directory = os.path.dirname(directory)
    return module_of(_text(os.path.join(directory, "go.mod")))


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""

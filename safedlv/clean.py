"""``safedlv clean``: what killed sessions left behind is ended in order, put back, and removed."""

from __future__ import annotations

import sys
from functools import partial

from safedlv.audit import audit
from safedlv.errors import SafedlvError
from safedlv.options import SWITCH, read_words
from safedlv.runtimes.docker import Engine
from safedlv.runtimes.engine import EngineError
from safedlv.sibling.toolbox import LABEL

HELP = """\
usage: safedlv clean [--dry-run]

Ends sidecars whose safedlv was killed (dlv leaves its target in order), puts containers back that a killed swap had
taken the place of, and removes the images that safedlv made. Containers and images of others are not touched.

  --dry-run   say what there is, and do nothing
  --debug     show tracebacks of safedlv's own failures
"""


def clean(words: list[str]) -> int:
    """The command; returns the exit code. Raises UsageError; SafedlvError when the engine cannot be asked."""
    flags, _ = read_words(words, {"dry-run": SWITCH, "debug": SWITCH}, most=0)
    if "help" in flags:
        sys.stdout.write(HELP)
        return 0
    dry = "dry-run" in flags
    with Engine() as engine:
        try:
            done = [*_siblings(engine, dry=dry), *_images(engine, dry=dry)]
        except EngineError as error:
            raise SafedlvError(str(error)) from error
    for line in done or ["nothing of safedlv's is left here"]:
        sys.stdout.write(f"{line}\n")
    return 0


def _siblings(engine: Engine, *, dry: bool) -> list[str]:
    from safedlv.sibling.clone_record import restore
    from safedlv.sibling.sweep import sweep

    return [*restore(engine, dry=dry), *sweep(engine, dry=dry)]


def _images(engine: Engine, *, dry: bool) -> list[str]:
    """The toolbox images; one that a container still uses stays."""
    lines = []
    for image in engine.ask("list its images", lambda: engine.api.images(filters={"label": LABEL})):
        name = (image.get("RepoTags") or [image["Id"]])[0]
        lines.append(f"{'would remove' if dry else 'removed'} image {name}")
        if not dry:
            engine.ask(f"remove {name}", partial(engine.api.remove_image, image["Id"], force=False))
            audit("removed", f"image {name}")
    return lines

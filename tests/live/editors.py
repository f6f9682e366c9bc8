"""A session by a DAP client that nobody here wrote: editor.cjs, on @vscode/debugadapter-testsupport."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import ROOT, require

MODULES = ROOT / ".cache" / "editor" / "node_modules"
"""Where tests/tools.sh puts it."""


def session(address: str, processid: object, source: Path, line: int, visit: Callable[[], object], **own: Any) -> None:
    """From a refused attach to the end; ``visit`` makes the program come by ``line`` of ``source``, twice."""
    require(shutil.which("node") and MODULES.is_dir(), "needs node, and what `make tools` installs by npm")
    words = ["node", str(Path(__file__).with_name("editor.cjs")), address.rpartition(":")[2], str(processid)]
    words += [str(source), str(line), *([json.dumps(own)] if own else [])]
    environment = {**os.environ, "NODE_PATH": str(MODULES)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as client:
        assert client.stdout is not None
        said = []
        for text in client.stdout:
            said.append(json.loads(text))
            if said[-1] == "running":
                visit()
    assert said[0] == {"refused": "Failed to attach"}, said
    assert said[1:4] == [{"verified": True}, "running", {"reason": "function breakpoint"}], said
    assert said[4:6] == [{"verified": True}, {"function": "main.greeting", "line": line}], said
    assert "v" in said[6]["variables"]
    assert said[7:9] == [{"evaluated": '"/you"'}, {"reason": "step"}], said
    assert said[9:] == ["running", {"logged": True}, {"reason": "pause"}, "left"], said

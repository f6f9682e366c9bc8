"""Imports point one way, there are no cycles, and the pure rooms do not touch the system (design: Rooms)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGE = ROOT / "safedlv"
# A room may import rooms of its own rank or below.
RANKS = {
    "": 0,  # the package itself: its version
    "model": 0,
    "errors": 0,
    "values": 0,
    "capabilities": 0,
    "command_line": 1,
    "options": 1,
    "diagnosis": 1,
    "seccomp": 1,
    "lint": 1,
    "report": 1,
    "audit": 2,
    "linux": 2,
    "runtimes": 2,
    "target": 3,
    "wrappers": 3,
    "waitfor": 3,
    "delegate": 3,
    "standpoint": 3,
    "facts": 3,
    "probe": 3,
    "sibling": 3,
    "session": 3,
    "observing": 3,
    "controlled": 3,
    "attach": 4,
    "dap": 4,
    "dap_attach": 4,
    "dap_copy": 4,
    "dap_settings": 4,
    "judgement": 4,
    "inquiry": 4,
    "doctor": 4,
    "clean": 4,
    "survey": 4,
    "pick": 4,
    "shim": 4,
    "seccomp_command": 4,
    "seccomp_show": 4,
    "seccomp_explain": 4,
    "seccomp_resolve": 4,
    "seccomp_generate": 4,
    "seccomp_source": 4,
    "lint_command": 4,
    "observe": 4,
    "control": 4,
    "compare": 4,
    "steps": 4,
    "watch": 4,
    "relaunch": 4,
    "copying": 4,
    "copy_needs": 4,
    "copy_session": 4,
    "cli": 5,
    "__main__": 6,
}
PURE = (
    *("model", "errors", "values", "capabilities", "command_line", "options"),
    *("diagnosis", "seccomp", "lint", "report"),
)
UNCLEAN = {"os", "subprocess", "socket", "ctypes", "pathlib", "io", "shutil"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    return [*module.split("."), ""][1]


def type_only(tree: ast.AST) -> set[ast.AST]:
    """What stands under ``if TYPE_CHECKING:`` is never imported."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    skipped = type_only(tree)
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    own = RANKS[room(name_of(path))]
    ours = {name for name in imports(path) if name.split(".")[0] == "safedlv"}
    back = {name for name in ours if RANKS[room(name) if room(name) in RANKS else ""] > own}
    assert not back, f"{name_of(path)} imports a room above its own"


@pytest.mark.parametrize("path", [p for p in MODULES if room(name_of(p)) in PURE], ids=name_of)
def test_pure_rooms_do_not_touch_the_system(path: Path) -> None:
    assert not imports(path) & UNCLEAN
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "open"]


def test_no_circular_imports() -> None:
    modules = {name_of(path): path for path in MODULES}
    graph = {name: {i for i in imports(path) if i in modules and i != name} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_only_cli_exits() -> None:
    for path in MODULES:
        if room(name_of(path)) in ("cli", "__main__"):
            continue
        text = path.read_text()
        assert "sys.exit" not in text, path
        assert "import docker" not in text or path.name == "docker.py", path


def test_start_of_an_attach_imports_little() -> None:
    """What stands between the user and dlv: nothing of attrs, typing, re, docker, prompt-toolkit (house rule 10)."""
    script = "import sys; import safedlv.cli, safedlv.attach, safedlv.facts.delve_path; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {"attr", "attrs", "typing", "re", "enum", "subprocess", "json", "docker", "prompt_toolkit", "pexpect"}
    assert not loaded & heavy

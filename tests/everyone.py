"""safedlv, dlv and a Python where every user, and every container that mounts them, may start them.

The tests' own may lie in a home directory that only root enters. The words that these functions make begin with
``env -i``: what a tool says depends on nothing but its context.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import frozen

from tests.support import new_dlv, require

PACKAGES = ("safedlv", "attr", "attrs", "elftools")
"""What ``safedlv doctor PID`` imports beyond the standard library."""
SYSTEM = "/usr/bin:/bin:/usr/sbin:/sbin"
NOBODY = 65534


@frozen
class Everyones:
    """A directory that everybody may read, and the words that start what is in it."""

    directory: Path
    python: str

    @property
    def dlv(self) -> str:
        """The newest dlv."""
        return str(self.directory / "dlv")

    def safedlv(self, *words: str, dlv: bool = True, under: Sequence[str] = ()) -> list[str]:
        """``safedlv WORDS``; without ``dlv`` there is none to be found. ``under``: an emulator."""
        where = [f"SAFEDLV_DLV={self.dlv}", f"PATH={SYSTEM}"] if dlv else ["PATH=/nonexistent"]
        clean = ["/usr/bin/env", "-i", "LANG=C.UTF-8", f"PYTHONPATH={self.directory}", *where]
        return [*clean, *under, self.python, "-P", "-m", "safedlv", *words]

    def tool(self, *words: str) -> list[str]:
        """Another program, which finds its own configuration nowhere."""
        return ["/usr/bin/env", "-i", "LANG=C.UTF-8", "HOME=/nonexistent", f"PATH={SYSTEM}", *words]

    def places(self) -> list[str]:
        """All of it, with the system that it needs."""
        places = ["/usr", str(self.directory)]
        prefix = str(Path(self.python).parent.parent)
        if not prefix.startswith("/usr"):
            places.append(prefix)
        return places

    def mounts(self) -> list[str]:
        """Options of ``docker run`` that show a container these places, read-only."""
        return [option for place in self.places() for option in ("--volume", f"{place}:{place}:ro")]


@contextmanager
def for_everyone() -> Iterator[Everyones]:
    """Copies for the length of a block."""
    python = _python()
    require(python, "needs a Python of at least 3.11 that every user may start")
    dlv = new_dlv()
    require(dlv, "needs a dlv on the PATH")
    with TemporaryDirectory(dir="/tmp", prefix="t-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        for package in PACKAGES:
            found = importlib.util.find_spec(package)
            assert found is not None
            assert found.origin is not None
            shutil.copytree(
                Path(found.origin).parent, directory / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(os.path.realpath(str(dlv)), directory / "dlv")
        for path in directory.rglob("*"):  # whatever the umask of whoever made the originals
            path.chmod(0o755 if path.is_dir() or path.name == "dlv" else 0o644)
        subprocess.run([str(python), "-m", "compileall", "-q", name], check=True, timeout=120)
        yield Everyones(directory, str(python))


def _python() -> str | None:
    own = os.path.realpath(sys.executable)
    version = f"python{sysconfig.get_python_version()}"
    for python in (own, f"/usr/bin/{version}", "/usr/bin/python3"):
        # By way of a shell: setpriv itself still has root's capabilities when it looks the program up.
        words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sh", "-c", 'exec "$0" -c "$1"']
        check = "import sys; sys.exit(sys.version_info < (3, 11))"
        if not subprocess.run([*words, python, check], cwd="/", capture_output=True, check=False).returncode:
            return os.path.realpath(python)
    return None

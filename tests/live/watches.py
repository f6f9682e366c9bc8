"""``safedlv watch`` under way, and a target whose memory grows when it is told to."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support import SAFEDLV, status, wait_until


class Watch:
    """``safedlv watch --json`` under way."""

    def __init__(self, pid: int, said: Path, *words: str, every: str = "0.1") -> None:
        self.said = said
        command = [*SAFEDLV, "watch", "--json", "--interval", every, *words, str(pid)]
        with said.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE)

    def lines(self, about: str = "") -> list[dict[str, Any]]:
        """What it has said so far: all, or what it said about one thing."""
        found = [json.loads(line) for line in self.said.read_text().splitlines() if line.endswith("}")]
        return [line for line in found if not about or about in (line.get("about"), line["event"])]

    def waits_for(self, about: str, count: int = 1) -> dict[str, Any]:
        """The line about something that comes as the ``count``-th."""
        return wait_until(lambda: self.lines(about)[count - 1 :], f"{count} lines about {about}")[0]

    def end(self) -> list[dict[str, Any]]:
        """What it has said in all, when it has ended by itself with exit code 0."""
        _, err = self.process.communicate(timeout=15)
        assert (self.process.returncode, err) == (0, b"")
        return self.lines()


GROWS = """
import sys
data = []
for line in sys.stdin:
    data.append(bytearray(b"x") * (int(line) << 20))
    print("grown", flush=True)
"""


def grow(target: subprocess.Popen[bytes], mib: int) -> None:
    """Have it use so much memory, less what it uses already."""
    assert target.stdin is not None
    assert target.stdout is not None
    used = int(status(target.pid, "RssAnon").split()[0]) >> 10
    target.stdin.write(b"%d\n" % (mib - used))
    assert target.stdout.readline() == b"grown\n"

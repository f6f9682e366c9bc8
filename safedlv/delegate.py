"""The real dlv: found, asked, and left to speak for itself where its own words are best."""

from __future__ import annotations

import os
import sys

from safedlv import command_line
from safedlv.errors import SafedlvError
from safedlv.facts.delve_path import delve_version_from_binary, find_delve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from safedlv.command_line import CommandLine

ADDED_HELP = """
safedlv adds:
      --no-proxy               Probe first, then become dlv itself: nothing stands in between
      --probe-timeout float    Seconds for the target to stop when it is probed (default 2)
      --via string             direct (the default); sidecar: dlv in a container of its own beside the target's;
                               clone: in a copy of the target's container, which goes at the end
      --toolbox-image string   The image that a sidecar runs, with dlv on its PATH (default: made from the local dlv)
      --guard string           on (the default): when dlv dies, the target is brought home; off: it may die too
      --max-pause string       A target that has stood for so long is continued: 20s, 500ms, 2m; off: it never is
                               (default: before its container's health check fails, if there is one)
      --on-disconnect string   With --accept-multiclient: when the last client is gone and the target stands, after
                               30 s, or as said in continue:10s: continue, detach, or wait (the default, as dlv)
      --observers              With --accept-multiclient: one client drives; those that come while it is there may look
                               at the program, and neither move nor change it
      --plain                  dlv's own terminal, untouched, in the place of safedlv's
      --debug                  Show tracebacks of safedlv's own failures
A target is a PID, name:PATTERN, docker:NAME or docker:NAME/PID.
"""


def find() -> str:
    """The path of the dlv to use: $SAFEDLV_DLV, else the first on the PATH. Raises SafedlvError."""
    named = os.environ.get("SAFEDLV_DLV")
    dlv = find_delve(os.environ.get("PATH"), named)
    if dlv is None:
        raise SafedlvError(
            f"SAFEDLV_DLV names {named}, which is no program" if named else "there is no dlv on the PATH",
            "go install github.com/go-delve/delve/cmd/dlv@latest, or name one with SAFEDLV_DLV=/path/to/dlv",
        )
    return dlv


def version_of(dlv: str) -> str | None:
    """Its version, read from the binary, or asked of it where it was built without module information (Debian's)."""
    version = delve_version_from_binary(dlv)
    if version is None:
        from safedlv.facts.delve_asked import ask_version

        asked = ask_version(dlv, 5.0)
        version = asked if isinstance(asked, str) else None
    return version


def become(dlv: str, words: list[str], command: str = "attach") -> NoReturn:
    """Become ``dlv attach``, or another command of dlv's, with these words."""
    sys.stdout.flush()
    os.execv(dlv, [dlv, command, *words])


def would_refuse(line: CommandLine) -> bool:
    """Whether dlv would refuse these words, or these streams, before it touches a process."""
    terminal = line.on("headless") or line.on("allow-non-terminal-interactive") or on_terminal()
    return bool(line.refused) or not terminal or log_fails(line)


def on_terminal() -> bool:
    """Whether a person is at the other end of all three streams: what dlv asks before it starts its terminal."""
    return all(os.isatty(fd) for fd in (0, 1, 2))


def help_of(dlv: str, command: str = "attach", added: str = ADDED_HELP) -> int:
    """dlv's help, and after it what safedlv adds; dlv's exit code."""
    import subprocess

    code = subprocess.run([dlv, command, "--help"], check=False).returncode
    sys.stdout.write(added)
    return code


def flags_of(dlv: str, command: str = "attach") -> dict[str, str]:
    """The kinds of dlv's flags, from its own help: asked only when a flag comes up that we do not know."""
    import subprocess

    done = subprocess.run([dlv, "help", command], capture_output=True, text=True, timeout=10, check=False)
    return command_line.flag_kinds(done.stdout)


def log_fails(line: CommandLine) -> bool:
    """dlv refuses --log-output without --log, and a log file that it cannot make (pkg/logflags: Setup)."""
    if line.text("log-output") and not line.on("log"):
        return True
    dest = line.text("log-dest")
    if not dest or dest.lstrip("-").isdigit():
        return False
    directory = os.path.dirname(dest) or "."
    return os.path.isdir(dest) or not os.access(dest if os.path.exists(dest) else directory, os.W_OK)

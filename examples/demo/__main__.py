"""The story of one attach, told live: a server is built and started, looked at, debugged, and left as it was; then
three attaches that are refused, diagnosed, mended and made; then one in a container that refuses, from beside it.

Every command is shown as it would be typed, with what it really printed. `make demo` runs this with safedlv, dlv and
go on the PATH. Whatever goes wrong ends it with a sentence and exit code 1, and nothing it started is left behind.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import beside
import denied
import places
from means import (
    BLOCKED,
    SOURCE,
    WORKS,
    BlockedError,
    DemoError,
    ask,
    attach,
    left_as_it_was,
    port_of,
    run,
    say,
    show,
    tell,
)

HERE = Path(__file__).resolve().parent  # before anybody changes the working directory
LEAVING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Tell the story; 0 when it ended well."""
    for number in LEAVING:
        signal.signal(number, _leave)
    try:
        with contextlib.ExitStack() as started:
            directory = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="demo-", dir=public())))
            directory.chmod(0o755)
            binary = one_attach(started, directory)
            if places.can_be_made():
                denied.tell_all(directory, binary)
            else:
                say("6. to 8. Three denied attaches: only root, with all of its capabilities, can make and prove them")
                tell(f"  {shlex.join(sudo())}")
            beside.tell_it(directory, binary)
    except BlockedError as error:
        if os.geteuid() != 0 and shutil.which("sudo"):
            as_root()
        return stopped(str(error))
    except (DemoError, OSError) as error:
        return stopped(str(error))
    except KeyboardInterrupt:
        return stopped("interrupted", 130)
    what_next()
    return 0


def one_attach(started: contextlib.ExitStack, directory: Path) -> Path:
    """The first five acts; returns the server's program."""
    say("1. A Go server, built so that a debugger can show everything (without optimisation)")
    binary = build(directory)
    say("2. It serves")
    server, port = started.enter_context(serving(binary))
    ask(port)
    say("3. Could a debugger attach to it? This changes nothing")
    if run(["safedlv", "doctor", str(server.pid)], good=(*WORKS, BLOCKED)) == BLOCKED:
        raise BlockedError("an attach would be refused here; the doctor's report above says by what")
    say("4. The debugger: a breakpoint while it serves, one request, one variable, and away")
    attach(["safedlv", "attach", str(server.pid)], port)
    say("5. The server still serves, and nobody traces it")
    ask(port)
    left_as_it_was(server.pid)
    return binary


def public() -> str:
    """A directory for temporary files that every user may enter, as the servers of other users have to."""
    own = tempfile.gettempdir()
    return own if all(path.stat().st_mode & 1 for path in (Path(own), *Path(own).parents)) else "/tmp"


def build(directory: Path) -> Path:
    """The example server, from a copy of its source that every user may read."""
    binary, source = directory / "server", directory / "source"
    flags = ["-buildvcs=false", "-gcflags=all=-N -l"]  # buildvcs: git tells nothing about another user's checkout
    print("(the first build takes half a minute)")
    run(["cp", "-r", str(SOURCE), str(source)])
    run(["chmod", "-R", "a+rX", str(source)])
    show(["cd", str(source)])
    os.chdir(source)
    show(["export", "CGO_ENABLED=0"])  # there may be no C compiler
    os.environ["CGO_ENABLED"] = "0"
    run(["go", "build", *flags, "-o", str(binary), "."], timeout=600)
    binary.chmod(0o755)
    return binary


@contextlib.contextmanager
def serving(binary: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The server and its port, until the block ends."""
    show([str(binary), "&"])
    with subprocess.Popen([str(binary)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server, port_of(server.stdout.readline())
        finally:
            server.kill()


def what_next() -> None:
    safedlv = Path(shutil.which("safedlv") or "").parent
    dlv = Path(shutil.which("dlv") or "").parent
    say("What to type next")
    print(
        f'  export PATH="{safedlv}{f":{dlv}" if dlv != safedlv else ""}:$PATH"\n'
        "  safedlv doctor PID                      can a debugger attach to it, and if not, why\n"
        "  safedlv attach PID                      as dlv attach, in this terminal\n"
        "  safedlv attach --headless --listen=127.0.0.1:2345 PID      for an editor (JSON-RPC or DAP)\n"
        "  safedlv help\n"
        "PID is a Go program of yours; name:PATTERN finds it by its command line."
    )


def as_root() -> None:
    """Start again by sudo, which may ask for a password; does not come back."""
    say("An ordinary user may not attach here: once more, as root, by sudo")
    words = sudo()
    show(words)
    os.execvp(words[0], words)


def sudo() -> list[str]:
    """This demo as root."""
    return ["sudo", "env", f"PATH={os.environ['PATH']}", sys.executable, str(HERE)]


def stopped(why: str, code: int = 1) -> int:
    tell(f"\nThe demo stopped: {why}.")
    return code


def _leave(_signum: int, _frame: object) -> None:
    for number in LEAVING:  # a second one must not interrupt the clearing up
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

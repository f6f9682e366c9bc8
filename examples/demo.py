"""The story of one attach, told live: a server is built and started, looked at, debugged, and left as it was.

Every command is shown as it would be typed, with what it really printed. `make demo` runs this with safedlv, dlv and
go on the PATH. Whatever goes wrong ends it with a sentence and exit code 1, and nothing it started is left behind.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pexpect

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "examples" / "server" / "main.go"
STATEMENT = "text := fmt.Sprintf"  # in greeting(), where the demo stops
PROMPT = "(dlv) "
WINDOW = (30, 100)  # rows and columns of the debugger's terminal
PATIENCE = 60.0  # seconds for one step before the demo gives up
BLOCKED = 10  # exit codes of the doctor (11: an attach works, but the session would be poor)
WORKS = (0, 11)


class DemoError(Exception):
    """The story cannot go on; the sentence says why."""


class BlockedError(DemoError):
    """The doctor says that an attach would be refused."""


# ------------------------------------------------------------ the story


def main() -> int:
    """Tell the story; 0 when it ended well."""
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, _leave)
    try:
        with contextlib.ExitStack() as started:
            tell(started)
    except BlockedError as error:
        if os.geteuid() != 0 and shutil.which("sudo"):
            as_root()
        return stopped(str(error))
    except DemoError as error:
        return stopped(str(error))
    except KeyboardInterrupt:
        return stopped("interrupted", 130)
    what_next()
    return 0


def tell(started: contextlib.ExitStack) -> None:
    say("1. A Go server, built so that a debugger can show everything (without optimisation)")
    directory = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="demo-")))
    binary = build(directory)
    say("2. It serves")
    server, port = started.enter_context(serving(binary))
    print(f"GET /you -> {get(port)}")
    say("3. Could a debugger attach to it? This changes nothing")
    doctor(server.pid)
    say("4. The debugger: a breakpoint while it serves, one request, one variable, and away")
    debug(server.pid, port)
    say("5. The server still serves, and nobody traces it")
    print(f"GET /you -> {get(port)}")
    left_as_it_was(server)


def build(directory: Path) -> Path:
    binary = directory / "server"
    flags = ["-buildvcs=false", "-gcflags=all=-N -l"]  # buildvcs: git tells nothing about another user's checkout
    print("(the first build takes half a minute)")
    show(["cd", str(SOURCE.parent)])
    os.chdir(SOURCE.parent)
    show(["export", "CGO_ENABLED=0"])  # there may be no C compiler
    os.environ["CGO_ENABLED"] = "0"
    run(["go", "build", *flags, "-o", str(binary), "."], timeout=600)
    return binary


@contextlib.contextmanager
def serving(binary: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The server and its port, until the block ends."""
    show([str(binary), "&"])
    with subprocess.Popen([str(binary)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline().strip()
            print(line)
            address = re.fullmatch(r"serving on 127\.0\.0\.1:(\d+)", line)
            if not address:
                raise DemoError("the server did not start")
            yield server, int(address[1])
        finally:
            server.kill()


def doctor(pid: int) -> None:
    code = run(["safedlv", "doctor", str(pid)], good=(*WORKS, BLOCKED))
    if code == BLOCKED:
        raise BlockedError("an attach would be refused here; the doctor's report above says by what")


def debug(pid: int, port: int) -> None:
    """The real `safedlv attach`, typed at in a terminal of its own."""
    line = next(at for at, text in enumerate(SOURCE.read_text().splitlines(), 1) if STATEMENT in text)
    answers: list[str] = []
    request = threading.Thread(target=lambda: answers.append(get(port)), daemon=True)
    terminal = attach(pid)
    try:
        type_at(terminal, f"break {SOURCE.name}:{line}", "Breakpoint 1 set at", PROMPT)
        terminal.sendline("continue")
        request.start()
        expect(terminal, "main.greeting", PROMPT)
        type_at(terminal, "print v.Path", '"/you"', PROMPT)
        type_at(terminal, "clearall", "cleared at", PROMPT)
        type_at(terminal, "exit", "kill the process?")
        type_at(terminal, "n", pexpect.EOF)
    finally:
        terminal.close(force=True)
    if terminal.exitstatus != 0:
        raise DemoError(f"safedlv attach ended with {terminal.exitstatus or terminal.signalstatus}")
    request.join(PATIENCE)
    print(f"The request that stood still meanwhile: GET /you -> {answers[0] if answers else 'no answer'}")


def left_as_it_was(server: subprocess.Popen[str]) -> None:
    if server.poll() is not None:
        raise DemoError(f"the server has ended with {server.returncode}")
    run(["grep", "-E", "State|TracerPid", f"/proc/{server.pid}/status"])
    status = Path(f"/proc/{server.pid}/status").read_text()
    if "TracerPid:\t0\n" not in status or re.search(r"State:\t[tTZX]", status):
        raise DemoError("the server is not as it was before")


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


# ------------------------------------------------------------ means


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def show(words: list[str]) -> None:
    print("$ " + " ".join(word if word == "&" else shlex.quote(word) for word in words), flush=True)


def stopped(why: str, code: int = 1) -> int:
    print(f"\nThe demo stopped: {why}.", flush=True)
    return code


def run(words: list[str], good: tuple[int, ...] = (0,), timeout: float = PATIENCE) -> int:
    """Show a command as typed, run it, and return its exit code, which must be one of ``good``."""
    show(words)
    try:
        code = subprocess.run(words, timeout=timeout, stdin=subprocess.DEVNULL, check=False).returncode
    except FileNotFoundError as error:
        raise DemoError(f"there is no {words[0]} on the PATH; `make demo` finds or installs it") from error
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"{words[0]} took longer than {timeout:.0f} s") from error
    if code not in good:
        raise DemoError(f"{words[0]} ended with {code}")
    return code


def get(port: int) -> str:
    """One request to the server: its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/you")
        return connection.getresponse().read().decode().strip()
    except (OSError, http.client.HTTPException) as error:
        return f"no answer ({error})"
    finally:
        connection.close()


class Screen:
    """Shows what a terminal shows, on whatever our output is."""

    def write(self, text: str) -> None:
        sys.stdout.write(text.replace("\r", ""))

    def flush(self) -> None:
        sys.stdout.flush()


def attach(pid: int) -> pexpect.spawn[str]:
    words = ["safedlv", "attach", str(pid)]
    show(words)
    plain = {**os.environ, "TERM": "dumb"}  # no colours and no cursor movements
    try:
        terminal = pexpect.spawn(words[0], words[1:], dimensions=WINDOW, timeout=PATIENCE, encoding="utf-8", env=plain)
    except pexpect.ExceptionPexpect as error:
        raise DemoError("there is no safedlv on the PATH") from error
    terminal.logfile_read = Screen()
    expect(terminal, PROMPT)
    return terminal


def type_at(terminal: pexpect.spawn[str], text: str, *answers: object) -> None:
    terminal.sendline(text)
    expect(terminal, *answers)


def expect(terminal: pexpect.spawn[str], *answers: object) -> None:
    for answer in answers:
        try:
            terminal.expect_exact(answer)
        except pexpect.EOF as error:
            raise DemoError(f"the debugger ended before it said {answer!r}") from error
        except pexpect.TIMEOUT as error:
            raise DemoError(f"the debugger stood still before it said {answer!r}") from error


def as_root() -> None:
    """Start again by sudo, which may ask for a password; does not come back."""
    say("An ordinary user may not attach here: once more, as root, by sudo")
    words = ["sudo", "env", f"PATH={os.environ['PATH']}", sys.executable, str(Path(__file__).resolve())]
    show(words)
    os.execvp(words[0], words)


def _leave(_signum: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

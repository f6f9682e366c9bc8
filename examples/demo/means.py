"""What the demo tells its story with: commands shown as typed and run, a terminal that is typed at, a server asked."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pexpect
from pexpect.spawnbase import SpawnBase

SOURCE = Path(__file__).resolve().parent.parent / "server"
STATEMENT = "text := fmt.Sprintf"  # in greeting(), where the demo stops
PROMPT = "(dlv) "
WINDOW = (30, 100)  # rows and columns of a terminal
PATIENCE = 60.0  # seconds for one step before the demo gives up
BLOCKED = 10  # exit codes of the doctor (11: an attach works, but the session would be poor)
WORKS = (0, 11)


class DemoError(Exception):
    """The story cannot go on; the sentence says why."""


class BlockedError(DemoError):
    """The doctor says that an attach would be refused, where it should not be."""


# ------------------------------------------------------------ words and commands


def say(text: str) -> None:
    """The heading of an act."""
    print(f"\n== {text}", flush=True)


def tell(text: str) -> None:
    """A line of the demo's own."""
    print(text, flush=True)


def show(words: list[str]) -> None:
    """A command, as it would be typed."""
    tell("$ " + " ".join(word if word == "&" else shlex.quote(word) for word in words))


def run(words: list[str], good: tuple[int, ...] = (0,), timeout: float = PATIENCE) -> int:
    """Show a command as typed, run it, and return its exit code, which must be one of ``good``."""
    show(words)
    return _run(words, words[0], good, timeout)


def run_line(line: str, good: tuple[int, ...] = (0,)) -> int:
    """The same for a line with pipes and redirections, which a shell reads."""
    tell(f"$ {line}")
    return _run(["sh", "-c", line], line.split(maxsplit=1)[0], good, PATIENCE)


def _run(words: list[str], name: str, good: tuple[int, ...], timeout: float) -> int:
    try:
        code = subprocess.run(words, timeout=timeout, stdin=subprocess.DEVNULL, check=False).returncode
    except FileNotFoundError as error:
        raise DemoError(f"there is no {name} on the PATH; `make demo` finds or installs it") from error
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"{name} took longer than {timeout:.0f} s") from error
    if code not in good:
        raise DemoError(f"{name} ended with {code}")
    return code


# ------------------------------------------------------------ a server


def port_of(line: str) -> int:
    """The port in the first line that the example server prints; the line is shown."""
    tell(line.strip())
    address = re.fullmatch(r"serving on 127\.0\.0\.1:(\d+)", line.strip())
    if not address:
        raise DemoError("the server did not start")
    return int(address[1])


def ask(port: int) -> None:
    """One request, and its answer, shown."""
    tell(f"GET /you -> {get(port)}")


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


def left_as_it_was(pid: int) -> None:
    """Show that a server lives, is not stopped and has no tracer. Raises DemoError."""
    words = ["grep", "-E", "State|TracerPid", f"/proc/{pid}/status"]
    run(words, good=(0, 2))
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError as error:
        raise DemoError("the server has ended") from error
    if "TracerPid:\t0\n" not in status or re.search(r"State:\t[tTZX]", status):
        raise DemoError("the server is not as it was before")


# ------------------------------------------------------------ a terminal


class Screen:
    """Shows what a terminal shows, on whatever our output is, line by line: a prompt waits for what is typed at it."""

    def __init__(self) -> None:
        self.begun = ""
        """A line without its end."""

    def write(self, text: str) -> None:
        *lines, self.begun = (self.begun + text.replace("\r", "")).split("\n")
        sys.stdout.writelines(f"{line}\n" for line in lines)

    def flush(self) -> None:
        sys.stdout.flush()

    def close(self, prompt: str = "") -> None:
        """Show what is left, unless it is a prompt that nothing was typed at."""
        if self.begun not in ("", prompt):
            self.write("\n")


def type_at(terminal: SpawnBase, text: str, *answers: object) -> None:
    """Type a line, and wait for the answers, in this order."""
    terminal.sendline(text)
    expect(terminal, *answers)


def expect(terminal: SpawnBase, *answers: object) -> None:
    """Wait for texts (or pexpect.EOF) in this order. Raises DemoError."""
    for answer in answers:
        try:
            terminal.expect_exact(answer)
        except pexpect.EOF as error:
            raise DemoError(f"the debugger ended before it said {answer!r}") from error
        except pexpect.TIMEOUT as error:
            raise DemoError(f"the debugger stood still before it said {answer!r}") from error


def debug(terminal: SpawnBase, port: int, end: object) -> None:
    """A session, typed at dlv's prompt, which stands there: a breakpoint, a request, a variable, and away.

    ``end`` is what the terminal shows after it.
    """
    source = SOURCE / "main.go"
    line = next(at for at, text in enumerate(source.read_text().splitlines(), 1) if STATEMENT in text)
    answers: list[str] = []
    request = threading.Thread(target=lambda: answers.append(get(port)), daemon=True)
    type_at(terminal, f"break {source.name}:{line}", "Breakpoint 1 set at", PROMPT)
    terminal.sendline("continue")
    request.start()
    expect(terminal, "main.greeting", PROMPT)
    type_at(terminal, "print v.Path", '"/you"', PROMPT)
    type_at(terminal, "clearall", "cleared at", PROMPT)
    type_at(terminal, "exit", "kill the process?")
    type_at(terminal, "n", end)
    request.join(PATIENCE + 10)
    if not answers:
        raise DemoError("the request that stood still meanwhile was not answered")
    tell(f"The request that stood still meanwhile: GET /you -> {answers[0]}")


def attach(words: list[str], port: int) -> None:
    """The real `safedlv attach`, typed at in a terminal of its own, to the server at this port."""
    show(["TERM=dumb", *words])
    plain = {**os.environ, "TERM": "dumb"}  # no colours and no cursor movements: dlv's own terminal
    try:
        terminal = pexpect.spawn(words[0], words[1:], dimensions=WINDOW, timeout=PATIENCE, encoding="utf-8", env=plain)
    except pexpect.ExceptionPexpect as error:
        raise DemoError("there is no safedlv on the PATH") from error
    screen = terminal.logfile_read = Screen()
    try:
        expect(terminal, PROMPT)
        debug(terminal, port, pexpect.EOF)
    finally:
        screen.close()
        terminal.close(force=True)
    if terminal.exitstatus != 0:
        raise DemoError(f"safedlv attach ended with {terminal.exitstatus or terminal.signalstatus}")

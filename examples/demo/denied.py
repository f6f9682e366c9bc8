"""Acts 6 to 8: three attaches that are refused, each diagnosed, mended by what the diagnosis names, and made."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from means import (
    BLOCKED,
    PATIENCE,
    PROMPT,
    DemoError,
    ask,
    debug,
    expect,
    left_as_it_was,
    port_of,
    run,
    run_line,
    say,
    tell,
)
from places import DOCKERS, USER, Place, Shell, mended, shell, tools_for_everyone
from safedlv.model import CapabilitySets
from safedlv.runtimes.sandbox import Sandbox, start
from safedlv.seccomp.program import Refuse

AS_DOCKER_DOES = Sandbox(
    capabilities=CapabilitySets(inheritable=0, permitted=DOCKERS, effective=DOCKERS, bounding=DOCKERS, ambient=0)
)
ATTACH, SETOPTIONS = 16, 0x4200  # include/uapi/linux/ptrace.h
MOUNT = Refuse({"x86_64": 165, "aarch64": 40}.get(os.uname().machine, 0), errno=errno.EPERM)
"""Something else that a filter refuses, which does not matter to dlv."""
HOLD = "--hold-limit 1"  # seconds: a busy machine must not end the search for the smallest change


@frozen
class Denial:
    """One act: who would attach from where, and how it is told."""

    heading: str
    place: Place
    in_full: bool = False
    """Show the whole report of the refused attach; else its first lines."""
    by_dlv: bool = False
    """Show what dlv says by itself."""


ACTS = (
    Denial(
        f"6. Denied: the server is user {USER}'s, and the debugger is root as `docker exec` has it",
        Place(AS_DOCKER_DOES),
        in_full=True,
    ),
    Denial(
        "7. Denied twice: the same, and a seccomp filter refuses PTRACE_ATTACH",
        Place(AS_DOCKER_DOES, (Refuse("ptrace", errno=errno.EPERM, arg=(0, ATTACH)), MOUNT)),
    ),
    Denial(
        "8. Denied without a word: a seccomp filter refuses PTRACE_SETOPTIONS, and nothing else is wrong",
        Place(Sandbox(), (Refuse("ptrace", errno=errno.EPERM, arg=(0, SETOPTIONS)), MOUNT)),
        by_dlv=True,
    ),
)


def tell_all(directory: Path, binary: Path) -> None:
    """The three acts. ``directory``: for temporary files, and every user may enter it."""
    environment = tools_for_everyone(directory)
    for act in ACTS:
        say(act.heading)
        with serving(binary) as (server, port):
            tell_one(act, server, port, directory / "diagnosis.json", environment)
            ask(port)
            left_as_it_was(server)


def tell_one(act: Denial, server: int, port: int, answer: Path, environment: dict[str, str]) -> None:
    """Refused, diagnosed, mended, made."""
    line = f"safedlv attach {server}" if act.in_full else f"safedlv attach --headless {server} 2>&1 | head -n 12"
    with shell(act.place, "denied> ", environment) as there:
        introduce("The debugger stands where this shell does", there)
        if act.by_dlv:
            dlv_alone(there, server)
        there.type_until(line, "blocked at ", "safedlv attach does not say what refuses it")
        expect(there.terminal, there.prompt)
        diagnosis = diagnose(there.pid, server, answer)
    with shell(mended(act.place, diagnosis), "mended> ", environment) as there:
        introduce("The same place with that changed, and nothing else", there)
        there.type_until(f"safedlv attach {server}", PROMPT, "the attach was refused in the mended place, too")
        debug(there.terminal, port, there.prompt)


def introduce(text: str, there: Shell) -> None:
    tell(f"-- {text}, process {there.pid}:")
    run(["grep", "-E", "^(Uid|Gid|CapEff|Seccomp_filters):", f"/proc/{there.pid}/status"])


def diagnose(place: int, server: int, answer: Path) -> dict[str, Any]:
    """As root: what refuses in that place, and the smallest change; the answer to be mended by."""
    tell("-- Root asks what is wrong in that place (its report without the layers, which act 6 shows):")
    words = f"safedlv doctor --tracer pid:{place} {HOLD} {server}"
    run_line(f"{words} | sed '/^The layers/,/^$/d; /^What [ot]/,$d'")
    run_line(f"{words} --json >{answer}", good=(BLOCKED,))
    diagnosis: dict[str, Any] = json.loads(answer.read_text())
    causes = ", ".join(f"{cause['id']} ({cause['proof']})" for cause in diagnosis["causes"])
    fix = diagnosis["fix"] or {"ids": [], "changes": [], "verified": False}
    tell(f"-- It names the causes: {causes}")
    tell(f"-- and the smallest change{' that passed' if fix['verified'] else ', not tried'}: {', '.join(fix['ids'])}")
    for change in fix["changes"]:
        tell(f"     {change}")
    return diagnosis


def dlv_alone(there: Shell, server: int) -> None:
    """dlv takes no notice of a SETOPTIONS that is refused: it listens, and answers."""
    listening = "API server listening at: 127.0.0.1:"
    there.type_until(f"dlv attach --headless --api-version=2 {server}", listening, "dlv does not listen")
    expect(there.terminal, "\n")
    port = int(there.terminal.before)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as editor:
            editor.sendall(b'{"method": "RPCServer.State", "params": [{"NonBlocking": true}], "id": 1}')
            state = json.loads(editor.makefile().readline())["result"]["State"]
            seen = json.dumps({name: state[name] for name in ("Pid", "Running", "exited")})
            tell(f"-- It answers an editor, too: RPCServer.State says {seen[:-1]}, ...}}")
            tell("-- It looks healthy, but threads that start from now on would not be traced, and one that ran into a")
            tell("   breakpoint would take the server down. So dlv is ended before that; on SIGTERM it lets go:")
            run_line(f"kill -TERM {there.foreground()}")
            expect(there.terminal, there.prompt)
    except (OSError, ValueError, KeyError) as error:
        raise DemoError(f"dlv did not answer as an editor expects: {error}") from error
    left_as_it_was(server)


@contextlib.contextmanager
def serving(binary: Path) -> Iterator[tuple[int, int]]:
    """The server as another user: its PID and port, until the block ends."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as output:
        try:
            running = start(Sandbox(uid=USER, gid=USER, groups=()), [str(binary)], stdout=write_end, timeout=PATIENCE)
        except (OSError, RuntimeError) as error:
            raise DemoError(f"the server cannot be started as user {USER}: {error}") from error
        finally:
            os.close(write_end)
        with running:
            tell(f"-- The server is user {USER}'s process {running.pid}:")
            yield running.pid, port_of(output.readline())

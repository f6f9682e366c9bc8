"""Stands in a tracer's place inside the virtual machine and does there what it is asked: a line of JSON in, one out.

It has safedlv loaded already, and a fork of it is in the same context as any program that would be started there: so
a question costs a third of a second, where `docker exec CONTAINER safedlv doctor` costs three under emulation.
`agent.py NAME` reads the requests from the FIFO /in/talk/NAME.in and answers to /in/talk/NAME.out.

    {"doctor": [words], "here": false}   what `safedlv doctor WORDS` answers; "here": in this process, not in a child
    {"tool": [words]}                    what another program says, both streams as one
    {"start": [words]}                   a child that runs on; its PID
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import traceback
from typing import Any

import safedlv
from safedlv import cli

SECONDS = 30.0  # for a tool, which ends by itself before
NOT_OF_DOCTOR = ("safedlv.session", "safedlv.attach", "safedlv.delegate", "safedlv.__main__", "safedlv.runtimes.sand")


def main() -> None:
    """Answer until the input ends."""
    load()
    talk = f"/in/talk/{sys.argv[1]}"
    with open(f"{talk}.in", encoding="utf-8") as requests, open(f"{talk}.out", "w", encoding="utf-8") as answers:
        for line in requests:
            answers.write(json.dumps(answer(json.loads(line))) + "\n")
            answers.flush()


def load() -> None:
    """Import what the command loads late, too."""
    for module in pkgutil.walk_packages(safedlv.__path__, "safedlv."):
        if not module.name.startswith(NOT_OF_DOCTOR):
            importlib.import_module(module.name)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """One request; never raises."""
    try:
        if "doctor" in request:
            return command(["doctor", *request["doctor"]], here=request.get("here", False))
        if "tool" in request:
            return tool(request["tool"])
        child = subprocess.Popen(request["start"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        return {"pid": child.pid}
    except Exception:
        return {"error": traceback.format_exc()}


def command(words: list[str], *, here: bool = False) -> dict[str, Any]:
    """What ``safedlv WORDS`` answers: its exit code, and both streams.

    ``here``: in this process, for whom its children are descendants, as a shell's are for what it execs into.
    """
    out, err = (os.memfd_create(name) for name in ("stdout", "stderr"))
    if here:
        kept = os.dup(1), os.dup(2)
        code = _written_to(out, err, words)
        for fd, copy in enumerate(kept, start=1):
            os.dup2(copy, fd)
            os.close(copy)
    else:
        child = os.fork()
        if child == 0:
            os._exit(_written_to(out, err, words))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"code": code, "stdout": _read(out), "stderr": _read(err)}


def _written_to(out: int, err: int, words: list[str]) -> int:
    os.dup2(out, 1)
    os.dup2(err, 2)
    try:
        return cli.main(words)
    except SystemExit as end:  # argparse
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _read(fd: int) -> str:
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(fd, encoding="utf-8", errors="replace") as file:
        return file.read()


def tool(words: list[str]) -> dict[str, Any]:
    """What a program says, and how it ends."""
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    ) as process:
        try:
            said, code = process.communicate(timeout=SECONDS)[0], process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            said, code = process.communicate()[0], 137
    return {"code": code, "stdout": said}


if __name__ == "__main__":
    main()

"""Act 9: a container that refuses, and dlv in a container of its own beside it. Told where a Docker Engine answers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from means import DemoError, ask, attach, left_as_it_was, run, run_line, say, show, tell

TOOLS = Path(__file__).resolve().parent.parent.parent / "tests" / "tools.sh"
NAME = f"safedlv-demo-{os.getpid()}"
PORT = 8080  # in the container
NO_PTRACE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
}
STRICT = ("--user", "1000:1000", "--cap-drop", "ALL", "--read-only", "--security-opt", "no-new-privileges")
PS = ("docker", "ps", "--all", "--quiet", "--filter")
NOT_STARTED = 125  # what docker run ends with when it is the engine that fails: it has no network, for example
ANSWERS_WITHIN = 60.0  # seconds for an engine that was started


def tell_it(directory: Path, binary: Path) -> None:
    """The act, or why it is left out. ``directory``: for temporary files. Raises DemoError."""
    say("9. A container that refuses every debugger, and dlv in a container of its own beside it")
    with contextlib.ExitStack() as started:
        if not engine(started, directory):
            return
        with container(directory, binary) as ident:
            pid = first_process(ident) if ident else 0
            if not pid:
                tell("It is no process of this machine: this act is left out." if ident else "This act is left out.")
                return
            tell_one(ident, pid)
        tell("-- What was made for this act goes, too: the container, its image, and the image with dlv")
        show([*PS, f"name={NAME}"])
        show(["docker", "images", "--quiet", NAME])
        if left := said(*PS, f"name={NAME}") + said("docker", "images", "--quiet", NAME):
            raise DemoError(f"{left} is left")


def tell_one(ident: str, pid: int) -> None:
    """Refused inside; debugged from beside; all as it was."""
    port = published()
    ask(port)
    tell("-- There is no shell in it, and no dlv; and this is what a dlv that came by `docker exec` would meet:")
    run_line(f"safedlv doctor docker:{NAME} | sed '/^The layers/,/^$/d; /^What [ot]/,$d'")
    tell("-- The sidecar's image is made here, of the local dlv and the libraries that it links; nothing is pulled:")
    attach(["safedlv", "attach", "--via", "sidecar", f"docker:{NAME}"], port)
    tell("-- The sidecar is gone, and the server is as it was, in the same process:")
    words = [*PS, f"label=safedlv.sidecar={ident}"]
    show(words)
    if left := said(*words):
        raise DemoError(f"the sidecar {left} is left")
    if first_process(ident) != pid:
        raise DemoError("the container was started again")
    left_as_it_was(pid)
    ask(port)


# ------------------------------------------------------------ the container


@contextlib.contextmanager
def container(directory: Path, binary: Path) -> Iterator[str]:
    """One with nothing but the server in it, which may do very little; its id, "" where the engine cannot start it.

    What was made for it goes with it.
    """
    profile = directory / "no-ptrace.json"
    profile.write_text(json.dumps(NO_PTRACE))
    before = toolboxes()
    try:
        run(["tar", "-C", str(binary.parent), "-c", "-f", str(directory / "image.tar"), binary.name])
        run(["docker", "import", str(directory / "image.tar"), NAME])
        limits = [*STRICT, "--security-opt", f"seccomp={profile}", "--publish", f"127.0.0.1::{PORT}"]
        words = ["docker", "run", "--detach", "--name", NAME, *limits, NAME, f"/{binary.name}", f"0.0.0.0:{PORT}"]
        runs = run(words, good=(0, NOT_STARTED)) == 0
        yield said("docker", "inspect", "--format", "{{.Id}}", NAME) if runs else ""
    finally:
        said("docker", "rm", "--force", NAME)
        said("docker", "image", "rm", NAME, *(toolboxes() - before))


def toolboxes() -> set[str]:
    """The images that safedlv has made."""
    return set(said("docker", "images", "--quiet", "--filter", "label=safedlv.toolbox").split())


def first_process(ident: str) -> int:
    """The PID of the container's server here; 0 where it is none of this machine's processes."""
    pid = said("docker", "inspect", "--format", "{{.State.Pid}}", ident)
    try:
        return int(pid) if Path(f"/proc/{pid}/comm").read_text() == "server\n" else 0
    except (OSError, ValueError):
        return 0


def published() -> int:
    """The port of this machine that leads to the server, once that serves. Raises DemoError."""
    words = ["docker", "port", NAME, f"{PORT}/tcp"]
    show(words)
    address = said(*words)
    tell(address)
    port = address.rpartition(":")[2]
    if not port.isdigit():
        raise DemoError("the engine has published no port")
    deadline = time.monotonic() + 10
    while not said("docker", "logs", NAME) and time.monotonic() < deadline:
        time.sleep(0.05)
    return int(port)


def said(*words: str) -> str:
    """What a command prints on stdout; "" when it fails."""
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return done.stdout.strip()


# ------------------------------------------------------------ an engine


def engine(started: contextlib.ExitStack, directory: Path) -> bool:
    """Whether an engine answers. At a terminal one is offered where there is none; nothing is installed unasked."""
    if answers():
        return True
    tell("No Docker Engine answers here, and this act needs one.")
    installable = shutil.which("dockerd") is None and TOOLS.exists() and shutil.which("apt-get")
    if installable and agreed("Install docker.io (apt-get)?"):
        subprocess.run([TOOLS, "engine"], check=False)
    if not answers() and shutil.which("dockerd") and os.geteuid() == 0 and agreed("Start dockerd for this act?"):
        start(started, directory / "dockerd.log")
    if answers():
        return True
    tell("It is left out. Debian: apt-get install docker.io; then once more: make demo")
    return False


def answers() -> bool:
    try:
        words = ["docker", "version", "--format", "{{.Server.Version}}"]
        return subprocess.run(words, capture_output=True, timeout=20, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def agreed(question: str) -> bool:
    """Ask at the terminal; where there is none the answer is no."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def start(started: contextlib.ExitStack, log: Path) -> None:
    """dockerd, until ``started`` is closed; returns when it answers or has ended."""
    show(["dockerd", "&"])
    with log.open("wb") as output:
        process = subprocess.Popen(["dockerd"], stdout=output, stderr=output, start_new_session=True)
    started.callback(process.wait)
    started.callback(process.terminate)
    deadline = time.monotonic() + ANSWERS_WITHIN
    while process.poll() is None and not answers() and time.monotonic() < deadline:
        time.sleep(0.1)

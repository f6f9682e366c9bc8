"""A virtual machine whose kernel has Yama and AppArmor, with Docker in it: boots, runs one program, and is gone.

``python -m tests.vm.machine 'COMMAND'`` runs a shell command in it: safedlv, its dependencies, dlv and the example
server are in /in. The image comes from tests/vm/image.sh; every start begins with it as it was built.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from tests.support import LONG

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = Path(__file__).parent / "image.sh"
QEMU = "qemu-system-x86_64"
SECONDS = 3000.0 if LONG else 1500.0
TAIL = 4000  # characters of a console that are shown
SBIN = ":/usr/sbin:/sbin"  # where Debian has debootstrap
PURE = shutil.ignore_patterns("__pycache__", "*.so", "*.pyc")  # whatever Python this is, the machine's can run it


@frozen
class Outcome:
    """What a program did. ``code`` is None when it did not end in time, or the machine did not come up."""

    code: int | None
    stdout: str
    stderr: str
    console: str
    seconds: float

    def explained(self) -> str:
        """For the message of a test that failed."""
        ended = f"ended with {self.code}" if self.code is not None else "did not end"
        tails = [f"--- {n}:\n{getattr(self, n)[-TAIL:]}" for n in ("console", "stderr", "stdout") if getattr(self, n)]
        return "\n".join([f"the program in the virtual machine {ended} ({self.seconds:.0f} s)", *tails])


def lacking() -> str:
    """Why no machine can be started here; empty when one can."""
    if os.uname().machine != "x86_64":
        return "the image of the virtual machine is made for x86-64"
    if not shutil.which(QEMU):
        return f"needs {QEMU} (qemu-system-x86)"
    if not is_built() and not (os.geteuid() == 0 and shutil.which("debootstrap", path=os.environ["PATH"] + SBIN)):
        return "needs the image of the virtual machine: tests/vm/image.sh build, as root"
    return ""


def is_built() -> bool:
    return (image() / "root.ext4").exists()


def build() -> None:
    """Make the image, where it is not there. Raises RuntimeError with what was said last."""
    done = subprocess.run([RECIPE, "build"], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise RuntimeError(f"tests/vm/image.sh build: {(done.stdout + done.stderr)[-TAIL:]}")


def image() -> Path:
    """Where this recipe's image belongs."""
    return Path(subprocess.run([RECIPE, "name"], capture_output=True, text=True, check=True).stdout.strip())


def run(inputs: dict[str, Path], program: str, seconds: float = SECONDS) -> Outcome:
    """Boot, put ``inputs`` (name below /in: file or directory) in, run the shell script ``program`` in /in.

    Never raises for what happens inside; the machine is killed after ``seconds``.
    """
    with tempfile.TemporaryDirectory(prefix="vm-") as directory:
        work = Path(directory)
        _pack(inputs, program, work / "inputs.tar")
        ports = {name: work / name for name in ("console", "stdout", "stderr", "code")}
        for path in ports.values():
            path.touch()
        began = time.monotonic()
        said = _boot(work / "inputs.tar", ports, seconds)
        texts = {name: path.read_text("utf-8", "replace") for name, path in ports.items()}
        code = int(texts["code"]) if texts["code"].strip().isdigit() else None
        console = texts["console"] + said
        return Outcome(code, texts["stdout"], texts["stderr"], console, time.monotonic() - began)


def _boot(inputs: Path, ports: dict[str, Path], seconds: float) -> str:
    command = [QEMU, *_hardware(), *_drives(inputs), *_ports(ports)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:  # run() has killed it
        return f"\n(killed after {seconds:.0f} s)\n"
    return done.stderr.decode("utf-8", "replace")


def _hardware() -> list[str]:
    """Emulated, since Debian's kernels hang under nested virtualisation; two processors, for ptrace races too."""
    where = image()
    kernel = ["-kernel", str(where / "vmlinuz"), "-initrd", str(where / "initrd")]
    faster = "mitigations=off clocksource=tsc tsc=reliable"  # the other clocks are emulated devices
    modules = "lsm=lockdown,capability,landlock,yama,apparmor,bpf"
    words = ["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048", "-no-reboot"]
    plain = ["-nodefaults", "-display", "none", "-nic", "none", "-device", "virtio-rng-pci"]
    return [*words, *plain, *kernel, "-append", f"console=ttyS0 quiet panic=-1 {faster} {modules}"]


def _drives(inputs: Path) -> list[str]:
    root = f"file={image() / 'root.ext4'},format=raw,if=virtio,snapshot=on"
    return ["-drive", root, "-drive", f"file={inputs},format=raw,if=virtio,readonly=on"]


def _ports(ports: dict[str, Path]) -> list[str]:
    words = ["-serial", f"file:{ports['console']}", "-device", "virtio-serial-pci"]
    for name in ("stdout", "stderr", "code"):
        words += ["-chardev", f"file,id={name},path={ports[name]}"]
        words += ["-device", f"virtserialport,chardev={name},name={name}"]
    return words


# ---------------------------------------------------------------- what goes in


def _pack(inputs: dict[str, Path], program: str, archive: Path) -> None:
    with tarfile.open(archive, "w") as tar:
        for name, path in inputs.items():
            tar.add(path.resolve(), name, filter=_readable)
        script = program.encode()
        entry = tarfile.TarInfo("run")
        entry.mode, entry.size = 0o755, len(script)
        tar.addfile(entry, io.BytesIO(script))


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Owned by root and open to everybody, whatever this tree's owner and umask are."""
    if "__pycache__" in entry.name:
        return None
    entry.uid = entry.gid = 0
    entry.mode |= 0o555 if entry.isdir() or entry.mode & 0o100 else 0o444
    return entry


@contextlib.contextmanager
def library() -> Iterator[Path]:
    """A directory with safedlv and what it depends on, as this Python has it."""
    with tempfile.TemporaryDirectory(prefix="lib-") as directory:
        shutil.copytree(ROOT / "safedlv", Path(directory) / "safedlv", ignore=PURE)
        for name in sorted(_needed("safedlv") - {"safedlv"}):
            for top in _tops(name):
                place = Path(directory) / top.name
                if top.is_dir():
                    shutil.copytree(top, place, ignore=PURE)
                else:
                    shutil.copy(top, place)
        yield Path(directory)


def _needed(distribution: str) -> set[str]:
    """A distribution and, recursively, what it requires here, extras apart."""
    found = {distribution}
    for requirement in importlib.metadata.requires(distribution) or ():
        match = re.match(r"[\w.-]+", requirement)
        if match and "extra ==" not in requirement and match[0] not in found:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # for another system
                found |= _needed(match[0])
    return found


def _tops(distribution: str) -> set[Path]:
    """The packages and modules, right below site-packages, that a distribution brought."""
    files = importlib.metadata.files(distribution) or []
    names = {Path(file.parts[0]) for file in files if file.parts[0] not in ("..", "__pycache__")}
    base = Path(str(importlib.metadata.distribution(distribution).locate_file("")))
    return {base / name for name in names if (base / name).is_dir() or name.suffix == ".py"}


def main(words: list[str]) -> int:
    """Run a command in it and show what it wrote."""
    if lacking() or not words:
        print(lacking() or __doc__, file=sys.stderr)
        return 2
    with library() as lib:
        inputs = {"lib": lib, "tests/vm": Path(__file__).parent}
        for name in ("dlv", "server"):
            if path := os.environ.get(f"SAFEDLV_VM_{name.upper()}") or shutil.which(name):
                inputs[name] = Path(path)
        outcome = run(inputs, "#!/bin/sh\nexport PYTHONPATH=/in/lib:/in SAFEDLV_DLV=/in/dlv\n" + " ".join(words) + "\n")
    print(outcome.stdout, end="")
    print(outcome.stderr, end="", file=sys.stderr)
    if outcome.code is None:
        print(outcome.explained(), file=sys.stderr)
    return 1 if outcome.code is None else outcome.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

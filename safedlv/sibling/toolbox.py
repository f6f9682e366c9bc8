"""The image that a sibling runs dlv from: made on the spot from the local dlv and the libraries it links.

Nothing is pulled and nothing is needed of the target: the image holds dlv, its loader and its libraries under
``/toolbox``, and links that lead every path of a program's libraries through ``/session/root`` into the target's root
(the session's directory is mounted on ``/session``). Its tag says what is in it, so that it is made once.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from typing import IO, Final

from attrs import frozen

from safedlv.errors import SafedlvError, printable
from safedlv.facts.elf import MalformedElf, read_elf
from safedlv.runtimes.docker import NOT_FOUND, Engine
from safedlv.runtimes.engine import EngineError
from safedlv.sibling.plan import SESSION

REPOSITORY: Final = "safedlv-toolbox"
LABEL: Final = "safedlv.toolbox"
DIRECTORY: Final = "/toolbox"
ROOT: Final = f"{SESSION}/root"
"""A link that each session makes: to the root of the target's mount namespace, /proc/PID/root."""
SEEN_THROUGH: Final = ("lib", "lib32", "lib64", "libx32", "usr", "opt", "srv", "app", "home", "go", "nix", "var")
"""Top directories in which a program's libraries may lie."""
LIST_SECONDS: Final = 10
SHELL: Final = "/bin/sh"
WITHOUT_UMASK: Final = ("-c", 'umask 0; exec "$@"', "sh")
LAYOUT: Final = "1"
"""Part of the tag: changed when the image is put together in another way."""


@frozen
class Toolbox:
    """What is to be in the image: (path inside, path here), and how dlv is started in it. No files: it is given."""

    tag: str
    files: tuple[tuple[str, str], ...]
    entry: tuple[str, ...]

    def describe(self) -> str:
        """What making it does, in a line."""
        size = sum(os.path.getsize(here) for _, here in self.files) >> 20
        return f"make the image {self.tag} ({size} MB) from the local dlv and the libraries that it links"


def toolbox_of(dlv: str, *, for_everybody: bool = False) -> Toolbox:
    """The toolbox of this dlv. Raises SafedlvError when its libraries cannot be found.

    ``for_everybody``: dlv's socket is to be everybody's, for a safedlv that is neither root nor dlv's user in the
    container. No engine sets a umask, so a shell does, the local one.
    """
    files, entry = _program(dlv, "dlv")
    if for_everybody:
        of_shell, shell = _program(SHELL, "sh")
        files, entry = [*files, *of_shell], (*shell, *WITHOUT_UMASK, *entry)
    files = list(dict.fromkeys(files))
    return Toolbox(f"{REPOSITORY}:{_digest(files)}", tuple(files), entry)


def _program(path: str, name: str) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """A program and what it links, as (path inside, path here), and how it is started inside."""
    interpreter, libraries = _libraries(path)
    files = [(f"{DIRECTORY}/{name}", path)]
    files += [(f"{DIRECTORY}/{os.path.basename(library)}", library) for library in libraries]
    if not interpreter:
        return files, (f"{DIRECTORY}/{name}",)
    loader = f"{DIRECTORY}/{os.path.basename(interpreter)}"
    return [*files, (loader, interpreter)], (loader, "--library-path", DIRECTORY, f"{DIRECTORY}/{name}")


def given_image(engine: Engine, image: str, *, for_everybody: bool = False) -> Toolbox:
    """A toolbox in an image that somebody made, with dlv on its PATH. Raises SafedlvError when it is not there.

    ``for_everybody`` as with :func:`toolbox_of`; it takes a shell in the image.
    """
    toolbox = Toolbox(image, (), ("sh", *WITHOUT_UMASK, "dlv") if for_everybody else ("dlv",))
    if not is_there(engine, toolbox):
        raise SafedlvError(f"there is no image {printable(image)}", f"docker pull {printable(image)}")
    return toolbox


def is_there(engine: Engine, toolbox: Toolbox) -> bool:
    """Whether the engine has the image. Raises SafedlvError, EngineError."""
    try:
        engine.ask(f"tell about the image {toolbox.tag}", lambda: engine.api.inspect_image(toolbox.tag))
    except EngineError as error:
        if error.status == NOT_FOUND:
            return False
        raise
    return True


def ensure(engine: Engine, toolbox: Toolbox) -> bool:
    """Make the image unless it is there; whether it was made. Raises SafedlvError, EngineError."""
    if is_there(engine, toolbox):
        return False
    archive = io.BytesIO()
    write_archive(toolbox, archive)
    repository, _, tag = toolbox.tag.partition(":")
    said = engine.ask(
        f"import the image {toolbox.tag}",
        lambda: engine.api.import_image_from_data(
            archive.getvalue(), repository=repository, tag=tag, changes=[f"LABEL {LABEL}={LAYOUT}"]
        ),
    )
    if "errorDetail" in str(said):  # what goes wrong after it has begun does not change the status that it answered
        raise EngineError(0, f"the Docker Engine did not import the image {toolbox.tag}: {printable(str(said), 500)}")
    return True


def write_archive(toolbox: Toolbox, archive: IO[bytes]) -> None:
    """The image's files, as ``docker import`` takes them. Raises OSError."""
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in (DIRECTORY, SESSION):
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name in SEEN_THROUGH:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, f"{ROOT}/{name}", 0o777
            tar.addfile(entry)
        for inside, here in toolbox.files:
            with open(here, "rb") as file:
                entry = tarfile.TarInfo(inside.lstrip("/"))
                entry.size, entry.mode = os.fstat(file.fileno()).st_size, 0o755
                tar.addfile(entry, file)


def _digest(files: list[tuple[str, str]]) -> str:
    digest = hashlib.sha256(LAYOUT.encode())
    for inside, here in sorted(files):
        digest.update(inside.encode())
        try:
            with open(here, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise SafedlvError(f"cannot read {printable(here)}: {error.strerror}") from error
    return digest.hexdigest()[:16]


def _libraries(dlv: str) -> tuple[str, list[str]]:
    """The loader of a program and the libraries that it finds for it; ("", []) for a static one (ld.so(8), --list)."""
    interpreter = _interpreter(dlv)
    if not interpreter:
        return "", []
    words = [interpreter, "--list", dlv]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIST_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SafedlvError(
            f"the libraries that {printable(dlv)} links cannot be listed ({interpreter} --list failed)",
            "use a static one: CGO_ENABLED=0 go install github.com/go-delve/delve/cmd/dlv@latest",
        ) from error
    found = [words[2] for line in done.stdout.splitlines() if len(words := line.split()) > 2 and words[1] == "=>"]
    return interpreter, [path for path in found if path.startswith("/")]


def _interpreter(path: str) -> str:
    """PT_INTERP of an ELF file (elf(5)); "" where it has none. Raises SafedlvError when it is no ELF file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return os.fsdecode(read_elf(fd).interpreter())
        finally:
            os.close(fd)
    except (OSError, MalformedElf) as error:
        raise SafedlvError(f"{printable(path)} cannot be put into an image: {error}") from error

"""Executables of real processes: Go programs built in every way that matters, and what stands in for them."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from safedlv.facts.buildinfo import read_buildinfo
from safedlv.facts.go_binary import Contents, read_go_binary, stat_in_root
from safedlv.facts.procfs import ProcDir
from safedlv.model import GoBinary, Unknown
from tests.live.go_programs import CGO, DEBUG, NO_CGO, Builder, read_contents, running
from tests.support import require


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("go"))


def go_version_m(path: Path) -> dict[str, str]:
    """What Go's own tool says: ``go``, ``path`` and the settings."""
    run = subprocess.run(["go", "version", "-m", str(path)], check=True, capture_output=True, text=True)
    first, *lines = run.stdout.splitlines()
    facts = {"go": first.rpartition(": ")[2]}
    for line in lines:
        word, _, rest = line.strip().partition("\t")
        if word == "path":
            facts["path"] = rest
        elif word == "build":
            key, _, value = rest.partition("=")
            facts[key] = value.strip('"')
    return facts


def check_against_go(binary: Contents | GoBinary, path: Path) -> None:
    facts = go_version_m(path)
    assert binary.is_go is True
    assert (binary.go_version, binary.main_package) == (facts["go"], facts["path"])


# ---------------------------------------------------------------- ways of building


def test_built_for_debugging(build: Builder) -> None:
    path = build(DEBUG, **NO_CGO)
    with running(path) as procdir:
        binary = read_go_binary(procdir.fileno())
    check_against_go(binary, path)
    assert (binary.has_dwarf, binary.optimized, binary.cgo) == (True, False, False)
    assert (binary.path, binary.deleted, binary.replaced) == (str(path), False, False)


@pytest.mark.parametrize(
    ("flags", "dwarf", "optimized"),
    [
        ((), True, True),
        (("-gcflags=-N -l",), True, False),
        (("-gcflags=all=-N",), True, True),
        ((DEBUG, "-ldflags=-s -w"), False, False),
        (("-ldflags=-s -w",), False, True),
        (("-ldflags=-w",), False, True),
        ((DEBUG, "-ldflags=-compressdwarf=false"), True, False),
        ((DEBUG, "-buildmode=pie"), True, False),
        ((DEBUG, "-trimpath"), True, False),
    ],
    ids=str,
)
def test_flags(build: Builder, flags: tuple[str, ...], dwarf: bool, optimized: bool) -> None:
    path = build(*flags, **NO_CGO)
    contents = read_contents(path)
    check_against_go(contents, path)
    assert (contents.has_dwarf, contents.optimized) == (dwarf, optimized)


def test_settings_are_what_go_reports(build: Builder) -> None:
    path = build(DEBUG, '-ldflags=-X "main.a=b c" -s', **NO_CGO)
    with path.open("rb") as file:
        info = read_buildinfo(file.fileno())
    assert info is not None
    facts = go_version_m(path)
    for name in ("-gcflags", "CGO_ENABLED", "GOARCH", "-compiler"):
        assert info.settings[name] == facts[name]
    assert info.settings["-ldflags"] == '-X "main.a=b c" -s'


def test_the_producer_outranks_the_flags(build: Builder) -> None:
    """-gcflags for a package that is not in the program: main is optimised, whatever the setting looks like."""
    contents = read_contents(build("-gcflags=fmt=-N -l", **NO_CGO))
    assert contents.optimized is True


@pytest.mark.parametrize("linkmode", ["internal", "external"])
def test_cgo(build: Builder, linkmode: str) -> None:
    require(shutil.which("gcc") is not None, "no C compiler")
    path = build(DEBUG, f"-ldflags=-linkmode={linkmode}", source=CGO, CGO_ENABLED="1")
    contents = read_contents(path)
    check_against_go(contents, path)
    assert (contents.cgo, contents.has_dwarf, contents.optimized) == (True, True, False)


@pytest.mark.parametrize("options", [["-s"], ["-s", "--remove-section=.note.go.buildid"]])
def test_stripped_afterwards(build: Builder, tmp_path: Path, options: list[str]) -> None:
    require(shutil.which("strip") is not None, "no binutils")
    path = tmp_path / "stripped"
    subprocess.run(["strip", *options, "-o", str(path), str(build(DEBUG, **NO_CGO))], check=True)
    contents = read_contents(path)
    check_against_go(contents, path)
    assert (contents.has_dwarf, contents.optimized) == (False, False)


def test_without_any_section_header(build: Builder, tmp_path: Path) -> None:
    """What sstrip and UPX do: the kernel runs it, and Go still knows it for its own."""
    path = tmp_path / "bare"
    data = bytearray(build(DEBUG, **NO_CGO).read_bytes())
    assert data[4] == 2
    data[40:48] = bytes(8)  # e_shoff
    data[60:64] = bytes(4)  # e_shnum, e_shstrndx
    path.write_bytes(data)
    path.chmod(0o755)
    with running(path) as procdir:
        binary = read_go_binary(procdir.fileno())
    check_against_go(binary, path)
    assert binary.has_dwarf is False


def test_a_program_of_go_1_17(tmp_path: Path) -> None:
    """The older format, and DWARF in .zdebug_ sections: a program that Go's own tests keep for this."""
    require(shutil.which("go") is not None, "Go is not installed")
    root = subprocess.run(["go", "env", "GOROOT"], check=True, capture_output=True, text=True).stdout.strip()
    encoded = Path(root, "src/debug/buildinfo/testdata/go117/go117.base64")
    require(encoded.exists(), "this Go comes without its tests")
    path = tmp_path / "go117"
    path.write_bytes(base64.b64decode(encoded.read_bytes()))
    contents = read_contents(path)
    check_against_go(contents, path)
    assert (contents.has_dwarf, contents.optimized, contents.cgo) == (True, True, False)


# ---------------------------------------------------------------- what is not Go


def test_a_script_and_a_python() -> None:
    for command in (("sh", "-c", "sleep 100; :"), (sys.executable, "-c", "import time; time.sleep(100)")):
        with running(*command) as procdir:
            binary = read_go_binary(procdir.fileno())
        assert binary.is_go is False
        assert binary.go_version is None
        assert binary.main_package is None
        assert binary.optimized == Unknown("NOT_GO", f"{procdir.path}/exe")
        assert isinstance(binary.path, str)
        assert binary.deleted is False


def test_a_kernel_thread() -> None:
    kthreadd = Path("/proc/2/comm")
    require(kthreadd.exists() and kthreadd.read_text() == "kthreadd\n", "kernel threads are not visible here")
    with ProcDir(2) as procdir:
        binary = read_go_binary(procdir.fileno())
    assert isinstance(binary.path, Unknown)
    assert isinstance(binary.is_go, Unknown)
    assert isinstance(binary.replaced, Unknown)


def test_a_process_that_is_gone() -> None:
    process = subprocess.Popen(["sleep", "100"])
    with ProcDir(process.pid) as procdir:
        process.kill()
        process.wait()
        binary = read_go_binary(procdir.fileno())
    for fact in (binary.path, binary.is_go, binary.has_dwarf, binary.deleted, binary.replaced, binary.cgo):
        assert isinstance(fact, Unknown)


def test_another_users_process() -> None:
    """Without the right to look, everything is unknown and nothing is a no."""
    require(os.getuid() == 0, "needs root to have another user's process")
    with running("sleep", "100") as procdir:
        assert as_nobody(lambda: errnos(read_go_binary(procdir.fileno()))) == "EACCES " * 9


def errnos(binary: GoBinary) -> str:
    facts = attrs.astuple(binary, recurse=False)
    return "".join(f"{fact.errno if isinstance(fact, Unknown) else fact} " for fact in facts)


def as_nobody(tell: Callable[[], str]) -> str:
    """What a child says that has given up root; forked, since nobody may be unable to load this project."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writer, tell().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


# ---------------------------------------------------------------- a file that is no longer there


@pytest.fixture
def copy(build: Builder, tmp_path: Path) -> Path:
    return Path(shutil.copy(build(DEBUG, **NO_CGO), tmp_path / "app"))


def test_deleted(copy: Path) -> None:
    with running(copy) as procdir:
        copy.unlink()
        binary = read_go_binary(procdir.fileno())
    assert (binary.path, binary.deleted, binary.replaced) == (str(copy), True, False)
    assert (binary.is_go, binary.optimized) == (True, False)


def test_replaced_by_a_new_build(copy: Path) -> None:
    with running(copy) as procdir:
        other = shutil.copy("/bin/sh", copy.with_name("new"))
        os.rename(other, copy)
        binary = read_go_binary(procdir.fileno())
    assert (binary.path, binary.deleted, binary.replaced) == (str(copy), True, True)
    assert binary.is_go is True


def test_renamed(copy: Path) -> None:
    with running(copy) as procdir:
        moved = copy.rename(copy.with_name("moved"))
        binary = read_go_binary(procdir.fileno())
    assert (binary.path, binary.deleted, binary.replaced) == (str(moved), False, False)


def test_a_name_that_looks_deleted(copy: Path) -> None:
    odd = copy.rename(copy.with_name("app (deleted)"))
    with running(odd) as procdir:
        binary = read_go_binary(procdir.fileno())
        assert (binary.path, binary.deleted, binary.replaced) == (str(odd), False, False)
        odd.unlink()
        binary = read_go_binary(procdir.fileno())
    assert (binary.path, binary.deleted, binary.replaced) == (str(odd), True, False)


def test_replaced_by_a_fifo_or_a_loop(copy: Path) -> None:
    """Looking at what stands there opens nothing."""
    with running(copy) as procdir:
        copy.unlink()
        os.mkfifo(copy)
        assert read_go_binary(procdir.fileno()).replaced is True
        copy.unlink()
        copy.symlink_to(copy.name)
        assert read_go_binary(procdir.fileno()).replaced == Unknown("ELOOP", str(copy))


# ---------------------------------------------------------------- another root


def in_root(root: Path, path: str) -> os.stat_result | Unknown:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        return stat_in_root(fd, path)
    finally:
        os.close(fd)


def test_links_do_not_lead_out_of_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (tmp_path / "secret").write_text("outside")
    (root / "etc/passwd").write_text("inside")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "upwards").symlink_to("../../../../../etc/passwd")
    (root / "outside").symlink_to(tmp_path / "secret")
    (root / "magic").symlink_to("/proc/self/root/etc/passwd")
    require(in_root(root, "/") != Unknown("ENOSYS", "/"), "needs openat2 (Linux 5.6)")
    inside = os.stat(root / "etc/passwd")
    for name in ("/etc/passwd", "etc/passwd", "/absolute", "/upwards", "/../../etc/passwd"):
        seen = in_root(root, name)
        assert isinstance(seen, os.stat_result), seen
        assert os.path.samestat(seen, inside)
    assert in_root(root, "/outside") == Unknown("ENOENT", "/outside")
    assert in_root(root, "/magic") == Unknown("ENOENT", "/magic")
    proc = in_root(Path("/"), "/proc/self/root/etc")
    assert isinstance(proc, Unknown)
    assert proc.errno == "ELOOP"


def enter(root: Path) -> Callable[[], None]:
    """For a child, before it executes its program."""

    def change() -> None:
        os.chroot(root)
        os.chdir("/")

    return change


def test_a_chrooted_process(copy: Path, tmp_path: Path) -> None:
    """The link's text starts at *our* root here, not at the process's."""
    require(os.getuid() == 0, "needs root for chroot")
    jail = tmp_path / "jail"
    (jail / "bin").mkdir(parents=True)
    copy.rename(jail / "bin/app")
    with running("/bin/app", preexec_fn=enter(jail)) as procdir:
        binary = read_go_binary(procdir.fileno())
        assert (binary.path, binary.deleted, binary.replaced) == (str(jail / "bin/app"), False, False)
        (jail / "bin/app").unlink()
        shutil.copy("/bin/sh", jail / "bin/app")
        assert read_go_binary(procdir.fileno()).replaced is True


PIVOT = """
import ctypes, os, subprocess, sys
root = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
mount = lambda *words: subprocess.run(["mount", *words], check=True)
mount("--make-rprivate", "/")
mount("--bind", root, root)
os.chdir(root)
assert libc.syscall({"x86_64": 155, "aarch64": 41}[os.uname().machine], b".", b".") == 0  # pivot_root
assert libc.umount2(b".", 2) == 0  # MNT_DETACH
os.chdir("/")
os.execv("/bin/app", ["app"])
"""


def test_a_process_in_a_root_of_its_own(copy: Path, tmp_path: Path) -> None:
    """As in a container; a link that the target plants instead of its executable is followed inside its root only."""
    require(os.getuid() == 0, "needs root for a mount namespace")
    root = tmp_path / "rootfs"
    (root / "bin").mkdir(parents=True)
    copy.rename(root / "bin/app")
    with running(sys.executable, "-c", PIVOT, root) as procdir:
        end = time.monotonic() + 10
        while (path := read_go_binary(procdir.fileno()).path) != "/bin/app" and time.monotonic() < end:
            time.sleep(0.01)
        if path != "/bin/app":
            require(False, "this machine does not let us pivot into a root of our own")
        binary = read_go_binary(procdir.fileno())
        assert (binary.deleted, binary.replaced, binary.is_go) == (False, False, True)
        app = root / "bin/app"
        app.unlink()
        assert read_go_binary(procdir.fileno()).replaced is False
        app.symlink_to("/etc/hostname")  # is there outside, and not inside
        binary = read_go_binary(procdir.fileno())
        assert (binary.path, binary.deleted, binary.replaced) == ("/bin/app", True, False)

"""``safedlv seccomp`` on processes that run under filters, and beside libseccomp's own resolver."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pty
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from safedlv.linux import confine
from safedlv.linux.libseccomp import Libseccomp
from safedlv.seccomp import bpf
from safedlv.seccomp.program import Refuse, assemble
from safedlv.seccomp_command import seccomp
from safedlv.seccomp_resolve import Lacking
from safedlv.seccomp_source import filters, made_from, shipped
from tests.support import SAFEDLV, assert_unharmed, require

MACHINE = os.uname().machine
FIRST = assemble([Refuse("ptrace", arg=(0, 16), errno=errno.EPERM)], MACHINE)
LAST = assemble([Refuse("ptrace", errno=errno.ENOSYS), Refuse("kill", action="trap")], MACHINE)
RESOLVER_ARCHES = ("x86_64", "x86", "aarch64", "arm", "riscv64")
HIGHEST = 600


def ask(*words: str, given: bytes | None = None, **more: Any) -> subprocess.CompletedProcess[bytes]:
    command = [*SAFEDLV, "seccomp", *words]
    return subprocess.run(command, input=given, capture_output=True, check=False, timeout=60, **more)


def said(*words: str, code: int = 0, given: bytes | None = None) -> str:
    done = ask(*words, given=given)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode()


@contextmanager
def under(*programs: bytes) -> Iterator[int]:
    """A process of ours that runs under these filters."""
    require(os.geteuid() == 0, "needs root to read filters")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            confine.set_pdeathsig(signal.SIGKILL)
            for program in programs:
                confine.seccomp_set_mode_filter(program)
            os.write(writer, b"!")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"!"
        yield child
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# ---------------------------------------------------------------- show


def test_what_is_shown_is_what_was_loaded(tmp_path: Path) -> None:
    """In every form, and the process notices nothing."""
    with under(FIRST, LAST) as pid:
        document = json.loads(said("show", str(pid), "--json"))
        assert document["schema"] == "safedlv.seccomp/1"
        assert document["loaded"] is True
        loaded = [bpf.dump(tuple(bpf.Instruction(*one) for one in p["instructions"])) for p in document["programs"]]
        assert loaded == [FIRST, LAST]
        for number, program in enumerate((FIRST, LAST), 1):
            assert ask("show", str(pid), "--as", "bpf", "--filter", str(number)).stdout == program
            said("show", str(pid), "--as", "bpf", "--filter", str(number), "-o", str(tmp_path / f"{number}.bpf"))
        assert_unharmed(pid)
        text = said("show", str(pid))
        assert f"2 programs loaded in process {pid}, as the kernel gave them" in text
        assert "loaded last: the kernel asks it first" in text
        assert "; ERRNO(ENOSYS)" in text
        rules = " ".join(said("show", str(pid), "--as", "rules").split())
        assert "refused with ENOSYS ptrace" in rules, "the last one's answer, for ATTACH too"
        assert "SIGSYS to the thread kill" in rules
        assert "allowed everything else" in rules
        assert_unharmed(pid)
    assert bpf.dump(filters(str(tmp_path / "1.bpf")).programs[0]) == FIRST


def test_which_of_two_filters_answers() -> None:
    """Both refuse ATTACH with an errno: the one that was loaded last is named."""
    with under(FIRST, LAST) as process:
        document = json.loads(said("explain", str(process), "ptrace(16)", "getpid", "--json", code=10))
        attach, getpid = document["calls"]
        assert (attach["verdict"], getpid["verdict"]) == ("refused", "allowed")
        (answer,) = attach["answers"]
        assert (answer["errno"], answer["program"]) == ("ENOSYS", 2)
        assert bpf.load(LAST)[answer["instruction"]].code == bpf.RET
        assert_unharmed(process)


def test_a_process_without_a_filter(server: Any) -> None:
    assert "has no seccomp filter: every call reaches the kernel" in said("show", str(server.pid))
    assert "all allowed" in said("explain", str(server.pid))
    assert json.loads(said("show", str(server.pid), "--json"))["programs"] == []
    assert "there is no program" in ask("show", str(server.pid), "--as", "bpf").stderr.decode()
    assert ask("generate", "--for", "dlv", "--base", str(server.pid)).returncode == 1
    assert_unharmed(server.pid)


def test_a_program_is_not_written_to_a_terminal() -> None:
    outer, inner = pty.openpty()
    with under(FIRST) as pid:
        command = [*SAFEDLV, "seccomp", "show", str(pid), "--as", "bpf"]
        done = subprocess.run(command, stdout=inner, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(inner)
    os.close(outer)
    assert done.returncode == 2
    assert b"not for a terminal" in done.stderr


def test_without_the_privilege() -> None:
    """Another user's process, and one's own under a filter: a sentence, and no guess."""
    with under(FIRST) as pid:
        done = subprocess.run(
            [*SAFEDLV, "seccomp", "show", str(pid)],
            capture_output=True,
            check=False,
            timeout=60,
            preexec_fn=without_sys_admin,
        )
        assert done.returncode == 1, done.stderr
        assert b"could not be read" in done.stderr
        assert b"it takes root (CAP_SYS_ADMIN)" in done.stderr
        assert_unharmed(pid)


def without_sys_admin() -> None:
    confine.capbset_drop(21)
    effective, permitted, inheritable = confine.capget()
    confine.capset(effective & ~(1 << 21), permitted & ~(1 << 21), inheritable & ~(1 << 21))


# ---------------------------------------------------------------- documents


def test_what_engines_and_runtimes_say(tmp_path: Path) -> None:
    """A bundle's config.json, crictl's and docker's inspect: said to be what was told, and the same program."""
    rule = {"names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [], "syscalls": [rule]}
    spec = {"ociVersion": "1.0.2", "process": {"capabilities": {"bounding": ["CAP_KILL"]}}}
    bundle = {**spec, "linux": {"seccomp": profile}}
    told = {
        "bundle": bundle,
        "crictl": {"status": {}, "info": {"runtimeSpec": bundle}},
        "docker": [{"HostConfig": {"SecurityOpt": [f"seccomp={json.dumps(profile)}"]}}],
        "profile": profile,
    }
    for name, document in told.items():
        (tmp_path / name).write_text(json.dumps(document))
        found = json.loads(said("explain", str(tmp_path / name), "ptrace", "kill", "--json", code=10))
        assert [call["verdict"] for call in found["calls"]] == ["refused", "allowed"], name
        assert found["calls"][0]["answers"][0]["errno"] == "EACCES"
        assert found["loaded"] is False
        assert ("not what is loaded" in found["origin"]) == (name != "profile")
    given = json.dumps(told["crictl"]).encode()
    assert "standard input" in said("show", "-", given=given)
    assert "has no seccomp filter" in said("show", "-", given=json.dumps({**spec, "linux": {}}).encode())


def test_capabilities_count_where_a_profile_asks() -> None:
    assert "refused with EPERM" in said("explain", "docker", "unshare", code=10)
    assert "allowed" in said("explain", "docker", "unshare", "--cap-add", "SYS_ADMIN")
    assert "refused" in said("explain", "docker", "chroot", "--cap-drop", "CAP_SYS_CHROOT", code=10)
    assert ask("explain", "docker", "--cap-add", "nothing").returncode == 2


def test_what_depends_on_an_argument_is_said() -> None:
    text = said("explain", "docker", "personality", "personality(8)", code=3)
    assert (
        "depends on argument 0: allowed if argument 0 is 0x0, 0x8, 0x20000, 0x20008, 0xffffffff; else refused" in text
    )
    assert ask("explain", "docker", "no_such_call").returncode == 2
    assert ask("explain", "docker", "ptrace(x)").returncode == 2


# ---------------------------------------------------------------- generate, diff


def test_a_profile_from_what_is_loaded(tmp_path: Path) -> None:
    """The base is a process under podman's filter without ptrace: what is made of it allows dlv and no more."""
    text = json.dumps(shipped("podman")).replace('"ptrace"', '"iopl"')
    strict = made_from(json.loads(text), "", frozenset({"kill"})).programs[0]
    calls = ["unshare(0x10000000)", "kcmp", "reboot", "ptrace(0x4206)", "personality(4)", "keyctl"]
    with under(bpf.dump(strict)) as pid:
        assert ask("explain", str(pid)).returncode == 10
        done = ask("generate", "--for", "dlv", "--base", str(pid), "--diff", "-o", str(tmp_path / "made.json"))
        assert done.returncode == 0, done.stderr
        before = json.loads(ask("explain", str(pid), *calls, "--json").stdout)
    assert b"now allowed if argument 0 is PTRACE_" in done.stderr
    assert "all allowed" in said("explain", str(tmp_path / "made.json"))
    after = json.loads(ask("explain", str(tmp_path / "made.json"), *calls, "--json").stdout)
    kept = [[call["answers"][0][key] for key in ("outcome", "errno")] for call in before["calls"]]
    assert [[call["answers"][0][key] for key in ("outcome", "errno")] for call in after["calls"]] == kept


def test_a_difference() -> None:
    assert said("diff", "docker", "docker") == "nothing differs\n"
    assert "all that is not named: refused with EPERM; now refused with ENOSYS" in said(
        "diff", "docker", "podman", code=1
    )
    found = json.loads(said("diff", "docker", "podman", "--json", code=1))
    assert found["differences"][0]["what"] == "all that is not named"


# ---------------------------------------------------------------- resolve


@pytest.mark.parametrize("arch", RESOLVER_ARCHES)
def test_names_and_numbers_are_libseccomp_s(arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every number up to 600, and every name that any of these architectures has, beside scmp_sys_resolver."""
    resolver = shutil.which("scmp_sys_resolver")
    require(resolver, "needs Debian's package seccomp")
    library = Libseccomp()
    names = {library.name(one, number) for one in RESOLVER_ARCHES for number in range(HIGHEST)} - {None}
    assert len(names) > 400
    asked = [*map(str, range(HIGHEST)), *sorted(filter(None, names)), "no_such_call"]
    script = 'for call; do "$0" -a "$ARCH" -- "$call"; done'
    words = ["sh", "-c", script, str(resolver), *asked]
    theirs = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "ARCH": arch}).stdout
    seccomp(["resolve", "--arch", arch, *asked])
    assert capsys.readouterr().out.splitlines() == theirs.splitlines()


def test_a_table_of_every_architecture() -> None:
    table = said("resolve", "ptrace", "openat2")
    assert {"x86_64", "aarch64", "riscv64", "s390x"} <= set(table.split())
    rows = json.loads(said("resolve", "ptrace", "--json"))["calls"]
    numbers = {row["architecture"]: row["number"] for row in rows}
    assert (numbers["x86_64"], numbers["aarch64"]) == (101, 117)
    assert said("resolve", "no_such_call", "--arch", "x86_64", code=1) == "-1\n"
    assert ask("resolve", "ptrace", "--arch", "vax").returncode == 2


def test_what_this_kernel_lacks() -> None:
    """Each of them answers ENOSYS, and what it has does not. The arguments are such that nothing is done."""
    library, lacking = Libseccomp(), Lacking()
    native = library.native
    found = {number: name for number in range(HIGHEST) if (name := library.name(native, number))}
    missing = {number: name for number, name in found.items() if lacking.of(name)}
    require(missing, "needs a kernel that shows its symbols' names and was built without some call")
    bad = ctypes.c_long(-1)
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    for number, name in missing.items():
        assert syscall(ctypes.c_long(number), bad, bad, bad, bad, bad, bad) == -1, name
        assert ctypes.get_errno() == errno.ENOSYS, name
    for name in ("ptrace", "openat2", "process_vm_readv", "umount2"):
        assert lacking.of(name) is False, name


def test_without_libseccomp() -> None:
    """A sentence that names the package; a program is still listed, with numbers."""
    script = "import ctypes, sys; real = ctypes.CDLL\n"
    script += (
        "def absent(name, *a, **k):\n  if 'seccomp' in str(name): raise OSError(name)\n  return real(name, *a, **k)\n"
    )
    script += "ctypes.CDLL = absent\nfrom safedlv.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [SAFEDLV[0], "-c", script, "seccomp"]
    for command in (["resolve", "ptrace"], ["explain", "docker"], ["show", "docker"]):
        done = subprocess.run([*words, *command], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1, done.stderr
        assert "apt-get install libseccomp2" in done.stderr
    with under(FIRST) as pid:
        done = subprocess.run([*words, "show", str(pid)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0
        assert "jeq #0x" in done.stdout
        assert "numbers only" in done.stderr

"""``safedlv seccomp`` and containers: what is loaded in one, what its engine says, a session under a made profile."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from safedlv.linux import confine
from safedlv.seccomp.evaluate import Call, answer
from safedlv.seccomp_source import SHIPPED, filters, of_container, shipped
from tests.docker.conftest import Engine
from tests.docker.test_remedies import dlv_image, session, without_ptrace
from tests.everyone import Everyones
from tests.programs import ARCH
from tests.support import SAFEDLV, assert_unharmed

__all__ = ["dlv_image"]  # the fixture
CAP_SYS_ADMIN = 21
X86 = 0x40000003
REFUSED = ("ptrace(PTRACE_SEIZE)", "kcmp", "bpf", "personality(4)", "open_by_handle_at", "acct", "settimeofday")
"""What every base here refuses, and no dlv needs."""
TRY = """
import ctypes, json, sys
syscall = ctypes.CDLL(None, use_errno=True).syscall
def errno(number, *arguments):
    bad = [ctypes.c_ulong(one) for one in (*arguments, -1, -1, -1, -1, -1, -1)[:6]]
    return ctypes.get_errno() if syscall(ctypes.c_long(number), *bad) == -1 else 0
print(json.dumps([errno(*call) for call in json.loads(sys.argv[1])]))
"""


def said(*words: str) -> Any:
    done = subprocess.run([*SAFEDLV, "seccomp", *words, "--json"], capture_output=True, check=False, timeout=60)
    assert done.stdout, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.parametrize("engine", SHIPPED)
def test_what_is_loaded_is_what_is_made_of_the_profile(
    docker_engine: Engine, prober_image: str, tmp_path: Path, engine: str
) -> None:
    """The real program and ours answer alike, to every call of both architectures with many arguments."""
    path = tmp_path / "profile.json"
    document = shipped(engine)
    document.pop("defaultErrnoRet", None)  # of podman's; Docker 20.10 does not hand it on (moby#42604)
    path.write_text(json.dumps(document))
    pid = docker_engine.run("--security-opt", f"seccomp={path}", prober_image, "/prober", "sleep")
    loaded, made = filters(f"docker:{docker_engine.last}"), of_container(docker_engine.last)
    assert_unharmed(pid)
    assert (loaded.loaded, made.loaded) == (True, False)
    assert "as the kernel gave them" in loaded.origin
    assert "the Docker Engine says, not what is loaded" in made.origin
    chosen = random.Random(engine)
    words = (0, 1, 2, 8, 9, 16, 0x20000, 0x10000000, 0x50F00, 0xFFFFFFFF, 0x4206)
    for number in (*range(600), *range(0x40000000, 0x40000000 + 600), 0xFFFFFFFF):
        for arch in (ARCH, X86, 1):
            arguments = tuple(chosen.choice(words) | chosen.choice((0, 0, 1 << 32)) for _ in range(6))
            call = Call(arch, number, arguments)
            assert answer(loaded.programs, call).value == answer(made.programs, call).value, call


def test_what_the_engine_says_where_the_kernel_does_not(docker_engine: Engine, prober_image: str) -> None:
    """Without CAP_SYS_ADMIN no filter can be read: then it is the engine's word, and that is said."""
    pid = docker_engine.run("--cap-drop", "SYS_CHROOT", prober_image, "/prober", "sleep")
    words = [*SAFEDLV, "seccomp", "explain", f"docker:{docker_engine.last}", "ptrace", "chroot", "unshare", "--json"]
    done = subprocess.run(words, capture_output=True, check=False, timeout=60, preexec_fn=without_sys_admin)
    document = json.loads(done.stdout)
    assert document["loaded"] is False
    assert "could not be read" in document["origin"]
    assert "the Docker Engine says, not what is loaded" in document["origin"]
    assert [call["verdict"] for call in document["calls"]] == ["allowed", "refused", "refused"]
    assert_unharmed(pid)
    inspected = docker_engine.docker("inspect", docker_engine.last).stdout
    given = subprocess.run([*words[:5], "-", *words[6:]], input=inspected, capture_output=True, check=False, timeout=60)
    assert json.loads(given.stdout)["calls"] == document["calls"]


def without_sys_admin() -> None:
    confine.capbset_drop(CAP_SYS_ADMIN)
    effective, permitted, inheritable = confine.capget()
    bit = 1 << CAP_SYS_ADMIN
    confine.capset(effective & ~bit, permitted & ~bit, inheritable & ~bit)


def test_a_container_without_a_filter(docker_engine: Engine, prober_image: str) -> None:
    docker_engine.run("--security-opt", "seccomp=unconfined", prober_image, "/prober", "sleep")
    assert said("show", f"docker:{docker_engine.last}")["programs"] == []
    assert of_container(docker_engine.last).programs == ()


@pytest.mark.parametrize("base", ["docker", "podman", "loaded"])
def test_a_session_under_what_is_generated(
    docker_engine: Engine, dlv_image: str, everyones: Everyones, tmp_path: Path, base: str
) -> None:
    """From a strict profile, or from what a container under it has loaded: the real dlv works, and all else that was
    refused is refused, with the same errno, as was predicted."""
    strict, made = tmp_path / "strict.json", tmp_path / "made.json"
    strict.write_text(strict_podman() if base == "podman" else without_ptrace())
    before = refusals(docker_engine, dlv_image, everyones, strict)
    source = f"{before.pop()}" if base == "loaded" else str(strict)
    words = [*SAFEDLV, "seccomp", "generate", "--for", "dlv", "--base", source, "--diff", "-o", str(made)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "ptrace: refused with" in done.stderr
    assert "now allowed if argument 0 is PTRACE_PEEKDATA" in done.stderr
    after = refusals(docker_engine, dlv_image, everyones, made)
    assert after[: len(REFUSED)] == before[: len(REFUSED)]
    assert "Breakpoint 1 set" not in session(docker_engine, dlv_image, str(strict))
    assert "Breakpoint 1 set" in session(docker_engine, dlv_image, str(made))


def strict_podman() -> str:
    """podman's as it was before ptrace was in it."""
    document = shipped("podman")
    for rule in document["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name not in ("ptrace", "process_vm_readv")]
    return json.dumps(document)


def refusals(engine: Engine, image: str, everyones: Everyones, profile: Path) -> list[int]:
    """What a container under this profile answers to REFUSED, as is predicted; and last the PID of its process."""
    options = ["--security-opt", f"seccomp={profile}", *everyones.mounts()]
    pid = engine.run(*options, image, "/server", "127.0.0.1:0")
    predicted = said("explain", f"docker:{engine.last}", *REFUSED)["calls"]
    calls = json.dumps([[call["number"], *call["arguments"]] for call in predicted])
    libraries = f"LD_LIBRARY_PATH=/usr/lib/{os.uname().machine}-linux-gnu"
    words = ["exec", "--env", libraries, engine.last, everyones.python, "-c", TRY, calls]
    answered: list[int] = json.loads(engine.docker(*words).stdout)
    names = [os.strerror(number) for number in answered]
    assert [call["verdict"] for call in predicted] == ["refused"] * len(REFUSED)
    wanted = [getattr(errno, call["answers"][0]["errno"]) for call in predicted]
    assert answered == wanted, names
    assert all(call["answers"][0]["instruction"] is not None for call in predicted)
    assert_unharmed(pid)
    return [*answered, pid]

"""What it costs to evaluate and to follow seccomp programs, beside the kernel's own run of the same program."""

from __future__ import annotations

import ctypes
import os
import statistics
import time

from safedlv.errors import SafedlvError
from safedlv.linux import confine
from safedlv.seccomp import bpf
from safedlv.seccomp.bpf import Program
from safedlv.seccomp.evaluate import Call, answer
from safedlv.seccomp.program import AUDIT_ARCH
from safedlv.seccomp.rules import rules
from safedlv.seccomp_source import filters
from tests.bench.tools import show, timed

CALLS = 1000
HIGHEST = 450


def measure(rounds: int) -> None:
    """Docker's default filter, as this machine's libseccomp makes it."""
    try:
        (program,) = filters("docker").programs
    except SafedlvError as error:
        print(f"  (the evaluation of Docker's default filter is left out: {error.sentence})")
        return
    calls = [Call(AUDIT_ARCH[os.uname().machine], number % HIGHEST, (number,) * 6) for number in range(CALLS)]
    ours = statistics.median(timed(lambda: [answer([program], call) for call in calls]) for _ in range(rounds))
    kernel = statistics.median(in_the_kernel(program, rounds))
    note = f"{len(program)} instructions; the kernel's own run adds {kernel * 1e9:.0f} ns to a call"
    show(f"{CALLS} evaluations of Docker's default filter", ours * 1e3, "ms", note)
    followed = statistics.median(timed(lambda: rules([program])) for _ in range(max(rounds // 4, 3)))
    show("every way through it: its rules", followed * 1e3, "ms", f"{followed / ours:.1f} times that")


def in_the_kernel(program: Program, rounds: int) -> list[float]:
    """How much longer getppid(2) takes under the program, in seconds a call, in a child that loads it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            getppid = ctypes.CDLL(None).getppid
            before = statistics.median(_per_call(getppid) for _ in range(rounds))
            confine.set_no_new_privs()
            confine.seccomp_set_mode_filter(bpf.dump(program))
            text = " ".join(str(_per_call(getppid) - before) for _ in range(rounds))
            os.write(writer, text.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer_text = file.read()
    os.waitpid(child, 0)
    return [float(word) for word in answer_text.split()]


def _per_call(call: object) -> float:
    assert callable(call)
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - began) / CALLS

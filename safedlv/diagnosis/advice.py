"""What to do about each cause, in a sentence: nothing that is not needed, and never to switch a layer off. Pure."""

from __future__ import annotations

from safedlv.model import Cause

ADVICE = {
    "no-such-process": "look the PID up again (ps -e, or name:PATTERN); in a container it is another number outside",
    "hidepid": "ask as root, or as a member of the group that /proc is mounted with (gid=)",
    "zombie": "there is nothing left to debug; its parent has to collect it",
    "kernel-thread": "name a process of a program",
    "self-attach": "name another process",
    "already-traced": "end that tracer first, or go on in it; a process has one tracer at a time",
    "frozen": "thaw it (docker unpause, or write 0 to cgroup.freeze), then try again",
    "uninterruptible": "try again when it has woken up; a vfork parent wakes when its child execs or exits",
    "thread-limit": "raise the limit (docker update --pids-limit, pids.max), or run the debugger in another cgroup",
    "memory-limit": "raise the limit (docker update --memory, memory.max), or run the debugger in another cgroup",
    "delve-missing": "go install github.com/go-delve/delve/cmd/dlv@latest, or name one with SAFEDLV_DLV=/path/to/dlv",
    "wrong-process": "attach to the Go program itself: safedlv attach {go_pid}",
    "not-go": "name a Go program, or use gdb for this one",
    "no-debug-info": "build it without -ldflags=-s or -w, and do not strip it",
    "optimized": 'for every variable and line: go build -gcflags="all=-N -l"',
    "delve-version": "install the dlv that goes with this Go: go install github.com/go-delve/delve/cmd/dlv@latest",
    "ptrace-unsupported": "run the debugger where the kernel has ptrace",
    "seccomp": "let the filter of the debugger's own container or unit allow these calls; the target's does not matter",
    "proc-access": "give the debugger CAP_DAC_READ_SEARCH, or run it as the target's own user",
    "signal-access": "give the debugger CAP_KILL, or run it as the target's own user",
    "credentials": "run safedlv as the target's own user and group, or give it CAP_SYS_PTRACE",
    "not-dumpable": "give the debugger CAP_SYS_PTRACE in the target's user namespace",
    "capability-excess": "give the debugger CAP_SYS_PTRACE, or the capabilities that the target has",
    "user-namespace": "debug from the target's user namespace, or from one above it with CAP_SYS_PTRACE",
    "yama": "give the debugger CAP_SYS_PTRACE (at scope 3 nobody may trace until the next boot)",
    "apparmor": "run the debugger under the target's own profile",
    "selinux": "run the debugger in the target's own domain, or allow it ptrace of that domain",
    "smack": "run the debugger under the target's own label",
    "landlock": "start the debugger outside of the Landlock domain that it is in",
    "pid-namespace": "debug from the target's PID namespace, or from one above it",
}
"""By the names of the causes in the contract."""


def advice(cause: Cause) -> str:
    """What to do about a cause; "" where there is nothing general to say."""
    return ADVICE.get(cause.id, "").format(**dict(cause.detail))

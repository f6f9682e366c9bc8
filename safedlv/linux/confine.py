"""The system calls that put the calling thread into another context: namespaces, capabilities, filters, Landlock.

Contract: one function per call, named as the call (or the prctl option) is, with the kernel's own constants. A call
that fails raises OSError (or its subclass for that errno) whose text names the call and its arguments. Nothing is
decided here and nothing is undone here. Every call acts on the calling *thread*, so it belongs in a single-threaded
process.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Final

# Flags of unshare(2), setns(2), clone(2), by the namespace's name in /proc/PID/ns (include/uapi/linux/sched.h).
CLONE_NEW: Final = {
    "user": 0x10000000,
    "mnt": 0x00020000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "time": 0x00000080,
}

MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000

PR_SET_PTRACER_ANY: Final = -1
LANDLOCK_ACCESS_FS_MAKE_BLOCK: Final = 1 << 11

# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_KEEPCAPS: Final = 8
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_PR_SET_PTRACER: Final = 0x59616D61

_LINUX_CAPABILITY_VERSION_3: Final = 0x20080522
_SECCOMP_SET_MODE_FILTER: Final = 1
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1 << 0

# Only the calls that the C library has no wrapper for (arch/x86/entry/syscalls/syscall_64.tbl,
# include/uapi/asm-generic/unistd.h).
_SYSCALLS: Final = {
    machine: {
        "seccomp": seccomp,
        "pivot_root": pivot_root,
        "fsopen": 430,
        "fsconfig": 431,
        "fsmount": 432,
        "landlock_create_ruleset": 444,
        "landlock_restrict_self": 446,
    }
    for machine, seccomp, pivot_root in (("x86_64", 317, 155), ("aarch64", 277, 41))
}
_MNT_DETACH: Final = 2  # include/linux/fs.h
_FSCONFIG_CMD_CREATE: Final = 6  # include/uapi/linux/mount.h
_FS_CLOEXEC: Final = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _checked(result: int, call: str) -> int:
    """``result``, or OSError with the errno that the call left behind and the text of the call."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def _syscall(name: str, *arguments: int, call: str) -> int:
    machine = os.uname().machine
    if machine not in _SYSCALLS:
        raise NotImplementedError(f"{name}: no system call number is known for {machine}")
    words = (ctypes.c_long(argument) for argument in arguments)
    return _checked(_libc.syscall(ctypes.c_long(_SYSCALLS[machine][name]), *words), call)


def _prctl(name: str, option: int, *arguments: int) -> int:
    # The kernel refuses some options with EINVAL unless the unused arguments are zero (prctl(2)).
    words = [argument & (1 << 64) - 1 for argument in arguments] + [0] * (4 - len(arguments))
    text = ", ".join([name, *map(str, arguments)])
    return _checked(_libc.prctl(option, *words), f"prctl({text})")


# ---------------------------------------------------------------- namespaces and mounts


def unshare(*kinds: str) -> None:
    """Move the caller into new namespaces of these kinds (unshare(2)); ``pid`` concerns its next children only.

    Raises OSError: EPERM without CAP_SYS_ADMIN, ENOSPC beyond the limits in /proc/sys/user.
    """
    flags = sum(CLONE_NEW[kind] for kind in kinds)
    _checked(_libc.unshare(flags), f"unshare({'|'.join('CLONE_NEW' + kind.upper() for kind in kinds)})")


def setns(fd: int, kind: str) -> None:
    """Move the caller into the namespace behind ``fd``, an open /proc/PID/ns/KIND (setns(2)).

    Raises OSError: EPERM without CAP_SYS_ADMIN over that namespace, EINVAL for a user namespace that it is already in.
    """
    _checked(_libc.setns(fd, CLONE_NEW[kind]), f"setns({fd}, CLONE_NEW{kind.upper()})")


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    """mount(2) without data. Raises OSError."""
    encoded = None if kind is None else kind.encode()
    result = _libc.mount(source.encode(), os.fsencode(target), encoded, flags, None)
    _checked(result, f"mount({source}, {target}, {kind}, {flags:#x})")


def pivot_root(path: str) -> None:
    """Make a mount the root of the caller's mount namespace, and leave nothing of the old root (pivot_root(2)).

    The caller's working directory is the new root then. Raises OSError: EINVAL where the old root is the initramfs.
    """
    os.chdir(path)
    here = ctypes.create_string_buffer(b".")
    address = ctypes.addressof(here)
    _syscall("pivot_root", address, address, call=f"pivot_root({path})")  # the old root lies over the new one now
    _checked(_libc.umount2(b".", _MNT_DETACH), "umount2(., MNT_DETACH)")
    os.chdir("/")


def mount_detached(kind: str) -> int:
    """A close-on-exec descriptor of a new file system that is mounted nowhere (fsopen(2), fsmount(2); Linux 5.2).

    A ``proc`` made so shows the PID namespace that the caller is in. Raises OSError: EPERM without CAP_SYS_ADMIN over
    the caller's mount namespace, or where the caller's own /proc is masked (mount_too_revealing in fs/namespace.c).
    """
    name = ctypes.create_string_buffer(kind.encode())
    context = _syscall("fsopen", ctypes.addressof(name), _FS_CLOEXEC, call=f"fsopen({kind})")
    try:
        _syscall("fsconfig", context, _FSCONFIG_CMD_CREATE, 0, 0, 0, call=f"fsconfig({kind}, FSCONFIG_CMD_CREATE)")
        return _syscall("fsmount", context, _FS_CLOEXEC, 0, call=f"fsmount({kind})")
    finally:
        os.close(context)


# ---------------------------------------------------------------- ids that the os module does not know


def setfsuid(uid: int) -> None:
    """Set the filesystem uid, which every change of the effective uid sets too (setfsuid(2)). Raises PermissionError.

    The call itself never fails: a second one, that changes nothing, tells what the id is.
    """
    _set_filesystem_id("setfsuid", _libc.setfsuid, uid)


def setfsgid(gid: int) -> None:
    """The same for the filesystem gid (setfsgid(2)). Raises PermissionError."""
    _set_filesystem_id("setfsgid", _libc.setfsgid, gid)


def _set_filesystem_id(name: str, call: Callable[[int], int], wanted: int) -> None:
    call(wanted)
    if call(-1) & 0xFFFFFFFF != wanted:
        raise PermissionError(errno.EPERM, f"{name}({wanted}): {os.strerror(errno.EPERM)}")


# ---------------------------------------------------------------- capabilities


def capget(pid: int = 0) -> tuple[int, int, int]:
    """The effective, permitted and inheritable sets of a thread (0: the caller) as bit masks (capget(2), version 3)."""
    header = _CapHeader(_LINUX_CAPABILITY_VERSION_3, pid)
    data = (_CapData * 2)()
    _checked(_libc.capget(ctypes.byref(header), data), f"capget({pid})")
    low, high = data
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the caller's sets, given as bit masks (capset(2), version 3).

    Raises OSError: EPERM for a capability that is not permitted now, or is inheritable beyond the bounding set.
    """
    header = _CapHeader(_LINUX_CAPABILITY_VERSION_3, 0)
    halves = [[mask >> shift & 0xFFFFFFFF for mask in (effective, permitted, inheritable)] for shift in (0, 32)]
    data = (_CapData * 2)(*(_CapData(*half) for half in halves))
    call = f"capset(effective={effective:#x}, permitted={permitted:#x}, inheritable={inheritable:#x})"
    _checked(_libc.capset(ctypes.byref(header), data), call)


def capbset_read(capability: int) -> bool:
    """Whether the bounding set has it. Raises OSError: EINVAL for a number that this kernel does not know."""
    return bool(_prctl("PR_CAPBSET_READ", _PR_CAPBSET_READ, capability))


def capbset_drop(capability: int) -> None:
    """Take one capability out of the bounding set. Raises OSError: EPERM without CAP_SETPCAP."""
    _prctl("PR_CAPBSET_DROP", _PR_CAPBSET_DROP, capability)


def cap_ambient_raise(capability: int) -> None:
    """Raises OSError: EPERM unless it is both permitted and inheritable (capabilities(7))."""
    _prctl("PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def cap_ambient_clear_all() -> None:
    """Empty the ambient set."""
    _prctl("PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


# ---------------------------------------------------------------- process attributes (prctl(2))


def set_pdeathsig(signal_number: int) -> None:
    """The signal to get when the parent *thread* dies; a later change of ids or capabilities clears it."""
    _prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, signal_number)


def set_dumpable(dumpable: bool) -> None:
    """Lasts until the ids change (then 0) or the next execve (then 1, for a program its user can read)."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, int(dumpable))


def set_no_new_privs() -> None:
    """Cannot be taken back."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def set_keepcaps(keep: bool) -> None:
    """Keep the permitted set when all the uids stop being 0."""
    _prctl("PR_SET_KEEPCAPS", _PR_SET_KEEPCAPS, int(keep))


def set_child_subreaper(subreaper: bool) -> None:
    """Orphaned descendants become the caller's children."""
    _prctl("PR_SET_CHILD_SUBREAPER", _PR_SET_CHILD_SUBREAPER, int(subreaper))


def set_ptracer(pid: int) -> None:
    """Name the process (in the caller's PID namespace) that may trace the caller; PR_SET_PTRACER_ANY for any.

    Raises OSError: EINVAL when Yama is not in this kernel, or no such process exists.
    """
    _prctl("PR_SET_PTRACER", _PR_SET_PTRACER, pid)


# ---------------------------------------------------------------- seccomp and Landlock


def seccomp_set_mode_filter(program: bytes) -> None:
    """Load a classic BPF program, an array of ``struct sock_filter`` (seccomp(2)).

    Raises OSError: EACCES without no_new_privs or CAP_SYS_ADMIN, EINVAL for a program that the kernel rejects.
    ValueError when the bytes are no whole number of instructions.
    """
    if len(program) % 8:
        raise ValueError(f"a BPF instruction has 8 bytes, and the program has {len(program)}")
    code = ctypes.create_string_buffer(program, len(program))
    fprog = _SockFprog(len(program) // 8, ctypes.addressof(code))
    call = f"seccomp(SECCOMP_SET_MODE_FILTER, 0, {len(program) // 8} instructions)"
    _syscall("seccomp", _SECCOMP_SET_MODE_FILTER, 0, ctypes.addressof(fprog), call=call)


def landlock_abi() -> int:
    """The Landlock ABI version. Raises OSError: ENOSYS (not built in) or EOPNOTSUPP (off at boot) (landlock(7))."""
    call = "landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)"
    return _syscall("landlock_create_ruleset", 0, 0, _LANDLOCK_CREATE_RULESET_VERSION, call=call)


def landlock_create_ruleset(handled_access_fs: int) -> int:
    """A descriptor (close-on-exec, as the kernel makes it) of a ruleset that handles these file-system rights."""
    attribute = ctypes.c_uint64(handled_access_fs)
    call = f"landlock_create_ruleset(handled_access_fs={handled_access_fs:#x})"
    return _syscall("landlock_create_ruleset", ctypes.addressof(attribute), 8, 0, call=call)


def landlock_restrict_self(ruleset_fd: int) -> None:
    """Add one Landlock layer to the caller.

    Raises OSError: EPERM without no_new_privs or CAP_SYS_ADMIN, E2BIG beyond 16 layers.
    """
    _syscall("landlock_restrict_self", ruleset_fd, 0, call=f"landlock_restrict_self({ruleset_fd}, 0)")

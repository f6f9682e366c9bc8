"""The names of the capabilities, and masks of them. Pure.

capabilities(7); the numbers are those of include/uapi/linux/capability.h.
"""

from __future__ import annotations

from collections.abc import Iterable

CAPABILITIES = (
    "chown",  # 0
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",  # 5
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",  # 10
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",  # 15
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",  # 20
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",  # 25
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",  # 30
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",  # 35
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",  # 40
)
"""A capability's place here is its bit number."""

CAPABILITY_BITS = {name: bit for bit, name in enumerate(CAPABILITIES)}


def capability_names(bits: int) -> tuple[str, ...]:
    """The capabilities in a mask, lowest bit first; a bit that is younger than the table goes by its number."""
    return tuple(
        CAPABILITIES[bit] if bit < len(CAPABILITIES) else str(bit)
        for bit in range(bits.bit_length())
        if bits >> bit & 1
    )


def capability_mask(names: Iterable[str]) -> int:
    """The mask of names as in :data:`CAPABILITIES`; KeyError for a name that is none."""
    bits = 0
    for name in names:
        bits |= 1 << CAPABILITY_BITS[name]
    return bits


def capabilities_in_words(bits: int) -> str:
    """A mask for people: the names; of a mask that has more than it lacks, what it lacks."""
    names = capability_names(bits)
    if len(names) <= len(CAPABILITIES) // 2:
        return ", ".join(names) or "none"
    lacking = ", ".join(name for name in CAPABILITIES if name not in names)
    return f"all but {lacking}" if lacking else "all"

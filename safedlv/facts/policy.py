"""What SELinux and Smack would say of one process tracing another: asked of the kernel's own policy, not guessed.

Both have a file to which a question is written and from which the answer is read on the same descriptor; asking
changes nothing. Sources: security/selinux/selinuxfs.c (sel_write_access), libselinux security_compute_av(3);
security/smack/smackfs.c (smk_user_access), smackaccess(3). AppArmor has no such question for ptrace.
"""

from __future__ import annotations

import os
from typing import Final

from safedlv.facts.reading import decimal, parsed, read_system, unknown
from safedlv.model import Unknown

SELINUX: Final = "/sys/fs/selinux"
SMACK_ACCESS: Final = "/sys/fs/smackfs/access2"
_PERMISSIVE: Final = 1  # SELINUX_AVD_FLAGS_PERMISSIVE
_ANSWER: Final = 4096


def selinux_allows(tracer: str | Unknown | None, target: str | Unknown | None) -> bool | Unknown:
    """Whether the loaded policy, its booleans included, lets one context ptrace the other.

    Unknown where a context or the policy cannot be read (the question needs security:compute_av).
    """
    if not isinstance(tracer, str) or not isinstance(target, str):
        return Unknown("ENODATA", "SELinux context")
    number = _number("class/process/index")
    bit = _number("class/process/perms/ptrace")
    if isinstance(number, Unknown):
        return number
    if isinstance(bit, Unknown):
        return bit
    path = f"{SELINUX}/access"
    return parsed(ask(path, f"{tracer} {target} {number}"), lambda said: parse_decision(said, bit), path)


def smack_allows(tracer: str | Unknown | None, target: str | Unknown | None) -> bool | Unknown:
    """Whether the loaded rules give one label read and write access to the other, which an attach takes."""
    if not isinstance(tracer, str) or not isinstance(target, str):
        return Unknown("ENODATA", "Smack label")
    return parsed(ask(SMACK_ACCESS, f"{tracer} {target} rw"), parse_flag, SMACK_ACCESS)


def parse_decision(said: bytes, bit: int) -> bool:
    """Of ``allowed decided auditallow auditdeny seqno flags``: whether permission number ``bit`` (from 1) is allowed.

    Raises ValueError when it is no such answer.
    """
    fields = said.strip(b"\0\n ").split()
    if len(fields) < 5 or not 1 <= bit <= 32:
        raise ValueError("not an access decision")
    allowed = int(fields[0], 16)
    permissive = len(fields) > 5 and int(fields[5], 16) & _PERMISSIVE
    return bool(permissive) or bool(allowed >> (bit - 1) & 1)


def parse_flag(said: bytes) -> bool:
    """``1`` or ``0``. Raises ValueError for anything else."""
    flag = said.strip(b"\0\n ")
    if flag not in (b"0", b"1"):
        raise ValueError("neither 0 nor 1")
    return flag == b"1"


def ask(path: str, question: str) -> bytes | Unknown:
    """Write a question and read the answer on one descriptor."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(fd, os.fsencode(question))
            return os.read(fd, _ANSWER)
        finally:
            os.close(fd)
    except OSError as error:
        return unknown(error, path)
    except ValueError:  # a NUL in a label
        return Unknown("MALFORMED", path)


def _number(name: str) -> int | Unknown:
    path = f"{SELINUX}/{name}"
    return parsed(read_system(path), decimal, path)

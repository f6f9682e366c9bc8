"""libseccomp by ctypes: names and numbers of system calls, and the program that it makes of rules.

Contract: nothing is loaded into the kernel. libseccomp tries once, with calls that change nothing, which actions the
kernel has (seccomp_api_get(3)). Sources: seccomp.h, seccomp_syscall_resolve_name(3), seccomp_rule_add(3),
seccomp_export_bpf(3); runc libcontainer/seccomp/seccomp_linux.go for what is asked of it, and in what order.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from safedlv.errors import SafedlvError, printable
from safedlv.seccomp.bpf import dump
from safedlv.seccomp.oci import X32_BIT, Rules, enosys_stub

ARCHITECTURES: Final = (
    *("x86_64", "x86", "x32", "aarch64", "arm", "riscv64", "loongarch64", "m68k"),
    *("mips", "mipsel", "mips64", "mipsel64", "mips64n32", "mipsel64n32"),
    *("parisc", "parisc64", "ppc", "ppc64", "ppc64le", "s390", "s390x", "sh", "sheb"),
)
"""The names that seccomp_arch_resolve_name has known in any version; this one may know fewer."""
_NAME: Final = "libseccomp.so.2"
_NR_SCMP_ERROR: Final = -1
_FLTATR_CTL_OPTIMIZE: Final = 8
_BINARY_TREE: Final = 2
_MANY_RULES: Final = 32
"""Above so many, runc asks for a binary tree."""


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Libseccomp:
    """The library of this machine. Raises SafedlvError where there is none."""

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(_NAME)
        except OSError as error:
            raise SafedlvError(
                "libseccomp, which knows the system calls of every architecture, is not on this machine",
                "apt-get install libseccomp2, dnf install libseccomp, apk add libseccomp",
            ) from error
        library.seccomp_arch_native.restype = ctypes.c_uint32
        library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
        library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
        library.seccomp_syscall_resolve_num_arch.argtypes = (ctypes.c_uint32, ctypes.c_int)
        library.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
        library.seccomp_init.restype = ctypes.c_void_p
        library.seccomp_init.argtypes = (ctypes.c_uint32,)
        library.seccomp_release.argtypes = (ctypes.c_void_p,)
        library.seccomp_release.restype = None
        library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
        library.seccomp_rule_add_array.argtypes = (
            *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p),
        )
        library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._library = library
        self._free = ctypes.CDLL(None).free
        self._free.argtypes = (ctypes.c_void_p,)
        self._free.restype = None
        self.tokens = {name: token for name in ARCHITECTURES if (token := self._token(name))}
        """The architectures that it knows, and its numbers for them: AUDIT_ARCH_* but for x32."""
        self._audit_names = {token: name for name, token in self.tokens.items()}

    def _token(self, arch: str) -> int:
        return int(self._library.seccomp_arch_resolve_name(arch.encode()))

    @property
    def native(self) -> str:
        """The architecture of this process."""
        return self._audit_names[self._library.seccomp_arch_native()]

    def number(self, arch: str, name: str) -> int | None:
        """The number of a call; negative for one that only other architectures have; None for no call at all."""
        try:
            found = int(self._library.seccomp_syscall_resolve_name_arch(self.tokens[arch], name.encode("ascii")))
        except UnicodeEncodeError:
            return None
        return None if found == _NR_SCMP_ERROR else found

    def name(self, arch: str, number: int) -> str | None:
        """The name of a call, None where the architecture has none of that number."""
        pointer = self._library.seccomp_syscall_resolve_num_arch(self.tokens[arch], number)
        if not pointer:
            return None
        try:
            return ctypes.string_at(pointer).decode()
        finally:
            self._free(pointer)

    def arch_name(self, audit: int) -> str | None:
        """What an AUDIT_ARCH_* number is called."""
        return self._audit_names.get(audit)

    def name_of(self, audit: int, number: int) -> str | None:
        """The name of a call by AUDIT_ARCH_*, where x32 calls have a bit of their own in the number."""
        arch = self.arch_name(audit)
        if arch is None or number >= 1 << 31:
            return None
        x32 = arch == "x86_64" and number & X32_BIT
        return self.name("x32" if x32 else arch, number)

    # ------------------------------------------------------------ programs

    def program(self, rules: Rules) -> bytes:
        """The program that runc loads for these rules: libseccomp's, with runc's own ENOSYS for newer calls before it.

        Raises SafedlvError when libseccomp does not take them.
        """
        architectures = [self._of_profile(name) for name in rules.architectures]
        with self._context(rules.default) as context:
            for arch in architectures:
                result = self._library.seccomp_arch_add(context, self.tokens[arch])
                self._expect(result if result != -errno.EEXIST else 0, f"the architecture {arch}")
            if len(rules.named) > _MANY_RULES:
                self._library.seccomp_attr_set(context, _FLTATR_CTL_OPTIMIZE, _BINARY_TREE)
            for rule in rules.added:
                number = self.number(self.native, rule.name)
                if number is not None:
                    self._add(context, rule.action, number, rule.conditions, rule.name)
            made = self._exported(context)
        stub = enosys_stub(rules, dict.fromkeys([self.native, *architectures]), self.number)
        return dump(stub) + made

    def _of_profile(self, name: str) -> str:
        arch = name.removeprefix("SCMP_ARCH_").lower()
        if arch not in self.tokens:
            raise SafedlvError(f"libseccomp knows no architecture {printable(name)}")
        return arch

    @contextmanager
    def _context(self, default: int) -> Iterator[int]:
        context = self._library.seccomp_init(default)
        if not context:
            raise SafedlvError(f"libseccomp does not take the default action {default:#x}")
        try:
            yield context
        finally:
            self._library.seccomp_release(context)

    def _add(
        self, context: int, action: int, number: int, conditions: tuple[tuple[int, int, int, int], ...], name: str
    ) -> None:
        array = (_Comparison * len(conditions))(*(_Comparison(*condition) for condition in conditions))
        result = self._library.seccomp_rule_add_array(
            context, action, number, len(conditions), ctypes.addressof(array) if conditions else None
        )
        self._expect(result, f"the rule for {printable(name)}")

    def _expect(self, result: int, what: str) -> None:
        if result:
            raise SafedlvError(f"libseccomp does not take {what}: {os.strerror(-result)}")

    def _exported(self, context: int) -> bytes:
        descriptor = os.memfd_create("seccomp-program")
        try:
            self._expect(self._library.seccomp_export_bpf(context, descriptor), "the rules together")
            return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        finally:
            os.close(descriptor)

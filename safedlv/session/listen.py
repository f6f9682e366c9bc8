"""The listener of a session: opened, named and refused in the words of Go's net package, which dlv prints.

Sources: net.Listen, net.SplitHostPort and favoriteAddrFamily (Go's net package); service/internal/sameuser of Delve.
"""

from __future__ import annotations

import errno
import os
import socket
import sys

from safedlv.errors import SafedlvError

UNIX = "unix:"


class Listener:
    """A listening socket, and its address as dlv would print it."""

    def __init__(self, sock: socket.socket, shown: str, unix_path: str = "") -> None:
        self.sock = sock
        self.shown = shown
        self.unix_path = unix_path
        self.loopback = bool(unix_path) or _is_loopback(sock)

    def close(self) -> None:
        """Stop listening; a unix socket's path goes too, as with Go's listeners."""
        if self.sock.fileno() == -1:
            return
        self.sock.close()
        if self.unix_path:
            try:
                os.unlink(self.unix_path)
            except FileNotFoundError:
                return


def listen(address: str) -> Listener:
    """Listen on ``host:port`` or ``unix:path``. Raises SafedlvError with dlv's own sentence."""
    try:
        return _listen_unix(address.removeprefix(UNIX)) if address.startswith(UNIX) else _listen_tcp(address)
    except SafedlvError as error:
        raise SafedlvError(f"couldn't start listener: {error.sentence}") from error


def _listen_unix(path: str) -> Listener:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise SafedlvError(f"listen unix {path}: bind: {_go_text(error)}") from error
    return Listener(sock, path, os.path.abspath(path))


def _listen_tcp(address: str) -> Listener:
    host, port = _split(address)
    if host in ("", "0.0.0.0", "::"):  # noqa: S104  the user's own words
        family, sockaddr = (socket.AF_INET6, ("::", port)) if socket.has_dualstack_ipv6() else (socket.AF_INET, ("", port))
    else:
        family, sockaddr = _resolve(host, port)
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if sockaddr[0] == "::" else 1)
        sock.bind(sockaddr)
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise SafedlvError(f"listen tcp {_show(sockaddr)}: bind: {_go_text(error)}") from error
    return Listener(sock, _show(sock.getsockname()))


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        raise SafedlvError(f"listen tcp: address {address}: missing port in address")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise SafedlvError(f"listen tcp: address {address}: too many colons in address")
    try:
        number = int(port or 0) if port.isascii() and (port or "0").isdigit() else socket.getservbyname(port, "tcp")
    except OSError as error:
        raise SafedlvError(f"listen tcp: lookup tcp/{port}: unknown port") from error
    if number > 65535:
        raise SafedlvError(f"listen tcp: address {port}: invalid port")
    return host, number


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SafedlvError(f"listen tcp: lookup {host}: no such host") from error
    family, *_, sockaddr = next((entry for entry in found if entry[0] == socket.AF_INET), found[0])
    return family, (str(sockaddr[0]), int(sockaddr[1]))


def _show(sockaddr: tuple[object, ...]) -> str:
    host, port = sockaddr[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host or '0.0.0.0'}:{port}"


def _go_text(error: OSError) -> str:
    """Go's text of an errno (zerrors_linux_*.go): the C library's, in lower case."""
    texts = {errno.EADDRNOTAVAIL: "cannot assign requested address"}
    return texts.get(error.errno or 0) or os.strerror(error.errno).lower() if error.errno else str(error)


def _is_loopback(sock: socket.socket) -> bool:
    host = str(sock.getsockname()[0])
    return host.startswith("127.") or host == "::1"


def same_user(connection: socket.socket) -> bool:
    """Whether the peer of a loopback TCP connection is a process of our own uid (Delve's sameuser.CanAccept).

    The kernel lists the owner of each socket in /proc/net/tcp and tcp6 (proc_net(5)); an entry that cannot be found
    counts as somebody else's.
    """
    peer, own = connection.getpeername(), connection.getsockname()
    tables = [("/proc/net/tcp", _hex(peer, socket.AF_INET), _hex(own, socket.AF_INET))] if "." in peer[0] else []
    tables.append(("/proc/net/tcp6", _hex(peer, socket.AF_INET6), _hex(own, socket.AF_INET6)))
    for table, local, remote in tables:
        for fields in _rows(table):
            if len(fields) > 7 and fields[1] == local and fields[2] == remote:
                return int(fields[7]) == os.getuid()
    return False


def _rows(table: str) -> list[list[bytes]]:
    try:
        with open(table, "rb") as file:
            return [row.split() for row in file.read().splitlines()[1:]]
    except OSError:
        return []


def _hex(sockaddr: tuple[str, int], family: int) -> bytes:
    """An address as /proc/net/tcp writes it: 32-bit words in host order."""
    host, port = sockaddr[:2]
    if family == socket.AF_INET6 and "." in host and ":" not in host:
        host = f"::ffff:{host}"
    raw = socket.inet_pton(socket.AddressFamily(family), host)
    words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4)) if sys.byteorder == "little" else raw
    return f"{words.hex().upper()}:{port:04X}".encode()

"""The listener of a session: opened, named and refused in the words of Go's net package, which dlv prints.

Sources: net.Listen, net.SplitHostPort and favoriteAddrFamily (Go's net package); service/internal/sameuser of Delve.
"""

from __future__ import annotations

import errno
import os
import socket
import sys

from safedlv.errors import InDlvsWordsError, SafedlvError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    _Address = tuple[Any, ...]  # host and port; with IPv6 also flow label and scope

UNIX = "unix:"


class Listener:
    """A listening socket, and its address as dlv would print it."""

    def __init__(self, sock: socket.socket, shown: str, unix_path: str = "") -> None:
        self.sock = sock
        self.shown = shown
        self.unix_path = unix_path
        """An absolute path, or ``@name`` in the abstract namespace; empty for TCP."""
        self.loopback = bool(unix_path) or _is_loopback(sock)

    def close(self) -> None:
        """Stop listening; a unix socket's path goes too, as with Go's listeners."""
        if self.sock.fileno() == -1:
            return
        self.sock.close()
        if self.unix_path.startswith("/"):
            try:
                os.unlink(self.unix_path)
            except FileNotFoundError:
                return


def listen(address: str) -> Listener:
    """Listen on ``host:port`` or ``unix:path``. Raises SafedlvError with dlv's own sentence."""
    try:
        return _listen_unix(address.removeprefix(UNIX)) if address.startswith(UNIX) else _listen_tcp(address)
    except SafedlvError as error:
        raise InDlvsWordsError(f"couldn't start listener: {printable(error.sentence, 1000)}") from error


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel find out within half a minute that a client's machine is gone (tcp(7)); Go asks it to, too."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)  # milliseconds


def _listen_unix(path: str) -> Listener:
    """As Go does it: ``@name`` is in the abstract namespace; without a name the kernel chooses one there (unix(7))."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind("\0" + path[1:] if path.startswith("@") else path)
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise SafedlvError(f"listen unix {path}: bind: {_go_text(error)}") from error
    if not path:
        path = "@" + os.fsdecode(sock.getsockname()[1:])
    return Listener(sock, path, path if path.startswith("@") else os.path.abspath(path))


def _listen_tcp(address: str) -> Listener:
    host, port = _split(address)
    if host in ("", "0.0.0.0", "::"):  # noqa: S104  the user's own words
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        sockaddr: _Address = ("::" if dual else "", port)
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
    if not address:  # net.Listen("tcp", ""): every address, any port
        return "", 0
    host, problem = _host_of(address)
    if problem:
        raise SafedlvError(f"listen tcp: address {address}: {problem}")
    return host, _port(address.rpartition(":")[2])


def _host_of(address: str) -> tuple[str, str]:
    """The host of ``host:port`` or ``[host]:port``, and what is wrong with them (net.SplitHostPort, in its order)."""
    before, colon, _ = address.rpartition(":")
    closed = address.find("]") if address.startswith("[") else -1
    host = address[1:closed] if closed > 0 else before
    inside, outside = (1, closed + 1) if closed > 0 else (0, 0)
    if not colon or (closed > 0 and address[closed + 1 : closed + 2] != ":"):
        return "", "missing port in address"
    if address.startswith("[") and closed < 0:
        return "", "missing ']' in address"
    if (closed > 0 and len(before) != closed + 1) or (closed < 0 and ":" in before):
        return "", "too many colons in address"
    if "[" in address[inside:]:
        return "", "unexpected '[' in address"
    if "]" in address[outside:]:
        return "", "unexpected ']' in address"
    return host, ""


def _port(text: str) -> int:
    """A port's number, or the service's of that name (net.parsePort, net.LookupPort)."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not digits:
        return 0
    if digits.isascii() and digits.isdigit():
        number = int(digits[:9]) * (-1 if text.startswith("-") else 1)
        if not 0 <= number <= 65535:
            raise SafedlvError(f"listen tcp: address {text}: invalid port")
        return number
    try:
        return socket.getservbyname(text, "tcp")
    except (OSError, UnicodeError) as error:
        raise SafedlvError(f"listen tcp: lookup tcp/{text}: unknown port") from error


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, _Address]:
    """The first IPv4 address of a host, else its first. 127.1 and the like are no addresses for Go."""
    try:
        socket.inet_pton(socket.AF_INET, host)
        return socket.AF_INET, (host, port)  # no name: spares the import of an encoding for names (idna)
    except OSError:
        pass
    try:
        if _is_short_form(host):
            raise OSError(host)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SafedlvError(f"listen tcp: lookup {host}: no such host") from error
    family, *_, sockaddr = next((entry for entry in found if entry[0] == socket.AF_INET), found[0])
    if str(sockaddr[0]).startswith("::ffff:") and "." in str(sockaddr[0]):
        return socket.AF_INET, (str(sockaddr[0]).removeprefix("::ffff:"), port)
    return family, sockaddr


def _is_short_form(host: str) -> bool:
    """What inet_aton(3) takes for an IPv4 address and inet_pton(3) does not."""
    try:
        socket.inet_aton(host)
    except (OSError, UnicodeError):
        return False
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return True
    return False


def _show(sockaddr: _Address) -> str:
    host, port = str(sockaddr[0]), sockaddr[1]
    if ":" not in host:
        return f"{host or '0.0.0.0'}:{port}"  # noqa: S104  shown, not bound
    scope = sockaddr[3] if len(sockaddr) > 3 else 0
    zone = f"%{socket.if_indextoname(scope)}" if isinstance(scope, int) and scope and "%" not in host else ""
    return f"[{host}{zone}]:{port}"


def _go_text(error: OSError) -> str:
    """Go's text of an errno (zerrors_linux_*.go): the C library's, in lower case."""
    if error.errno is None:  # Python's own refusal of a path that is longer than sun_path
        return os.strerror(errno.EINVAL).lower()
    return os.strerror(error.errno).lower()


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

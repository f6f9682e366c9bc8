"""Connect to an address as Go's net.Dial takes it: ``host:port``, ``:port`` on this machine, or ``unix:path``."""

from __future__ import annotations

import socket

UNIX = "unix:"


def dial(address: str) -> socket.socket:
    """A connection to it. Raises OSError when nobody listens there, or it is no address."""
    if address.startswith(UNIX):
        path = address.removeprefix(UNIX)
        return _connect(socket.AF_UNIX, "\0" + path[1:] if path.startswith("@") else path)
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise OSError(f"{port} is no port")
    if host:
        return _connect_by_name(host.removeprefix("[").removesuffix("]"), int(port))
    try:
        return _connect(socket.AF_INET, ("127.0.0.1", int(port)))
    except OSError:
        return _connect(socket.AF_INET6, ("::1", int(port)))


def _connect_by_name(host: str, port: int) -> socket.socket:
    try:
        socket.inet_pton(socket.AF_INET, host)
        return _connect(socket.AF_INET, (host, port))  # no name: spares the import of an encoding for names (idna)
    except OSError:
        return socket.create_connection((host, port))


def _connect(family: socket.AddressFamily, address: str | tuple[str, int]) -> socket.socket:
    sock = socket.socket(family)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock

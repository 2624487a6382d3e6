"""The sockets that a server listens on."""

from __future__ import annotations

import errno
import socket
import sys

from tidewire.errors import ConfigurationError

__all__ = ("listening_socket",)

#: Seconds that sent bytes may wait for their acknowledgement before the kernel gives the peer up (`TCP_USER_TIMEOUT`).
_ACKNOWLEDGE_SECONDS = 15


def listening_socket(host: str, port: int, backlog: int = 4_096) -> socket.socket:
    """Return a listening TCP socket whose connections end when a peer acknowledges nothing for 15 s (on Linux).

    Raises ConfigurationError when the address is none of this machine, or is taken.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigurationError(f"host {host!r} cannot be resolved ({error}); use an address, as 127.0.0.1") from None
    listener = socket.socket(family, kind, number)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _ACKNOWLEDGE_SECONDS * 1_000)
        listener.bind(address)
        listener.listen(backlog)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigurationError(_cannot_listen(error, host, port)) from None
    return listener


def _cannot_listen(error: Exception, host: str, port: int) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return f"port {port} on {host} is taken; stop what listens there, or choose another port"
    if number == errno.EACCES:
        return f"port {port} needs more rights than this user has; choose one above 1023"
    if number == errno.EADDRNOTAVAIL:
        return f"host {host} is not an address of this machine; use 127.0.0.1, or 0.0.0.0 for all of its addresses"
    return f"cannot listen on {host} port {port}: {error}; choose another host or port"

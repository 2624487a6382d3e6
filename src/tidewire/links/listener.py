"""The sockets that a server listens on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from tidewire.errors import ConfigurationError
from tidewire.limits import Limits

__all__ = ("listening_socket", "unix_listener")

#: The time that the kernel gives a peer, as a multiple of our own; the longest that it takes.
_KERNEL = 6.0
_LONGEST_SECONDS = 86_400.0


def listening_socket(
    host: str, port: int, backlog: int = 4_096, *, seconds: float = Limits().stalled_seconds
) -> socket.socket:
    """Return a listening TCP socket; the kernel ends its connections when a peer takes nothing for long (on Linux).

    That is six times the `seconds` of our own watch (links.unread), because the kernel's clock also runs for a slow
    peer that takes less than it has been sent. It is for what no process has any more: the end of an answer, behind
    which a connection was closed. Raises ConfigurationError when the address is none of this machine, or is taken.
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
            milliseconds = max(1, round(min(_KERNEL * seconds, _LONGEST_SECONDS) * 1_000))
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        listener.bind(address)
        listener.listen(backlog)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigurationError(_cannot_listen(error, host, port)) from None
    return listener


def _cannot_listen(error: Exception, host: str, port: int) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return f"port {port} on {host} is taken; stop the program that listens there, or choose another port"
    if number == errno.EACCES:
        return f"port {port} needs more rights than this user has; choose one above 1023"
    if number == errno.EADDRNOTAVAIL:
        return f"host {host} is not an address of this machine; use 127.0.0.1, or 0.0.0.0 for all of its addresses"
    return f"cannot listen on {host} port {port}: {error}; choose another host or port"


@contextlib.contextmanager
def unix_listener(path: Path, backlog: int = 4_096) -> Iterator[socket.socket]:
    """Listen on a Unix socket, which all who can reach its folder may open; its file is removed at the end.

    A file that a killed server has left is replaced. Raises ConfigurationError when nothing can listen there.
    """
    file = path.absolute()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            with _alone_in(file.parent):
                _remove_stale(path)
                listener.bind(os.fspath(path))
                path.chmod(0o666)
                listener.listen(backlog)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigurationError(f"cannot listen on {str(path)!r}: {why}; choose another path for uds") from None
        try:
            yield listener
        finally:
            listener.close()
            # it is removed, or a successor's
            with contextlib.suppress(OSError, ConfigurationError), _alone_in(file.parent):
                _remove_stale(file)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make other servers wait: a socket that is bound and does not listen yet looks like that of a killed one."""
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    """Remove the file of a socket at which nobody listens."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigurationError(f"{str(path)!r} is no socket; choose another path for uds, or remove it")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        refused = probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED
    if not refused:
        raise ConfigurationError(
            f"{str(path)!r} is taken; stop the program that listens there, or choose another path for uds"
        )
    path.unlink()

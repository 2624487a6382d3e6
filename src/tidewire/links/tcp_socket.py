"""The TCP socket under a WebSocket, where the ASGI server owns it: found by its peer, and measured by the kernel.

Linux alone tells it. The server's own objects are not touched: each use works on a duplicate of the descriptor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any, NamedTuple

from tidewire.support.per_loop import PerLoop

__all__ = (
    "Peer",
    "Sockets",
    "TcpState",
    "acknowledged_by",
    "cut",
    "framed_by",
    "keep_alive",
    "peer_of",
    "state_of",
    "unsent_by",
)

#: `struct tcp_info`: the first 8 bytes are flags, then 32-bit numbers: unacked, last_data_recv, last_ack_recv; behind
#: them 64-bit ones: bytes_acked, since Linux 4.1.
_UNACKED, _LAST_DATA, _LAST_ACK, _INFO_BYTES = 24, 52, 56, 104
_ACKNOWLEDGED, _LONG_INFO_BYTES = 120, 128
_FIONREAD, _SIOCOUTQ, _SCAN_SECONDS = 0x541B, 0x5411, 1.0
#: The longest time that the kernel takes for `TCP_KEEPIDLE` and `TCP_KEEPINTVL`.
_KEEPALIVE_SECONDS = 32_767.0


class Peer(NamedTuple):
    """The other end of a socket, and the port of this one."""

    host: str
    port: int
    own_port: int


class TcpState(NamedTuple):
    """Bytes that were received and not read, whether all that was sent has arrived, and seconds of silence."""

    unread: int
    is_acknowledged: bool
    since_data: float
    since_acknowledgement: float


def peer_of(scope: MutableMapping[str, Any]) -> Peer | str:
    """Return the peer of the TCP connection under a WebSocket, or why it is not known."""
    client, server = scope.get("client"), scope.get("server")
    if sys.platform != "linux":
        return "this is not Linux"
    if not client or not client[1] or not server or not server[1]:
        return "the server does not say which TCP connection it is"
    return Peer(_plain(str(client[0])), int(client[1]), int(server[1]))


def framed_by(scope: MutableMapping[str, Any]) -> str:
    """Return the layer between a WebSocket and its TCP connection that prevents writing frames there, or ""."""
    if scope.get("scheme") == "wss":
        return "the server speaks TLS itself"
    if str(scope.get("http_version", "1.1")).startswith(("2", "3")):
        return "the connection is HTTP/2"
    return ""


def _plain(host: str) -> str:
    return host.removeprefix("::ffff:") if "." in host else host


class Sockets(PerLoop):
    """The TCP sockets of this process, by their peers."""

    __slots__ = ("_found", "_scanned")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._found: dict[Peer, int] = {}
        self._scanned = -_SCAN_SECONDS

    def open(self, peer: Peer) -> socket.socket | None:
        """Return a duplicate of the socket with this peer, for the caller to close; None: there is none (any more)."""
        found = self._duplicate(peer)
        if found is None and self._loop.time() - self._scanned >= _SCAN_SECONDS:
            self._scanned = self._loop.time()
            self._found = _scan()
            found = self._duplicate(peer)
        return found

    def _duplicate(self, peer: Peer) -> socket.socket | None:
        number = self._found.get(peer)
        if number is None:
            return None
        duplicate = _duplicate(number)
        if duplicate is None or _peer(duplicate) == peer:
            return duplicate
        duplicate.close()  # the number is used again
        return None


def sockets() -> Iterator[tuple[int, socket.socket]]:
    """Iterate over the sockets of this process, by their descriptors; each duplicate is closed when the next comes.

    There are none where /proc is not.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            duplicate = _duplicate(int(name))
            if duplicate is not None:
                with duplicate:
                    yield int(name), duplicate


def _duplicate(number: int) -> socket.socket | None:
    """Return a duplicate of a descriptor that is a socket; a file or pipe is none, and leaves none behind."""
    try:
        copy = os.dup(number)
    except OSError:
        return None
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None


def _scan() -> dict[Peer, int]:
    peers = ((number, _peer(one)) for number, one in sockets())
    return {peer: number for number, peer in peers if peer is not None}


def _peer(found: socket.socket) -> Peer | None:
    if found.family not in (socket.AF_INET, socket.AF_INET6) or found.type != socket.SOCK_STREAM:
        return None
    try:
        host, port = found.getpeername()[:2]
        return Peer(_plain(host), port, found.getsockname()[1])
    except OSError:
        return None


def state_of(found: socket.socket) -> TcpState:
    """Return the kernel's figures of a connection; raises OSError."""
    import fcntl

    unread = struct.unpack("i", fcntl.ioctl(found, _FIONREAD, b"\0" * 4))[0]
    info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    unacked, data, ack = (struct.unpack_from("I", info, place)[0] for place in (_UNACKED, _LAST_DATA, _LAST_ACK))
    unsent = struct.unpack("i", fcntl.ioctl(found, _SIOCOUTQ, b"\0" * 4))[0]
    return TcpState(unread, not unacked and not unsent, data / 1000, ack / 1000)


def unsent_by(transport: asyncio.Transport) -> int:
    """Return the bytes that a transport and the kernel have for a peer which has not taken them."""
    waiting = transport.get_write_buffer_size()
    found = transport.get_extra_info("socket") if sys.platform == "linux" else None
    if found is not None:
        import fcntl

        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            waiting += struct.unpack("i", fcntl.ioctl(found.fileno(), _SIOCOUTQ, b"\0" * 4))[0]
    return waiting


def acknowledged_by(transport: asyncio.Transport) -> int | None:
    """Return the bytes that a peer has acknowledged so far, or None where no kernel tells.

    Below TLS nothing else shows progress: bytes wait there between TLS and the socket, and no transport counts them.
    """
    found = transport.get_extra_info("socket") if sys.platform == "linux" else None
    if found is not None:
        with contextlib.suppress(OSError, ValueError):  # it is closed, or no TCP
            info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LONG_INFO_BYTES)
            if len(info) == _LONG_INFO_BYTES:
                return int(struct.unpack_from("Q", info, _ACKNOWLEDGED)[0])
    return None


def cut(transport: asyncio.Transport) -> None:
    """End a connection at once; the kernel, too, forgets what its peer has not taken."""
    found = transport.get_extra_info("socket")
    if found is not None and found.family != getattr(socket, "AF_UNIX", None):
        with contextlib.suppress(OSError, ValueError):  # it is closed
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def keep_alive(found: socket.socket, idle: float, patience: float) -> None:
    """Make the kernel end a connection whose peer acknowledges nothing: `patience` seconds after `idle` ones."""
    idle, patience = min(idle, _KEEPALIVE_SECONDS), min(patience, _KEEPALIVE_SECONDS)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(idle)))
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(patience / 3)))
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round((idle + patience) * 1000))

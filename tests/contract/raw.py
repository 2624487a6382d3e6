"""A WebSocket client on a raw socket, which may break every rule (RFC 6455)."""

from __future__ import annotations

import os
import socket
import struct
import time
from types import TracebackType
from typing import NamedTuple

from .serving import Server

__all__ = ("Frame", "RawSocket", "handshake")

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Frame(NamedTuple):
    """One frame as it came."""

    opcode: int
    data: bytes
    fin: bool


def handshake(
    server: Server, path: str, *headers: tuple[str, str], receive_buffer: int = 0
) -> tuple[socket.socket, bytes]:
    """Send an opening handshake with these headers too; returns the socket and the answer's head."""
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(10)
    client.connect(("127.0.0.1", server.port))
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {_KEY}", "Sec-WebSocket-Version: 13"]
    lines += [f"{name}: {value}" for name, value in headers]
    client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        if not byte:
            break
        head += byte
    return client, head


class RawSocket:
    """An open WebSocket that does nothing by itself: it answers no ping and no close."""

    CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

    def __init__(self, server: Server, path: str, *headers: tuple[str, str], receive_buffer: int = 0) -> None:
        self.socket, head = handshake(server, path, *headers, receive_buffer=receive_buffer)
        assert b" 101 " in head.splitlines()[0], head
        self._buffer = b""
        #: Seconds that it takes over each read.
        self.pace = 0.0

    def __enter__(self) -> RawSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def send_frame(self, opcode: int, data: bytes, *, fin: bool = True) -> None:
        """Send one masked frame, whatever is in it."""
        self.socket.sendall(self.frame(opcode, data, fin=fin))

    @staticmethod
    def frame(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
        """Return one masked frame."""
        first = opcode | (0x80 if fin else 0)
        size = len(data)
        if size < 126:
            head = struct.pack("!BB", first, 0x80 | size)
        elif size < 65_536:
            head = struct.pack("!BBH", first, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", first, 0x80 | 127, size)
        mask = os.urandom(4)
        repeated = mask * (size // 4 + 1)
        masked = int.from_bytes(data, "big") ^ int.from_bytes(repeated[:size], "big")
        return head + mask + masked.to_bytes(size, "big")

    def send_text(self, text: str) -> None:
        """Send one text message."""
        self.send_frame(self.TEXT, text.encode())

    def _read(self, size: int) -> bytes:
        parts, length = [self._buffer], len(self._buffer)
        while length < size:
            data = self.socket.recv(65_536)
            if not data:
                raise EOFError("the server has closed the connection")
            parts.append(data)
            length += len(data)
            time.sleep(self.pace)
        data = b"".join(parts)
        self._buffer = data[size:]
        return data[:size]

    def next_frame(self, within: float = 10.0) -> Frame:
        """Return the next frame; raises EOFError at the end."""
        self.socket.settimeout(within)
        first, size = self._read(2)
        if size == 126:
            (size,) = struct.unpack("!H", self._read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._read(8))
        return Frame(first & 15, self._read(size), bool(first & 0x80))

    def next_message(self, within: float = 10.0) -> bytes:
        """Return the next text or binary message; pings are answered."""
        while True:
            frame = self.next_frame(within)
            if frame.opcode == self.PING:
                self.send_frame(self.PONG, frame.data)
            elif frame.opcode in (self.TEXT, self.BINARY):
                return frame.data
            elif frame.opcode == self.CLOSE:
                raise EOFError(f"closed with {frame.data!r}")

    def closed(self, within: float = 10.0) -> int:
        """Read until the connection ends, and return the close code (1006: without one)."""
        try:
            while True:
                frame = self.next_frame(within)
                if frame.opcode == self.CLOSE:
                    return int.from_bytes(frame.data[:2], "big")
        except (EOFError, ConnectionError):
            return 1006

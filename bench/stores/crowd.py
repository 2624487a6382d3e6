"""A crowd of small clients of the Centrifuge protocol in JSON, that drop, come back and check what they are given.

One process; each client is a protocol on a transport, without tasks, so that thousands fit beside the server.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import time
from collections.abc import Callable

import msgspec

__all__ = ("Crowd", "Member", "Tally")

_KEY = base64.b64encode(b"tidewire-bench-k").decode()
_MASK = b"\0\0\0\0"


class _Pub(msgspec.Struct):
    data: tuple[int, int, str]
    offset: int = 0


class _Subscribed(msgspec.Struct):
    offset: int = 0
    epoch: str = ""
    recovered: bool = False
    was_recovering: bool = False
    publications: list[_Pub] = []


class _Push(msgspec.Struct):
    pub: _Pub | None = None
    unsubscribe: msgspec.Raw | None = None


class _Said(msgspec.Struct):
    id: int = 0
    error: msgspec.Raw | None = None
    subscribe: _Subscribed | None = None
    push: _Push | None = None


_decode = msgspec.json.Decoder(_Said).decode


class Tally:
    """What the clients of a crowd counted together; latencies in nanoseconds, of live publications only."""

    def __init__(self) -> None:
        self.received = self.lost = self.twice = self.told = self.failed = self.recoveries = 0
        self.latencies: list[int] = []
        self.keeps_latencies = False


class Member:
    """One client: it follows one channel, whose messages are `[number, nanoseconds, padding]`, numbered from 0."""

    __slots__ = ("_buffer", "_channel", "_is_open", "_on_subscribed", "_path", "epoch", "next", "offset", "tally", "to")

    def __init__(self, path: str, channel: str, tally: Tally, on_subscribed: Callable[[], None]) -> None:
        self._path, self._channel, self.tally, self._on_subscribed = path, channel, tally, on_subscribed
        #: The number that must come next; None: whichever comes first.
        self.next: int | None = None
        self.offset, self.epoch = 0, ""
        self.to: asyncio.Transport | None = None
        self._buffer = b""
        self._is_open = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.to, self._buffer, self._is_open = transport, b"", False
        host = ":".join(map(str, transport.get_extra_info("peername")[:2]))
        transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head[:20]:
                self.tally.failed += 1
                self.drop()
                return
            self._buffer, self._is_open = rest, True
            self._say(b'{"id":1,"connect":{}}\n' + self._subscribe())
        self._read_frames()

    def connection_lost(self, error: Exception | None) -> None:
        if self.to is not None:
            self.to = None
            self.tally.failed += 1

    def pause_writing(self) -> None:
        """Nothing that is written here is large."""

    def resume_writing(self) -> None:
        """Nothing that is written here is large."""

    def eof_received(self) -> bool:
        return False

    # Speaking.

    def drop(self) -> None:
        """Vanish without a word."""
        to, self.to = self.to, None
        if to is not None:
            to.abort()

    def _subscribe(self) -> bytes:
        asked: dict[str, object] = {"channel": self._channel, "recoverable": True}
        if self.epoch:
            asked |= {"recover": True, "offset": self.offset, "epoch": self.epoch}
        return msgspec.json.encode({"id": 2, "subscribe": asked})

    def _say(self, text: bytes) -> None:
        assert self.to is not None
        size = len(text)
        head = bytes((0x81, 0x80 | size)) if size < 126 else struct.pack("!BBH", 0x81, 0xFE, size)
        self.to.write(head + _MASK + text)

    # Reading.

    def _read_frames(self) -> None:
        buffer, at, end = self._buffer, 0, len(self._buffer)
        while end - at >= 2:
            opcode, size, start = buffer[at] & 15, buffer[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, start = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
            if end < start + size:
                break
            at = start + size
            if opcode == 1:
                for line in buffer[start:at].split(b"\n"):
                    self._read(line)
            elif opcode == 9 and self.to is not None:
                self.to.write(b"\x8a\x80" + _MASK)
        self._buffer = buffer[at:]

    def _read(self, line: bytes) -> None:
        said = _decode(line)
        if said.push is not None:
            if said.push.pub is not None:
                self._take(said.push.pub, live=True)
            elif said.push.unsubscribe is not None:
                self.tally.told += 1
        elif said.error is not None:
            self.tally.failed += 1
        elif said.subscribe is not None:
            self._begin(said.subscribe)
        elif not said.id:
            self._say(b"{}")

    def _begin(self, reply: _Subscribed) -> None:
        if reply.was_recovering:
            self.tally.recoveries += 1
            self.tally.told += not reply.recovered
        for publication in reply.publications:
            self._take(publication, live=False)
        if not self.epoch or not reply.recovered:
            self.offset = reply.offset
        self.epoch = reply.epoch
        self._on_subscribed()

    def _take(self, publication: _Pub, *, live: bool) -> None:
        number, sent, _ = publication.data
        tally, wanted = self.tally, self.next
        if publication.offset:
            self.offset = publication.offset
        if wanted is not None and number != wanted:
            if number < wanted:
                tally.twice += 1
                return
            tally.lost += number - wanted
        self.next = number + 1
        tally.received += 1
        if live and tally.keeps_latencies:
            tally.latencies.append(time.monotonic_ns() - sent)


class Crowd:
    """Members of one channel, on one server."""

    def __init__(self, port: int, path: str, channel: str, count: int) -> None:
        self.tally = Tally()
        self.subscribed = 0
        self._port = port
        self._changed = asyncio.Event()
        self.members = [Member(path, channel, self.tally, self._one_more) for _ in range(count)]

    def _one_more(self) -> None:
        self.subscribed += 1
        self._changed.set()

    async def open(self, members: list[Member] | None = None, *, at_once: int = 200, limit: float = 60.0) -> None:
        """Connect, so many at a time, and wait until all follow the channel."""
        members = self.members if members is None else members
        wanted = self.subscribed + len(members)
        gate = asyncio.Semaphore(at_once)
        await asyncio.gather(*(self.connect(member, gate) for member in members))
        async with asyncio.timeout(limit):
            while self.subscribed < wanted:
                self._changed.clear()
                await self._changed.wait()

    async def connect(self, member: Member, gate: asyncio.Semaphore | None = None) -> None:
        """Connect one member; it subscribes by itself."""
        loop = asyncio.get_running_loop()
        if gate is None:
            await loop.create_connection(lambda: member, "127.0.0.1", self._port)  # type: ignore[arg-type,return-value]
            return
        async with gate:
            await loop.create_connection(lambda: member, "127.0.0.1", self._port)  # type: ignore[arg-type,return-value]

    async def wait_for(self, number: int, *, limit: float) -> int:
        """Wait until every member has come past a number, for so long; return how many have not."""
        end = time.monotonic() + limit
        while True:
            behind = sum(1 for member in self.members if (member.next or 0) <= number)
            if not behind or time.monotonic() > end:
                return behind
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """Let all vanish."""
        for member in self.members:
            member.drop()


def payload(number: int, size: int = 128) -> list[object]:
    """Return a message of about so many bytes as JSON."""
    return [number, time.monotonic_ns(), "x" * max(0, size - 30)]

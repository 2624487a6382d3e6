"""A link without a socket, and a clock that tests move by hand."""

from __future__ import annotations

import asyncio

from tidewire.errors import Disconnect
from tidewire.links.base import Link, Listener
from tidewire.messages import WireMessage
from tidewire.protocols.batch import Batch
from tidewire.protocols.close_codes import GONE

__all__ = ("FakeLink", "ManualClock")


class ManualClock:
    """A clock whose time moves only by `advance`."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance the time by some seconds."""
        self.now += seconds


class FakeLink(Link):
    """Keeps all written messages in `sent`; its client takes everything, or nothing between `stall` and `take`.

    It counts as paused above `high_water` bytes that the client has not taken, and drops writes after its end, as every
    link does. `answers_close=False` makes a client that does not answer a closing handshake.
    """

    __slots__ = (
        "_is_stalled",
        "_listener",
        "_unsent",
        "_writable",
        "answers_close",
        "closed_with",
        "deflate",
        "high_water",
        "is_closed",
        "is_reading",
        "paused",
        "sent",
        "worst_backlog",
        "writes",
    )

    def __init__(self, *, high_water: int = 65_536, deflate: bool = False, answers_close: bool = True) -> None:
        self.sent: list[WireMessage] = []
        #: How often `write` was called.
        self.writes = 0
        self.closed_with: tuple[int, str] | None = None
        self.worst_backlog = (0, 0)
        self.high_water = high_water
        self.answers_close = answers_close
        self.deflate = deflate
        self.paused = self.is_closed = False
        self.is_reading = True
        self._is_stalled = False
        self._unsent = [0, 0]
        self._listener: Listener | None = None
        self._writable = asyncio.Event()

    @property
    def data(self) -> list[bytes]:
        """The payloads of the written messages."""
        return [message.data for message in self.sent]

    # Acts of the client.

    def receive(self, message: str | bytes) -> None:
        """Receive a message as if the client had sent it."""
        if self._listener is not None:
            self._listener.message_received(message)

    def stall(self) -> None:
        """Take nothing until `take`."""
        self._is_stalled = True

    def take(self) -> None:
        """Take all waiting messages, and all further ones."""
        self._is_stalled = False
        self._unsent = [0, 0]
        if self.paused:
            self.paused = False
            self._writable.set()
            if self._listener is not None and not self.is_closed:
                self._listener.drained()

    def vanish(self, disconnect: Disconnect = GONE, *, clean: bool = False) -> None:
        """End the connection from the client's side."""
        self._end(disconnect, clean=clean)

    # The link.

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    async def keep_open(self) -> None:
        return None

    def write(self, batch: Batch) -> None:
        if self.is_closed or self.closed_with is not None:
            return
        self.writes += 1
        self.sent.extend(batch.messages)
        if self._is_stalled:
            self._unsent = [self._unsent[0] + batch.size, self._unsent[1] + len(batch)]
            self.worst_backlog = max(self.worst_backlog, self.backlog())
            if self._unsent[0] > self.high_water:
                self.paused = True
                self._writable.clear()

    def backlog(self) -> tuple[int, int]:
        return self._unsent[0], self._unsent[1]

    async def wait_drained(self) -> None:
        while self.paused and not self.is_closed:
            await self._writable.wait()

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close(self, code: int, reason: str = "") -> None:
        if self.is_closed or self.closed_with is not None:
            return
        self.closed_with = (code, reason)
        if self.answers_close:
            asyncio.get_running_loop().call_soon(lambda: self._end(Disconnect(code, reason), clean=True))

    def abort(self) -> None:
        self._end(GONE, clean=False)

    def _end(self, disconnect: Disconnect, *, clean: bool) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.paused = False
        self._writable.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.closed(disconnect, clean=clean)

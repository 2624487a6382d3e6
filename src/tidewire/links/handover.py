"""A link without a wire: publications wait until code of the same process takes them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from tidewire.errors import Disconnect
from tidewire.links.base import Link, Listener
from tidewire.messages import Publication, WireMessage
from tidewire.protocols.batch import Batch
from tidewire.protocols.close_codes import GONE

__all__ = ("HandoverBatch", "HandoverLink")

#: Bytes that wait at which the link counts as paused.
_HIGH_WATER = 64 * 1024


class HandoverBatch(Batch):
    """Publications as they are."""

    __slots__ = ("publications",)

    def __init__(self, publications: Sequence[Publication]) -> None:
        super().__init__([WireMessage(publication.data) for publication in publications])
        self.publications = publications


class HandoverLink(Link):
    """Keeps publications until `take`; it is paused while more than `messages` of them wait, or 64 KiB.

    Messages that wait at a close can still be taken.
    """

    __slots__ = ("_bytes", "_drained", "_listener", "_messages", "_news", "_waiting", "is_closed", "paused")

    def __init__(self, messages: int) -> None:
        self._messages = messages
        self._waiting: deque[Publication] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._listener: Listener | None = None
        self.paused = False
        self.is_closed = False

    # The reader.

    def take(self) -> Publication | None:
        """Return the oldest publication that waits, or None."""
        if not self._waiting:
            return None
        publication = self._waiting.popleft()
        self._bytes -= len(publication.data)
        if self.paused and not self._waiting:
            self.paused = False
            self._drained.set()
            if self._listener is not None:
                self._listener.drained()
        return publication

    async def wait_news(self) -> None:
        """Wait until something can be taken, or the link has ended."""
        self._news.clear()
        if not self._waiting and not self.is_closed:
            await self._news.wait()

    def wake(self) -> None:
        """End the wait for news."""
        self._news.set()

    def clear(self) -> None:
        """Drop the waiting publications."""
        self._waiting.clear()
        self._bytes = 0

    # The link.

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    async def keep_open(self) -> None:
        return None

    def write(self, batch: Batch) -> None:
        if self.is_closed or not isinstance(batch, HandoverBatch):
            return  # a reader asks for the notices that a client is sent beside its publications
        self._waiting.extend(batch.publications)
        self._bytes += batch.size
        if len(self._waiting) > self._messages or self._bytes > _HIGH_WATER:
            self.paused = True
            self._drained.clear()
        self._news.set()

    def backlog(self) -> tuple[int, int]:
        return self._bytes, len(self._waiting)

    async def wait_drained(self) -> None:
        await self._drained.wait()

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return

    def close(self, code: int, reason: str = "") -> None:
        self._end(Disconnect(code, reason))

    def abort(self) -> None:
        self._end(GONE)

    def _end(self, disconnect: Disconnect) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.paused = False
        self._drained.set()
        self._news.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().call_soon(lambda: listener.closed(disconnect, clean=True))

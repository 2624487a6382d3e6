"""The bytes of all replies that one process reads and encodes at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tidewire.options import Limits
from tidewire.support.admission import Admission
from tidewire.support.counters import count_limit
from tidewire.support.per_loop import PerLoop

__all__ = ("ReplyBudget",)


class ReplyBudget(PerLoop):
    """Lets replies be made as far as the limit `replies_bytes` goes; the others wait, first come, first served."""

    __slots__ = ("_reserved", "_waiting", "large")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._reserved = 0
        #: Calls that have had a large answer, by name: they are made like reads from then on.
        self.large: set[str] = set()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def reserve(self, limits: Limits) -> AsyncIterator[None]:
        """Reserve the bytes of one reply, which is read and encoded inside the block; waits while there are too many.

        One larger than the whole budget has it alone.
        """
        size = min(limits.reply_bytes, limits.replies_bytes)
        await self._take(size, limits.replies_bytes)
        try:
            yield
        finally:
            self._reserved -= size
            self._wake(limits.replies_bytes)

    async def _take(self, size: int, most: int) -> None:
        if not self._waiting and self._reserved + size <= most:
            self._reserved += size
            return
        count_limit("replies_bytes")
        ready: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((size, ready))
        try:
            await ready
        except BaseException:
            if ready.done() and not ready.cancelled():  # it was given what it no longer wants
                self._reserved -= size
                self._wake(most)
            raise

    def _wake(self, most: int) -> None:
        while self._waiting:
            size, ready = self._waiting[0]
            if ready.done():  # cancelled
                self._waiting.popleft()
            elif self._reserved + size <= most:
                self._waiting.popleft()
                self._reserved += size
                ready.set_result(None)
            else:
                return

    async def wait_turn(self) -> None:
        """Wait for a turn of the loop in which a reply may be encoded: they are large, and one is enough for a turn."""
        await Admission.of(self._loop).wait_admitted(1)

"""Work for one connection that waits for the store or the application: several at once, begun in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import PublishError
from tidewire.messages import Format, Position
from tidewire.support.counters import count_limit

__all__ = ("InFlight", "Settle")

#: Is called with the error of a publication, or with None when it is kept; it raises nothing.
Settle = Callable[[BaseException | None], None]


class InFlight:
    """Requests of one connection that are not yet answered, at most so much as a limit (by its name) says.

    The store is asked in the order of `put`, so offsets are given in that order (broker.Broker.publish). Work that
    never `waits` is done at once.
    """

    __slots__ = ("_connection", "_futures", "_limit", "_most", "_node", "waits")

    def __init__(self, node: Node, connection: Connection, limit: str, *, waits: bool = True) -> None:
        self._node = node
        #: Whether there is anything to wait for.
        self.waits = waits
        self._limit = limit
        self._most: int = getattr(node.limits, limit)
        self._connection = connection
        self._futures: set[asyncio.Future[Any]] = set()

    def __len__(self) -> int:
        return len(self._futures)

    async def publish(
        self, channel: str, data: bytes, format: Format, settle: Settle, *, key: str = "", meta: bytes = b""
    ) -> None:
        """Ask the store to keep a publication, and go on; `settle` is called with its error, or None when it is kept.

        Waits while there is too much; the loop gets no turn where there is room.
        """
        node, waits = self._node, self.waits and not self._node.is_ephemeral(channel)
        try:
            if waits:
                if len(self._futures) >= self._most:
                    await self.wait_room()
                settled = partial(self._settled, settle)
                begun = node.begin_publish(channel, data, format, settled=settled, key=key, meta=meta)
            else:
                await node.publish(channel, data, format, key=key, meta=meta, sender=self._connection.id)
        except PublishError as error:
            settle(error)
        else:
            if waits:
                self._futures.add(begun)
            else:
                settle(None)

    def _settled(self, settle: Settle, begun: asyncio.Future[Position]) -> None:
        self._futures.discard(begun)
        if not begun.cancelled():
            settle(begun.exception())

    async def put(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin some work; waits while there is too much."""
        if not self.waits:
            await work
            return
        try:
            await self.wait_room()
        except BaseException:
            work.close()
            raise
        task = self._node.tasks.spawn(work)
        if task is not None:
            self.add(task)

    async def wait_room(self) -> None:
        """Wait while there is too much; the loop gets no turn where there is room."""
        if len(self._futures) >= self._most:
            count_limit(self._limit)
            await asyncio.wait(self._futures, return_when=asyncio.FIRST_COMPLETED)

    def add(self, future: asyncio.Future[Any]) -> None:
        """Count a publish that has begun."""
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)

    async def wait(self) -> None:
        """Wait until everything is answered."""
        if self._futures:
            await asyncio.wait(self._futures)

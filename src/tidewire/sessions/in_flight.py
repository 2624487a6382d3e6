"""Work for one connection that waits for the store or the application: several at once, begun in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.support.counters import count_limit

__all__ = ("InFlight",)


class InFlight:
    """What one connection has asked for and is not yet answered, at most so much as a limit (by its name) says.

    The store is asked in the order of `put`, so offsets are given in that order (broker.Broker.publish). Work that
    never `waits` is done at once.
    """

    __slots__ = ("_connection", "_limit", "_most", "_spawn", "_tasks", "_waits")

    def __init__(self, node: Node, connection: Connection, limit: str, *, waits: bool = True) -> None:
        self._spawn = node.tasks.spawn
        self._waits = waits
        self._limit = limit
        self._most: int = getattr(node.limits, limit)
        self._connection = connection
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def put(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin some work; waits while there is too much."""
        if not self._waits:
            await work
            return
        if len(self._tasks) >= self._most:
            count_limit(self._limit)
            try:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            except BaseException:
                work.close()
                raise
        task = self._spawn(work)
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Wait until everything is answered."""
        if self._tasks:
            await asyncio.wait(self._tasks)

"""Publishes of one connection: several wait for the store at once, in their order for each channel."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from tidewire.connection import Connection
from tidewire.node import Node

__all__ = ("InFlight",)


class InFlight:
    """What one connection has asked of the store and is not yet answered, at most so much.

    The store is asked in the order of `put`, so offsets are given in that order (broker.Broker.publish).
    """

    __slots__ = ("_connection", "_maintenance", "_most", "_tasks", "_waits")

    def __init__(self, node: Node, connection: Connection) -> None:
        self._maintenance = node.maintenance
        self._waits = node.broker.waits
        self._most = node.limits.publishes_in_flight
        self._connection = connection
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def put(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin some work; waits while there is too much, or for all of it where the store needs no time."""
        if not self._waits:
            await work
            return
        if len(self._tasks) >= self._most:
            self._connection.reached("publishes_in_flight")
            try:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            except BaseException:
                work.close()
                raise
        task = self._maintenance.spawn(work)
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Wait until everything is answered."""
        if self._tasks:
            await asyncio.wait(self._tasks)

"""In which order things are done for one client: one after the other, but for calls and reads, which may take long."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable

from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import INTERNAL_ERROR, ConnectionClosed, Rejected
from tidewire.sessions.in_flight import InFlight

__all__ = ("Lane",)

logger = logging.getLogger("tidewire")


class Lane(ABC):
    """What the client sends, and what the application asks of it, is done one after the other; calls go beside that.

    An idle one has no task and no timer of its own.
    """

    __slots__ = ("__weakref__", "_calls", "_is_running", "_orders", "connection", "in_flight", "node")

    def __init__(self, node: Node, connection: Connection) -> None:
        self.node = node
        self.connection = connection
        #: What the client publishes.
        self.in_flight = InFlight(node, connection, "publishes_in_flight", waits=node.broker.waits)
        self._calls: InFlight | None = None
        self._orders: deque[Callable[[], Awaitable[None]]] = deque()
        self._is_running = False

    @abstractmethod
    async def _take(self, message: str | bytes) -> None:
        """Handle one message."""

    def _readable(self) -> None:
        if not self._is_running:
            self._is_running = True
            self.node.begin(self.connection, self._run)

    def order(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something behind what is being done for the client."""
        if not self.connection.is_closed:
            self._orders.append(work)
            self._readable()

    async def beside(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begin something that nothing waits for, behind what was published before; waits while there is too much."""

        async def behind_publishes() -> None:
            await self.in_flight.wait()
            await self._wait_drained()
            await work()

        if self._calls is None:
            self._calls = InFlight(self.node, self.connection, "calls_in_flight")
        await self._calls.put(self._do(behind_publishes))

    async def _wait_drained(self) -> None:
        """Wait while the client takes nothing: it is given no more answers then."""
        if self.connection.link.paused:
            await self.connection.link.wait_drained()

    async def _run(self) -> None:
        try:
            await self._do(self._take_all)
        finally:
            self._is_running = False

    async def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something for the client; what fails ends its connection."""
        connection = self.connection
        try:
            await work()
        except ConnectionClosed:
            pass
        except Rejected as rejected:
            connection.end(rejected.disconnect)
        except Exception:
            logger.exception("a command of connection %s failed; the client gets code 3004", connection.id)
            connection.fail(INTERNAL_ERROR)

    async def _take_all(self) -> None:
        connection = self.connection
        while not connection.is_closed:
            if self._orders:
                await self._orders.popleft()()
            elif (message := connection.receive_nowait()) is not None:
                connection.begin_handling()
                await self._take(message)
            else:
                return

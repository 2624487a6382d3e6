"""A few sessions for everything but publishing: each statement gets an idle one, or waits for one, not for long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tidewire.backends.postgres.address import Server
from tidewire.backends.postgres.connection import Connection
from tidewire.backends.postgres.schema import SQL
from tidewire.backends.postgres.server_errors import FAILURES, explain, is_away, is_damaged
from tidewire.errors import StoreUnavailable
from tidewire.support.counters import count_limit

__all__ = ("Pool", "close")

T = TypeVar("T")

#: Statements that may wait for a connection.
WAITING_STATEMENTS = 10_000


class Pool:
    """Up to `count` sessions, opened when they are needed."""

    def __init__(self, server: Server, connection: Connection, count: int, *, asynchronous: bool = False) -> None:
        self._server = server
        self._connection = connection
        self._asynchronous = asynchronous
        self._idle: list[Any] = []
        self._busy: set[Any] = set()
        self._free = asyncio.Semaphore(count)
        self._waiting = 0
        self._is_closed = False

    async def fetch(self, statement: str, *values: object) -> list[Any]:
        """Return the rows of a statement; raises StoreUnavailable."""
        return await self.run(lambda connection: connection.fetch(statement, *values))

    async def fetchrow(self, statement: str, *values: object) -> Any:
        """Return the first row of a statement; raises StoreUnavailable."""
        return await self.run(lambda connection: connection.fetchrow(statement, *values))

    async def run(self, use: Callable[[Any], Awaitable[T]]) -> T:
        """Use a connection for one thing; raises StoreUnavailable."""
        self._connection.check()
        losses = self._connection.losses
        if self._waiting >= WAITING_STATEMENTS:
            count_limit("reads_waiting")
            raise StoreUnavailable(
                f"{self._waiting} statements wait for {self._server.shown} already (the limit is {WAITING_STATEMENTS})"
            )
        self._waiting += 1
        try:
            await self._wait_free()
            try:
                async with asyncio.timeout(self._server.seconds):
                    return await self._use(use)
            except FAILURES as error:
                if is_damaged(error):
                    await self._use(lambda connection: connection.execute(SQL["mend"], timeout=self._server.seconds))
                raise
            finally:
                self._free.release()
        except FAILURES as error:
            if is_away(error):
                self._connection.lose(error, losses)
            raise StoreUnavailable(explain(error, self._server.shown)) from error
        finally:
            self._waiting -= 1

    async def _wait_free(self) -> None:
        """Wait for a connection; that others use all for so long says nothing of the server."""
        try:
            async with asyncio.timeout(self._server.seconds):
                await self._free.acquire()
        except TimeoutError:
            raise StoreUnavailable(
                f"no connection to {self._server.shown} was free within {self._server.seconds:g} s; read less at once"
            ) from None

    async def _use(self, use: Callable[[Any], Awaitable[T]]) -> T:
        self._connection.check()
        if self._is_closed:
            raise StoreUnavailable("the store is closed; use it between its start and its close")
        while self._idle and self._idle[-1].is_closed():
            self._idle.pop()
        connection = self._idle.pop() if self._idle else await self._server.connect(asynchronous=self._asynchronous)
        self._busy.add(connection)
        try:
            result = await use(connection)
        except BaseException:
            connection.terminate()  # it may still be busy with a statement that nobody waits for
            raise
        finally:
            self._busy.discard(connection)
        if self._is_closed:
            connection.terminate()
        else:
            self._idle.append(connection)
        return result

    def drop(self) -> None:
        """End all connections at once; statements that run on them fail."""
        idle, self._idle = self._idle, []
        for connection in (*idle, *self._busy):
            connection.terminate()

    async def aclose(self) -> None:
        """End the connections; nothing is begun any more."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            await close(connection)
        self.drop()


async def close(connection: Any) -> None:
    """End a connection in words if the server answers soon, without them otherwise."""
    try:
        await connection.close(timeout=1.0)
    except FAILURES:
        connection.terminate()

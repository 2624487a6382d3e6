"""Delivers publications to this node: one listening session, a cursor for each channel, and a slow poll behind them.

A reader reads offsets per channel: within a channel commits come in the order of offsets, so it sees no hole.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import asyncpg

from tidewire.backends.base import Deliver
from tidewire.backends.postgres import wakeups
from tidewire.backends.postgres.address import Server
from tidewire.backends.postgres.connection import Connection
from tidewire.backends.postgres.pool import Pool, close
from tidewire.backends.postgres.reading import PositionReader, positions_of, read_news
from tidewire.backends.postgres.relay import RELAYED, Relay
from tidewire.backends.postgres.schema import SQL, Seen, enter, prepare
from tidewire.backends.postgres.server_errors import FAILURES, is_away
from tidewire.errors import StoreUnavailable
from tidewire.messages import Position, Publication

__all__ = ("Delivery",)

logger = logging.getLogger("tidewire")

#: Seconds between two looks, and how many channels one of them compares.
_LOOK_SECONDS, _LOOK_CHANNELS = 1.5, 2_000
#: Channels and publications of one reading of news.
_NEWS_CHANNELS, _NEWS_COUNT = 500, 256
#: Seconds in which a close still delivers known news.
_DRAIN_SECONDS = 1.0


class _Cursor:
    """How far a channel was delivered; not set while its subscribe is under way."""

    __slots__ = ("position", "waiting")

    def __init__(self) -> None:
        self.position: Position | None = None
        #: Subscribes that wait for the position.
        self.waiting = 0


class Delivery:
    """The listening session, the cursors, and the channels that are known to have news."""

    def __init__(
        self,
        server: Server,
        connection: Connection,
        pool: Pool,
        deliver: Deliver,
        on_committed: Callable[[], None],
        on_new_era: Callable[[], None],
        relay: Relay,
    ) -> None:
        self._server = server
        self._connection = connection
        self._pool = pool
        self._positions = PositionReader(pool)
        self._deliver_to = deliver
        self._on_committed = on_committed
        self._on_new_era = on_new_era
        self._relay = relay
        self._listener: Any = None
        self._turn = asyncio.Lock()
        self._cursors: dict[str, _Cursor] = {}
        #: Channels with something new, and up to which offset.
        self._news: dict[str, int] = {}
        self._has_news = asyncio.Event()
        self._is_read = asyncio.Event()
        #: News for the other nodes.
        self._tops: dict[str, int] = {}
        self._has_tops = asyncio.Event()
        self._must_look = asyncio.Event()
        self._looked = 0
        #: A place in the server's log that is known to have been flushed.
        self.seen: Seen | None = None

    # The listening connection.

    async def open(self) -> None:
        """Listen, on the data that there is now; the cursors go on from its tops."""
        connection = await self._server.connect()
        try:
            async with asyncio.timeout(self._server.opening_seconds):
                await prepare(connection)
                identity = await enter(connection, self.seen)
                await connection.execute(SQL["wake_soon"])
                await connection.add_listener(wakeups.NOTIFICATIONS, self._notified)
                await connection.add_listener(RELAYED, self._relay.notified)
                self.seen = Seen(await connection.fetchval(SQL["flushed"]), identity)
                names = list(self._cursors)
                tops: dict[str, Position] = {}
                for start in range(0, len(names), _LOOK_CHANNELS):
                    chunk = names[start : start + _LOOK_CHANNELS]
                    tops |= positions_of(chunk, await connection.fetch(SQL["positions"], chunk))
        except BaseException:
            connection.terminate()
            raise
        self._listener = connection
        connection.add_termination_listener(self._terminated)
        for name, top in tops.items():
            cursor = self._cursors.get(name)
            if cursor is not None and cursor.position is not None:
                cursor.position = top
        self._must_look.set()

    def _terminated(self, connection: Any) -> None:
        if connection is self._listener:
            self._connection.lose(ConnectionError("the server closed the connection"), self._connection.losses)

    def drop(self) -> None:
        """End the connection at once."""
        connection, self._listener = self._listener, None
        self._tops.clear()
        if connection is not None:
            connection.terminate()

    async def drain(self) -> None:
        """Deliver known news, if that takes no longer than a moment."""
        if self._news and not self._connection.trouble:
            self._is_read.clear()
            try:
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await self._is_read.wait()
            except TimeoutError:
                logger.info("closing with news of %d channels unread", len(self._news))

    async def aclose(self) -> None:
        """End the connection; the endless tasks must have ended."""
        connection, self._listener = self._listener, None
        if connection is not None:
            await close(connection)

    async def _on_listener(self, statement: str, *values: object) -> list[Any]:
        """Run a statement on the listening connection, which so proves that it lives; raises StoreUnavailable."""
        async with self._turn:
            self._connection.check()
            losses, connection = self._connection.losses, self._listener
            if connection is None:
                raise StoreUnavailable("nothing listens yet; try again")
            try:
                async with asyncio.timeout(self._server.seconds):
                    return list(await connection.fetch(statement, *values))
            except FAILURES as error:
                if is_away(error):
                    self._connection.lose(error, losses)
                raise StoreUnavailable(str(error)) from error

    # Telling the others, and being told.

    def wake(self, tops: Mapping[str, int]) -> None:
        """Tell the other nodes, soon, that channels have come to these tops."""
        self._tops.update(tops)
        self._has_tops.set()

    async def tell(self) -> None:
        """Wake the other nodes, for ever; news that come while one wake-up is in flight go together in the next."""
        while True:
            await self._has_tops.wait()
            self._has_tops.clear()
            tops, self._tops = self._tops, {}
            if not tops:
                continue
            try:
                await self._on_listener(SQL["wake"], wakeups.encode(tops))
            except StoreUnavailable as error:  # the others look now and then
                logger.info("the other nodes were not told of news: %s", error)

    def _notified(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        if payload == wakeups.COMMITTED:
            self._on_committed()
            return
        if connection is not self._listener or pid == connection.get_server_pid():
            return
        tops = wakeups.decode(payload)
        if tops is None:
            self._must_look.set()
        else:
            self.note(tops)

    def note(self, tops: Mapping[str, int]) -> None:
        """Take note of tops; publications up to them that are not delivered yet are read."""
        for name, top in tops.items():
            cursor = self._cursors.get(name)
            if cursor is not None and (cursor.position is None or cursor.position.offset < top):
                self._news[name] = max(top, self._news.get(name, 0))
                self._has_news.set()

    async def look(self) -> None:
        """Compare tops now and then, for ever: a wake-up may be missing, and a connection may hang."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_SECONDS * random.uniform(0.8, 1.2)):
                    await self._must_look.wait()
                names = list(self._cursors)
            except TimeoutError:
                names = list(islice(self._cursors, self._looked, self._looked + _LOOK_CHANNELS))
                self._looked = self._looked + _LOOK_CHANNELS if len(names) == _LOOK_CHANNELS else 0
            self._must_look.clear()
            if not self._connection.trouble:
                try:
                    await self._compare(names)
                except StoreUnavailable as error:
                    logger.info("the positions could not be compared: %s", error)

    async def _compare(self, names: Sequence[str]) -> None:
        for start in range(0, max(1, len(names)), _LOOK_CHANNELS):
            chunk = names[start : start + _LOOK_CHANNELS]
            losses, delivered = self._connection.losses, self._delivered(chunk)
            rows = await self._on_listener(SQL["positions"], chunk)
            if not rows:
                self._connection.lose(asyncpg.NoDataFoundError("tidewire_store is empty"), losses)
                return
            tops = positions_of(chunk, rows)
            if any(tops[name].epoch == was.epoch and tops[name].offset < was.offset for name, was in delivered.items()):
                # a counter was put back: its offsets would be given again
                await self._on_listener(SQL["new_era"], rows[0]["era"])
                tops = positions_of(chunk, await self._on_listener(SQL["positions"], chunk))
            self._take_tops(tops)
        losses = self._connection.losses
        (row,) = await self._on_listener(SQL["pulse"])
        if self.seen is not None:
            if not f"{self.seen.identity}/".startswith(f"{row['identity']}/"):
                self._connection.lose(asyncpg.NoDataFoundError("its data was replaced"), losses)
                return
            self.seen = Seen(row["flushed"], self.seen.identity)
        if row["has_committed"]:
            self._on_committed()

    def _delivered(self, names: Sequence[str]) -> dict[str, Position]:
        cursors = {name: self._cursors.get(name) for name in names}
        return {name: one.position for name, one in cursors.items() if one is not None and one.position is not None}

    def _take_tops(self, tops: Mapping[str, Position]) -> None:
        """Read news up to tops; after a change of the era, where offsets begin anew, the node compares positions."""
        is_new_era = False
        for name, top in tops.items():
            cursor = self._cursors.get(name)
            if cursor is not None and cursor.position is not None and cursor.position.epoch != top.epoch:
                cursor.position, is_new_era = top, True
        if is_new_era:
            self._on_new_era()
        self.note({name: top.offset for name, top in tops.items()})

    # Delivering.

    def kept(self, channel: str, publications: Sequence[Publication]) -> None:
        """Deliver this node's own publications; they are read back where others came between."""
        cursor = self._cursors.get(channel)
        if cursor is None:
            return
        first, last = publications[0], publications[-1]
        if cursor.position == Position(first.previous, first.epoch):
            cursor.position = Position(last.offset, last.epoch)
            self._deliver(publications)
        elif cursor.position is None or cursor.position.epoch == first.epoch:
            self.note({channel: last.offset})
        else:
            self._must_look.set()  # which of the two eras is over, the positions say

    async def read(self) -> None:
        """Read and deliver news, for ever."""
        while True:
            after = self._readable()
            if not after:
                self._has_news.clear()
                self._is_read.set()
                await self._has_news.wait()
                continue
            wanted = {name: self._news[name] for name in after}
            try:
                publications = await read_news(self._pool, after, _NEWS_COUNT)
            except StoreUnavailable:
                for name in after:  # the node compares positions when the server is back
                    self._news.pop(name, None)
                continue
            self._arrived(publications)
            if len(publications) < _NEWS_COUNT:  # that was everything; those that were trimmed meanwhile do not come
                found = {publication.channel for publication in publications}
                for name in after.keys() - found:
                    if self._news.get(name) == wanted[name]:
                        del self._news[name]

    def _readable(self) -> dict[str, int]:
        after: dict[str, int] = {}
        for name, top in tuple(self._news.items()):
            cursor = self._cursors.get(name)
            if cursor is None or (cursor.position is not None and cursor.position.offset >= top):
                del self._news[name]
            elif cursor.position is not None:
                after[name] = cursor.position.offset
                if len(after) == _NEWS_CHANNELS:
                    break
        return after

    def _arrived(self, publications: Sequence[Publication]) -> None:
        fresh = []
        for publication in publications:
            cursor = self._cursors.get(publication.channel)
            if cursor is None or cursor.position is None:
                continue
            if publication.epoch != cursor.position.epoch:
                self._news.pop(publication.channel, None)
                self._must_look.set()
                continue
            if publication.offset <= cursor.position.offset:
                continue  # delivered meanwhile
            cursor.position = Position(publication.offset, publication.epoch)
            fresh.append(publication)
        if fresh:
            self._deliver(fresh)

    def _deliver(self, publications: Sequence[Publication]) -> None:
        try:
            self._deliver_to(publications)
        except Exception:
            logger.exception("a delivery of %d publications failed", len(publications))

    # Channels.

    async def subscribe(self, channel: str) -> Position:
        """Subscribe to a channel; raises StoreUnavailable."""
        cursor = self._cursors.get(channel)
        if cursor is None:
            cursor = self._cursors[channel] = _Cursor()
        if cursor.position is not None:
            return cursor.position
        cursor.waiting += 1
        try:
            top = (await self._positions.get((channel,)))[channel]
        except BaseException:
            if cursor.position is None and cursor.waiting == 1:
                self.unsubscribe(channel)
            raise
        finally:
            cursor.waiting -= 1
        if cursor.position is None:
            cursor.position = top
            self._has_news.set()
        return cursor.position

    def unsubscribe(self, channel: str) -> None:
        """End the subscription to a channel."""
        self._cursors.pop(channel, None)
        self._news.pop(channel, None)

"""The broker on a PostgreSQL server: its side on the event loop, and the tasks that it owns."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from time import time as wall
from typing import Any

from tidewire.backends.base import Broker, Deliver, Moved, Resumed, nothing_to_resume
from tidewire.backends.postgres.address import Server
from tidewire.backends.postgres.connection import Connection
from tidewire.backends.postgres.delivery import Delivery
from tidewire.backends.postgres.housekeeping import Housekeeping
from tidewire.backends.postgres.pool import Pool
from tidewire.backends.postgres.publishing import Kept, Publishing
from tidewire.backends.postgres.reading import PositionReader, read_history
from tidewire.backends.postgres.relay import Relay
from tidewire.backends.postgres.schema import SQL, VERSION
from tidewire.backends.postgres.server_errors import FAILURES, opening_error
from tidewire.backends.postgres.table_size import StoreBytes
from tidewire.backends.postgres.transaction_publishing import publish_within
from tidewire.backends.shared.growth import Growth, StoreBound
from tidewire.backends.shared.outage import Outage
from tidewire.errors import NotPublished, StoreUnavailable, TidewireError
from tidewire.limits import Limits
from tidewire.messages import EphemeralPublication, HistoryPage, HistoryRequest, Position, Publication, PublishRequest
from tidewire.retention import Retention

__all__ = ("PostgresBroker",)

logger = logging.getLogger("tidewire")

#: Sessions that read and keep house.
_SESSIONS = 3
#: How full the notification queue may be before the operator is told.
_QUEUE_USED = 0.5
#: Seconds after which an endless task that a fault of the program has ended begins again.
_AGAIN = 0.5


class PostgresBroker(Broker):
    """Keeps publications in tables: `publish` returns when the server has committed them, as it is configured."""

    shared = True
    kept = "committed by PostgreSQL"

    def __init__(self, url: str, limits: Limits, outage: Outage | None = None) -> None:
        self._limits = limits
        self._server = Server(url, limits.publish_seconds)
        self._outage = outage or Outage(self._server.shown)
        self._watcher: Moved | None = None
        self._is_open = False
        self._growth = Growth(limits.channel_history_bytes, self._bound)
        self._store_bound = StoreBound(limits.store_history_bytes, lambda limit: self._store_bytes.bound(limit))
        self._tasks: list[asyncio.Task[None]] = []
        self._schema = ""
        self.within = self._publish_within

    async def start(self, deliver: Deliver, resumed: Resumed = nothing_to_resume) -> None:
        if self._is_open:
            return
        self._loop = asyncio.get_running_loop()
        server = self._server
        self._connection = Connection(server.shown, self._outage, self._probe, on_lost=self._lost, on_back=resumed)
        self._pool = Pool(server, self._connection, _SESSIONS)
        self._positions = PositionReader(self._pool)
        self._relay = Relay(self._pool, deliver)
        self._delivery = Delivery(
            server,
            self._connection,
            self._pool,
            deliver,
            lambda: self._housekeeping.note_committed(),
            resumed,
            self._relay,
        )
        self._housekeeping = Housekeeping(self._pool, self._moved)
        self._publishing = Publishing(server, self._connection, self._kept)
        try:
            await self._delivery.open()
        except (*FAILURES, TidewireError) as error:
            raise opening_error(error, server.shown) from error
        delivery, housekeeping = self._delivery, self._housekeeping
        self._begin(
            delivery.tell, delivery.read, delivery.look, self._relay.relay, housekeeping.move, housekeeping.trim
        )
        self._begin(*(committer.run for committer in self._publishing.committers))
        self._store_bytes = StoreBytes(self._pool)
        self._store_bound.start()
        self._is_open = True

    def _begin(self, *works: Callable[[], Coroutine[Any, Any, None]]) -> None:
        for work in works:
            self._tasks.append(self._loop.create_task(_for_ever(work), name=f"tidewire-postgres-{work.__name__}"))

    async def _probe(self) -> None:
        await self._delivery.open()
        self._publishing.expect(self._delivery.seen)

    def _lost(self) -> None:
        """End all sessions; everything that waits for them fails at once."""
        self._delivery.drop()
        self._pool.drop()
        self._publishing.lost()

    async def aclose(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        await self._store_bound.aclose()
        await self._growth.aclose()
        await self._publishing.wait_empty()
        await self._delivery.drain()
        await self._connection.aclose()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.gather(self._delivery.aclose(), self._pool.aclose(), self._publishing.aclose())

    # Publishing.

    def publish(self, request: PublishRequest) -> asyncio.Future[Position]:
        if not self._is_open:
            raise NotPublished("the broker is not open; publish between its start and its close")
        self._growth.add(request)
        return self._publishing.submit(request)

    async def _bound(self, channel: str, limit: int) -> bool:
        return await self._pool.fetchrow(SQL["bound"], channel, limit) is not None

    async def _publish_within(self, connection: object, request: PublishRequest) -> None:
        """Publish by an application's connection, which need not look into the schema of this store by itself."""
        self._check()
        if not self._schema:
            self._schema = (await self._pool.fetchrow(SQL["schema"]))["name"]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._server.seconds):
                await self._relay.sent()  # what nobody keeps and came before goes by another session
        await publish_within(connection, request, self._schema)

    def relay(self, publications: Sequence[EphemeralPublication]) -> None:
        if self._is_open:
            self._relay.put(publications)

    def _kept(self, kept: Kept) -> None:
        """Deliver the publications of a commit to this node, and tell the others."""
        fresh: dict[str, list[Publication]] = {}
        era, time = kept.era, kept.time
        for write, offset, base in zip(kept.writes, kept.offsets, kept.bases, strict=True):
            if offset > base:  # its key was not known
                request = write.request
                publication = Publication(
                    request.channel, offset, offset - 1, era, time, request.data, request.format, request.meta
                )
                fresh.setdefault(request.channel, []).append(publication)
        self._delivery.wake({channel: publications[-1].offset for channel, publications in fresh.items()})
        for channel, publications in fresh.items():
            self._delivery.kept(channel, publications)

    def watch_moves(self, moved: Moved) -> None:
        self._watcher = moved

    def _moved(self, tops: Mapping[str, int]) -> Mapping[str, Retention]:
        retentions = {} if self._watcher is None else self._watcher(tops)
        self._delivery.wake(tops)
        self._delivery.note(tops)
        return retentions

    # Channels and reading.

    async def subscribe(self, channel: str) -> Position:
        self._check()
        return await self._delivery.subscribe(channel)

    async def unsubscribe(self, channel: str) -> None:
        if self._is_open:
            self._delivery.unsubscribe(channel)

    async def read(self, request: HistoryRequest) -> HistoryPage:
        self._check()
        return await read_history(self._pool, request)

    async def remove_history(self, channel: str) -> None:
        self._check()
        await self._pool.fetch(SQL["remove_history"], channel)

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        self._check()
        return await self._positions.get(channels)

    def _check(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the broker is not open; use it between its start and its close")

    async def describe(self) -> tuple[str, ...]:
        self._check()
        row = await self._pool.fetchrow(SQL["settings"])
        return (
            f"PostgreSQL {row['version']}, schema version {VERSION}, its clock differs by {row['now'] - wall():+.2f} s",
            f"fsync is {row['fsync']}, synchronous_commit is {row['synchronous_commit']}",
            f"{row['committed']} publications of transactions wait to be moved into their channels",
        )

    async def advise(self) -> tuple[str, ...]:
        self._check()
        row = await self._pool.fetchrow(SQL["settings"])
        advice = []
        if row["fsync"] != "on" or row["full_page_writes"] != "on":
            advice.append(
                "fsync or full_page_writes is off: a crash of the machine may destroy the database; turn it on"
            )
        if row["synchronous_commit"] == "off":
            advice.append(
                "synchronous_commit is off: a crash may lose messages that were just acknowledged, so every restart "
                "begins a new epoch and clients are told that they may have missed something; turn it on"
            )
        if row["queue"] > _QUEUE_USED:
            advice.append(
                f"the notification queue is {row['queue']:.0%} full: a session that listens has an open transaction"
            )
        return tuple(advice)


async def _for_ever(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run endless work; after a fault of the program, which is logged, it begins again."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("%s failed by a fault of the program; it begins again", work.__qualname__)
        await asyncio.sleep(_AGAIN)

"""The broker on a PostgreSQL server: its side on the event loop, and the tasks that it owns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from time import time as wall
from typing import Any

from tidewire.backends.base import Broker, Deliver, Resumed, nothing_to_resume
from tidewire.backends.postgres.address import Server
from tidewire.backends.postgres.carriage import Carriage
from tidewire.backends.postgres.connection import Circuit
from tidewire.backends.postgres.housekeeping import Keeper
from tidewire.backends.postgres.name_limits import trouble
from tidewire.backends.postgres.outbox import publish_within
from tidewire.backends.postgres.pool import Sessions
from tidewire.backends.postgres.publishing import Kept, Write, Writer
from tidewire.backends.postgres.reading import PositionReader, read_history
from tidewire.backends.postgres.schema import SQL, VERSION
from tidewire.backends.postgres.server_errors import FAILURES, opening_error
from tidewire.backends.shared.outage import Outage
from tidewire.backends.shared.waiting import check_room, settle
from tidewire.errors import BadRequest, NotPublished, PublishError, PublishUnconfirmed, StoreUnavailable, TidewireError
from tidewire.messages import HistoryPage, Position, Publication, PublishRequest, Retention
from tidewire.options import Limits

__all__ = ("PostgresBroker",)

logger = logging.getLogger("tidewire")

#: Connections that publish (a channel always uses the same), and that read and keep house.
_WRITERS, _SESSIONS = 2, 3
#: How full the notification queue may be before the operator is told.
_QUEUE_USED = 0.5
#: Seconds after which an endless task that a fault of the program has ended begins again.
_AGAIN = 0.5
#: Seconds between looks for publishes that waited too long.
_SWEEP = 0.1


class PostgresBroker(Broker):
    """Keeps publications in tables: `publish` returns when the server has committed them, as it is configured."""

    shared = True
    kept = "committed by PostgreSQL"
    within = staticmethod(publish_within)

    def __init__(self, url: str, limits: Limits, outage: Outage | None = None) -> None:
        self._limits = limits
        self._server = Server(url, limits.publish_seconds)
        self._outage = outage or Outage(self._server.shown)
        self._is_open = False
        self._waiting: dict[Write, None] = {}
        self._waiting_bytes = 0
        self._turn: list[Write] = []
        self._sweeping: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, deliver: Deliver, resumed: Resumed = nothing_to_resume) -> None:
        if self._is_open:
            return
        self._loop = asyncio.get_running_loop()
        server = self._server
        self._circuit = Circuit(server.shown, self._outage, self._probe, on_away=self._away, on_back=resumed)
        self._sessions = Sessions(server, self._circuit, _SESSIONS)
        self._positions = PositionReader(self._sessions)
        self._carriage = Carriage(server, self._circuit, self._sessions, deliver, lambda: self._keeper.outbox())
        self._keeper = Keeper(self._sessions, self._moved)
        self._writers = [
            Writer(server, self._circuit, self._kept, self._failed, self._release) for _ in range(_WRITERS)
        ]
        try:
            await self._carriage.open()
        except (*FAILURES, TidewireError) as error:
            raise opening_error(error, server.shown) from error
        carriage, keeper = self._carriage, self._keeper
        self._begin(carriage.tell, carriage.read, carriage.look, keeper.move, keeper.trim)
        self._begin(*(writer.run for writer in self._writers))
        self._is_open = True

    def _begin(self, *works: Callable[[], Coroutine[Any, Any, None]]) -> None:
        for work in works:
            self._tasks.append(self._loop.create_task(_for_ever(work), name=f"tidewire-postgres-{work.__name__}"))

    async def _probe(self) -> None:
        await self._carriage.open()
        for writer in self._writers:
            writer.seen = self._carriage.seen

    def _away(self) -> None:
        """End everything that hangs on the server; who waits is told at once."""
        self._carriage.drop()
        self._sessions.drop()
        for writer in self._writers:
            writer.drop()
            writer.give_up(self._circuit.reason)

    async def aclose(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._flush()
        if self._waiting:  # each is settled by its deadline
            waiting = [write.future for write in self._waiting]
            await asyncio.wait(waiting, timeout=self._limits.publish_seconds + 2 * _SWEEP)
        await self._carriage.drain()
        await self._circuit.aclose()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        if self._sweeping is not None:
            self._sweeping.cancel()
        await asyncio.gather(
            self._carriage.aclose(), self._sessions.aclose(), *(writer.aclose() for writer in self._writers)
        )

    # Publishing.

    async def publish(self, request: PublishRequest) -> Position:
        if not self._is_open:
            raise NotPublished("the broker is not open; publish between its start and its close")
        if self._circuit.reason:
            raise NotPublished(f"not published: {self._circuit.reason}")
        check_room(len(self._waiting), self._waiting_bytes, self._server.shown)
        reason = trouble(request.channel) or trouble(request.key, most=None)
        if reason:
            raise NotPublished(f"channel {request.channel!r} or its key {reason}; mend the name")
        write = Write(request, self._loop.create_future(), self._loop.time() + self._limits.publish_seconds)
        self._waiting[write] = None
        self._waiting_bytes += write.size
        if not self._turn:
            self._loop.call_soon(self._flush)
        self._turn.append(write)
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(_SWEEP, self._sweep)
        return await write.future  # type: ignore[no-any-return]

    def _flush(self) -> None:
        """Hand over what one turn of the loop has published."""
        turn, self._turn = self._turn, []
        parts: list[list[Write]] = [[] for _ in self._writers]
        for write in turn:
            parts[hash(write.request.channel) % _WRITERS].append(write)
        for writer, part in zip(self._writers, parts, strict=True):
            if part:
                writer.put(part)

    def _sweep(self) -> None:
        """Fail the publishes that waited too long; they are in the order of their deadlines."""
        self._sweeping = None
        now = self._loop.time()
        if any(writer.is_stuck(now) for writer in self._writers):
            self._circuit.trip(TimeoutError(), self._circuit.outages)
        while self._waiting:
            write = next(iter(self._waiting))
            if write.deadline > now:
                self._sweeping = self._loop.call_later(_SWEEP, self._sweep)
                return
            self._settle(write, self._timeout_error(write))

    def _timeout_error(self, write: Write) -> PublishError:
        within = f"within {self._limits.publish_seconds:g} s: {self._server.shown} is slow to answer"
        if write.is_sent:
            return PublishUnconfirmed(f"not confirmed {within}; publish it again with the same key")
        return NotPublished(f"not published {within}, and others were before it")

    def _kept(self, kept: Kept) -> None:
        """Deliver what was kept to this node, tell the others, and answer."""
        fresh: dict[str, list[Publication]] = {}
        era, time = kept.era, kept.time
        for write, offset, base in zip(kept.writes, kept.offsets, kept.bases, strict=True):
            if offset > base:  # its key was not known
                request = write.request
                publication = Publication(
                    request.channel, offset, offset - 1, era, time, request.data, request.format, request.meta
                )
                fresh.setdefault(request.channel, []).append(publication)
        self._carriage.wake({channel: publications[-1].offset for channel, publications in fresh.items()})
        for channel, publications in fresh.items():
            self._carriage.kept(channel, publications)
        for write, offset in zip(kept.writes, kept.offsets, strict=True):
            self._settle(write, Position(offset, era))

    def _moved(self, tops: Mapping[str, int]) -> None:
        self._carriage.wake(tops)
        self._carriage.note(tops)

    def _failed(self, writes: Sequence[Write], error: PublishError) -> None:
        for write in writes:
            self._settle(write, error)

    def _release(self, write: Write) -> None:
        if write in self._waiting:
            del self._waiting[write]
            self._waiting_bytes -= write.size

    def _settle(self, write: Write, result: Position | PublishError) -> None:
        self._release(write)
        settle(write.future, result)
        for twin in write.twins:
            self._settle(twin, result)

    # Channels and reading.

    async def subscribe(self, channel: str) -> Position:
        self._check(channel)
        return await self._carriage.subscribe(channel)

    async def unsubscribe(self, channel: str) -> None:
        if self._is_open:
            self._carriage.unsubscribe(channel)

    async def history(
        self,
        channel: str,
        *,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
        retention: Retention | None = None,
    ) -> HistoryPage:
        self._check(channel)
        return await read_history(self._sessions, channel, since, limit, retention, reverse=reverse)

    async def remove_history(self, channel: str) -> None:
        self._check(channel)
        await self._sessions.fetch(SQL["remove_history"], channel)

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        self._check(*channels)
        return await self._positions.get(channels)

    def _check(self, *channels: str) -> None:
        if not self._is_open:
            raise StoreUnavailable("the broker is not open; use it between its start and its close")
        for channel in channels:
            reason = trouble(channel)
            if reason:
                raise BadRequest(f"channel {channel[:60]!r} {reason}; use another name")

    async def describe(self) -> tuple[str, ...]:
        """Return what the server is, in words; raises StoreUnavailable."""
        self._check()
        row = await self._sessions.fetchrow(SQL["settings"])
        return (
            f"PostgreSQL {row['version']}, schema version {VERSION}, its clock differs by {row['now'] - wall():+.2f} s",
            f"fsync is {row['fsync']}, synchronous_commit is {row['synchronous_commit']}",
            f"{row['outbox']} publications wait in the outbox",
        )

    async def advise(self) -> tuple[str, ...]:
        """Return what the server's settings put at risk, in words; raises StoreUnavailable."""
        self._check()
        row = await self._sessions.fetchrow(SQL["settings"])
        advice = []
        if row["fsync"] != "on" or row["full_page_writes"] != "on":
            advice.append(
                "fsync or full_page_writes is off: a crash of the machine may destroy the database; turn it on"
            )
        if row["synchronous_commit"] == "off":
            advice.append(
                "synchronous_commit is off: a crash may lose what was acknowledged a moment ago, so every restart "
                "begins a new epoch and clients are told that they may have missed something; turn it on"
            )
        if row["queue"] > _QUEUE_USED:
            advice.append(
                f"the notification queue is {row['queue']:.0%} full: a session that listens has an open transaction"
            )
        return tuple(advice)


async def _for_ever(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do what has no end; a fault of the program is told, and does not end the node's publishing or hearing."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("%s failed by a fault of the program; it begins again", work.__qualname__)
        await asyncio.sleep(_AGAIN)

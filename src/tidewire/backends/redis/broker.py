"""The broker on Redis, Valkey, a Sentinel's primary or a Cluster."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence

from tidewire.backends.base import Broker, Deliver, Resumed, nothing_to_resume
from tidewire.backends.redis.address import Address, Kind
from tidewire.backends.redis.advice import advise, describe, warnings
from tidewire.backends.redis.carriage import Carriage
from tidewire.backends.redis.discovery import dial_any
from tidewire.backends.redis.driver import Command
from tidewire.backends.redis.entries import unpack
from tidewire.backends.redis.generations import SCRIPTS
from tidewire.backends.redis.keys import Keys
from tidewire.backends.redis.opening import new_epoch
from tidewire.backends.redis.shards import Seat, Seats
from tidewire.backends.shared.completeness import is_complete
from tidewire.backends.shared.outage import Outage
from tidewire.errors import NotPublished, StoreUnavailable
from tidewire.messages import MAX_OFFSET, HistoryPage, Position, PublishRequest, Retention
from tidewire.options import Limits

__all__ = ("RedisBroker",)

logger = logging.getLogger("tidewire")

#: Channels in one reading of positions.
_CHUNK = 500


class RedisBroker(Broker):
    """Keeps publications in streams of Redis, carries them by pub/sub, and fills what that loses from the streams.

    All nodes that name the same server, database and prefix are one store.
    """

    shared = True

    def __init__(self, address: Address, limits: Limits, outage: Outage | None = None) -> None:
        self._address = address
        self._patience = limits.publish_seconds
        self._outage = outage or Outage(address.shown)
        self._keys = Keys(address)
        self._seats: Seats | None = None
        replicas = f", and by {address.wait} of its replicas" if address.wait else ""
        self.kept = f"accepted by Redis{replicas}"

    async def start(self, deliver: Deliver, resumed: Resumed = nothing_to_resume) -> None:
        if self._seats is not None:
            return
        address = self._address
        self._resumed = resumed
        seats = Seats(address, self._keys, self._outage, self._patience, self._seat_opened)
        self._carriage = Carriage(
            address.shown, dial_any(address), self._outage, self._patience, self._keys, deliver, self._reopened
        )
        try:
            await seats.start()
            await self._carriage.start()
        except BaseException:
            await self._carriage.aclose()
            await seats.aclose()
            raise
        self._seats = seats
        for seat in seats.all:
            if seat.publishing.server is not None:
                for warning in warnings(seat.publishing.server, address):
                    logger.warning("%s: %s", address.shown, warning)

    def _seat_opened(self) -> None:
        if self._address.kind is Kind.SENTINEL and self._seats is not None:
            self._carriage.renew("the primary may have changed")  # and carriage must come from the one that publishes
        else:
            self._reopened()

    def _reopened(self) -> None:
        """A connection is back; when all are, what was missed can be read."""
        if self._seats is not None and self._seats.are_open and self._carriage.is_open:
            self._resumed()

    async def aclose(self) -> None:
        seats, self._seats = self._seats, None
        if seats is None:
            return
        try:
            async with asyncio.timeout(self._patience):
                for seat in seats.all:
                    await seat.writer.wait_idle()
                await self._carriage.wait_delivered([seat.publishing for seat in seats.all])
        except (TimeoutError, StoreUnavailable):
            logger.warning("%s did not answer before the end; closing without it", self._address.shown)
        finally:
            await self._carriage.aclose()
            await seats.aclose()

    async def describe(self) -> tuple[str, ...]:
        return await describe([seat.reading for seat in self._opened().all])

    async def advise(self) -> tuple[str, ...]:
        return await advise([seat.reading for seat in self._opened().all], self._address)

    def _opened(self) -> Seats:
        if self._seats is None:
            raise StoreUnavailable("the broker is not open; use it between its start and its close")
        return self._seats

    # Publishing.

    async def publish(self, request: PublishRequest) -> Position:
        seats = self._seats
        if seats is None:
            raise NotPublished("the broker is not open; publish between its start and its close")
        try:
            request.channel.encode()
            request.key.encode()
            writer = seats.seat(request.channel).writer
        except UnicodeEncodeError as error:
            raise NotPublished(f"channel {request.channel!r} or its key is not valid Unicode; mend the name") from error
        except StoreUnavailable as error:
            raise NotPublished(f"not published: {error}") from error
        return await writer.submit(request)

    # Channels and reading.

    async def subscribe(self, channel: str) -> Position:
        self._opened()
        await self._carriage.subscribe(channel)
        return (await self.positions([channel]))[channel]

    async def unsubscribe(self, channel: str) -> None:
        if self._seats is not None:
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
        bound = "" if since is None else min(max(since.offset, 0), MAX_OFFSET)
        shown = ("", "") if retention is None else (retention.size, str(min(retention.age, 1e10)))
        epoch, top, first, entries = await self._run(
            "history",
            channel,
            "-" if reverse else "+",
            bound,
            "" if since is None else since.epoch,
            "" if limit is None else max(0, limit),
            *shown,
        )
        position = Position(top, epoch.decode())
        if since is not None and since.epoch != position.epoch:
            return HistoryPage((), position, complete=False)
        found = tuple(
            unpack(channel, int(id[:-2]), position.epoch, int(fields[1]), fields[3]) for id, fields in entries
        )
        return HistoryPage(found, position, is_complete(since, top, first, reverse=reverse))

    async def remove_history(self, channel: str) -> None:
        await self._run("remove", channel)

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        seats = self._opened()
        # a call is one slot's in a cluster, and so is a chunk
        chunks: dict[tuple[Seat, int], list[str]] = defaultdict(list)
        for channel in channels:
            chunks[seats.seat(channel), self._keys.slot(channel)].append(channel)
        answers = [
            self._positions(seat, names[start : start + _CHUNK])
            for (seat, _), names in chunks.items()
            for start in range(0, len(names), _CHUNK)
        ]
        found: dict[str, Position] = {}
        for answer in await asyncio.gather(*answers):
            found |= answer
        return {channel: found[channel] for channel in channels}

    async def _positions(self, seat: Seat, channels: Sequence[str]) -> dict[str, Position]:
        keys = [key for channel in channels for key in self._keys.channel(channel)]
        command: Command = ["EVALSHA", SCRIPTS["positions"].sha, len(keys), *keys, new_epoch()]
        line = seat.reading
        reply = await line.run(command, before=line.guards(channels))
        assert isinstance(reply, list)
        tops = (Position(top, epoch.decode()) for epoch, top in zip(reply[::2], reply[1::2], strict=True))
        return dict(zip(channels, tops, strict=True))

    async def _run(self, name: str, channel: str, *arguments: str | int) -> list:  # type: ignore[type-arg]
        """Run a script of one channel, on the connection for reading."""
        line = self._opened().seat(channel).reading
        keys = self._keys.channel(channel)
        command: Command = ["EVALSHA", SCRIPTS[name].sha, len(keys), *keys, new_epoch(), *arguments]
        reply = await line.run(command, before=line.guards([channel]))
        assert isinstance(reply, list)
        return reply

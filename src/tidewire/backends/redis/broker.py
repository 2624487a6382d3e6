"""The broker on Redis, Valkey, a Sentinel's primary or a Cluster."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Sequence

from tidewire.backends.base import Broker, Deliver, Resumed, nothing_to_resume
from tidewire.backends.redis.address import Address, Kind
from tidewire.backends.redis.advice import advise, describe, warnings
from tidewire.backends.redis.delivery import Delivery
from tidewire.backends.redis.discovery import dial_any
from tidewire.backends.redis.driver import Reply
from tidewire.backends.redis.entries import EPHEMERAL
from tidewire.backends.redis.keys import Keys
from tidewire.backends.redis.memory_use import StoreBytes
from tidewire.backends.redis.reading import bound_history, read_history, read_positions, remove_history
from tidewire.backends.redis.shards import Shards
from tidewire.backends.shared.growth import Growth, StoreBound
from tidewire.backends.shared.outage import Outage
from tidewire.backends.shared.relayed import pack_ephemeral
from tidewire.backends.shared.waiting import not_published
from tidewire.errors import NotPublished, StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import EphemeralPublication, HistoryPage, HistoryRequest, Position, PublishRequest
from tidewire.support.counters import count_limit

__all__ = ("RedisBroker",)

logger = logging.getLogger("tidewire")

#: Bytes of one message of pub/sub, about.
_RELAYED = 65_536


class RedisBroker(Broker):
    """Keeps publications in streams of Redis, delivers them by pub/sub, and fills gaps from the streams.

    All nodes that name the same server, database and prefix are one store.
    """

    shared = True

    def __init__(self, address: Address, limits: Limits, outage: Outage | None = None) -> None:
        self._address = address
        self._patience = limits.publish_seconds
        self._outage = outage or Outage(address.shown)
        self._keys = Keys(address)
        self._shards: Shards | None = None
        self._growth = Growth(limits.channel_history_bytes, self._bound)
        size = StoreBytes(self._keys)
        self._store_bound = StoreBound(limits.store_history_bytes, lambda limit: size.bound(self._opened(), limit))
        #: The mark of this node's own messages.
        self._node = secrets.token_hex(8)
        replicas = f", and by {address.wait} of its replicas" if address.wait else ""
        self.kept = f"accepted by Redis{replicas}"

    async def start(self, deliver: Deliver, resumed: Resumed = nothing_to_resume) -> None:
        if self._shards is not None:
            return
        address = self._address
        self._resumed = resumed
        shards = Shards(address, self._keys, self._outage, self._patience, self._shard_opened)
        self._delivery = Delivery(
            address.shown,
            dial_any(address),
            self._outage,
            self._patience,
            self._keys,
            deliver,
            self._reopened,
            self._node,
        )
        try:
            await shards.start()
            await self._delivery.connection.start()
        except BaseException:
            await self._delivery.connection.aclose()
            await shards.aclose()
            raise
        self._shards = shards
        self._store_bound.start()
        for shard in shards.all:
            if shard.writing.server is not None:
                for warning in warnings(shard.writing.server, address):
                    logger.warning("%s: %s", address.shown, warning)

    def _shard_opened(self) -> None:
        if self._address.kind is Kind.SENTINEL and self._shards is not None:
            self._delivery.connection.renew(
                "the primary may have changed"
            )  # and delivery must come from the one that publishes
        else:
            self._reopened()

    def _reopened(self) -> None:
        """Tell the node to read the publications that it missed, when all connections are back."""
        if self._shards is not None and self._shards.are_open and self._delivery.connection.is_open:
            self._resumed()

    async def aclose(self) -> None:
        shards, self._shards = self._shards, None
        if shards is None:
            return
        await self._store_bound.aclose()
        await self._growth.aclose()
        try:
            async with asyncio.timeout(self._patience):
                for shard in shards.all:
                    await shard.publishing.wait_empty()
                await self._delivery.wait_delivered([shard.writing.requests for shard in shards.all])
        except (TimeoutError, StoreUnavailable):
            logger.warning("%s did not answer before the end; closing without it", self._address.shown)
        finally:
            await self._delivery.connection.aclose()
            await shards.aclose()

    async def describe(self) -> tuple[str, ...]:
        return await describe([shard.reading.requests for shard in self._opened().all])

    async def advise(self) -> tuple[str, ...]:
        return await advise([shard.reading.requests for shard in self._opened().all], self._address)

    def _opened(self) -> Shards:
        if self._shards is None:
            raise StoreUnavailable("the broker is not open; use it between its start and its close")
        return self._shards

    # Publishing.

    def publish(self, request: PublishRequest) -> asyncio.Future[Position]:
        shards = self._shards
        if shards is None:
            raise NotPublished("the broker is not open; publish between its start and its close")
        try:
            publishing = shards.shard(request.channel).publishing
        except StoreUnavailable as error:
            raise not_published(str(error)) from error
        self._growth.add(request)
        return publishing.submit(request)

    def _bound(self, channel: str, limit: int) -> Awaitable[bool]:
        return bound_history(self._opened(), self._keys, channel, limit)

    def relay(self, publications: Sequence[EphemeralPublication]) -> None:
        if self._shards is None:
            return
        by_channel: dict[str, list[EphemeralPublication]] = {}
        for one in publications:
            by_channel.setdefault(one.channel, []).append(one)
        for channel, ones in by_channel.items():
            name = self._keys.pubsub(channel)
            try:
                requests = self._shards.shard(channel).writing.requests
                for payload in pack_ephemeral(self._node, ones, _RELAYED):
                    requests.ask(["PUBLISH", name, EPHEMERAL + payload]).add_done_callback(_count_lost)
            except StoreUnavailable:
                count_limit("relay")

    # Channels and reading.

    async def subscribe(self, channel: str) -> Position:
        self._opened()
        await self._delivery.subscribe(channel)
        return (await self.positions([channel]))[channel]

    async def unsubscribe(self, channel: str) -> None:
        if self._shards is not None:
            self._delivery.unsubscribe(channel)

    async def read(self, request: HistoryRequest) -> HistoryPage:
        return await read_history(self._opened(), self._keys, request)

    async def remove_history(self, channel: str) -> None:
        await remove_history(self._opened(), self._keys, channel)

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        return await read_positions(self._opened(), self._keys, channels)


def _count_lost(asked: asyncio.Future[list[Reply]]) -> None:
    if asked.cancelled() or asked.exception() is not None or isinstance(asked.result()[0], Exception):
        count_limit("relay")

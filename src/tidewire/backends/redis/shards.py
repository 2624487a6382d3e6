"""The servers of a store, each with a connection for publishing and one for reading, and the channels of each."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence

from tidewire.backends.redis.address import Address, Host, Kind
from tidewire.backends.redis.connection import Dial
from tidewire.backends.redis.discovery import ClusterHosts, SlotRange, dial_any, dial_host
from tidewire.backends.redis.driver import Reply
from tidewire.backends.redis.generations import ChannelRequests
from tidewire.backends.redis.keys import Keys
from tidewire.backends.redis.known_tops import KnownTops
from tidewire.backends.redis.publishing import Publishing
from tidewire.backends.shared.outage import Outage
from tidewire.errors import StoreUnavailable, TidewireError

__all__ = ("Shard", "Shards")

logger = logging.getLogger("tidewire")

#: Seconds between two readings of a cluster's slots while they are in doubt.
_PAUSE = 0.25


class Shard:
    """One server: publishing, which may wait for replicas, does not hold up reading."""

    def __init__(self, shards: Shards, shown: str, dial: Dial) -> None:
        address, keys, patience = shards.address, shards.keys, shards.patience
        self._on_doubt = shards.doubt
        self.writing, self.reading = (
            ChannelRequests(
                shown,
                dial,
                shards.outage,
                patience,
                keys,
                address.kind,
                opened=shards.opened,
                lost=lost,
                moved=shards.doubt,
            )
            for lost in (self._lost, lambda reason: None)
        )
        self.publishing = Publishing(
            self.writing,
            shown,
            keys,
            patience,
            wait=address.wait,
            is_cluster=address.kind is Kind.CLUSTER,
            tops=shards.tops,
        )

    def _lost(self, reason: str) -> None:
        self.publishing.lost(reason)
        self._on_doubt()

    @property
    def is_open(self) -> bool:
        """Both connections are open."""
        return self.writing.is_open and self.reading.is_open

    async def start(self) -> None:
        """Connect; raises StoreUnavailable or ConfigurationError."""
        await self.writing.requests.connection.start()
        await self.reading.requests.connection.start()

    def start_soon(self) -> None:
        """Begin to connect."""
        self.writing.requests.connection.start_soon()
        self.reading.requests.connection.start_soon()

    async def aclose(self) -> None:
        """End both connections."""
        await self.writing.requests.connection.aclose()
        await self.reading.requests.connection.aclose()
        self.publishing.close()


class Shards:
    """Finds the shard of each channel; in a cluster it keeps up with the slots."""

    def __init__(
        self, address: Address, keys: Keys, outage: Outage, patience: float, opened: Callable[[], None]
    ) -> None:
        self.address = address
        self.keys = keys
        self.outage = outage
        self.patience = patience
        #: Called for each connection that is made.
        self.opened = opened
        self.tops = KnownTops(self._begin_epoch)
        self._hosts = ClusterHosts()
        self._shards: dict[Host, Shard] = {}
        self._firsts: list[int] = []
        self._owners: list[tuple[int, Shard]] = []
        self._reading: asyncio.Task[None] | None = None
        self._is_open = False

    @property
    def all(self) -> Sequence[Shard]:
        """The shards of all servers."""
        return tuple(self._shards.values())

    @property
    def are_open(self) -> bool:
        """All servers are connected."""
        return all(shard.is_open for shard in self.all)

    async def start(self) -> None:
        """Connect to every server; raises StoreUnavailable or ConfigurationError."""
        if self.address.kind is Kind.CLUSTER:
            self._apply(await self._read_slots(), start_soon=False)
        else:
            self._shards = {self.address.hosts[0]: Shard(self, self.address.shown, dial_any(self.address))}
        self._is_open = True
        for shard in self.all:
            await shard.start()

    async def aclose(self) -> None:
        """End every connection."""
        self._is_open = False
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        for shard in self.all:
            await shard.aclose()

    def shard(self, channel: str) -> Shard:
        """Return a channel's shard; raises StoreUnavailable when no server has its slot."""
        if self.address.kind is not Kind.CLUSTER:
            return next(iter(self._shards.values()))
        slot = self.keys.slot(channel)
        index = bisect_right(self._firsts, slot) - 1
        if index < 0 or self._owners[index][0] < slot:
            raise StoreUnavailable(f"{self.address.shown}: no server has slot {slot}; see CLUSTER SHARDS")
        return self._owners[index][1]

    def _begin_epoch(self, channel: str) -> asyncio.Future[list[Reply]]:
        """Prepare a channel so that a new epoch begins with its next publication (scripts/channel.lua)."""
        return self.shard(channel).reading.ask([channel], ["HDEL", self.keys.channel(channel)[1], "epoch"])

    # A cluster's slots.

    def doubt(self) -> None:
        """Read the slots again: a server was lost, or has a slot no longer."""
        if self._is_open and self.address.kind is Kind.CLUSTER and self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read_until_open())

    async def _read_until_open(self) -> None:
        try:
            while True:
                await asyncio.sleep(_PAUSE)
                try:
                    gone = self._apply(await self._read_slots(), start_soon=True)
                except TidewireError as error:
                    self.outage.begins(self, str(error))
                    continue
                except Exception:
                    logger.exception("the slots of %s cannot be read", self.address.shown)
                    continue
                self.outage.ends(self)
                for shard in gone:
                    await shard.aclose()
                if self.are_open:
                    self.opened()
                    return
        finally:
            self._reading = None

    async def _read_slots(self) -> list[SlotRange]:
        try:
            async with asyncio.timeout(self.patience):
                return await self._hosts.read_slots(self.address)
        except TimeoutError:
            raise StoreUnavailable(f"{self.address.shown} does not answer within {self.patience:g} s") from None

    def _apply(self, ranges: Sequence[SlotRange], *, start_soon: bool) -> list[Shard]:
        """Apply the slots as they are now; return the shards of servers that have none any more."""
        for host in dict.fromkeys(host for _, _, host in ranges):
            if host not in self._shards:
                shard = self._shards[host] = Shard(self, f"Redis at {host[0]}:{host[1]}", dial_host(self.address, host))
                if start_soon:
                    shard.start_soon()
        ordered = sorted(ranges)
        self._firsts = [first for first, _, _ in ordered]
        self._owners = [(last, self._shards[host]) for _, last, host in ordered]
        gone = self._shards.keys() - {host for _, _, host in ranges}
        return [self._shards.pop(host) for host in gone]

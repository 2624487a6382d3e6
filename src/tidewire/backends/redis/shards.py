"""The servers of a store, each with a connection for publishing and one for reading, and who has which channel."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence

from tidewire.backends.redis.address import Address, Host, Kind
from tidewire.backends.redis.connection import Dial
from tidewire.backends.redis.discovery import SlotRange, dial_any, dial_host, read_slots
from tidewire.backends.redis.generations import GuardedLine
from tidewire.backends.redis.keys import Keys
from tidewire.backends.redis.publishing import Writer
from tidewire.backends.shared.outage import Outage
from tidewire.errors import StoreUnavailable, TidewireError

__all__ = ("Seat", "Seats")

logger = logging.getLogger("tidewire")

#: Seconds between two readings of a cluster's slots while they are in doubt.
_PAUSE = 0.25


class Seat:
    """One server: publishing, which may wait for replicas, does not hold up reading."""

    def __init__(self, seats: Seats, shown: str, dial: Dial) -> None:
        address, keys, patience = seats.address, seats.keys, seats.patience
        self._on_doubt = seats.doubt
        self.publishing, self.reading = (
            GuardedLine(
                shown,
                dial,
                seats.outage,
                patience,
                keys,
                address.kind,
                opened=seats.opened,
                lost=lost,
                moved=seats.doubt,
            )
            for lost in (self._lost, lambda reason: None)
        )
        self.writer = Writer(
            self.publishing, shown, keys, patience, wait=address.wait, is_cluster=address.kind is Kind.CLUSTER
        )

    def _lost(self, reason: str) -> None:
        self.writer.lost(reason)
        self._on_doubt()

    @property
    def is_open(self) -> bool:
        """Both connections are there."""
        return self.publishing.is_open and self.reading.is_open

    async def start(self) -> None:
        """Connect; raises StoreUnavailable or ConfigurationError."""
        await self.publishing.start()
        await self.reading.start()

    def start_soon(self) -> None:
        """Begin to connect."""
        self.publishing.start_soon()
        self.reading.start_soon()

    async def aclose(self) -> None:
        """End both connections."""
        await self.publishing.aclose()
        await self.reading.aclose()
        self.writer.close()


class Seats:
    """Knows the seat of each channel; in a cluster it follows the slots."""

    def __init__(
        self, address: Address, keys: Keys, outage: Outage, patience: float, opened: Callable[[], None]
    ) -> None:
        self.address = address
        self.keys = keys
        self.outage = outage
        self.patience = patience
        #: Called for each connection that is made.
        self.opened = opened
        self._seats: dict[Host, Seat] = {}
        self._firsts: list[int] = []
        self._owners: list[tuple[int, Seat]] = []
        self._following: asyncio.Task[None] | None = None
        self._is_open = False

    @property
    def all(self) -> Sequence[Seat]:
        """Every server's seat."""
        return tuple(self._seats.values())

    @property
    def are_open(self) -> bool:
        """All servers are connected."""
        return all(seat.is_open for seat in self.all)

    async def start(self) -> None:
        """Connect to every server; raises StoreUnavailable or ConfigurationError."""
        if self.address.kind is Kind.CLUSTER:
            self._follow(await self._read_slots(), start_soon=False)
        else:
            self._seats = {self.address.hosts[0]: Seat(self, self.address.shown, dial_any(self.address))}
        self._is_open = True
        for seat in self.all:
            await seat.start()

    async def aclose(self) -> None:
        """End every connection."""
        self._is_open = False
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        for seat in self.all:
            await seat.aclose()

    def seat(self, channel: str) -> Seat:
        """Return a channel's seat; raises StoreUnavailable when no server has its slot."""
        if self.address.kind is not Kind.CLUSTER:
            return next(iter(self._seats.values()))
        slot = self.keys.slot(channel)
        index = bisect_right(self._firsts, slot) - 1
        if index < 0 or self._owners[index][0] < slot:
            raise StoreUnavailable(f"{self.address.shown}: no server has slot {slot}; see CLUSTER SHARDS")
        return self._owners[index][1]

    # A cluster's slots.

    def doubt(self) -> None:
        """Read the slots again: a server was lost, or said that it has a slot no longer."""
        if self._is_open and self.address.kind is Kind.CLUSTER and self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._keep_following())

    async def _keep_following(self) -> None:
        try:
            while True:
                await asyncio.sleep(_PAUSE)
                try:
                    gone = self._follow(await self._read_slots(), start_soon=True)
                except TidewireError as error:
                    self.outage.begins(self, str(error))
                    continue
                except Exception:
                    logger.exception("the slots of %s cannot be read", self.address.shown)
                    continue
                self.outage.ends(self)
                for seat in gone:
                    await seat.aclose()
                if self.are_open:
                    self.opened()
                    return
        finally:
            self._following = None

    async def _read_slots(self) -> list[SlotRange]:
        try:
            async with asyncio.timeout(self.patience):
                return await read_slots(self.address, tuple(self._seats))
        except TimeoutError:
            raise StoreUnavailable(f"{self.address.shown} does not answer within {self.patience:g} s") from None

    def _follow(self, ranges: Sequence[SlotRange], *, start_soon: bool) -> list[Seat]:
        """Take the slots as they are now; return the seats of servers that have none any more."""
        for host in dict.fromkeys(host for _, _, host in ranges):
            if host not in self._seats:
                seat = self._seats[host] = Seat(self, f"Redis at {host[0]}:{host[1]}", dial_host(self.address, host))
                if start_soon:
                    seat.start_soon()
        ordered = sorted(ranges)
        self._firsts = [first for first, _, _ in ordered]
        self._owners = [(last, self._seats[host]) for _, last, host in ordered]
        gone = self._seats.keys() - {host for _, _, host in ranges}
        return [self._seats.pop(host) for host in gone]

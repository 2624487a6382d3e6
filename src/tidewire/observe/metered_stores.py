"""Stores whose calls are timed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from tidewire.backends.base import Broker, JoinResult, Presence
from tidewire.backends.checked import CheckedBroker, CheckedPresence
from tidewire.messages import Announcement, Departure, HistoryPage, HistoryRequest, Member, Position, PublishRequest
from tidewire.support.meter import SAMPLE_SECONDS, Meter

__all__ = ("MeteredBroker", "MeteredPresence", "metered")

_FAMILY = "store"


class MeteredBroker(CheckedBroker):
    """A judged broker that times its calls; of publishes it times a sample, at no cost for the others."""

    def __init__(self, broker: Broker, meter: Meter) -> None:
        super().__init__(broker)
        self._meter = meter
        self._time_one()

    def _time_one(self) -> None:
        self._publish = self._publish_timed

    def _publish_timed(self, request: PublishRequest) -> Coroutine[Any, Any, Position]:
        self._publish = self.judged.publish
        asyncio.get_running_loop().call_later(SAMPLE_SECONDS, self._time_one)
        return self._meter.timed(_FAMILY, "publish", self.judged.publish(request))

    async def subscribe(self, channel: str) -> Position:
        return await self._meter.timed(_FAMILY, "subscribe", super().subscribe(channel))

    async def read(self, request: HistoryRequest) -> HistoryPage:
        return await self._meter.timed(_FAMILY, "history", super().read(request))

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        return await self._meter.timed(_FAMILY, "positions", super().positions(channels))


class MeteredPresence(CheckedPresence):
    """A judged presence that times its calls."""

    def __init__(self, presence: Presence, meter: Meter) -> None:
        super().__init__(presence)
        self._meter = meter

    async def join(self, channel: str, member: Member, announcement: Announcement | None = None) -> JoinResult:
        return await self._meter.timed(_FAMILY, "join", super().join(channel, member, announcement))

    async def leave(self, channel: str, connection: str) -> bool:
        return await self._meter.timed(_FAMILY, "leave", super().leave(channel, connection))

    async def touch(self) -> bool:
        return await self._meter.timed(_FAMILY, "touch", super().touch())

    async def members(self, channel: str) -> list[Member]:
        return await self._meter.timed(_FAMILY, "members", super().members(channel))

    async def claim(self, limit: int = 256) -> Sequence[Departure]:
        return await self._meter.timed(_FAMILY, "claim", super().claim(limit))


def metered(broker: Broker, presence: Presence, meter: Meter) -> tuple[Broker, Presence]:
    """Return a store with its calls timed."""
    meter.is_due = True  # the loop of an earlier opening, which would have set it again, may be closed
    judged = broker.judged if isinstance(broker, CheckedBroker) else broker
    members = presence.judged if isinstance(presence, CheckedPresence) else presence
    return MeteredBroker(judged, meter), MeteredPresence(members, meter)

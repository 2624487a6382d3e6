"""Keeps the knowledge of a reader of events in the store now and then: the next reader goes on from there."""

from __future__ import annotations

import asyncio
import time
from itertools import islice

import msgspec

from tidewire.channels import HAPPENED, watched
from tidewire.engine.node import Node
from tidewire.errors import PublishError
from tidewire.events.event_order import EventOrder, Known
from tidewire.messages import Position, Publication

__all__ = ("Checkpoints",)

#: Events between two checkpoints; those that a reader takes again which finds none.
_INTERVAL, _RECALLED = 10_000, 50_000
#: Seconds after which a few events are enough for one; less than half of those for which events are kept.
_SECONDS = 43_200.0
#: Keys in one publication, and publications that are looked at: at least two checkpoints of all that is remembered.
_KEYS, _LOOKED_AT = 250, 600
#: Events after which others have a turn.
_TURN = 500


class _Part(msgspec.Struct, frozen=True):
    """Some of what was known at a place, by the node that wrote it."""

    place: str
    node: str
    number: int
    is_last: bool
    has_seen_all: bool
    known: msgspec.Raw


class Checkpoints:
    """The checkpoints of one consumer."""

    def __init__(self, node: Node, consumer: str) -> None:
        self._node = node
        self._channel = watched(f"order:{consumer}")
        #: Events since the newest checkpoint.
        self._passed = 0
        #: When that was kept: 0.0 where there is none.
        self._kept_at = 0.0

    async def order_at(self, since: Position | None) -> EventOrder:
        """Return the order of events as it is after those up to a position; raises StoreUnavailable."""
        order = EventOrder()
        if since is None:
            self._kept_at = time.time()
            return order
        place = Position(max(0, since.offset - _RECALLED), since.epoch)
        parts = await self._newest(since)
        if parts:
            place, order.has_seen_all = Position.parse(parts[0].place), parts[0].has_seen_all
            for part in parts:
                order.learn(msgspec.json.decode(part.known, type=list[Known]))
                await asyncio.sleep(0)
        await self._take(order, place, since)
        self._passed = since.offset - place.offset  # readers may all end before they have passed so many themselves
        return order

    async def _take(self, order: EventOrder, place: Position, since: Position) -> None:
        while place.offset < since.offset:
            limit = min(since.offset - place.offset, _INTERVAL)
            page = await self._node.broker.history(HAPPENED, since=place, limit=limit)
            if page.top.epoch != since.epoch:
                return
            if not page.complete and order.has_seen_all:
                order.has_seen_all = False
            for number, publication in enumerate(page.publications):
                if publication.offset > since.offset:
                    return
                order.take(publication)
                if number % _TURN == 0:
                    await asyncio.sleep(0)
            if not page.publications:
                return
            place = page.publications[-1].position

    async def _newest(self, since: Position) -> list[_Part]:
        """Return the parts of the newest whole checkpoint that is not behind a position."""
        page = await self._node.broker.history(self._channel, limit=_LOOKED_AT, reverse=True)
        found: dict[tuple[str, str], list[_Part]] = {}
        for publication in page.publications:
            part = _part_of(publication)
            if part is not None and _is_before(part, since):
                parts = found.setdefault((part.place, part.node), [])
                parts.append(part)
                if part.number == 0 and parts[0].is_last and len(parts) == parts[0].number + 1:
                    self._kept_at = publication.time
                    return parts[::-1]
        return []

    async def passed(self, number: int, place: Position, order: EventOrder) -> None:
        """Count events that were taken; keep a checkpoint after many, or after long.

        If the store is away, that is tried again.
        """
        self._passed += number
        if not self._passed or (self._passed < _INTERVAL and time.time() < self._kept_at + _SECONDS):
            return
        try:
            await self._keep(place, order)
        except PublishError:
            return
        self._passed, self._kept_at = 0, time.time()

    async def _keep(self, place: Position, order: EventOrder) -> None:
        keys, count = order.known(), 0
        known = list(islice(keys, _KEYS))
        while known or not count:
            others = list(islice(keys, _KEYS))
            raw = msgspec.Raw(msgspec.json.encode(known))
            part = _Part(str(place), self._node.id, count, not others, bool(order.has_seen_all), raw)
            await self._node.publish(self._channel, msgspec.json.encode(part), ephemeral=False)
            known, count = others, count + 1
            await asyncio.sleep(0)  # a store in memory does not wait


def _part_of(publication: Publication) -> _Part | None:
    try:
        return msgspec.json.decode(publication.data, type=_Part)
    except msgspec.MsgspecError:
        return None


def _is_before(part: _Part, since: Position) -> bool:
    place = Position.parse(part.place)
    return place.epoch == since.epoch and place.offset <= since.offset

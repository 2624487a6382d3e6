"""Reads the events in order, from the last reader's place: on one node of all, and on another one if that dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import msgspec

from tidewire.channels import HAPPENED, watched
from tidewire.engine.node import Node
from tidewire.errors import PublishError, StoreUnavailable
from tidewire.events.checkpoints import Checkpoints
from tidewire.events.event_kinds import Event, KeptEvent, shadow_of
from tidewire.events.event_order import EventOrder
from tidewire.messages import Member, Position

__all__ = ("Cursor", "Leadership", "events_of")

logger = logging.getLogger("tidewire")

_LEADER = watched("leader")
_PAGE = 200
#: Seconds between two looks if nothing wakes the reader.
_LOOK_SECONDS = 1.0


class Cursor:
    """The place up to which one consumer has come, kept in the store for the next consumer."""

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self._channel = watched(f"done:{name}")
        self._saved: Position | None = None

    async def load(self) -> Position | None:
        """Return the place; None: at the beginning."""
        page = await self._node.broker.history(self._channel, limit=1, reverse=True)
        for publication in page.publications:
            self._saved = Position.parse(publication.data.decode())
        return self._saved

    async def save(self, position: Position | None) -> None:
        """Keep the place; if the store is away, it is kept the next time."""
        if position is None or position == self._saved:
            return
        try:
            await self._node.publish(self._channel, str(position).encode(), ephemeral=False)
        except PublishError:
            return
        self._saved = position


class Leadership:
    """The choice of the node that consumes: of all that want to, the one that has been there the longest."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._member = Member(node.id, node.id)
        self._has_entered = False

    async def is_here(self) -> bool:
        """Return whether it is this node; raises StoreUnavailable."""
        if not self._has_entered:
            await self._node.memberships.enter(_LEADER, self._member)
            self._has_entered = True
        members = await self._node.presence.members(_LEADER)
        return bool(members) and members[0].connection == self._node.id

    async def resign(self) -> None:
        """Make room for another node."""
        if self._has_entered:
            self._has_entered = False
            try:
                await self._node.memberships.quit(_LEADER, self._member)
            except StoreUnavailable:
                logger.info("another node handles events when this one's lease has ended")


async def events_of(
    node: Node, consumer: str, since: Position | None, woken: asyncio.Event
) -> AsyncIterator[tuple[Position, Event]]:
    """Yield the events since a consumer's place, for ever, each beginning before its end; raises StoreUnavailable.

    Each event has the position up to which everything was yielded: of two events of one publication, the first has the
    position before.
    """
    checkpoints = Checkpoints(node, consumer)
    order = await checkpoints.order_at(since)
    while True:
        woken.clear()
        page = await node.broker.history(HAPPENED, since=since, limit=_PAGE)
        if not page.publications and since is not None and since.epoch != page.top.epoch:
            since = Position(0, page.top.epoch)  # the store has lost the events before
            order.has_seen_all = False
            continue
        # before the yield, which may take long: a user that has begun then has not ended
        taken = [(publication, order.take(publication)) for publication in page.publications]
        for publication, found in taken:
            for event in found:
                yield publication.position if event is found[-1] or since is None else since, event
            since = publication.position
        if since is not None:
            await checkpoints.passed(len(taken), since, order)
        # the missing event is not among those that are still to be read
        has_asked = len(page.publications) < _PAGE and await _tell_missing(node, order)
        if not page.publications and not has_asked:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await woken.wait()


async def _tell_missing(node: Node, order: EventOrder) -> bool:
    """Publish the events that no node has published or will publish: in the stream, so that every reader gets the same.

    Return whether presence was asked: then there may be more to ask.
    """
    for end in order.overdue():
        await _tell(node, f"missing {end.missing}", end)
    doubtful = order.doubtful()
    await asyncio.gather(*(_settle(node, order, begin) for begin in doubtful))
    return bool(doubtful)


async def _settle(node: Node, order: EventOrder, begin: KeptEvent) -> None:
    count = await node.presence.count(shadow_of(begin), begin.member)
    missing = order.settle(begin, is_there=count > 0)
    if missing is not None:
        await _tell(node, f"missing {missing.missing}", missing)


async def _tell(node: Node, key: str, event: KeptEvent) -> None:
    with contextlib.suppress(PublishError):  # it is tried again
        await node.publish(HAPPENED, msgspec.json.encode(event), key=key, ephemeral=False)

"""What a node does beside the way of a message: leases, departures, position checks, catching up. Owns its tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING

from tidewire.control import Control
from tidewire.errors import NotPublished, PublishError, StoreUnavailable
from tidewire.messages import Farewell, Publication
from tidewire.registry import Channel

if TYPE_CHECKING:  # a node owns its maintenance
    from tidewire.node import Node

__all__ = ("Maintenance",)

logger = logging.getLogger("tidewire")

#: Seconds between two touches of the lease, looks for departed members, and sweeps of idle channels.
TOUCH_SECONDS = 2.0
CLAIM_SECONDS = 1.0
SWEEP_SECONDS = 2.0
#: Seconds between two comparisons of all positions with the store's, and channels in one comparison.
POSITION_SECONDS = 10.0
POSITION_BATCH = 500


class Maintenance:
    """A node's tasks. A store's failure in one of them is logged once and marks the node degraded until it is over."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tasks: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._failing: set[str] = set()
        self._must_rejoin = False

    @property
    def degraded(self) -> bool:
        """The store is away."""
        return bool(self._failing)

    def start(self) -> None:
        """Begin the regular tasks."""
        loop = asyncio.get_running_loop()
        for name, seconds, step in (
            ("touch", TOUCH_SECONDS, self._touch),
            ("claim", CLAIM_SECONDS, self._claim),
            ("sweep", SWEEP_SECONDS, self._sweep),
            ("positions", POSITION_SECONDS, self.check_positions),
        ):
            self._loops.append(loop.create_task(self._repeat(name, seconds, step), name=f"tidewire-{name}"))

    async def aclose(self) -> None:
        """Stop the regular tasks, let short ones finish for a moment, and end the rest."""
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=self._node.limits.publish_seconds + 1.0)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run something short in the background; its failure is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a background step failed", exc_info=task.exception())

    async def _repeat(self, name: str, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await step()
            except (StoreUnavailable, PublishError) as error:
                if not self._failing:
                    logger.warning("the store is away (%s); publishing fails until it is back, clients stay", error)
                self._failing.add(name)
            except Exception:
                logger.exception("the regular step %r failed", name)
            else:
                if name in self._failing:
                    self._failing.discard(name)
                    if not self._failing:
                        logger.warning("the store is back")

    # Presence.

    async def _touch(self) -> None:
        if await self._node.presence.touch():
            if not self._must_rejoin:
                return
        else:
            logger.warning("this node lost its lease; its members join again")
        self._must_rejoin = False
        for connection in tuple(self._node.registry.connections.values()):
            for subscription in tuple(connection.subscriptions.values()):
                if subscription.member is not None:
                    await self._node.presence.join(subscription.channel, subscription.member, subscription.farewell)

    def rejoin(self) -> None:
        """Join all members again when presence is back: some could not be joined."""
        self._must_rejoin = True

    async def _claim(self) -> None:
        departures = await self._node.presence.claim()
        for departure in departures:
            if departure.farewell is not None:
                await self._publish_farewell(departure.channel, departure.farewell, departure.token)
        if departures:
            await self._node.presence.forget(departures)

    async def _publish_farewell(self, channel: str, farewell: Farewell, token: str) -> None:
        await self._node.publish(channel, farewell.data, farewell.format, key=token)

    async def publish_farewell(self, channel: str, farewell: Farewell, token: str) -> None:
        """Publish a farewell, again and again until the store keeps it; the token makes that harmless."""
        while True:
            try:
                await self._publish_farewell(channel, farewell, token)
            except PublishError as error:
                if not self._node.is_open and isinstance(error, NotPublished):
                    return
                await asyncio.sleep(1.0)
            else:
                return

    # Channels.

    async def _sweep(self) -> None:
        for name, channel in tuple(self._node.registry.channels.items()):
            if not len(channel):
                await self._node.carrier.drop_idle(name)

    async def check_positions(self) -> None:
        """Compare what this node has with what the store has: a lost tail shows in no other way."""
        channels = self._node.registry.channels
        names = list(channels)
        for start in range(0, len(names), POSITION_BATCH):
            before = {
                name: channels[name].position for name in names[start : start + POSITION_BATCH] if name in channels
            }
            tops = await self._node.broker.positions(list(before))
            for name, top in tops.items():
                channel = channels.get(name)
                if channel is None or channel.catching_up or channel.position != before.get(name):
                    continue
                if top.epoch != channel.position.epoch or top.offset != channel.position.offset:
                    self._node.fanout.gaps += 1
                    self.catch_up(channel)

    def resume(self) -> None:
        """Compare positions at once: the broker was away, and is back (broker.Resumed)."""
        self.spawn(self._resume())

    async def _resume(self) -> None:
        try:
            await self.check_positions()
        except StoreUnavailable:
            logger.warning("the store went away again; its positions are compared when it is back")

    def catch_up(self, channel: Channel) -> None:
        """Fill a gap from history before anything later is shown; in a task of its own."""
        if not channel.catching_up:
            channel.catching_up = True
            self.spawn(self._catch_up(channel))

    async def _catch_up(self, channel: Channel) -> None:
        fanout, limits = self._node.fanout, self._node.limits
        while True:
            try:
                page = await self._node.broker.history(
                    channel.name, since=channel.position, limit=limits.gap_messages + 1
                )
            except StoreUnavailable:
                del channel.waiting[: -limits.gap_messages]
                await asyncio.sleep(0.5)
                continue
            size = sum(len(publication.data) for publication in page.publications)
            fits = len(page.publications) <= limits.gap_messages and size <= limits.gap_bytes
            if page.complete and fits and page.top.epoch == channel.position.epoch:
                for publication in page.publications:
                    fanout.accept(channel, publication)
            else:
                self._node.limits_reached["gap"] += 1
                fanout.tell_insufficient(channel)
                channel.position = page.top
            waiting, channel.waiting = channel.waiting, []
            channel.catching_up = False
            fanout.deliver(waiting)
            return

    # What nodes ask of each other.

    def obey(self, control: Control, publication: Publication) -> None:
        """Do what one node asked of all."""
        registry = self._node.registry
        if control.disconnect is not None:
            for connection in tuple(registry.users.get(control.user, {}).values()):
                self._node.fanout.flush_for(connection)
                connection.end(control.disconnect)
        if control.everybody:
            self._node.fanout.push_everybody(tuple(registry.connections.values()), publication)

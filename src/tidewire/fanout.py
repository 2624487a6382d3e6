"""Steps 6 to 9 of the way of a message: arrive, group, prepare once, write. Nothing here waits."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from tidewire.batch import Batch, Representation
from tidewire.connection import Connection
from tidewire.errors import INSUFFICIENT, SLOW
from tidewire.messages import Dropped, Position, Publication
from tidewire.options import Limits, SlowPolicy
from tidewire.registry import Channel, Registry
from tidewire.subscription import Subscription

__all__ = ("Fanout",)

#: Subscriptions between two looks at the clock.
_STRIDE = 32


class Work:
    """What one channel publishes in one turn, and how far that has come when the turn's time ends."""

    __slots__ = ("first", "last", "parts", "publications", "reached")

    def __init__(self, channel: Channel) -> None:
        publications = tuple(channel.pending)
        self.publications = publications
        self.first = publications[0].offset
        self.last = publications[-1].offset
        self.parts = deque(
            (representation.batch(publications), group.snapshot) for representation, group in channel.groups.items()
        )
        self.reached = 0


class Fanout:
    """Takes deliveries and writes them to links, at the end of each turn of the loop, within its time budget.

    Order: per channel and link, batches are first in, first out. A subscription is given each offset at most once,
    whatever mixture of batches, direct sends and cut turns it sees: `live_after` moves with every write.
    """

    def __init__(self, registry: Registry, limits: Limits, *, on_gap: Callable[[Channel], None]) -> None:
        self._registry = registry
        self._limits = limits
        self._on_gap = on_gap
        self._dirty: deque[Channel] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self._turn = 0
        #: link → the turn in which it was last found paused, and its backlog at the beginning of that turn.
        self._paused: dict[Connection, tuple[int, int, int]] = {}
        self.deliveries = 0
        self.duplicates = 0
        self.gaps = 0
        self.slow = 0
        self.dropped = 0
        self.superseded = 0
        self.worst_turn_cpu = 0.0
        self.worst_turn_wall = 0.0

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say which loop's turns these are."""
        self._loop = loop

    # 6. Arrive.

    def deliver(self, publications: Sequence[Publication]) -> None:
        """Take publications from the broker: drop duplicates, notice gaps, keep the rest until the end of the turn."""
        channels = self._registry.channels
        for publication in publications:
            channel = channels.get(publication.channel)
            if channel is None:
                continue
            if channel.catching_up:
                channel.waiting.append(publication)
                continue
            position = channel.position
            if publication.epoch == position.epoch:
                if publication.offset <= position.offset:
                    self.duplicates += 1
                    continue
                if publication.previous <= position.offset:
                    self.accept(channel, publication)
                    continue
            self.gaps += 1
            channel.waiting.append(publication)
            self._on_gap(channel)

    def accept(self, channel: Channel, publication: Publication) -> None:
        """Keep one publication that follows the channel's position until the end of the turn."""
        channel.position = Position(publication.offset, publication.epoch)
        if channel.tap is not None:
            channel.tap(publication)
            return
        channel.pending.append(publication)
        if not channel.is_dirty:
            channel.is_dirty = True
            self._dirty.append(channel)
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    # 7 to 9. Group, prepare once, write.

    def flush(self) -> None:
        """Write what is pending, at most for one turn's time; what is left goes on in the next turn."""
        self._scheduled = False
        self._turn += 1
        started, cpu = time.perf_counter(), time.thread_time()
        deadline = started + self._limits.turn_seconds
        while self._dirty:
            channel = self._dirty.popleft()
            if self._flush_channel(channel, deadline):
                channel.is_dirty = False
            else:
                self._dirty.append(channel)
            if time.perf_counter() >= deadline:
                break
        if self._dirty:
            self._schedule()
        self.worst_turn_cpu = max(self.worst_turn_cpu, time.thread_time() - cpu)
        self.worst_turn_wall = max(self.worst_turn_wall, time.perf_counter() - started)

    def _flush_channel(self, channel: Channel, deadline: float) -> bool:
        """Write a channel's batches; False when the time ended first."""
        work = channel.work
        if work is None:
            if not channel.pending:
                return True
            work = channel.work = self._begin(channel)
        assert isinstance(work, Work)
        while work.parts:
            batch, subscriptions = work.parts[0]
            while work.reached < len(subscriptions):
                stride = subscriptions[work.reached : work.reached + _STRIDE]
                work.reached += len(stride)
                self._write(channel, work, batch, stride)
                if time.perf_counter() >= deadline and (work.reached < len(subscriptions) or len(work.parts) > 1):
                    return False
            work.parts.popleft()
            work.reached = 0
        channel.work = None
        return not channel.pending

    def _begin(self, channel: Channel) -> Work:
        for subscription in channel.buffering:
            subscription.hold(channel.pending)
            if subscription.buffered_bytes > self._limits.outbox_bytes:
                self._cut_off(subscription.connection)
        work = Work(channel)
        channel.pending = []
        return work

    def _write(self, channel: Channel, work: Work, batch: Batch, subscriptions: Sequence[Subscription]) -> None:
        first, last, size = work.first, work.last, len(batch)
        for subscription in subscriptions:
            if subscription.live_after >= first:
                if subscription.live_after < last:
                    self._write_rest(channel, subscription, work.publications)
                continue
            link = subscription.connection.link
            if link.paused:
                self._write_slow(channel, subscription, work.publications, batch)
                continue
            subscription.live_after = last
            link.write(batch)
            self.deliveries += size

    def _write_rest(self, channel: Channel, subscription: Subscription, publications: Sequence[Publication]) -> None:
        """Write the part of a batch that this subscription has not been given: the cut is at a frame boundary."""
        rest = [publication for publication in publications if publication.offset > subscription.live_after]
        if not rest:
            return
        connection = subscription.connection
        batch = connection.representation.batch(rest)
        if connection.link.paused:
            self._write_slow(channel, subscription, rest, batch)
            return
        subscription.live_after = rest[-1].offset
        connection.link.write(batch)
        self.deliveries += len(batch)

    # A slow client costs only itself.

    def _write_slow(
        self, channel: Channel, subscription: Subscription, publications: Sequence[Publication], batch: Batch
    ) -> None:
        connection = subscription.connection
        policy = channel.options.slow
        if policy is SlowPolicy.DISCONNECT:
            if self._is_over(connection):
                self._cut_off(connection)
                return
            connection.link.write(batch)
            self.deliveries += len(batch)
        elif policy is SlowPolicy.LATEST:
            self.superseded += len(publications) - (subscription.held is None)
            subscription.held = publications[-1]
            connection.has_held = True
        else:
            self.dropped += len(publications)
            subscription.dropped += len(publications)
            connection.has_held = True
        subscription.live_after = publications[-1].offset

    def _is_over(self, connection: Connection) -> bool:
        """Judge what *earlier* turns left unsent, before anything is added: a burst in one turn cuts nobody off."""
        turn, size, messages = self._paused.get(connection, (0, 0, 0))
        if turn != self._turn:
            if len(self._paused) > 1_024:
                self._paused = {key: value for key, value in self._paused.items() if key.link.paused}
            size, messages = connection.link.backlog()
            self._paused[connection] = (self._turn, size, messages)
        return size > self._limits.outbox_bytes or messages > self._limits.outbox_messages

    def _cut_off(self, connection: Connection) -> None:
        self._paused.pop(connection, None)
        if not connection.is_closed:
            self.slow += 1
            connection.end(SLOW)

    def release(self, connection: Connection) -> None:
        """Give a client that has caught up what its policies held back."""
        connection.has_held = False
        for subscription in connection.subscriptions.values():
            if subscription.dropped:
                push = Dropped(subscription.channel, subscription.dropped)
                subscription.dropped = 0
                connection.write(connection.protocol.encode_dropped(push))
            if subscription.held is not None:
                publication, subscription.held = subscription.held, None
                connection.link.write(connection.representation.batch((publication,)))
                self.deliveries += 1

    # Order between direct sends and channel pushes.

    def flush_for(self, connection: Connection) -> None:
        """Write what is pending for one connection, so that a direct send comes after it."""
        channels = self._registry.channels
        for subscription in tuple(connection.subscriptions.values()):
            channel = channels.get(subscription.channel)
            if channel is None or not channel.is_dirty or subscription.buffer is not None:
                continue
            work = channel.work
            if isinstance(work, Work) and subscription.live_after < work.last:
                self._write_rest(channel, subscription, work.publications)
            if channel.pending and subscription.live_after < channel.pending[-1].offset:
                self._write_rest(channel, subscription, channel.pending)

    def push_everybody(self, connections: Sequence[Connection], publication: Publication) -> None:
        """Push one publication to connections whatever they follow; a slow one is judged as in a channel."""
        batches: dict[Representation, Batch] = {}
        for connection in connections:
            batch = batches.get(connection.representation)
            if batch is None:
                batch = batches[connection.representation] = connection.representation.batch((publication,))
            self.flush_for(connection)
            if connection.link.paused and self._is_over(connection):
                self._cut_off(connection)
            elif not connection.is_closed:
                connection.link.write(batch)
                self.deliveries += 1

    def tell_insufficient(self, channel: Channel) -> None:
        """Tell every subscriber of a channel that a gap could not be filled."""
        channel.pending.clear()
        channel.work = None
        for subscription in tuple(channel.subscriptions()):
            connection = subscription.connection
            message = connection.protocol.encode_insufficient(channel.name)
            if message is None:
                connection.end(INSUFFICIENT)
            else:
                connection.write(message)

    def forget(self, connection: Connection) -> None:
        """Drop what is remembered of a connection that has ended."""
        self._paused.pop(connection, None)

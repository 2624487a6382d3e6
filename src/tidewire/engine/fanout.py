"""Steps 6 to 9 of the way of a message: arrive, group, prepare once, write. Nothing here waits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from tidewire.engine.pushes import Everybody, Work
from tidewire.engine.registry import Channel, Registry
from tidewire.engine.subscription import Subscriber, Subscription
from tidewire.errors import INSUFFICIENT, SLOW
from tidewire.messages import Dropped, Position, Publication
from tidewire.options import Limits, SlowPolicy
from tidewire.protocols.batch import Batch
from tidewire.support.counters import count_limit

__all__ = ("Fanout",)

logger = logging.getLogger("tidewire")

#: Subscriptions between two looks at the clock.
_STRIDE = 32


class Fanout:
    """Takes deliveries and writes them to links, at the end of each turn of the loop, within its time budget.

    Order: per channel and link, batches are first in, first out. A subscription is given each offset at most once,
    whatever mixture of batches, direct sends and cut turns it sees: `live_after` moves with every write.
    """

    def __init__(
        self,
        registry: Registry,
        limits: Limits,
        *,
        on_gap: Callable[[Channel], None],
    ) -> None:
        self._registry = registry
        self._limits = limits
        self._on_gap = on_gap
        self._dirty: deque[Channel] = deque()
        self._everybody: deque[Everybody] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self._turn = 0
        #: When this turn had written its first stride, by the clock and in the thread's time, which is a system call.
        self._long_turn: tuple[float, float] | None = None
        #: Who was found paused and has not drained since → the turn of the last judgement, and what it was.
        self._paused: dict[Subscriber, tuple[int, bool]] = {}
        self.deliveries = 0
        self.duplicates = 0
        self.gaps = 0
        self.slow = 0
        self.dropped = 0
        self.superseded = 0
        #: The longest turns, in seconds: of the thread's time (where more than a stride was written), of the clock.
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
                self._wait(channel, publication)
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
            self._on_gap(channel)
            self._wait(channel, publication)

    def _wait(self, channel: Channel, publication: Publication) -> None:
        """Keep what arrives while a channel is catching up; what would be too much is in history anyway."""
        channel.waiting.append(publication)
        channel.waiting_bytes += len(publication.data)
        limits = self._limits
        if len(channel.waiting) > limits.gap_messages or channel.waiting_bytes > limits.gap_bytes:
            channel.waiting.clear()
            channel.waiting_bytes = 0
            channel.overrun = True

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
        started = time.perf_counter()
        self._long_turn = None
        deadline = started + self._limits.turn_seconds
        self._push_on(deadline)
        while self._dirty:
            channel = self._dirty.popleft()
            if self._try_flush(channel, deadline):
                channel.is_dirty = False
            else:
                self._dirty.append(channel)
            if time.perf_counter() >= deadline:
                break
        if self._dirty or self._everybody:
            count_limit("turn_seconds")
            self._schedule()
        if self._long_turn is not None:
            began, cpu = self._long_turn
            self.worst_turn_cpu = max(self.worst_turn_cpu, began - started + time.thread_time() - cpu)
        self.worst_turn_wall = max(self.worst_turn_wall, time.perf_counter() - started)

    def _try_flush(self, channel: Channel, deadline: float) -> bool:
        try:
            return self._flush_channel(channel, deadline)
        except Exception:
            # one publication that cannot be encoded must not keep the channel from going on
            logger.exception("publications of channel %r cannot be encoded; its subscribers are told", channel.name)
            self.tell_insufficient(channel, channel.position)
            return True

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
                now = time.perf_counter()
                if self._long_turn is None and len(stride) == _STRIDE:
                    self._long_turn = now, time.thread_time()
                if now >= deadline and (work.reached < len(subscriptions) or len(work.parts) > 1):
                    return False
            work.parts.popleft()
            work.reached = 0
        channel.work = None
        return not channel.pending

    def _begin(self, channel: Channel) -> Work:
        for subscription in tuple(channel.buffering):
            subscription.hold(channel.pending)
            if self._is_more_than_may_wait(subscription.buffered_bytes, len(subscription.buffer or ())):
                self._shorten(channel, subscription)
        work = Work(channel)
        channel.pending = []
        return work

    def _shorten(self, channel: Channel, subscription: Subscription) -> None:
        """Apply the slow-client policy to what waits behind a reply."""
        buffer = list(subscription.representation.choose(subscription.buffer or ()))
        if channel.options.slow is SlowPolicy.DISCONNECT:
            self._cut_off(subscription.connection)
            kept = 0
        elif channel.options.slow is SlowPolicy.LATEST:
            kept = min(len(buffer), 1)
            self.superseded += len(buffer) - kept
        else:
            self.dropped += len(buffer)
            subscription.dropped += len(buffer)
            subscription.connection.has_held = True
            kept = 0
        subscription.buffer = buffer[len(buffer) - kept :]
        subscription.buffered_bytes = sum(len(publication.data) for publication in subscription.buffer)

    def _write(self, channel: Channel, work: Work, batch: Batch, subscriptions: Sequence[Subscription]) -> None:
        first, last, size = work.first, work.last, len(batch)
        for subscription in subscriptions:
            if subscription.live_after >= first:
                if subscription.live_after < last:
                    self.write_rest(channel, subscription, work.publications)
                continue
            link = subscription.connection.link
            if link.paused:
                self._write_slow(channel, subscription, work.publications, batch)
                continue
            subscription.live_after = last
            link.write(batch)
            self.deliveries += size

    def write_rest(self, channel: Channel, subscription: Subscription, publications: Sequence[Publication]) -> None:
        """Write the part of a batch that this subscription has not been given: the cut is at a frame boundary."""
        rest = [publication for publication in publications if publication.offset > subscription.live_after]
        if not rest:
            return
        connection = subscription.connection
        batch = subscription.representation.batch(rest)
        if not len(batch):
            subscription.live_after = rest[-1].offset
            return
        channel.has_begun(subscription)
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
            wanted = subscription.representation.choose(publications)
            self.superseded += len(wanted) - (subscription.held is None)
            subscription.held = wanted[-1]
            connection.has_held = True
        else:
            self.dropped += len(batch)
            subscription.dropped += len(batch)
            connection.has_held = True
        subscription.live_after = publications[-1].offset

    def _is_over(self, connection: Subscriber) -> bool:
        """Judge what *earlier* turns left unsent, before anything is added: a burst in one turn cuts nobody off.

        Who is found paused for the first time may be so by this very turn.
        """
        turn, is_over = self._paused.get(connection, (0, False))
        if not turn:
            self._paused[connection] = (self._turn, False)
        elif turn != self._turn:
            is_over = self._is_more_than_may_wait(*connection.link.backlog())
            self._paused[connection] = (self._turn, is_over)
        return is_over

    def _is_more_than_may_wait(self, size: int, messages: int) -> bool:
        limits = self._limits
        if size <= limits.outbox_bytes and messages <= limits.outbox_messages:
            return False
        count_limit("outbox_bytes" if size > limits.outbox_bytes else "outbox_messages")
        return True

    def _cut_off(self, connection: Subscriber) -> None:
        self._paused.pop(connection, None)
        if not connection.is_closed:
            self.slow += 1
            connection.end(SLOW)

    def release(self, connection: Subscriber) -> None:
        """Give a client that has caught up what its policies held back."""
        self._paused.pop(connection, None)
        if not connection.has_held:
            return
        connection.has_held = False
        for subscription in tuple(connection.subscriptions.values()):
            if subscription.dropped:
                push = Dropped(subscription.channel, subscription.dropped)
                subscription.dropped = 0
                connection.write(connection.protocol.encode_dropped(push))
            if subscription.held is not None:
                publication, subscription.held = subscription.held, None
                connection.link.write(subscription.representation.batch((publication,)))
                self.deliveries += 1

    # Order between direct sends and pushes.

    @property
    def is_pushing(self) -> bool:
        """A publication for everybody is under way."""
        return bool(self._everybody)

    def flush_for(self, connection: Subscriber) -> None:
        """Write what is pending for one connection, so that a direct send comes after it."""
        for everybody in self._everybody:
            if connection in everybody.waiting:
                del everybody.waiting[connection]
                self._push_one(everybody, connection)
        self._flush_channels_for(connection)

    def _flush_channels_for(self, connection: Subscriber) -> None:
        channels = self._registry.channels
        for subscription in tuple(connection.subscriptions.values()):
            channel = channels.get(subscription.channel)
            if channel is None or not channel.is_dirty or subscription.buffer is not None:
                continue
            work = channel.work
            if isinstance(work, Work) and subscription.live_after < work.last:
                self.write_rest(channel, subscription, work.publications)
            if channel.pending and subscription.live_after < channel.pending[-1].offset:
                self.write_rest(channel, subscription, channel.pending)

    def push_everybody(self, connections: Sequence[Subscriber], publication: Publication) -> None:
        """Push one publication to connections whatever they follow, for one turn's time; the others in the next turns.

        A slow one is judged as in a channel. A direct send to one that waits comes after it.
        """
        self._everybody.append(Everybody(publication, connections))
        self._push_on(time.perf_counter() + self._limits.turn_seconds)
        if self._everybody:
            self._schedule()

    def _push_on(self, deadline: float) -> None:
        while self._everybody:
            one = self._everybody[0]
            while one.waiting:
                for _ in range(min(_STRIDE, len(one.waiting))):
                    self._push_one(one, one.waiting.popitem()[0])
                if time.perf_counter() >= deadline:
                    return
            self._everybody.popleft()

    def _push_one(self, everybody: Everybody, connection: Subscriber) -> None:
        representation = connection.representation
        batch = everybody.batches.get(representation)
        if batch is None:
            batch = everybody.batches[representation] = representation.batch((everybody.publication,))
        self._flush_channels_for(connection)
        if connection.link.paused and self._is_over(connection):
            self._cut_off(connection)
        elif not connection.is_closed:
            connection.link.write(batch)
            self.deliveries += 1

    def tell_insufficient(self, channel: Channel, top: Position) -> None:
        """Let a channel go on at `top` after a gap that could not be filled, and tell its subscribers."""
        channel.position = top
        channel.last = None
        channel.pending = []
        channel.work = None
        for subscription in tuple(channel.subscriptions()):
            if subscription.buffer is not None:  # it is told behind its reply
                subscription.buffer, subscription.buffered_bytes, subscription.resumed = [], 0, top
                continue
            subscription.live_after, subscription.held = top.offset, None
            self.tell_one_insufficient(subscription)

    def tell_one_insufficient(self, subscription: Subscription) -> None:
        """Tell one subscriber that something is missing; where its protocol has no word for that, it must come back."""
        if subscription.on_insufficient is not None:
            subscription.on_insufficient(subscription)
            return
        connection = subscription.connection
        message = connection.protocol.encode_insufficient(subscription.channel)
        if message is None:
            connection.end(INSUFFICIENT)
        else:
            connection.write(message)

    def forget(self, connection: Subscriber) -> None:
        """Drop what is remembered of a connection that has ended."""
        self._paused.pop(connection, None)

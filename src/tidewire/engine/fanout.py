"""Steps 7 to 9 of the way of a message: group, prepare once, write. Nothing here waits."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from tidewire.engine.connection import Connection
from tidewire.engine.ephemeral import Ephemeral
from tidewire.engine.registry import Channel, ChannelPush, Registry
from tidewire.engine.slow_clients import SlowClients
from tidewire.engine.subscription import Subscription
from tidewire.limits import Limits
from tidewire.messages import Publication
from tidewire.protocols.batch import Batch, Representation
from tidewire.protocols.close_codes import INSUFFICIENT
from tidewire.protocols.meta import BUT_NOT, but_not
from tidewire.support.counters import count_limit

__all__ = ("Fanout",)

logger = logging.getLogger("tidewire")

#: Subscriptions between two looks at the clock; publications of one channel between two looks at how many wait.
_STRIDE, _BURST = 32, 256


class Fanout:
    """Writes the pending publications of channels to links, at the end of each turn, within its time budget.

    Order: per channel and link, batches are first in, first out. A subscription is given each offset at most once,
    in any mixture of batches, direct sends and cut turns: `live_after` moves with every write.
    """

    def __init__(self, registry: Registry, limits: Limits) -> None:
        self._registry = registry
        self._limits = limits
        self.slow = SlowClients(limits)
        self.ephemeral = Ephemeral(registry, limits, self._finish)
        self._dirty: deque[Channel] = deque()
        self._broadcasts: deque[_BroadcastPush] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Whether something is pushed at the end of this turn.
        self.is_scheduled = False
        #: So much waits that to write it costs little beside it: a publisher gives the loop a turn before it goes on.
        self.is_full = False
        self.turns = 0
        #: When this turn had written its first stride, by the clock and in the thread's time, which is a system call.
        self._long_turn: tuple[float, float] | None = None
        #: Publications for everybody that were given to connections.
        self.broadcasts = 0
        #: The longest turns, in seconds: of the thread's time (where more than a stride was written), of the clock.
        self.worst_turn_cpu = 0.0
        self.worst_turn_wall = 0.0

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write in the turns of this event loop."""
        self._loop = loop

    def add(self, channel: Channel, publication: Publication) -> None:
        """Keep one publication until the end of the turn."""
        channel.pending.append(publication)
        if not channel.is_dirty:
            channel.is_dirty = True
            self._dirty.append(channel)
            self._schedule()
        elif not len(channel.pending) % _BURST and len(channel.pending) >= 8 * len(channel):
            self.is_full = True

    def _schedule(self) -> None:
        if not self.is_scheduled and self._loop is not None:
            self.is_scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the pending publications, for one turn's time at most; the next turn goes on with the rest."""
        self.is_scheduled = self.is_full = False
        self.turns += 1
        started = time.perf_counter()
        self._long_turn = None
        deadline = started + self._limits.turn_seconds
        self._push_broadcasts(deadline)
        while self._dirty:
            channel = self._dirty.popleft()
            if self._try_flush(channel, deadline):
                channel.is_dirty = False
            else:
                self._dirty.append(channel)
            if time.perf_counter() >= deadline:
                break
        if self._dirty or self._broadcasts:
            count_limit("turn_seconds")
            self._schedule()
        if self._long_turn is not None:
            began, cpu = self._long_turn
            self.worst_turn_cpu = max(self.worst_turn_cpu, began - started + time.thread_time() - cpu)
        self.worst_turn_wall = max(self.worst_turn_wall, time.perf_counter() - started)

    # One channel.

    def _try_flush(self, channel: Channel, deadline: float) -> bool:
        try:
            return self._flush_channel(channel, deadline)
        except Exception:
            # one publication that cannot be encoded must not keep the channel from going on
            logger.exception("publications of channel %r cannot be encoded; its subscribers are told", channel.name)
            self.tell_insufficient(channel)
            return True

    def _flush_channel(self, channel: Channel, deadline: float) -> bool:
        """Write a channel's batches; return False when the time ended first."""
        push = channel.push
        if push is None:
            if not channel.pending:
                return True
            push = channel.push = self.begin(channel)
        while push.parts:
            batch, subscriptions = push.parts[0]
            while push.reached < len(subscriptions):
                stride = subscriptions[push.reached : push.reached + _STRIDE]
                push.reached += len(stride)
                self._write(channel, push, batch, stride)
                now = time.perf_counter()
                if self._long_turn is None and len(stride) == _STRIDE:
                    self._long_turn = now, time.thread_time()
                if now >= deadline and (push.reached < len(subscriptions) or len(push.parts) > 1):
                    return False
            push.parts.popleft()
            push.reached = 0
        channel.push = None
        return not channel.pending

    def begin(self, channel: Channel) -> ChannelPush:
        """Take the pending publications, and prepare them once for each representation in use."""
        for subscription in tuple(channel.buffering):
            subscription.buffer_behind_reply(channel.pending)
            self.slow.shorten(channel, subscription)
        if channel.ephemeral or self.ephemeral.pushed is channel:
            self.ephemeral.push_now(channel)
        publications = tuple(channel.pending)
        for one in [one for some in publications if BUT_NOT in some.meta and (one := but_not(some))]:
            self._write_around(channel, one, publications)
        push = ChannelPush(publications, publications[0].offset, publications[-1].offset, deque())
        channel.pending = []
        begun: list[Subscription] = []
        for representation, group in channel.groups.items():
            batch = representation.batch_after(channel.last, publications)
            subscriptions = group.snapshot or group.freeze()
            if not batch.messages:  # nothing here is for them
                for subscription in subscriptions:
                    subscription.live_after = max(subscription.live_after, push.last)
                continue
            push.parts.append((batch, subscriptions))
            if representation.then is not None:  # a subscriber that is live behind all this is given nothing of it
                begun += [one for one in subscriptions if one.live_after < push.last]
        for subscription in begun:
            channel.has_begun(subscription)
        if channel.options.delta:
            last = publications[-1]
            # one that not everybody has is no base for differences: that of another epoch never is
            channel.last = msgspec.structs.replace(last, epoch="") if but_not(last) else last
        return push

    def _write(self, channel: Channel, push: ChannelPush, batch: Batch, subscriptions: Sequence[Subscription]) -> None:
        first, last, written = push.first, push.last, 0
        for subscription in subscriptions:
            if subscription.live_after >= first:
                if subscription.live_after < last:
                    self.write_rest(channel, subscription, push.publications)
                continue
            link = subscription.connection.link
            if link.paused:
                if self.slow.write(channel, subscription, push.publications, batch, self.turns):
                    subscription.live_after = last
                continue
            subscription.live_after = last
            link.write(batch)
            written += 1
        channel.count(batch, written)

    def write_rest(self, channel: Channel, subscription: Subscription, publications: Sequence[Publication]) -> None:
        """Write the part of a batch that this subscription has not been given: the cut is at a frame boundary."""
        rest = [publication for publication in publications if publication.offset > subscription.live_after]
        if not rest:
            return
        last, link = rest[-1].offset, subscription.connection.link
        rest = [one for one in rest if not one.meta or but_not(one) != subscription.connection.id]
        batch = subscription.representation.batch(rest)
        if len(batch):
            channel.has_begun(subscription)
            if link.paused:
                if not self.slow.write(channel, subscription, rest, batch, self.turns):
                    return
            else:
                link.write_later(batch)
                channel.count(batch)
        subscription.live_after = last

    def _write_around(self, channel: Channel, connection_id: str, publications: Sequence[Publication]) -> None:
        """Write a batch to a connection that it is not wholly for; then it has been given the batch."""
        connection = self._registry.connections.get(connection_id)
        if connection is not None:
            subscription = self._registry.subscriptions(connection).get(channel.name)
            if subscription is not None and subscription.buffer is None:
                self.write_rest(channel, subscription, publications)

    def _finish(self, channel: Channel) -> None:
        """Write all that a channel has begun to push."""
        if channel.push is not None:
            self._flush_channel(channel, math.inf)

    # One publication for everybody.

    def broadcast(self, connections: Sequence[Connection], publication: Publication) -> None:
        """Push one publication to connections of any channels, for one turn's time at once.

        A slow client is judged as in a channel. A direct send to a connection that waits comes after it.
        """
        self._broadcasts.append(_BroadcastPush(publication, connections))
        self._push_broadcasts(time.perf_counter() + self._limits.turn_seconds)
        if self._broadcasts:
            self._schedule()

    def _push_broadcasts(self, deadline: float) -> None:
        while self._broadcasts:
            push = self._broadcasts[0]
            while push.waiting:
                for _ in range(min(_STRIDE, len(push.waiting))):
                    self._push_one(push, push.waiting.popitem()[0])
                if time.perf_counter() >= deadline:
                    return
            self._broadcasts.popleft()

    def _push_one(self, push: _BroadcastPush, connection: Connection) -> None:
        batch = push.batch(connection.representation)
        self._flush_channels_for(connection)
        if connection.link.paused and self.slow.is_over(connection, self.turns):
            self.slow.cut_off(connection)
        elif not connection.is_closed:
            connection.link.write(batch)
            self.broadcasts += 1

    # Order between direct sends and pushes.

    @property
    def is_broadcasting(self) -> bool:
        """Whether a publication for everybody has begun and not reached everybody."""
        return bool(self._broadcasts)

    def flush_for(self, connection: Connection) -> None:
        """Write the pending publications for one connection, so that a direct send comes after them."""
        for push in self._broadcasts:
            if connection in push.waiting:
                del push.waiting[connection]
                self._push_one(push, connection)
        self._flush_channels_for(connection)

    def _flush_channels_for(self, connection: Connection) -> None:
        channels = self._registry.channels
        for subscription in tuple(self._registry.subscriptions(connection).values()):
            channel = channels.get(subscription.channel)
            if channel is None or not channel.is_dirty or subscription.buffer is not None:
                continue
            push = channel.push
            if push is not None and subscription.live_after < push.last:
                self.write_rest(channel, subscription, push.publications)
            if channel.pending and subscription.live_after < channel.pending[-1].offset:
                self.ephemeral.push_now(channel)
                self.write_rest(channel, subscription, channel.pending)

    # A client that has caught up, or has ended.

    def release(self, connection: Connection) -> None:
        """Give a client that has caught up the publications that the slow-client policies held back."""
        self.slow.release(connection, self._registry)
        self.ephemeral.release(connection, self._registry.subscriptions(connection))

    def forget(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self.slow.forget(connection)
        self.ephemeral.forget(connection)

    # A gap that could not be filled.

    def tell_insufficient(self, channel: Channel) -> None:
        """Tell a channel's subscribers that something is missing; it goes on where its position is."""
        top = channel.position
        channel.last = None
        channel.pending = []
        channel.push = None
        for subscription in tuple(channel.subscriptions()):
            is_replying = subscription.buffer is not None
            subscription.resume(top)
            if not is_replying:  # the others are told behind their replies
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


class _BroadcastPush:
    """One publication for connections of any channels, and those that were not given it yet."""

    __slots__ = ("_batches", "publication", "waiting")

    def __init__(self, publication: Publication, connections: Sequence[Connection]) -> None:
        self.publication = publication
        self.waiting = dict.fromkeys(connections)
        self._batches: dict[Representation, Batch] = {}

    def batch(self, representation: Representation) -> Batch:
        """Return the publication in one representation, encoded once."""
        batch = self._batches.get(representation)
        if batch is None:
            batch = self._batches[representation] = representation.batch((self.publication,))
        return batch

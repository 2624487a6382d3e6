"""Publications that nobody keeps: pushed to those who are there now; to slow ones, the newest of each sender."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

from tidewire.backends.base import Broker
from tidewire.engine.connection import Connection
from tidewire.engine.registry import Channel, Registry
from tidewire.engine.subscription import ENDED, Subscription
from tidewire.limits import Limits
from tidewire.messages import EphemeralPublication
from tidewire.protocols.meta import but_not
from tidewire.support.beats import Beats
from tidewire.support.counters import count_limit

__all__ = ("Ephemeral",)

logger = logging.getLogger("tidewire")

#: Subscriptions between two looks at the clock.
_STRIDE = 32


class Ephemeral:
    """Joins the publications of `limits.ephemeral_seconds`, for each channel here and for the other nodes.

    The first after a pause goes in the next turn. `finish` completes a push that a channel has begun.
    """

    _beats: Beats

    def __init__(self, registry: Registry, limits: Limits, finish: Callable[[Channel], None]) -> None:
        self._registry = registry
        self._limits = limits
        self._finish = finish
        self._relay: Broker | None = None
        self._dirty: deque[Channel] = deque()
        #: For the other nodes, until the next beat.
        self.outgoing: list[EphemeralPublication] = []
        self._push: Iterator[None] | None = None
        self.pushed: Channel | None = None  # the channel of that push
        #: The newest of each channel and sender, for connections whose links are paused.
        self._held: dict[Connection, dict[tuple[str, str], EphemeralPublication]] = {}
        self._held_bytes: dict[Connection, int] = {}
        self.superseded = 0

    def bind(self, loop: asyncio.AbstractEventLoop, broker: Broker) -> None:
        """Push in the turns of this event loop, and to the other nodes of this broker."""
        self._relay = broker if broker.shared else None
        self._beats = Beats(loop, self._limits.ephemeral_seconds, self._send, self._flush)

    def publish(self, publication: EphemeralPublication) -> None:
        """Push to the subscribers of all nodes."""
        self.add(publication)
        if self._relay is not None:
            self.outgoing.append(publication)
            if len(self.outgoing) == 1:
                self._beats.ask()
            elif len(self.outgoing) > self._limits.outbox_messages and self._are_many(self.outgoing):
                self._send()

    def add(self, publication: EphemeralPublication) -> None:
        """Push to the subscribers of this node."""
        channel = self._registry.channels.get(publication.channel)
        if channel is None:
            return
        if (channel.tap is not None and not channel.tap(publication)) or not (channel.groups or channel.buffering):
            return
        if not channel.ephemeral:
            self._dirty.append(channel)
            self._beats.ask()
        channel.ephemeral.append(publication)
        if len(channel.ephemeral) > self._limits.outbox_messages and self._are_many(channel.ephemeral):
            self.push_now(channel)

    def _are_many(self, publications: list[EphemeralPublication]) -> bool:
        """Leave the newest of each sender, where a publisher does not wait for the loop; return whether many stay."""
        count_limit("outbox_messages")
        newest = {(one.channel, one.sender): one for one in publications}
        self.superseded += len(publications) - len(newest)
        publications[:] = newest.values()
        return 2 * len(newest) > self._limits.outbox_messages

    # Turns of the loop.

    def _send(self) -> None:
        """Send the waiting publications to the other nodes."""
        if self.outgoing and self._relay is not None:
            outgoing, self.outgoing = self.outgoing, []
            self._relay.relay(outgoing)

    def _flush(self) -> None:
        """Push the waiting publications, for one turn's time at most; the next turn goes on with the rest."""
        deadline = time.perf_counter() + self._limits.turn_seconds
        while self._push is not None or self._dirty:
            if self._push is None:
                self.pushed = self._dirty.popleft()
                self._push = self._push_channel(self.pushed)
            try:
                for _ in self._push:
                    if time.perf_counter() >= deadline:
                        asyncio.get_running_loop().call_soon(self._flush)
                        return
            except Exception:
                logger.exception("a publication that nobody keeps cannot be encoded")
            self._push = self.pushed = None
        self._beats.end()
        if self.outgoing:  # they came after the others were sent
            self._beats.ask()

    def send_before(self, channel: str) -> None:
        """Send what waits to the other nodes, if one of this channel does: a publication that is kept comes now."""
        if any(one.channel == channel for one in self.outgoing):
            self._send()

    def push_now(self, channel: Channel) -> None:
        """Push all publications of a channel that have come, because one that is kept comes behind them."""
        begun = self._push if self.pushed is channel else None
        deque(chain(begun or (), self._push_channel(channel)), maxlen=0)

    def _push_channel(self, channel: Channel) -> Iterator[None]:
        """Write to some subscriptions with each step."""
        publications, channel.ephemeral = channel.ephemeral, []
        if not publications:
            return
        if channel.options.delta:  # the next publication is no difference to the one before these
            self._finish(channel)
            channel.last = publications[-1]  # which is no base: it has no epoch
        not_for = {but_not(one) for one in publications if one.meta} - {""}
        waiting = set(channel.buffering)  # given the newest ones when they are live, maybe before the last step
        for subscription in waiting:
            self._hold(subscription, [one for one in publications if but_not(one) != subscription.connection.id])
        for representation, group in tuple(channel.groups.items()):
            batch = representation.batch(publications)
            if not batch.messages:
                continue
            written = 0
            for number, subscription in enumerate(group.snapshot or group.freeze(), 1):
                connection = subscription.connection
                if waiting and subscription in waiting:
                    continue
                if connection.link.paused or connection.id in not_for:
                    self._write(channel, subscription, [one for one in publications if but_not(one) != connection.id])
                elif subscription.live_after != ENDED:
                    connection.link.write(batch)
                    written += 1
                if not number % _STRIDE:
                    yield
            channel.count(batch, written)

    def _write(self, channel: Channel, subscription: Subscription, rest: Sequence[EphemeralPublication]) -> None:
        link, is_live = subscription.connection.link, subscription.buffer is None
        if not rest or (is_live and subscription.live_after == ENDED):
            return
        if link.paused or not is_live:
            self._hold(subscription, rest)
        elif (batch := subscription.representation.batch(rest)).messages:
            link.write(batch)
            channel.count(batch)

    # Slow clients.

    def _hold(self, subscription: Subscription, publications: Sequence[EphemeralPublication]) -> None:
        connection, limits = subscription.connection, self._limits
        held, size = self._held.setdefault(connection, {}), self._held_bytes.get(connection, 0)
        before = len(held)
        for one in publications:
            key = one.channel, one.sender
            older = held.pop(key, None)
            size += len(one.data) - (0 if older is None else len(older.data))
            held[key] = one
        superseded = len(publications) - (len(held) - before)
        self.superseded += superseded
        subscription.supersede(superseded)
        while len(held) > limits.outbox_messages or (size > limits.outbox_bytes and len(held) > 1):
            count_limit("outbox_messages" if len(held) > limits.outbox_messages else "outbox_bytes")
            oldest = held.pop(next(iter(held)))
            size -= len(oldest.data)
            self.superseded += 1
            if (loser := self._registry.subscriptions(connection).get(oldest.channel)) is not None:
                loser.supersede(1)
        self._held_bytes[connection] = size

    def release(self, connection: Connection, subscriptions: Mapping[str, Subscription]) -> None:
        """Give a client that has caught up the newest publications that were held back for it."""
        self._held_bytes.pop(connection, None)
        by_channel: dict[str, list[EphemeralPublication]] = {}
        for (name, _), publication in self._held.pop(connection, {}).items():
            by_channel.setdefault(name, []).append(publication)
        for name, publications in by_channel.items():
            subscription = subscriptions.get(name)
            channel = self._registry.channels.get(name)
            if subscription is not None and channel is not None:
                self._write(channel, subscription, publications)

    def forget(self, connection: Connection) -> None:
        """Drop the publications that are held back for a connection that has ended."""
        self._held.pop(connection, None)
        self._held_bytes.pop(connection, None)

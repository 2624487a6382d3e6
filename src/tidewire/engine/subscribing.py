"""How a connection subscribes to a channel and unsubscribes: opened, joined, recovered, replied to, live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from tidewire.channels import is_internal
from tidewire.engine.channels import Channels
from tidewire.engine.connection import Connection
from tidewire.engine.fanout import Fanout
from tidewire.engine.membership import Memberships
from tidewire.engine.recovery import Recoveries
from tidewire.engine.registry import Channel, Registry
from tidewire.engine.subscription import Subscription
from tidewire.errors import AlreadySubscribed, BadRequest, ConnectionClosed, LimitExceeded
from tidewire.history.missed import Forms
from tidewire.messages import Announcement, Membership, Position, Subscribed, WireMessage
from tidewire.options import Limits
from tidewire.protocols.batch import Representation
from tidewire.protocols.close_codes import NORMAL
from tidewire.support.counters import count_limit

__all__ = ("Prepared", "Subscriptions", "ended")

#: Bytes of a reply that are written before the client must have taken them.
_REPLY_PAGE = 256 * 1024


class Prepared(msgspec.Struct, frozen=True, eq=False):
    """A subscription that has its answer and is not yet live: what is published meanwhile waits behind the reply."""

    channel: Channel
    subscription: Subscription
    answer: Subscribed
    join: Announcement | None
    #: What was made of the publications of the same answer for other subscribers; None: it is this one's alone.
    forms: Forms | None = None


class Subscriptions:
    """Subscribes and unsubscribes; `prepare` and `go_live` are the two halves of `subscribe`."""

    def __init__(
        self,
        registry: Registry,
        channels: Channels,
        fanout: Fanout,
        memberships: Memberships,
        recoveries: Recoveries,
        limits: Limits,
    ) -> None:
        self._registry = registry
        self._channels = channels
        self._fanout = fanout
        self._memberships = memberships
        self._recoveries = recoveries
        self._limits = limits

    async def subscribe(
        self,
        connection: Connection,
        channel: str,
        *,
        since: Position | None = None,
        history: int = 0,
        membership: Membership = Membership(),
        reply: bool = True,
    ) -> Subscribed:
        """Subscribe a connection to a channel; the reply is on its way before any publication of the channel.

        With `since`, the reply holds all that was missed, or `recovered` is False and it holds the newest `history`.
        While presence is away, a member joins later. Raises BadRequest, LimitExceeded, StoreUnavailable,
        ConnectionClosed; then the connection is not subscribed.
        """
        prepared = await self.prepare(connection, channel, since=since, history=history, membership=membership)
        answer = prepared.answer
        await self.go_live(prepared, connection.protocol.encode_subscribed(answer) if reply else ())
        return answer

    async def prepare(
        self,
        connection: Connection,
        channel: str,
        *,
        since: Position | None = None,
        history: int = 0,
        most: int | None = None,
        membership: Membership = Membership(),
        representation: Representation | None = None,
        on_insufficient: Callable[[Subscription], None] | None = None,
    ) -> Prepared:
        """Do what `subscribe` does before the reply; `go_live` or `abandon` comes next.

        A recovery of more than `most` publications is not complete. A `since` without an epoch means the present one.
        `on_insufficient` is told of a gap that cannot be filled, instead of the client.
        """
        self._check(connection, channel)
        subscription = Subscription(connection, channel, representation, on_insufficient)
        self._registry.subscribe(subscription)
        try:
            opened = await self._channels.open(channel)
            self._check_wanted(subscription)
            opened.add(subscription)
            first = membership.is_present and await self._memberships.join(subscription, membership)
            if since is not None and not since.epoch:
                since = Position(since.offset, opened.position.epoch)
            recovery, recovered, forms = await self._recoveries.recover(opened, subscription, since, history, most)
        except BaseException:
            self._abandon(subscription)
            raise
        answer = Subscribed(channel, recovery.position, recovery.publications, recovered)
        return Prepared(opened, subscription, answer, membership.join if first else None, forms)

    async def go_live(self, prepared: Prepared, messages: Sequence[WireMessage] = ()) -> None:
        """Write the reply in pages that wait for the client to take them, then what came meanwhile, then be live."""
        subscription, position, fanout = prepared.subscription, prepared.answer.position, self._fanout
        connection = subscription.connection
        try:
            self._check_wanted(subscription)
            if messages:
                fanout.flush_for(connection)
                await _write_pages(connection, messages)
            self._check_wanted(subscription)
        except BaseException:
            self._abandon(subscription)
            raise
        resumed = subscription.resumed
        if resumed is not None and (resumed.epoch != position.epoch or resumed.offset > position.offset):
            fanout.tell_one_insufficient(subscription)
            position = resumed
        if self._registry.is_subscribed(subscription):
            rest = [publication for publication in subscription.buffer or () if publication.offset > position.offset]
            prepared.channel.go_live(subscription, position.offset)
            fanout.write_rest(prepared.channel, subscription, rest)
            if not connection.link.paused:
                fanout.release(connection)
        await self._memberships.announce(subscription, prepared.join)

    def abandon(self, prepared: Prepared) -> None:
        """Give up a prepared subscription, of which nobody was told."""
        self._abandon(prepared.subscription)

    def _abandon(self, subscription: Subscription) -> None:
        self.end(subscription)
        self._memberships.withdraw(subscription)

    def _check(self, connection: Connection, channel: str) -> None:
        if connection.is_closed:
            raise ended(connection)
        subscriptions, limit = self._registry.subscriptions(connection), self._limits.channels
        if channel in subscriptions:
            raise AlreadySubscribed(f"this connection is subscribed to {channel!r} already; unsubscribe first")
        if len(subscriptions) < limit or is_internal(channel):
            return
        if sum(not is_internal(name) for name in subscriptions) >= limit:
            count_limit("channels")
            raise LimitExceeded(f"a connection subscribes to at most {limit} channels; unsubscribe from one first")

    def _check_wanted(self, subscription: Subscription) -> None:
        """Raise when a subscription was ended while its subscribe waited."""
        if subscription.connection.is_closed:
            raise ended(subscription.connection)
        if not self._registry.is_subscribed(subscription):
            raise BadRequest(f"{subscription.channel!r} was unsubscribed from before the subscribe was answered")

    async def unsubscribe(self, connection: Connection, channel: str) -> None:
        """Unsubscribe a connection from a channel; harmless when it is not subscribed.

        Waits for the store to take the leave, but not for long: that is repeated while the store is away.
        """
        leaving = self.drop(connection, channel)
        if leaving is not None:
            await asyncio.wait([leaving], timeout=self._limits.publish_seconds)

    def drop(self, connection: Connection, channel: str) -> asyncio.Task[None] | None:
        """Do as `unsubscribe` does at once; the returned task is done when the store has taken the leave."""
        subscription = self._registry.subscriptions(connection).get(channel)
        if subscription is None:
            return None
        self._fanout.flush_for(connection)
        self.end(subscription)
        return self._memberships.leave(subscription)

    def end(self, subscription: Subscription) -> None:
        """Push no more to a subscription; its member stays until `Memberships.leave`."""
        self._registry.unsubscribe(subscription)
        channel = self._registry.channels.get(subscription.channel)
        if channel is not None:
            channel.remove(subscription)
            self._channels.left(channel)


async def _write_pages(connection: Connection, messages: Sequence[WireMessage]) -> None:
    page: list[WireMessage] = []
    size = 0
    for message in messages:
        page.append(message)
        size += len(message.data)
        if size >= _REPLY_PAGE:
            connection.write(*page)
            page, size = [], 0
            await connection.link.wait_drained()
    connection.write(*page)
    await connection.link.wait_drained()


def ended(connection: Connection) -> ConnectionClosed:
    """Return what is raised for a connection that has ended."""
    return ConnectionClosed(connection.disconnect or connection.ending or NORMAL)

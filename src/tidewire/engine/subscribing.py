"""How a connection begins and ends to follow a channel: carried, joined, recovered, replied to, live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from tidewire.channels import is_internal
from tidewire.engine.channels import Carrier
from tidewire.engine.connection import Connection
from tidewire.engine.membership import Membership
from tidewire.engine.recovery import Forms, Recoveries
from tidewire.engine.registry import Channel, Registry
from tidewire.engine.subscription import Subscriber, Subscription
from tidewire.errors import NORMAL, AlreadySubscribed, BadRequest, ConnectionClosed, LimitExceeded
from tidewire.messages import Announcement, Position, Subscribed, WireMessage
from tidewire.options import Limits
from tidewire.protocols.batch import Representation
from tidewire.support.counters import count_limit

__all__ = ("Prepared", "Subscribing", "ended")

#: Bytes of a reply that are written before the client must have taken them.
_REPLY_PAGE = 256 * 1024


class Prepared:
    """A subscription that has its answer and is not yet live: what is published meanwhile waits behind the reply."""

    __slots__ = ("answer", "channel", "forms", "join", "subscription")

    def __init__(
        self,
        channel: Channel,
        subscription: Subscription,
        answer: Subscribed,
        join: Announcement | None,
        forms: Forms | None = None,
    ) -> None:
        self.channel = channel
        self.subscription = subscription
        self.answer = answer
        self.join = join
        #: How others are shown the publications of the same answer, by what they like; None: nobody is given the same.
        self.forms = forms


class Subscribing:
    """Subscribes and unsubscribes; `prepare` and `go_live` are the two halves of `subscribe`."""

    def __init__(
        self,
        registry: Registry,
        carrier: Carrier,
        membership: Membership,
        recoveries: Recoveries,
        limits: Limits,
    ) -> None:
        self._registry = registry
        self._carrier = carrier
        self._fanout = carrier.fanout
        self._membership = membership
        self._recoveries = recoveries
        self._limits = limits

    async def subscribe(
        self,
        connection: Connection,
        channel: str,
        *,
        since: Position | None = None,
        history: int = 0,
        present: bool = False,
        info: bytes = b"",
        join: Announcement | None = None,
        announcement: Announcement | None = None,
        announcement_on_error: Announcement | None = None,
        reply: bool = True,
    ) -> Subscribed:
        """Let a connection follow a channel; the reply is on its way before any publication of the channel.

        With `since`, what was missed is replied, all of it, or `recovered` is False and the newest `history` is.
        With `present`, the connection is a member; `join` is published if it is the user's first one there, and
        `announcement` when the last one leaves, however it ends. While presence is away it is a member later. Raises
        BadRequest, LimitExceeded, StoreUnavailable, ConnectionClosed; then nothing is followed.
        """
        prepared = await self.prepare(
            connection,
            channel,
            since=since,
            history=history,
            present=present,
            info=info,
            join=join,
            announcement=announcement,
            announcement_on_error=announcement_on_error,
        )
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
        present: bool = False,
        info: bytes = b"",
        join: Announcement | None = None,
        announcement: Announcement | None = None,
        announcement_on_error: Announcement | None = None,
        representation: Representation | None = None,
        on_insufficient: Callable[[Subscription], None] | None = None,
    ) -> Prepared:
        """Do what `subscribe` does before the reply; `go_live` or `abandon` comes next.

        A recovery of more than `most` publications is not complete. A `since` without an epoch means the present one.
        `on_insufficient` is told of a gap that cannot be filled, instead of the client.
        """
        self._check(connection, channel)
        subscription = Subscription(connection, channel, representation)
        subscription.on_insufficient = on_insufficient
        connection.subscriptions[channel] = subscription
        try:
            carried = await self._carrier.carry(channel)
            _check_followed(subscription)
            carried.begin(subscription)
            first = False
            if present or join is not None or announcement is not None or announcement_on_error is not None:
                first = await self._membership.join(subscription, info, join, announcement, announcement_on_error)
            if since is not None and not since.epoch:
                since = Position(since.offset, carried.position.epoch)
            recovery, recovered, forms = await self._recoveries.recover(carried, subscription, since, history, most)
        except BaseException:
            self._abandon(subscription)
            raise
        answer = Subscribed(channel, recovery.position, recovery.publications, recovered)
        return Prepared(carried, subscription, answer, join if first else None, forms)

    async def go_live(self, prepared: Prepared, messages: Sequence[WireMessage] = ()) -> None:
        """Write the reply in pages that wait for the client to take them, then what came meanwhile, then be live."""
        subscription, position, fanout = prepared.subscription, prepared.answer.position, self._fanout
        connection = subscription.connection
        try:
            _check_followed(subscription)
            if messages:
                fanout.flush_for(connection)
                await _write_pages(connection, messages)
            _check_followed(subscription)
        except BaseException:
            self._abandon(subscription)
            raise
        resumed = subscription.resumed
        if resumed is not None and (resumed.epoch != position.epoch or resumed.offset > position.offset):
            fanout.tell_one_insufficient(subscription)
            position = resumed
        if connection.subscriptions.get(subscription.channel) is subscription:
            rest = [publication for publication in subscription.buffer or () if publication.offset > position.offset]
            prepared.channel.go_live(subscription, position.offset)
            fanout.write_rest(prepared.channel, subscription, rest)
            if connection.has_held and not connection.link.paused:
                fanout.release(connection)
        await self._membership.announce(subscription, prepared.join)

    def abandon(self, prepared: Prepared) -> None:
        """Give up a prepared subscription: nothing is followed, and nobody was told of it."""
        self._abandon(prepared.subscription)

    def _abandon(self, subscription: Subscription) -> None:
        self.unfollow(subscription)
        self._membership.withdraw(subscription)

    def _check(self, connection: Connection, channel: str) -> None:
        if connection.is_closed:
            raise ended(connection)
        if channel in connection.subscriptions:
            raise AlreadySubscribed(f"this connection follows {channel!r} already; unsubscribe first")
        limit = self._limits.channels
        if len(connection.subscriptions) < limit or is_internal(channel):
            return
        if sum(not is_internal(name) for name in connection.subscriptions) >= limit:
            count_limit("channels")
            raise LimitExceeded(f"a connection follows at most {limit} channels; unsubscribe from one first")

    async def unsubscribe(self, connection: Connection, channel: str) -> None:
        """Let a connection follow a channel no longer; harmless when it does not.

        Waits for the store to take the leave, but not for long: that is repeated while the store is away.
        """
        leaving = self.drop(connection, channel)
        if leaving is not None:
            await asyncio.wait([leaving], timeout=self._limits.publish_seconds)

    def drop(self, connection: Connection, channel: str) -> asyncio.Task[None] | None:
        """Do as `unsubscribe` does at once; what it returns is done when the store has taken the leave."""
        subscription = connection.subscriptions.get(channel)
        if subscription is None:
            return None
        self._fanout.flush_for(connection)
        self.unfollow(subscription)
        return self._membership.leave(subscription)

    def unfollow(self, subscription: Subscription) -> None:
        """Push no more to a subscription."""
        subscriptions = subscription.connection.subscriptions
        if subscriptions.get(subscription.channel) is subscription:
            del subscriptions[subscription.channel]
        channel = self._registry.channels.get(subscription.channel)
        if channel is not None:
            channel.remove(subscription)
            self._carrier.left(channel)


def _check_followed(subscription: Subscription) -> None:
    """Raise when a subscription was ended while its subscribe waited."""
    connection = subscription.connection
    if connection.is_closed:
        raise ended(connection)
    if connection.subscriptions.get(subscription.channel) is not subscription:
        raise BadRequest(f"{subscription.channel!r} was unsubscribed from before the subscribe was answered")


async def _write_pages(connection: Subscriber, messages: Sequence[WireMessage]) -> None:
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


def ended(connection: Subscriber) -> ConnectionClosed:
    """Return what is raised for a connection that has ended."""
    return ConnectionClosed(connection.disconnect or connection.ending or NORMAL)

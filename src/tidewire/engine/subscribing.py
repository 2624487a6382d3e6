"""How a connection subscribes to a channel and unsubscribes: opened, joined, recovered, replied to, live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol as TypingProtocol

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
from tidewire.history.recovery_reader import Forms, Missed
from tidewire.history.shared_states import State
from tidewire.limits import Limits
from tidewire.messages import Announcement, Membership, Position, Subscribed, WireMessage
from tidewire.protocols.batch import Batch, Representation
from tidewire.protocols.close_codes import NORMAL
from tidewire.rules.options_by_name import OptionsByName
from tidewire.support.counters import count_limit

__all__ = ("Prepared", "Subscriptions", "ended")

#: Bytes of a reply that are written before the client must have taken them.
_REPLY_PAGE = 256 * 1024


class Prepared(msgspec.Struct, frozen=True, eq=False):
    """A subscription that has its answer and is not yet live: publications wait behind the reply meanwhile."""

    channel: Channel
    subscription: Subscription
    answer: Subscribed
    join: Announcement | None
    #: Forms of the publications of the same answer, made for other subscribers; None: it is this one's alone.
    forms: Forms | None = None
    #: More was missed than the answer holds: the rest is pushed behind it.
    has_more: bool = False
    #: The state that the channel held at the position of the answer, as the application tells it.
    state: State | None = None


class Watcher(TypingProtocol):
    """A layer above that is told of subscriptions."""

    def entered(self, subscription: Subscription) -> None:
        """Take note of a subscription that has become live."""

    def left(self, subscription: Subscription) -> None:
        """Take note of the end of a subscription, live or not."""


class Subscriptions:
    """Subscribes and unsubscribes; `prepare`, `reply` and `go_live` are the steps of `subscribe`."""

    def __init__(
        self,
        registry: Registry,
        channels: Channels,
        fanout: Fanout,
        memberships: Memberships,
        recoveries: Recoveries,
        options: OptionsByName,
        limits: Limits,
    ) -> None:
        self._registry = registry
        self._channels = channels
        self._fanout = fanout
        self._memberships = memberships
        self._recoveries = recoveries
        self._options = options
        self._limits = limits
        #: Is told of subscriptions that become live and end, where an application wants to know.
        self.watcher: Watcher | None = None

    def watch_by(self, watcher: Watcher) -> None:
        """Tell a layer above of subscriptions that become live and end."""
        self.watcher = watcher

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

        With `since`, the missed publications come first: in the reply, and in pages behind it if they are many. If
        some are gone, `recovered` is False and the reply holds the newest `history`. While presence is away, a member
        joins later. Raises BadRequest, LimitExceeded, StoreUnavailable, ConnectionClosed; then it is not subscribed.
        """
        prepared = await self.prepare(connection, channel, since=since, history=history, membership=membership)
        answer = prepared.answer
        await self.reply(prepared, connection.protocol.encode_subscribed(answer) if reply else [])
        await self.go_live(prepared)
        return answer

    async def prepare(
        self,
        connection: Connection,
        channel: str,
        *,
        since: Position | None = None,
        history: int = 0,
        is_reply_full: bool = False,
        with_state: bool = False,
        membership: Membership = Membership(),
        representation: Representation | None = None,
        on_insufficient: Callable[[Subscription], None] | None = None,
    ) -> Prepared:
        """Do the part of `subscribe` before the reply; `reply` and `go_live`, or `abandon`, come next.

        Where the reply is full, all missed publications come behind it. `with_state`, the channel's state from its
        application takes the place of `history`; that raises as `States.current`. A `since` without an epoch means
        the present one. `on_insufficient` is told of a gap that cannot be filled, instead of the client.
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
            make = self._options.state_of(channel) if with_state else None
            state = await self._recoveries.state(opened, make, subscription) if make and since is None else None
            if state is None:
                missed = await self._recoveries.recover(opened, subscription, since, history)
                if make is not None and missed.recovered is False:
                    state = await self._recoveries.state(opened, make, subscription)
        except BaseException:
            self._abandon(subscription)
            raise
        join = membership.join if first else None
        if state is not None:
            return self._prepared_with(state, opened, subscription, join)
        recovery = missed.recovery
        if is_reply_full and missed.recovered and since is not None and recovery.publications:
            subscription.page(has_more=True)
            return Prepared(opened, subscription, Subscribed(channel, since, (), True), join, has_more=True)
        subscription.page(has_more=missed.has_more)
        answer = Subscribed(channel, recovery.position, recovery.publications, missed.recovered)
        return Prepared(opened, subscription, answer, join, missed.forms, missed.has_more)

    def _prepared_with(
        self, state: State, channel: Channel, subscription: Subscription, join: Announcement | None
    ) -> Prepared:
        """Return the answer with a state; later publications are pushed, from history unless they wait here."""
        has_more = subscription.began is not None and not state.reaches(subscription.began)
        subscription.page(has_more=has_more)
        answer = Subscribed(channel.name, state.position, state=state.value)
        return Prepared(channel, subscription, answer, join, has_more=has_more, state=state)

    async def reply(self, prepared: Prepared, messages: list[WireMessage]) -> None:
        """Write the reply in pages that wait for the client to take them; `go_live` comes next. Takes the messages."""
        if not messages:
            return
        subscription, connection = prepared.subscription, prepared.subscription.connection
        try:
            self._check_wanted(subscription)
            self._fanout.flush_for(connection)
            await _write_pages(connection, messages)
        except BaseException:
            self._abandon(subscription)
            raise

    async def go_live(self, prepared: Prepared) -> None:
        """Push the pages that the reply has no room for as the client takes them, then all that came meanwhile."""
        subscription, position, fanout = prepared.subscription, prepared.answer.position, self._fanout
        connection = subscription.connection
        try:
            self._check_wanted(subscription)
            if prepared.has_more:
                position = await self._push_missed(prepared.channel, subscription, position)
        except BaseException:
            self._abandon(subscription)
            raise
        resumed = subscription.resumed
        if resumed is not None and (resumed.epoch != position.epoch or resumed.offset > position.offset):
            fanout.tell_one_insufficient(subscription)
            position = resumed
        if self._registry.is_subscribed(subscription):
            waiting = subscription.buffer
            prepared.channel.go_live(subscription, position.offset)
            if waiting:
                fanout.write_rest(prepared.channel, subscription, waiting)
            if not connection.link.paused:
                fanout.release(connection)
        if self.watcher is not None and self._registry.is_subscribed(subscription):
            self.watcher.entered(subscription)
        await self._memberships.announce(subscription, prepared.join)

    async def _push_missed(self, channel: Channel, subscription: Subscription, position: Position) -> Position:
        """Push pages of publications after a position until they reach the present; return its position."""
        link, representation = subscription.connection.link, subscription.representation
        while subscription.is_paging:
            subscription.shorten_buffer(())  # the next page is read behind it
            missed = await self._recoveries.recover(channel, subscription, position, 0)
            self._check_wanted(subscription)
            if not missed.recovered:  # it was trimmed meanwhile, or lost
                subscription.resume(channel.position)
                break
            position = missed.recovery.position
            subscription.page(has_more=missed.has_more)
            batch = _page(missed, representation)
            if batch.messages:
                link.write(batch)
            await link.wait_drained()
            self._check_wanted(subscription)
        return position

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
        if self.watcher is not None:
            self.watcher.left(subscription)
        channel = self._registry.channels.get(subscription.channel)
        if channel is not None:
            channel.remove(subscription)
            self._channels.left(channel)


def _page(missed: Missed, representation: Representation) -> Batch:
    """Return a page as it is pushed, made once for all that are given the same."""
    forms = {} if missed.forms is None else missed.forms
    batch: Batch | None = forms.get((_page, representation))
    if batch is None:
        batch = forms[_page, representation] = representation.batch(missed.recovery.publications)
    return batch


async def _write_pages(connection: Connection, messages: list[WireMessage]) -> None:
    """Write messages as the client takes them; the list is empty then: the link alone holds them."""
    messages.reverse()
    while messages:
        page = [messages.pop()]
        size = len(page[0].data)
        while messages and size < _REPLY_PAGE:
            page.append(messages.pop())
            size += len(page[-1].data)
        connection.write(*page)
        del page
        if connection.link.paused:
            await connection.link.wait_drained()


def ended(connection: Connection) -> ConnectionClosed:
    """Return the error for a connection that has ended."""
    return ConnectionClosed(connection.disconnect or connection.ending or NORMAL)

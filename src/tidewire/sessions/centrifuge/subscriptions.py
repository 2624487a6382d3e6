"""The subscriptions of a session: asked for by its client or by the server, and the replies about them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from tidewire.channel_options import ChannelOptions, SlowPolicy
from tidewire.channels import events
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.engine.subscribing import Prepared
from tidewire.engine.subscription import Subscription
from tidewire.errors import (
    AlreadySubscribed,
    BadRequest,
    CommandError,
    ConnectionClosed,
    LimitExceeded,
    PermissionDenied,
    StoreUnavailable,
    Unrecoverable,
)
from tidewire.messages import MAX_OFFSET, Announcement, Membership, Position, WireMessage
from tidewire.protocols.batch import Representation
from tidewire.protocols.centrifuge import codes
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.codes import Malformed, MalformedFrame, Unsubscription
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.filters import count_nodes
from tidewire.protocols.centrifuge.messages import Push, SubscribeRequest, raw
from tidewire.protocols.close_codes import INSUFFICIENT
from tidewire.protocols.meta import member_info
from tidewire.protocols.text_chunks import chunk_of
from tidewire.rules.base import Grant, Identity
from tidewire.sessions.centrifuge.map_members import MapMembers
from tidewire.sessions.centrifuge.map_subscribing import MapPages, MapStart, map_result
from tidewire.sessions.centrifuge.poll_subscribing import (
    POLLED,
    SilentRepresentation,
    change_tracked,
    poll_of,
    poll_result,
    wait_turn,
)
from tidewire.sessions.centrifuge.polls import Tracker
from tidewire.sessions.centrifuge.representations import (
    EventRepresentation,
    PubRepresentation,
    differences,
    plain,
)
from tidewire.sessions.centrifuge.session_channel import ClientSubscription, subscribe_result
from tidewire.sessions.maps import Maps
from tidewire.sessions.reply_budget import ReplyBudget
from tidewire.support.counters import count_limit

__all__ = ("ClientSubscriptions", "Ready")

logger = logging.getLogger("tidewire")

#: A flag of a subscribe request: rather error 112 than `recovered: false`.
_ALL_OR_NOTHING = 2


class Ready:
    """A subscription that is prepared, and the reply to its client."""

    __slots__ = ("prepared", "result", "start", "subscription")

    def __init__(
        self,
        subscription: ClientSubscription,
        prepared: Prepared,
        result: m.SubscribeResult,
    ) -> None:
        self.subscription = subscription
        self.prepared = prepared
        self.result = result
        #: The begin in a map that nobody keeps.
        self.start: MapStart | None = None


class ClientSubscriptions:
    """The channels of one session."""

    __slots__ = ("_connection", "_node", "_pages", "_protocol", "channels")

    def __init__(self, node: Node, connection: Connection, protocol: CentrifugeProtocol) -> None:
        self._node = node
        self._connection = connection
        self._protocol = protocol
        self.channels: dict[str, ClientSubscription] = {}
        self._pages: MapPages | None = None

    @property
    def pages(self) -> MapPages:
        """Maps of which the client is being given the entries."""
        if self._pages is None:
            self._pages = MapPages(self._node, self._connection, self._protocol)
        return self._pages

    def clear(self) -> None:
        """Forget every subscription: the connection has ended."""
        for subscription in self.channels.values():
            subscription.leave()
        self.channels.clear()

    def check(self, channel: str) -> None:
        """Raise when one more channel cannot be subscribed to: it is already, or there are too many."""
        if channel in self._node.registry.subscriptions(self._connection):
            raise AlreadySubscribed(f"this client is subscribed to {channel!r} already; unsubscribe first")
        limit = self._node.limits.channels
        begun = 0 if self._pages is None else self._pages.count_others(channel)
        if len(self.channels) + begun >= limit:
            count_limit("channels")
            raise LimitExceeded(f"a connection subscribes to at most {limit} channels; unsubscribe from one first")

    async def prepare(
        self,
        channel: str,
        grant: Grant,
        request: SubscribeRequest,
        identity: Identity,
        *,
        is_server_side: bool = False,
        is_reply_full: bool = False,
    ) -> Ready:
        """Begin to subscribe to a channel; `go_live` comes next. Raises CommandError, StoreUnavailable.

        Where the reply is full, missed publications are pushed behind it.
        """
        options = grant.options
        subscription = ClientSubscription(channel, grant, request, is_server_side=is_server_side)
        pushed, shown = self._representations(options, request)
        since = None
        if request.recover and subscription.is_recoverable:
            since = Position(min(request.offset, MAX_OFFSET), request.epoch)
        self.channels[channel] = subscription
        try:
            prepared = await self._node.subscriptions.prepare(
                self._connection,
                channel,
                since=None if options.latest else since,
                history=1 if options.latest and since is not None else 0,
                is_reply_full=is_reply_full,
                # a client that wants nothing but its recovery asks for the state itself
                with_state=since is None or not request.flag & _ALL_OR_NOTHING,
                membership=Membership(options.presence, member_info(identity.info, grant.info)),
                representation=pushed,
                on_insufficient=self._insufficient,
            )
        except BaseException:
            self._forget(subscription)
            raise
        if prepared.state is not None:
            await ReplyBudget.of(asyncio.get_running_loop()).wait_turn(len(prepared.state.data))
        ready = Ready(subscription, prepared, subscribe_result(subscription, prepared, since, shown))
        if since is not None and not ready.result.recovered and request.flag & _ALL_OR_NOTHING:
            self.abandon(ready)
            raise Unrecoverable(f"{channel!r} no longer keeps all publications after offset {since.offset}")
        if shown.then is not None and ready.result.publications and not prepared.has_more:
            _begin_deltas(prepared, shown.then)
        return ready

    async def prepare_map(
        self, channel: str, grant: Grant, request: SubscribeRequest, identity: Identity
    ) -> m.SubscribeResult | Ready:
        """Return a page of a map's entries, or a subscription as `prepare` does; to polled values, too."""
        if request.type == POLLED:
            return await self._prepare_polled(channel, grant, request, identity)
        start = await self.pages.begin(grant, request)
        if isinstance(start, m.SubscribeResult):
            return start
        subscription = ClientSubscription(
            channel, grant, msgspec.structs.replace(request, positioned=True, recoverable=True), is_server_side=False
        )
        self.channels[channel] = subscription
        try:
            prepared = await self._node.subscriptions.prepare(
                self._connection,
                channel,
                since=start.since if start.is_kept else None,
                membership=Membership(grant.options.presence, member_info(identity.info, grant.info)),
                representation=start.representation,
                on_insufficient=self._insufficient,
            )
        except BaseException:
            self._forget(subscription)
            raise
        ready = Ready(subscription, prepared, map_result(start, prepared, grant, request))
        if not start.is_kept:
            ready.start = start
        elif not prepared.answer.recovered:
            self.abandon(ready)
            raise Unrecoverable(f"{channel!r} no longer keeps all publications after offset {start.since.offset}")
        return ready

    async def _prepare_polled(self, channel: str, grant: Grant, request: SubscribeRequest, identity: Identity) -> Ready:
        poll_of(grant, channel)
        subscription = ClientSubscription(channel, grant, request, is_server_side=False)
        subscription.tracker = Tracker(self._connection)
        self.channels[channel] = subscription
        try:
            prepared = await self._node.subscriptions.prepare(
                self._connection,
                channel,
                membership=Membership(grant.options.presence, member_info(identity.info, grant.info)),
                representation=SilentRepresentation.of_polled(self._protocol, self._connection.link.deflate),
                on_insufficient=_ignore,
            )
        except BaseException:
            self._forget(subscription)
            raise
        return Ready(subscription, prepared, poll_result(grant))

    async def change_tracked(self, command: int, request: m.SubRefreshRequest, identity: Identity) -> None:
        """Track or untrack keys of polled values, reply, and tell of their values; raises CommandError, StateFailed."""
        await wait_turn(request)
        trackers = [one.tracker for one in self.channels.values() if one.tracker is not None]
        subscription = self.channels.get(request.channel)
        if subscription is None or subscription.tracker is None:
            raise PermissionDenied(f"this client is not subscribed to polled values of {request.channel!r}")
        tracker, grant = subscription.tracker, subscription.grant
        try:
            result = await change_tracked(self._node, trackers, tracker, grant, request, identity.user)
            self._node.send(self._connection, self._protocol.encode_reply(m.Reply(command, sub_refresh=result)))
        finally:
            tracker.go_on()

    def _representations(
        self, options: ChannelOptions, request: SubscribeRequest
    ) -> tuple[Representation | None, PubRepresentation]:
        """Return the representation of pushed publications (None: the connection's own), and that of missed ones."""
        protocol, deflate = self._protocol, self._connection.link.deflate
        offset = options.history_size > 0
        if request.delta not in ("", "fossil"):
            raise MalformedFrame(Malformed.UNKNOWN_DELTA)
        if request.tf is not None:
            if not options.tags_filter or request.delta:
                raise BadRequest("this subscription cannot have a filter by tags")
            if count_nodes(request.tf) > self._node.limits.filter_nodes:
                count_limit("filter_nodes")
                raise BadRequest(f"a filter has at most {self._node.limits.filter_nodes} conditions")
            filtered = plain(protocol, deflate, offset=offset, filter_node=request.tf)
            return filtered, filtered
        # a subscriber that is not given everything would have no base for a delta
        if request.delta and options.delta and offset and options.slow is SlowPolicy.DISCONNECT:
            whole_first = differences(protocol, deflate, knows_last=False)
            return whole_first, whole_first
        shown = plain(protocol, deflate, offset=offset)
        return (None if offset else shown), shown

    def abandon(self, ready: Ready) -> None:
        """Give up a prepared subscription."""
        self._forget(ready.subscription)
        self._node.subscriptions.abandon(ready.prepared)

    def _forget(self, subscription: ClientSubscription) -> None:
        # a client that unsubscribed while its subscribe waited may have subscribed anew
        if self.channels.get(subscription.channel) is subscription:
            del self.channels[subscription.channel]
            subscription.leave()

    async def go_live(self, ready: Ready, messages: Sequence[WireMessage], identity: Identity) -> None:
        """Send the reply, then publications, then announce joins and leaves."""
        try:
            await self._node.subscriptions.reply(ready.prepared, list(messages))
        except BaseException:
            self._forget(ready.subscription)
            raise
        if ready.prepared.has_more:  # which may take long, and other commands do not wait for it
            self._node.tasks.spawn(self._push_rest(ready, identity))
        else:
            await self._begin(ready, identity)

    async def _begin(self, ready: Ready, identity: Identity) -> None:
        subscription = ready.subscription
        try:
            await self._node.subscriptions.go_live(ready.prepared)
        except BaseException:
            self._forget(subscription)
            raise
        if ready.start is not None:  # a publication that was pushed meanwhile is the same, or older
            changes = Maps.of(self._node).since(subscription.channel, ready.start.since)
            if messages := ready.start.representation.batch(changes).messages:
                self._connection.write(*messages)
        if subscription.events is not None and self.channels.get(subscription.channel) is subscription:
            await self._join(subscription, subscription.events, identity)
        if self.channels.get(subscription.channel) is subscription:
            await MapMembers(self._node, self._connection).enter(subscription.channel, subscription.grant, identity)

    async def _push_rest(self, ready: Ready, identity: Identity) -> None:
        """Push missed publications in a task of its own; a client to which that fails subscribes anew, from there."""
        subscription = ready.subscription
        try:
            await self._begin(ready, identity)
        except (ConnectionClosed, CommandError):
            pass  # it has gone, or has unsubscribed
        except StoreUnavailable:
            if not self._connection.is_closed:
                self.channels.setdefault(subscription.channel, subscription)
                self._insufficient_state(subscription)

    async def _join(self, subscription: ClientSubscription, is_shown: bool, identity: Identity) -> None:
        """Join the channel of joins and leaves: the client's own join comes after its reply."""
        name, subscribing = subscription.channel, self._node.subscriptions
        info = m.ClientInfo(identity.user, self._connection.id, raw(identity.info), raw(subscription.grant.info))
        try:
            prepared = await subscribing.prepare(
                self._connection,
                events(name),
                membership=Membership(
                    join=Announcement(msgspec.json.encode(Push(name, join=m.Join(info)))),
                    leave=Announcement(msgspec.json.encode(Push(name, leave=m.Leave(info)))),
                ),
                representation=EventRepresentation.of_events(self._protocol, self._connection.link.deflate, is_shown),
                on_insufficient=_ignore,
            )
            await subscribing.go_live(prepared)
        except (StoreUnavailable, CommandError) as error:
            logger.warning("joins and leaves of %r cannot be shown now: %s", name, error)
            self._insufficient_state(subscription)

    # Ending.

    async def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel; its members are told. Harmless when it is not subscribed to."""
        if self._pages is not None:
            self._pages.forget(channel)
        subscription = self.channels.pop(channel, None)
        if subscription is None:
            return
        subscription.leave()
        await MapMembers(self._node, self._connection).leave(channel, subscription.grant.options)
        if subscription.events is not None:
            await self._node.unsubscribe(self._connection, events(channel))
        await self._node.unsubscribe(self._connection, channel)

    def drop(self, channel: str, reason: Unsubscription) -> None:
        """Unsubscribe from a channel, and tell the client why."""
        if self._pages is not None:
            self._pages.forget(channel)
        subscription = self.channels.pop(channel, None)
        if subscription is None:
            return
        subscription.leave()
        MapMembers(self._node, self._connection).drop(channel, subscription.grant.options)
        self._node.subscriptions.drop(self._connection, events(channel))
        self._node.subscriptions.drop(self._connection, channel)
        push = Push(channel, unsubscribe=m.Unsubscribe(*reason))
        self._connection.write(self._protocol.encode_push(push))

    def _insufficient(self, missing: Subscription) -> None:
        subscription = self.channels.get(missing.channel)
        if subscription is not None and subscription.is_positioned:
            self._insufficient_state(subscription)

    def _insufficient_state(self, subscription: ClientSubscription) -> None:
        """End a subscription whose client has to recover; where the server subscribed it, end the whole connection."""
        if subscription.is_server_side:
            self._connection.end(INSUFFICIENT)
        else:
            self.drop(subscription.channel, codes.INSUFFICIENT)

    def next_expiry(self) -> float | None:
        """Return when the first subscription or signature of keys expires, by the loop's clock."""
        ends = [one.ends for one in self.channels.values() if one.ends is not None]
        for one in self.channels.values():
            if one.tracker is not None:
                ends += one.tracker.ends.values()
        return min(ends, default=None)

    def expire(self, now: float) -> None:
        """End the subscriptions that have expired; keys whose signature has are tracked no more."""
        for subscription in tuple(self.channels.values()):
            if subscription.tracker is not None:
                subscription.tracker.expire(now)
            if subscription.ends is not None and subscription.ends <= now:
                if subscription.is_server_side:
                    self._connection.end(codes.SUBSCRIPTION_EXPIRED)
                    return
                self.drop(subscription.channel, codes.EXPIRED_SUBSCRIPTION)


def _ignore(subscription: Subscription) -> None:
    """Go on after a gap: joins and leaves have no history."""


def _begin_deltas(prepared: Prepared, representation: Representation) -> None:
    """Push the next publication as a delta to a subscriber that was given the newest one."""
    newest, channel = prepared.answer.publications[-1], prepared.channel
    # a text in chunks is given as one: live ones are no differences to that
    if newest.offset == prepared.answer.position.offset and chunk_of(newest) is None:
        prepared.subscription.representation = representation
        if channel.last is None or 0 < channel.last.offset < newest.offset:
            channel.last = newest

"""What a session follows: by its client's wish or the server's will, from which position, and how it is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import msgspec

from tidewire.channels import events
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.engine.subscribing import Prepared
from tidewire.engine.subscription import Subscription
from tidewire.errors import (
    INSUFFICIENT,
    AlreadySubscribed,
    BadRequest,
    CommandError,
    LimitExceeded,
    NotAvailable,
    StoreUnavailable,
    Unrecoverable,
)
from tidewire.messages import MAX_OFFSET, Announcement, Position, Publication, Subscribed, WireMessage
from tidewire.options import ChannelOptions, SlowPolicy
from tidewire.protocols.batch import Representation
from tidewire.protocols.centrifuge import codes
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.codes import Malformed, MalformedFrame, Unsubscription
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.filters import count_nodes
from tidewire.protocols.centrifuge.messages import Push, SubscribeRequest, raw
from tidewire.protocols.meta import member_info
from tidewire.rules.base import Grant, Identity
from tidewire.sessions.centrifuge.representations import (
    EventRepresentation,
    PubRepresentation,
    differences,
    plain,
)
from tidewire.support.counters import count_limit

__all__ = ("Followed", "Following", "end_of", "ttl_of")

logger = logging.getLogger("tidewire")

#: The longest time to live that is told.
_LONGEST_TTL = 365 * 86_400
#: A flag of a subscribe request: rather error 112 than `recovered: false`.
_ALL_OR_NOTHING = 2


def ttl_of(expires_at: float | None) -> int:
    """Return the seconds to tell a client, at least 1; 0 when there is no end."""
    if expires_at is None:
        return 0
    return max(1, min(_LONGEST_TTL, round(expires_at - time.time())))


def end_of(expires_at: float | None) -> float | None:
    """Return an end in seconds since 1970 by the loop's clock, which nobody sets: a jump of the other moves no end."""
    return None if expires_at is None else asyncio.get_running_loop().time() + expires_at - time.time()


class Followed:
    """One channel of a session: how it is followed, and until when."""

    __slots__ = (
        "channel",
        "ends",
        "events",
        "expires_at",
        "grant",
        "is_positioned",
        "is_recoverable",
        "is_server_side",
    )

    def __init__(self, channel: str, grant: Grant, request: SubscribeRequest, *, is_server_side: bool) -> None:
        options = grant.options
        has_history = options.history_size > 0 and options.history_seconds > 0
        asks = request.recoverable or request.recover or is_server_side
        self.channel = channel
        self.grant = grant
        self.is_server_side = is_server_side
        self.is_recoverable = has_history and (options.force_recoverable or (options.recoverable and asks))
        asks = request.positioned or is_server_side
        self.is_positioned = self.is_recoverable or (
            has_history and (options.force_positioned or (options.positioned and asks))
        )
        self.extend(grant.expires_at)
        #: Joins and leaves are told of this session, and it is told of them (None: neither).
        self.events: bool | None = None
        if options.join_leave or options.force_join_leave:
            self.events = options.force_join_leave or request.join_leave

    def extend(self, expires_at: float | None) -> None:
        """Follow it until then, in seconds since 1970; None: for ever."""
        self.expires_at = expires_at
        #: The same by the loop's clock.
        self.ends = end_of(expires_at)


class Ready:
    """A subscription that is prepared, and what its client is told."""

    __slots__ = ("followed", "prepared", "result")

    def __init__(self, followed: Followed, prepared: Prepared, result: m.SubscribeResult) -> None:
        self.followed = followed
        self.prepared = prepared
        self.result = result


class Following:
    """The channels of one session."""

    __slots__ = ("_connection", "_node", "_protocol", "channels")

    def __init__(self, node: Node, connection: Connection, protocol: CentrifugeProtocol) -> None:
        self._node = node
        self._connection = connection
        self._protocol = protocol
        self.channels: dict[str, Followed] = {}

    def check(self, channel: str) -> None:
        """Raise when one more channel cannot be followed: it is already, or there are too many."""
        if channel in self._connection.subscriptions:
            raise AlreadySubscribed(f"this connection follows {channel!r} already; unsubscribe first")
        if len(self.channels) >= self._node.limits.channels:
            count_limit("channels")
            raise LimitExceeded(f"a connection follows at most {self._node.limits.channels} channels")

    async def prepare(
        self,
        channel: str,
        grant: Grant,
        request: SubscribeRequest,
        identity: Identity,
        *,
        is_server_side: bool = False,
    ) -> Ready:
        """Begin to follow a channel; `go_live` comes next. Raises CommandError, StoreUnavailable."""
        if request.type:
            raise NotAvailable(f"subscriptions of type {request.type} are not offered; leave `type` out")
        options = grant.options
        followed = Followed(channel, grant, request, is_server_side=is_server_side)
        pushed, shown = self._representations(options, request)
        since = None
        if request.recover and followed.is_recoverable:
            since = Position(min(request.offset, MAX_OFFSET), request.epoch)
        self.channels[channel] = followed
        try:
            prepared = await self._node.subscribing.prepare(
                self._connection,
                channel,
                since=None if options.latest else since,
                history=1 if options.latest and since is not None else 0,
                most=self._node.limits.history_messages,
                present=options.presence,
                info=member_info(identity.info, grant.info),
                representation=pushed,
                on_insufficient=self._insufficient,
            )
        except BaseException:
            self._forget(followed)
            raise
        ready = Ready(followed, prepared, _result(followed, prepared, since, shown))
        if since is not None and not ready.result.recovered and request.flag & _ALL_OR_NOTHING:
            self.abandon(ready)
            raise Unrecoverable(f"what {channel!r} had after offset {since.offset} is not there any more")
        if shown.then is not None and ready.result.publications:
            _begin_deltas(prepared, shown.then)
        return ready

    def _representations(
        self, options: ChannelOptions, request: SubscribeRequest
    ) -> tuple[Representation | None, PubRepresentation]:
        """Return what publications are pushed in (None: as everything on this connection), and what missed ones are."""
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
        # who is not given everything would have no base
        if request.delta and options.delta and offset and options.slow is SlowPolicy.DISCONNECT:
            whole_first = differences(protocol, deflate, knows_last=False)
            return whole_first, whole_first
        shown = plain(protocol, deflate, offset=offset)
        return (None if offset else shown), shown

    def abandon(self, ready: Ready) -> None:
        """Give up what is prepared."""
        self._forget(ready.followed)
        self._node.subscribing.abandon(ready.prepared)

    def _forget(self, followed: Followed) -> None:
        # who leaves while a subscribe waits follows nothing any more, or the same channel anew
        if self.channels.get(followed.channel) is followed:
            del self.channels[followed.channel]

    async def go_live(self, ready: Ready, messages: Sequence[WireMessage], identity: Identity) -> None:
        """Send the reply, let publications follow it, then tell of who joins and leaves."""
        followed = ready.followed
        try:
            await self._node.subscribing.go_live(ready.prepared, messages)
        except BaseException:
            self._forget(followed)
            raise
        if followed.events is not None and self.channels.get(followed.channel) is followed:
            await self._join(followed, followed.events, identity)

    async def _join(self, followed: Followed, is_told: bool, identity: Identity) -> None:
        """Be a member of the channel that carries joins and leaves: the client's own join follows its reply."""
        name, subscribing = followed.channel, self._node.subscribing
        info = m.ClientInfo(identity.user, self._connection.id, raw(identity.info), raw(followed.grant.info))
        try:
            prepared = await subscribing.prepare(
                self._connection,
                events(name),
                present=True,
                join=Announcement(msgspec.json.encode(Push(name, join=m.Join(info)))),
                announcement=Announcement(msgspec.json.encode(Push(name, leave=m.Leave(info)))),
                representation=EventRepresentation.of_events(self._protocol, self._connection.link.deflate, is_told),
                on_insufficient=_ignore,
            )
            await subscribing.go_live(prepared)
        except (StoreUnavailable, CommandError) as error:
            logger.warning("joins and leaves of %r cannot be told now: %s", name, error)
            self._insufficient_state(followed)

    # Ending.

    async def unsubscribe(self, channel: str) -> None:
        """Follow a channel no longer; its members are told. Harmless when it is not followed."""
        followed = self.channels.pop(channel, None)
        if followed is None:
            return
        if followed.events is not None:
            await self._node.unsubscribe(self._connection, events(channel))
        await self._node.unsubscribe(self._connection, channel)

    def drop(self, channel: str, told: Unsubscription) -> None:
        """Follow a channel no longer, and tell the client why."""
        if self.channels.pop(channel, None) is None:
            return
        self._node.subscribing.drop(self._connection, events(channel))
        self._node.subscribing.drop(self._connection, channel)
        push = Push(channel, unsubscribe=m.Unsubscribe(*told))
        self._connection.write(self._protocol.encode_push(push))

    def _insufficient(self, subscription: Subscription) -> None:
        followed = self.channels.get(subscription.channel)
        if followed is not None and followed.is_positioned:
            self._insufficient_state(followed)

    def _insufficient_state(self, followed: Followed) -> None:
        """End a subscription whose client must come back for what it misses; one of the server's will, by all of it."""
        if followed.is_server_side:
            self._connection.end(INSUFFICIENT)
        else:
            self.drop(followed.channel, codes.INSUFFICIENT)

    def next_expiry(self) -> float | None:
        """Return when the first subscription expires, by the loop's clock."""
        return min((one.ends for one in self.channels.values() if one.ends is not None), default=None)

    def expire(self, now: float) -> None:
        """End the subscriptions that have expired."""
        for followed in tuple(self.channels.values()):
            if followed.ends is not None and followed.ends <= now:
                if followed.is_server_side:
                    self._connection.end(codes.SUBSCRIPTION_EXPIRED)
                    return
                self.drop(followed.channel, codes.EXPIRED_SUBSCRIPTION)


def _ignore(subscription: Subscription) -> None:
    """Go on after a gap: who joined and left has no history."""


def _begin_deltas(prepared: Prepared, representation: Representation) -> None:
    """Let a subscriber that was given the channel's newest publication have the next one as a difference to it."""
    newest, channel = prepared.answer.publications[-1], prepared.channel
    if newest.offset == prepared.answer.position.offset:
        prepared.subscription.representation = representation
        if channel.last is None or channel.last.offset < newest.offset:
            channel.last = newest


def _result(
    followed: Followed, prepared: Prepared, since: Position | None, shown: PubRepresentation
) -> m.SubscribeResult:
    """Return what the client is told; a recovered one stands where the client said, and goes on by what it missed."""
    answer = prepared.answer
    position = answer.position
    missed: Sequence[Publication] = answer.publications if answer.recovered else ()
    recovered = bool(answer.recovered)
    if since is not None and followed.grant.options.latest:
        missed, recovered = _newest(answer, since)
    offset = since.offset if since is not None and recovered else position.offset
    return m.SubscribeResult(
        expires=followed.expires_at is not None,
        ttl=ttl_of(followed.expires_at),
        recoverable=followed.is_recoverable,
        epoch=position.epoch if followed.is_positioned else "",
        publications=_missed(prepared, missed, shown),
        recovered=recovered,
        offset=offset if followed.is_positioned else 0,
        positioned=followed.is_positioned,
        data=raw(followed.grant.data),
        was_recovering=since is not None,
        delta=shown.then is not None,
    )


def _missed(prepared: Prepared, missed: Sequence[Publication], shown: PubRepresentation) -> list[m.Publication]:
    """Return publications as a reply holds them, made once for all who are given the same."""
    forms = prepared.forms
    if forms is None or missed is not prepared.answer.publications:
        return shown.missed(missed)
    made: list[m.Publication] | None = forms.get(shown)
    if made is None:
        made = forms[shown] = shown.missed(missed)
    return made


def _newest(answer: Subscribed, since: Position) -> tuple[Sequence[Publication], bool]:
    """Return the newest publication, unless the client has it, and whether it is there."""
    position, publications = answer.position, answer.publications
    if not publications:
        return (), False
    is_known = publications[-1].offset <= since.offset <= position.offset and since.epoch in ("", position.epoch)
    return (() if is_known else publications[-1:]), True

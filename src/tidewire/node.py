"""The engine of one process: its connections and channels, and the way of every message between them and the store."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Sequence

import msgspec

from tidewire.broker import Broker
from tidewire.carrier import Carrier
from tidewire.connection import Connection
from tidewire.control import CONTROL, Control, personal
from tidewire.errors import (
    SHUTDOWN,
    BadRequest,
    ConnectionClosed,
    LimitExceeded,
    PublishError,
    StoreUnavailable,
)
from tidewire.fanout import Fanout
from tidewire.maintenance import Maintenance
from tidewire.messages import (
    Farewell,
    Format,
    Member,
    Position,
    Publication,
    PublishRequest,
    Subscribed,
    WireMessage,
)
from tidewire.options import ChannelRules, Limits
from tidewire.presence import Presence
from tidewire.recovery import Recoveries
from tidewire.registry import Channel, Registry
from tidewire.subscription import Subscription

__all__ = ("Node", "Statistics")

logger = logging.getLogger("tidewire")

#: Bytes of a reply that are written before the client must have taken them.
_REPLY_PAGE = 256 * 1024


class Statistics(msgspec.Struct, frozen=True):
    """A node's figures since its start, and what it holds now."""

    connections: int
    users: int
    channels: int
    published: int
    deliveries: int
    duplicates: int
    gaps: int
    slow_disconnects: int
    dropped: int
    superseded: int
    worst_turn_cpu: float
    worst_turn_wall: float
    limits_reached: dict[str, int]
    degraded: bool


class Node:
    """The engine of one process.

    Everything runs on one event loop. `start` comes first and `aclose` last; all tasks between them belong to
    `maintenance` and end with it.
    """

    def __init__(
        self, broker: Broker, presence: Presence, *, limits: Limits | None = None, rules: ChannelRules | None = None
    ) -> None:
        self.id = secrets.token_hex(6)
        self.broker = broker
        self.presence = presence
        self.limits = limits or Limits()
        self.rules = rules or ChannelRules()
        self.registry = Registry()
        self.limits_reached: Counter[str] = Counter()
        self.fanout = Fanout(self.registry, self.limits, on_gap=self._on_gap)
        self.carrier = Carrier(self.registry, broker, self.rules, self.fanout.deliver)
        self.maintenance = Maintenance(self)
        self.recoveries = Recoveries(broker, on_epoch_changed=self.maintenance.catch_up)
        self.published = 0
        self.is_open = False

    async def start(self) -> None:
        """Open the store and begin; raises ConfigurationError or StoreUnavailable."""
        self.fanout.bind(asyncio.get_running_loop())
        await self.broker.start(self.deliver, self.maintenance.resume)
        try:
            await self.presence.start(self.id)
            self.is_open = True
            self.maintenance.start()
            (await self.carrier.carry(CONTROL)).tap = self._control
        except BaseException:
            self.is_open = False
            await self.maintenance.aclose()
            await self.presence.aclose()
            await self.broker.aclose()
            raise

    async def aclose(self) -> None:
        """End every connection, then all tasks, then the store."""
        if not self.is_open:
            return
        self.is_open = False
        for connection in tuple(self.registry.connections.values()):
            connection.end(SHUTDOWN)
        await self.maintenance.aclose()
        await self.presence.aclose()
        await self.broker.aclose()

    def statistics(self) -> Statistics:
        """Return the figures of this node."""
        fanout = self.fanout
        return Statistics(
            connections=len(self.registry.connections),
            users=len(self.registry.users),
            channels=len(self.registry.channels),
            published=self.published,
            deliveries=fanout.deliveries,
            duplicates=fanout.duplicates,
            gaps=fanout.gaps,
            slow_disconnects=fanout.slow,
            dropped=fanout.dropped,
            superseded=fanout.superseded,
            worst_turn_cpu=fanout.worst_turn_cpu,
            worst_turn_wall=fanout.worst_turn_wall,
            limits_reached=dict(self.limits_reached),
            degraded=self.maintenance.degraded,
        )

    # Connections come and go.

    async def admit(self, user: str, address: str) -> None:
        """Judge a newcomer before it is accepted; raises LimitExceeded, which names the limit.

        It counts as arriving until `registry.arrived` is called, which the caller does however the handshake ends.
        """
        registry, limits = self.registry, self.limits
        if len(registry.connections) + registry.arriving >= limits.connections:
            raise self._limit("connections")
        if not _is_loopback(address) and registry.addresses.get(address, 0) >= limits.connections_per_address:
            raise self._limit("connections_per_address")
        if user and await self._connections_of(user) >= limits.connections_per_user:
            raise self._limit("connections_per_user")
        registry.arrive(address)

    def _limit(self, name: str) -> LimitExceeded:
        self.limits_reached[name] += 1
        return LimitExceeded(f"Too many connections (the limit {name} is {getattr(self.limits, name)})")

    async def _connections_of(self, user: str) -> int:
        try:
            return await self.presence.count(personal(user), user)
        except StoreUnavailable:
            return len(self.registry.users.get(user, ()))

    async def attach(self, connection: Connection, info: bytes = b"") -> None:
        """Take a connection in: it is counted, and with a user it follows the user's own channel."""
        connection.on_closed = self.detach
        connection.on_drained = self.fanout.release
        connection.on_limit = self._count
        self.registry.add(connection)
        connection.link.listen(connection)
        if connection.user:
            await self._follow_user(connection, info)

    async def identify(self, connection: Connection, user: str, info: bytes = b"") -> None:
        """Give a connection its user after it was accepted; raises LimitExceeded, and BadRequest when it has one."""
        if connection.user:
            raise BadRequest(f"this connection belongs to {connection.user!r} already")
        if await self._connections_of(user) >= self.limits.connections_per_user:
            raise self._limit("connections_per_user")
        self.registry.identify(connection, user)
        await self._follow_user(connection, info)

    async def _follow_user(self, connection: Connection, info: bytes) -> None:
        await self.subscribe(connection, personal(connection.user), info=info, present=True, reply=False)

    def _count(self, name: str) -> None:
        self.limits_reached[name] += 1

    def detach(self, connection: Connection) -> None:
        """Let a connection go: it follows nothing more, and leaves where it was present. Harmless when repeated."""
        if not self.registry.remove(connection):
            return
        self.fanout.forget(connection)
        present = []
        for subscription in tuple(connection.subscriptions.values()):
            self._unfollow(subscription)
            if subscription.member is not None:
                present.append(subscription)
        reason = connection.disconnect or connection.ending
        if present and not (reason is not None and reason.code == SHUTDOWN.code):
            self.maintenance.spawn(self._depart(connection, present))

    async def _depart(self, connection: Connection, present: Sequence[Subscription]) -> None:
        for subscription in present:
            await self._leave(subscription, failed=connection.failed)

    async def _leave(self, subscription: Subscription, *, failed: bool = False) -> None:
        member, subscription.member = subscription.member, None
        if member is None:
            return
        farewell = subscription.farewell
        if failed and subscription.farewell_on_error is not None:
            farewell = subscription.farewell_on_error
        token = f"leave:{member.connection}"
        while True:
            try:
                if await self.presence.leave(subscription.channel, member.connection) and farewell is not None:
                    await self.maintenance.publish_farewell(subscription.channel, farewell, token)
                return
            except StoreUnavailable:
                await asyncio.sleep(1.0)

    # Subscriptions.

    async def subscribe(
        self,
        connection: Connection,
        channel: str,
        *,
        since: Position | None = None,
        history: int = 0,
        present: bool = False,
        info: bytes = b"",
        join: Farewell | None = None,
        farewell: Farewell | None = None,
        farewell_on_error: Farewell | None = None,
        reply: bool = True,
    ) -> Subscribed:
        """Let a connection follow a channel; the reply is on its way before any publication of the channel.

        With `since`, what was missed is replied, all of it, or `recovered` is False and the newest `history` is.
        With `present`, the connection is a member; `join` is published if it is the user's first one there, and
        `farewell` when the last one leaves, however it ends. Raises BadRequest, LimitExceeded, StoreUnavailable,
        ConnectionClosed; then nothing is followed.
        """
        if channel in connection.subscriptions:
            raise BadRequest(f"this connection follows {channel!r} already; unsubscribe first")
        if len(connection.subscriptions) >= self.limits.channels:
            self._count("channels")
            raise LimitExceeded(
                f"a connection follows at most {self.limits.channels} channels; unsubscribe from one first"
            )
        subscription = Subscription(connection, channel)
        connection.subscriptions[channel] = subscription
        try:
            carried = await self.carrier.carry(channel)
            carried.begin(subscription)
            first = False
            if present or farewell is not None or join is not None:
                member = Member(connection.id, connection.user or connection.id, info)
                subscription.farewell, subscription.farewell_on_error = farewell, farewell_on_error
                subscription.member = member
                first = await self._join(subscription, member)
            recovery, recovered = await self.recoveries.recover(carried, subscription, since, history)
            answer = Subscribed(channel, recovery.position, recovery.publications, recovered)
            await self._go_live(carried, subscription, answer, reply=reply)
        except BaseException:
            self._unfollow(subscription)
            if subscription.member is not None:
                self.maintenance.spawn(self._leave(subscription))
            raise
        if first and join is not None:
            await self.publish(channel, join.data, join.format, key=f"join:{connection.id}")
        return answer

    async def _join(self, subscription: Subscription, member: Member) -> bool:
        """Make a connection a member; True for the user's first. While presence is away it is joined later."""
        try:
            result = await self.presence.join(subscription.channel, member, subscription.farewell)
        except StoreUnavailable:
            self.maintenance.rejoin()
            return False
        connection = subscription.connection
        if connection.subscriptions.get(subscription.channel) is not subscription:
            subscription.member = member  # it left while it joined: the leave may have come first
            raise ConnectionClosed(connection.disconnect or connection.ending or SHUTDOWN)
        return result.first

    async def unsubscribe(self, connection: Connection, channel: str) -> None:
        """Let a connection follow a channel no longer; harmless when it does not."""
        subscription = connection.subscriptions.get(channel)
        if subscription is None:
            return
        self.fanout.flush_for(connection)
        self._unfollow(subscription)
        await self._leave(subscription)

    def _unfollow(self, subscription: Subscription) -> None:
        connection = subscription.connection
        if connection.subscriptions.get(subscription.channel) is subscription:
            del connection.subscriptions[subscription.channel]
        channel = self.registry.channels.get(subscription.channel)
        if channel is not None:
            channel.remove(subscription)

    async def _go_live(self, channel: Channel, subscription: Subscription, answer: Subscribed, *, reply: bool) -> None:
        """Write the reply in pages that wait for the client to take them, then what came meanwhile, then be live."""
        connection = subscription.connection
        after = answer.position.offset
        if reply:
            self.fanout.flush_for(connection)
            await self._write_pages(connection, connection.protocol.encode_subscribed(answer))
        if connection.is_closed or connection.subscriptions.get(channel.name) is not subscription:
            raise ConnectionClosed(connection.disconnect or connection.ending or SHUTDOWN)
        rest = [publication for publication in subscription.buffer or () if publication.offset > after]
        if rest:
            connection.link.write(connection.representation.batch(rest))
            after = rest[-1].offset
        channel.go_live(subscription, after)

    async def _write_pages(self, connection: Connection, messages: Sequence[WireMessage]) -> None:
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

    # Publications.

    async def publish(
        self, channel: str, data: bytes, format: Format = Format.JSON, *, key: str = "", meta: bytes = b""
    ) -> Position:
        """Publish; returns when the broker keeps it. Raises NotPublished or PublishUnconfirmed."""
        retention = self.rules.options(channel).retention
        try:
            position = await self.broker.publish(PublishRequest(channel, data, format, key, meta, retention))
        except PublishError:
            self._count("publish_failed")
            raise
        self.published += 1
        return position

    def deliver(self, publications: Sequence[Publication]) -> None:
        """Take publications from the broker (broker.Deliver)."""
        self.fanout.deliver(publications)

    def send(self, connection: Connection, *messages: WireMessage) -> None:
        """Write to one connection of this node, behind everything that is pending for it."""
        if connection.subscriptions:
            self.fanout.flush_for(connection)
        connection.write(*messages)

    async def control(self, control: Control, data: bytes = b"", format: Format = Format.JSON) -> None:
        """Ask something of all nodes; raises as `publish` does."""
        await self.publish(CONTROL, data, format, meta=msgspec.json.encode(control))

    def _control(self, publication: Publication) -> None:
        try:
            control = msgspec.json.decode(publication.meta, type=Control)
        except msgspec.DecodeError:
            logger.warning("a control message of another version was not understood")
            return
        self.maintenance.obey(control, publication)

    def _on_gap(self, channel: Channel) -> None:
        self.maintenance.catch_up(channel)


def _is_loopback(address: str) -> bool:
    return address in ("", "::1") or address.startswith("127.")

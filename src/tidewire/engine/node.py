"""The engine of one process: its connections and channels, and the way of every message between them and the store."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec

from tidewire.backends.base import Broker, Presence
from tidewire.channels import CONTROL, is_events, personal
from tidewire.engine.channels import Carrier
from tidewire.engine.connection import Connection
from tidewire.engine.control import Control
from tidewire.engine.membership import Membership
from tidewire.engine.recovery import Recoveries
from tidewire.engine.registry import Registry
from tidewire.engine.statistics import Statistics
from tidewire.engine.subscribing import Subscribing, ended
from tidewire.engine.tasks import Maintenance
from tidewire.errors import (
    SHUTDOWN,
    TOO_MANY,
    BadRequest,
    LimitExceeded,
    PublishError,
    StoreUnavailable,
)
from tidewire.messages import Format, Position, Publication, PublishRequest, Retention, WireMessage
from tidewire.options import ChannelRules, Limits
from tidewire.support.counters import LimitCounter, count_limit
from tidewire.support.resident_memory import ResidentMemory
from tidewire.support.turns import Admission

__all__ = ("Node",)

logger = logging.getLogger("tidewire")

#: Seconds between two touches of the lease, looks for departed members, sweeps of idle channels, and comparisons of all
#: positions with the store's.
TOUCH_SECONDS = 2.0
CLAIM_SECONDS = 1.0
SWEEP_SECONDS = 2.0
POSITION_SECONDS = 10.0
#: Who joined and left is no history.
_NOTHING = Retention(0, 0.0)


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
        self._limits_reached: Counter[str] = Counter()
        self.maintenance = Maintenance()
        self.carrier = Carrier(self.registry, broker, self.rules, self.limits, self.maintenance)
        self.fanout = self.carrier.fanout
        self.recoveries = Recoveries(
            broker, self.maintenance.spawn, self.limits, on_epoch_changed=self.carrier.catch_up
        )
        self.membership = Membership(
            presence, self.registry, self.maintenance, self.publish, patience=self.limits.publish_seconds
        )
        self.subscribing = Subscribing(self.registry, self.carrier, self.membership, self.recoveries, self.limits)
        self.subscribe = self.subscribing.subscribe
        self.unsubscribe = self.subscribing.unsubscribe
        self.memory = ResidentMemory()
        self.published = 0
        #: What the layers above obey when another node, or this one, asks for it by a verb.
        self.verbs: dict[str, Callable[[Publication], None]] = {}
        self.is_open = False

    async def start(self) -> None:
        """Open the store and begin; raises ConfigurationError or StoreUnavailable."""
        loop = asyncio.get_running_loop()
        self._limits_reached = LimitCounter.of(loop).reached
        self.fanout.bind(loop)
        try:
            await self.broker.start(self.fanout.deliver, self.carrier.resume)
            await self.presence.start(self.id)
            self.is_open = True
            (await self.carrier.carry(CONTROL)).tap = self._control
            self.maintenance.start(
                (
                    ("touch", TOUCH_SECONDS, self.membership.touch),
                    ("claim", CLAIM_SECONDS, self.membership.claim),
                    ("sweep", SWEEP_SECONDS, self.carrier.sweep),
                    ("positions", POSITION_SECONDS, self.carrier.check_positions),
                )
            )
        except BaseException:
            self.is_open = False
            await self._close_all()
            raise

    async def aclose(self) -> None:
        """End every connection, then all tasks, then the store."""
        if not self.is_open:
            return
        self.is_open = False
        for connection in tuple(self.registry.connections.values()):
            connection.end(SHUTDOWN)
        await self._close_all()

    async def _close_all(self) -> None:
        try:
            await self.maintenance.aclose(grace=self.limits.publish_seconds + 1.0)
        finally:
            try:
                await self.presence.aclose()
            finally:
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
            limits_reached=dict(self._limits_reached),
            degraded=self.maintenance.degraded,
        )

    # Connections come and go.

    async def admit(self, user: str, address: str) -> None:
        """Judge a newcomer before it is accepted; raises LimitExceeded, which names the limit.

        It counts as arriving until `registry.arrived` is called, which the caller does however the handshake ends.
        """
        registry, limits = self.registry, self.limits
        if 0 < limits.memory_bytes <= self.memory.read():
            raise self._limit("memory_bytes", "No memory for more connections")
        if len(registry.connections) + registry.arriving >= limits.connections:
            raise self._limit("connections")
        if not _is_loopback(address) and registry.addresses.get(address, 0) >= limits.connections_per_address:
            raise self._limit("connections_per_address")
        registry.arrive(address)
        try:
            if user and await self._connections_of(user) >= limits.connections_per_user:
                raise self._limit("connections_per_user")
        except BaseException:
            registry.arrived(address)
            raise

    def _limit(self, name: str, what: str = "Too many connections") -> LimitExceeded:
        count_limit(name)
        return LimitExceeded(f"{what} (the limit {name} is {getattr(self.limits, name)})")

    async def _connections_of(self, user: str) -> int:
        try:
            return await self.presence.count(personal(user), user)
        except StoreUnavailable:
            return len(self.registry.users.get(user, ()))

    async def attach(self, connection: Connection, info: bytes = b"") -> None:
        """Take a connection in; with a user it follows the user's own channel. Raises StoreUnavailable."""
        connection.attach(closed=self.detach, drained=self.fanout.release)
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
        if connection.id not in self.registry.connections:
            raise ended(connection)
        self.registry.identify(connection, user)
        await self._follow_user(connection, info)

    async def _follow_user(self, connection: Connection, info: bytes) -> None:
        channel = personal(connection.user)
        await self.subscribe(connection, channel, info=info, present=True, reply=False)
        if self.membership.connections(connection, channel) > self.limits.connections_per_user:  # others came too
            count_limit("connections_per_user")
            connection.end(TOO_MANY)
            raise ended(connection)

    def begin(self, connection: Connection, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do in the background what a client asks for; the first time waits for its turn (links.admission)."""
        if connection.is_admitted:
            self._spawn(work)
        else:
            connection.is_admitted = True
            Admission.of(asyncio.get_running_loop()).begin(partial(self._spawn, work), self.limits.arrivals)

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.maintenance.spawn(work())

    def detach(self, connection: Connection) -> None:
        """Let a connection go: it follows nothing more, and leaves where it was present. Harmless when repeated."""
        if not self.registry.remove(connection):
            return
        self.fanout.forget(connection)
        reason = connection.disconnect or connection.ending
        is_drain = reason is not None and reason.code == SHUTDOWN.code
        for subscription in tuple(connection.subscriptions.values()):
            self.subscribing.unfollow(subscription)
            if is_drain:
                self.membership.leave_later(subscription)
            else:
                self.membership.leave(subscription, failed=connection.failed)

    # Publications.

    async def publish(
        self, channel: str, data: bytes, format: Format = Format.JSON, *, key: str = "", meta: bytes = b""
    ) -> Position:
        """Publish; returns when the broker keeps it. Raises NotPublished or PublishUnconfirmed."""
        retention = _NOTHING if is_events(channel) else self.rules.options(channel).retention
        try:
            position = await self.broker.publish(PublishRequest(channel, data, format, key, meta, retention))
        except PublishError as error:
            count_limit("publish_failed")
            self.maintenance.failed("publish", error)
            raise
        self.published += 1
        if self.maintenance.failing:
            self.maintenance.worked("publish")
        return position

    async def remove_history(self, channel: str) -> None:
        """Remove what is stored of a channel; raises StoreUnavailable."""
        await self.broker.remove_history(channel)
        self.recoveries.forget(channel)

    def send(self, connection: Connection, *messages: WireMessage) -> None:
        """Write to one connection of this node, behind everything that is pending for it."""
        if connection.subscriptions or self.fanout.is_pushing:
            self.fanout.flush_for(connection)
        connection.write(*messages)

    async def control(self, control: Control, data: bytes = b"", format: Format = Format.JSON) -> None:
        """Ask something of all nodes; raises as `publish` does."""
        await self.publish(CONTROL, data, format, meta=msgspec.json.encode(control))

    def _control(self, publication: Publication) -> None:
        try:
            self._obey(msgspec.json.decode(publication.meta, type=Control), publication)
        except msgspec.MsgspecError:
            logger.warning("a control message of another version was not understood")
        except Exception:
            logger.exception("a control message could not be obeyed")

    def _obey(self, control: Control, publication: Publication) -> None:
        """Do what one node asked of all."""
        if control.disconnect is not None:
            for connection in tuple(self.registry.users.get(control.user, {}).values()):
                self.fanout.flush_for(connection)
                connection.end(control.disconnect)
        if control.everybody:
            self.fanout.push_everybody(tuple(self.registry.connections.values()), publication)
        obey = self.verbs.get(control.verb)
        if obey is not None:
            obey(publication)


def _is_loopback(address: str) -> bool:
    return address in ("", "::1") or address.removeprefix("::ffff:").startswith("127.")

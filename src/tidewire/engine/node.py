"""The engine of one process: its connections and channels, and the way of every message between them and the store."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from tidewire.backends.base import Broker, Presence
from tidewire.channels import CONTROL, personal
from tidewire.engine.channels import Channels
from tidewire.engine.connection import Connection
from tidewire.engine.control import Control
from tidewire.engine.fanout import Fanout
from tidewire.engine.membership import Memberships
from tidewire.engine.recovery import Recoveries
from tidewire.engine.registry import Registry
from tidewire.engine.statistics import Statistics
from tidewire.engine.subscribing import Subscriptions, ended
from tidewire.engine.tasks import Tasks
from tidewire.errors import BadRequest, LimitExceeded, NotPublished, PublishError
from tidewire.history.recovery_reader import RecoveryReader
from tidewire.history.shared_states import States
from tidewire.history.shown_history import History, IsShown, everything
from tidewire.limits import Limits
from tidewire.messages import (
    EphemeralPublication,
    Format,
    IssuedToken,
    Membership,
    Position,
    Publication,
    PublishRequest,
    WireMessage,
)
from tidewire.protocols.close_codes import SHUTDOWN, TOO_MANY
from tidewire.rules.options_by_name import OptionsByName
from tidewire.rules.publication_counts import Tally
from tidewire.support.counters import LimitCounter, count_limit
from tidewire.support.key_counts import Counts
from tidewire.support.meter import Meter
from tidewire.support.shared_tasks import SharedTasks

__all__ = ("Node",)

logger = logging.getLogger("tidewire")

#: The position of a publication that is not kept.
NOWHERE = Position(0, "")
#: Seconds between two touches of the lease, looks for departed members, sweeps of idle channels, and comparisons of all
#: positions with the store's.
TOUCH_SECONDS = 2.0
CLAIM_SECONDS = 1.0
SWEEP_SECONDS = 2.0
POSITION_SECONDS = 10.0

#: Whether the token of a user was ended before it expires.
IsRevoked = Callable[[str, IssuedToken | None], bool]


class Node:
    """The engine of one process.

    Everything runs on one event loop. `start` comes first and `aclose` last; all tasks between them belong to `tasks`
    and end with it. `is_shown` decides which publications history shows;
    `counts` are those that the processes of this machine share.
    """

    def __init__(
        self,
        broker: Broker,
        presence: Presence,
        *,
        limits: Limits | None = None,
        options: OptionsByName | None = None,
        is_shown: IsShown = everything,
        counts: Counts | None = None,
    ) -> None:
        self.id = secrets.token_hex(6)
        self.broker = broker
        self.presence = presence
        self.limits = limits = limits or Limits()
        self.options = options or OptionsByName()
        self.registry = Registry(counts)
        self.tasks = Tasks()
        self.history = History(broker, is_shown)
        self.fanout = Fanout(self.registry, limits)
        self._ephemeral = self.fanout.ephemeral
        self.channels = Channels(self.registry, broker, self.fanout, self.options, limits, self.tasks)
        self.memberships = Memberships(
            presence, self.registry, self.tasks, partial(self.publish, ephemeral=False), patience=limits.publish_seconds
        )
        reader = RecoveryReader(broker, self.history, self.tasks.spawn, limits)
        #: Ask the application for what is given to many.
        self.shared_tasks = SharedTasks(self.tasks.spawn, limits.state_threads, "state_threads")
        states = States(self.shared_tasks.spawn, limits)
        self.recoveries = Recoveries(reader, states, on_epoch_changed=self.channels.catch_up)
        self.subscriptions = Subscriptions(
            self.registry, self.channels, self.fanout, self.memberships, self.recoveries, self.options, limits
        )
        self.subscribe = self.subscriptions.subscribe
        self.unsubscribe = self.subscriptions.unsubscribe
        self._closed, self._drained = self.detach, self.fanout.release  # each connection holds the same ones
        self._is_revoked: IsRevoked | None = None
        self._limits_reached: Counter[str] = Counter()
        self._published = 0
        #: Connections since the start: those that came, and those that ended, by their codes.
        self.opened = 0
        self.ended: Counter[int] = Counter()
        self._verbs: dict[str, Callable[[Publication], None]] = {}
        #: Measures durations, where somebody wants to know them; set by its owner before the start.
        self.meter: Meter | None = None
        #: Objects of layers above that live with this node, by their classes.
        self.companions: dict[type, Any] = {}
        self.is_open = False

    async def start(self) -> None:
        """Open the store and begin; raises ConfigurationError or StoreUnavailable."""
        loop = asyncio.get_running_loop()
        self._limits_reached = LimitCounter.of(loop).reached
        self.fanout.bind(loop)
        self.fanout.ephemeral.bind(loop, self.broker)
        try:
            await self.broker.start(self.channels.deliver, self.tasks.hurry)
            await self.presence.start(self.id)
            self.is_open = True
            await self.channels.listen(CONTROL, self._control)
            self.tasks.start(
                (
                    ("touch", TOUCH_SECONDS, self.memberships.touch),
                    ("claim", CLAIM_SECONDS, self.memberships.claim),
                    ("sweep", SWEEP_SECONDS, self.channels.sweep),
                    ("positions", POSITION_SECONDS, self.channels.check_positions),
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
        for connection in (*self.registry.connections.values(), *self.registry.readers.values()):
            connection.end(SHUTDOWN)
        await self._close_all()

    async def _close_all(self) -> None:
        try:
            await self.tasks.aclose(grace=self.limits.publish_seconds + 1.0)
        finally:
            self.shared_tasks.close()
            try:
                await self.presence.aclose()
            finally:
                await self.broker.aclose()

    def statistics(self) -> Statistics:
        """Return the figures of this node."""
        channels, fanout, slow = self.channels, self.fanout, self.fanout.slow
        return Statistics(
            connections=len(self.registry.connections),
            users=len(self.registry.users),
            channels=len(self.registry.channels),
            published=self._published,
            deliveries=fanout.broadcasts
            + sum([tally.deliveries for tally in self.options.tallies.by_pattern.values()]),
            duplicates=channels.duplicates,
            gaps=channels.gaps,
            slow_disconnects=slow.disconnects,
            dropped=slow.dropped,
            superseded=slow.superseded + fanout.ephemeral.superseded,
            worst_turn_cpu=fanout.worst_turn_cpu,
            worst_turn_wall=fanout.worst_turn_wall,
            limits_reached=dict(self._limits_reached),
            degraded=self.tasks.degraded,
        )

    # Connections come and go.

    def judge_tokens(self, is_revoked: IsRevoked) -> None:
        """Ask the layer above that knows it whether a token was revoked."""
        self._is_revoked = is_revoked

    def is_revoked(self, user: str, token: IssuedToken | None) -> bool:
        """Return whether a token may not be used any more."""
        return self._is_revoked is not None and self._is_revoked(user, token)

    async def attach(self, connection: Connection, info: bytes = b"") -> None:
        """Add a connection; with a user, subscribe it to the user's own channel. Raises StoreUnavailable."""
        connection.attach(closed=self._closed, drained=self._drained)
        self.registry.add(connection)
        self.opened += 1
        connection.link.listen(connection)
        if connection.user:
            await self._subscribe_user(connection, info)

    def attach_reader(self, connection: Connection) -> None:
        """Add a connection of the application itself; it is no client, and counts for no limit of clients.

        Raises LimitExceeded for one reader too many.
        """
        if len(self.registry.readers) >= self.limits.readers:
            count_limit("readers")
            raise LimitExceeded(f"{self.limits.readers} readers read channels here; end some, or allow more (readers)")
        connection.attach(closed=self._closed, drained=self._drained)
        self.registry.readers[connection.id] = connection
        connection.link.listen(connection)

    async def identify(self, connection: Connection, user: str, info: bytes = b"") -> None:
        """Give a connection of this node its user, after it was accepted; raises as `attach` does."""
        self.registry.identify(connection, user)
        await self._subscribe_user(connection, info)

    async def _subscribe_user(self, connection: Connection, info: bytes) -> None:
        channel = personal(connection.user)
        await self.subscribe(connection, channel, membership=Membership(present=True, info=info), reply=False)
        if self.memberships.connections(connection, channel) > self.limits.connections_per_user:  # others came too
            count_limit("connections_per_user")
            connection.end(TOO_MANY)
            raise ended(connection)

    def detach(self, connection: Connection) -> None:
        """Remove a connection with its subscriptions; it leaves where it was present. Harmless when repeated."""
        if not self.registry.remove(connection):
            return
        self.fanout.forget(connection)
        reason = connection.disconnect or connection.ending
        self.ended[0 if reason is None else reason.code] += 1
        is_drain = reason is not None and reason.code == SHUTDOWN.code
        for subscription in tuple(self.registry.subscriptions(connection).values()):
            self.subscriptions.end(subscription)
            if is_drain:
                self.memberships.leave_later(subscription)
            else:
                self.memberships.leave(subscription, failed=connection.failed)

    # Publications.

    async def publish(
        self,
        channel: str,
        data: bytes,
        format: Format = Format.JSON,
        *,
        key: str = "",
        meta: bytes = b"",
        ephemeral: bool | None = None,
        sender: str = "",
    ) -> Position:
        """Publish; returns when the broker keeps it. Raises NotPublished or PublishUnconfirmed.

        An `ephemeral` publication (None: as the channel's options say) is not kept: it takes no offset, and of each
        `sender` a slow subscriber is given the newest. BadRequest for a key, or above `ephemeral_bytes`.
        """
        retention = self.options.retentions[channel]
        if ephemeral or (retention is None and ephemeral is None):
            self.publish_ephemeral(channel, data, format, key=key, meta=meta, sender=sender)
            return NOWHERE
        if self._ephemeral.outgoing:
            self._ephemeral.send_before(channel)
        try:
            position = await self.broker.publish(PublishRequest(channel, data, format, key, meta, retention))
        except PublishError as error:
            self._publish_failed(error)
            raise
        self._published += 1
        self.options.tallies[channel].published += 1
        if self.tasks.failing:
            self.tasks.worked("publish")
        return position

    def begin_publish(
        self,
        channel: str,
        data: bytes,
        format: Format = Format.JSON,
        *,
        settled: Callable[[asyncio.Future[Position]], None],
        key: str = "",
        meta: bytes = b"",
    ) -> asyncio.Future[Position]:
        """Ask a broker that `waits` to keep a publication; the future has the outcome, as `publish` returns it.

        `settled` is called with the future when it has; further callbacks would be dear for so frequent a thing.
        """
        if self._ephemeral.outgoing:
            self._ephemeral.send_before(channel)
        request = PublishRequest(channel, data, format, key, meta, self.options.retentions[channel])
        try:
            asked = self.broker.publish(request)
            begun = asked if isinstance(asked, asyncio.Future) else asyncio.ensure_future(asked)
        except PublishError as error:
            self._publish_failed(error)
            raise
        begun.add_done_callback(partial(self._publish_settled, self.options.tallies[channel], settled))
        return begun

    def _publish_settled(
        self, tally: Tally, settled: Callable[[asyncio.Future[Position]], None], begun: asyncio.Future[Position]
    ) -> None:
        error = None if begun.cancelled() else begun.exception()
        if isinstance(error, PublishError):
            self._publish_failed(error)
        elif error is None and not begun.cancelled():
            self._published += 1
            tally.published += 1
            if self.tasks.failing:
                self.tasks.worked("publish")
        settled(begun)

    def _publish_failed(self, error: PublishError) -> None:
        count_limit("publish_failed")
        self.tasks.failed("publish", error)

    def may_pass(self, data: bytes, key: str, ephemeral: bool | None) -> bool | None:
        """Return whether a publication that no history shows may skip the store, where it would push out others.

        A publication that has a key or is large is kept, as is one of which `ephemeral` says so.
        """
        return True if ephemeral is None and not key and len(data) * 2 <= self.limits.ephemeral_bytes else ephemeral

    def is_ephemeral(self, channel: str) -> bool:
        """Return whether the publications of a channel are not kept, unless one says otherwise."""
        return self.options.retentions[channel] is None

    def publish_ephemeral(
        self, channel: str, data: bytes, format: Format, *, key: str = "", meta: bytes = b"", sender: str = ""
    ) -> None:
        """Publish what nobody keeps; raises as `publish` does."""
        if not self.is_open:
            raise NotPublished("this node is closed; publish while the application runs")
        if key:
            raise BadRequest(f"key={key!r} needs a publication that is kept; leave it out, or write ephemeral=False")
        if len(data) + len(meta) > self.limits.ephemeral_bytes:
            count_limit("ephemeral_bytes")
            raise LimitExceeded(
                f"a publication that nobody keeps has at most {self.limits.ephemeral_bytes} bytes (ephemeral_bytes), "
                f"this one has {len(data)}; publish it with ephemeral=False"
            )
        if self.limits.ephemeral_seconds and (publisher := self.registry.connections.get(sender)) is not None:
            publisher.link.may_wait()
        self._published += 1
        self._ephemeral.publish(EphemeralPublication(channel, 0, 0, "", time.time(), data, format, meta, sender))

    async def remove_history(self, channel: str) -> None:
        """Remove the stored publications of a channel; raises StoreUnavailable."""
        await self.broker.remove_history(channel)
        self.recoveries.forget(channel)

    def send(self, connection: Connection, *messages: WireMessage) -> None:
        """Write to one connection of this node, behind everything that is pending for it."""
        if self.registry.subscriptions(connection) or self.fanout.is_broadcasting:
            self.fanout.flush_for(connection)
        connection.write(*messages)

    def on_control(self, verb: str, obey: Callable[[Publication], None]) -> None:
        """Call a function of a layer above when another node, or this one, asks for it by a verb."""
        self._verbs[verb] = obey

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
        """Obey a request that a node sent to all."""
        if control.disconnect is not None:
            for connection in tuple(self.registry.users.get(control.user, {}).values()):
                self.fanout.flush_for(connection)
                connection.end(control.disconnect)
        if control.everybody:
            self.fanout.broadcast(tuple(self.registry.connections.values()), publication)
        obey = self._verbs.get(control.verb)
        if obey is not None:
            obey(publication)

"""Which connection is subscribed to which channel of this node: channel → representation → subscriptions. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import msgspec

from tidewire.channel_options import ChannelOptions
from tidewire.engine.connection import Connection
from tidewire.engine.subscription import Subscription
from tidewire.messages import EphemeralPublication, Position, Publication
from tidewire.protocols.batch import Batch, Representation
from tidewire.rules.publication_counts import Tally
from tidewire.support.key_counts import Counts
from tidewire.support.networks import is_loopback, network_of

__all__ = ("Channel", "ChannelPush", "Group", "Newcomer", "Registry")

_NONE: Mapping[str, Subscription] = MappingProxyType({})


class Group:
    """The subscriptions of one channel that share a representation, grouped when they subscribe.

    `snapshot` holds them as they are now, once `freeze` has made it: later changes make a new tuple.
    """

    __slots__ = ("snapshot", "subscriptions")

    def __init__(self) -> None:
        self.subscriptions: dict[Subscription, None] = {}
        self.snapshot: tuple[Subscription, ...] = ()

    def add(self, subscription: Subscription) -> None:
        """Add a subscription, once."""
        self.subscriptions[subscription] = None
        self.snapshot = ()

    def discard(self, subscription: Subscription) -> None:
        """Remove a subscription, if it is there."""
        if self.subscriptions.pop(subscription, False) is None:
            self.snapshot = ()

    def freeze(self) -> tuple[Subscription, ...]:
        """Return the subscriptions as they are now."""
        self.snapshot = self.snapshot or tuple(self.subscriptions)
        return self.snapshot


class ChannelPush(msgspec.Struct):
    """The publications of one channel in one turn, and how far that has come when the turn's time ends.

    `first` and `last` are the offsets of the publications at its ends. `parts` are the batches that are left, each with
    the subscriptions that take it; `reached` counts those of the first part that were given it. Fan-out moves both.
    """

    publications: tuple[Publication, ...]
    first: int
    last: int
    parts: deque[tuple[Batch, tuple[Subscription, ...]]]
    reached: int = 0


class Channel(msgspec.Struct, eq=False):
    """One channel that this node is subscribed to at the broker.

    `channels.Channels` moves `position`, that of the newest publication that was delivered to this node, and the
    publications that wait while the channel is `catching_up`; `overrun`: too many came to wait. `fanout.Fanout` moves
    `pending` (for the end of the turn), `is_dirty`, `last` and `push`.
    """

    name: str
    options: ChannelOptions
    tally: Tally
    position: Position = Position(0, "")
    groups: dict[Representation, Group] = {}
    #: Subscriptions whose reply is being written.
    buffering: dict[Subscription, None] = {}
    pending: list[Publication] = []
    #: The newest publication that was given to the subscribers, where they may be sent differences to it.
    last: Publication | None = None
    is_dirty: bool = False
    #: Publications that nobody keeps, until `ephemeral.Ephemeral` pushes them.
    ephemeral: list[EphemeralPublication] = []
    #: The push of an earlier turn that its time budget cut short.
    push: ChannelPush | None = None
    #: A new channel catches up with the broker first.
    catching_up: bool = True
    #: Takes each publication first, and says whether subscribers are given it.
    tap: Callable[[Publication], bool | None] | None = None
    waiting: list[Publication] = []
    waiting_bytes: int = 0
    overrun: bool = False

    def __len__(self) -> int:
        return sum(len(group.subscriptions) for group in self.groups.values()) + len(self.buffering)

    def count(self, batch: Batch, subscribers: int = 1) -> None:
        """Count publications that subscribers were given, under the channel's pattern."""
        self.tally.deliveries += subscribers * len(batch)
        self.tally.bytes += subscribers * batch.size

    @property
    def is_used(self) -> bool:
        """The channel has a subscriber, or a tap."""
        return bool(self.groups or self.buffering) or self.tap is not None

    def subscriptions(self) -> Iterator[Subscription]:
        """Iterate over all subscriptions, live ones first."""
        for group in self.groups.values():
            yield from group.freeze()
        yield from tuple(self.buffering)

    def add(self, subscription: Subscription) -> None:
        """Add a subscription whose reply is being written."""
        self.buffering[subscription] = None
        subscription.begin(self.position)

    def go_live(self, subscription: Subscription, after: int) -> None:
        """Push everything after an offset to a subscription."""
        self.buffering.pop(subscription, None)
        subscription.go_live(after)
        self._group(subscription)

    def _group(self, subscription: Subscription) -> None:
        group = self.groups.get(subscription.representation)
        if group is None:
            group = self.groups[subscription.representation] = Group()
        group.add(subscription)

    def _ungroup(self, subscription: Subscription) -> None:
        group = self.groups.get(subscription.representation)
        if group is not None:
            group.discard(subscription)
            if not group.subscriptions:
                del self.groups[subscription.representation]

    def has_begun(self, subscription: Subscription) -> None:
        """Move a subscription that was given its first publications to the representation that comes then."""
        then = subscription.representation.then
        if then is not None:
            self._ungroup(subscription)
            subscription.go_on(then)
            self._group(subscription)

    def remove(self, subscription: Subscription) -> None:
        """End a subscription: nothing is pushed to it any more, not even from a batch that has begun."""
        self.buffering.pop(subscription, None)
        subscription.end()
        self._ungroup(subscription)


class Newcomer:
    """A client from its admission until it has become a `connection`."""

    __slots__ = ("connection", "network")

    def __init__(self, address: str) -> None:
        #: The network that it counts for; empty if it counts for none.
        self.network = "" if is_loopback(address) else network_of(address)
        self.connection: Connection | None = None

    def becomes(self, connection: Connection) -> None:
        """Note the connection that counts from now on."""
        self.connection = connection


class Registry:
    """All channels, connections, subscriptions and users of a node."""

    __slots__ = ("_admitted", "_subscriptions", "arriving", "channels", "connections", "counts", "readers", "users")

    def __init__(self, counts: Counts | None = None) -> None:
        #: Connections by network (`network_of` their addresses; of this machine itself none are counted), and the
        #: messages of users: as far as `counts` reach, by default those of this process.
        self.counts = counts or Counts()
        #: Connections that were admitted and are not yet added.
        self.arriving = 0
        self._admitted: set[Connection] = set()
        self.channels: dict[str, Channel] = {}
        self.connections: dict[str, Connection] = {}
        #: Connections of the application itself, which listen to channels and are no clients.
        self.readers: dict[str, Connection] = {}
        self.users: dict[str, dict[str, Connection]] = {}
        self._subscriptions: dict[Connection, dict[str, Subscription]] = {}

    # Subscriptions.

    def subscriptions(self, connection: Connection) -> Mapping[str, Subscription]:
        """Return the subscriptions of a connection, by channel, as they are now."""
        return self._subscriptions.get(connection, _NONE)

    def subscribe(self, subscription: Subscription) -> None:
        """Add a subscription."""
        self._subscriptions.setdefault(subscription.connection, {})[subscription.channel] = subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Remove a subscription; harmless when it was removed, or another took its place."""
        mine = self._subscriptions.get(subscription.connection)
        if mine is not None and mine.get(subscription.channel) is subscription:
            del mine[subscription.channel]
            if not mine:
                del self._subscriptions[subscription.connection]

    def is_subscribed(self, subscription: Subscription) -> bool:
        """Return whether a subscription was added and not removed."""
        return self.subscriptions(subscription.connection).get(subscription.channel) is subscription

    def add(self, connection: Connection) -> None:
        """Add a connection."""
        self.connections[connection.id] = connection
        if connection in self._admitted:
            self._admitted.remove(connection)
        elif not is_loopback(connection.address):
            self.counts.add(network_of(connection.address))
        if connection.user:
            self._add_to_user(connection)

    def arrive(self, address: str, most: int) -> Newcomer | None:
        """Count a newcomer from its admission on, or return None if its network has `most` connections already."""
        newcomer = Newcomer(address)
        if newcomer.network and not self.counts.add(newcomer.network, most):
            return None
        self.arriving += 1
        return newcomer

    def arrived(self, newcomer: Newcomer) -> None:
        """Count a newcomer no longer: it went away, or its connection is added before anything else happens."""
        self.arriving -= 1
        if newcomer.network and newcomer.connection is not None:
            self._admitted.add(newcomer.connection)
        elif newcomer.network:
            self.counts.remove(newcomer.network)

    def identify(self, connection: Connection, user: str) -> None:
        """Give a connection its user."""
        connection.identify(user)
        self._add_to_user(connection)

    def _add_to_user(self, connection: Connection) -> None:
        others = self.users.setdefault(connection.user, {})
        connection.share_rate(others.values(), self.counts)
        others[connection.id] = connection

    def remove(self, connection: Connection) -> bool:
        """Remove a connection; return whether it was there."""
        if self.readers.pop(connection.id, None) is not None:
            return True
        if self.connections.pop(connection.id, None) is None:
            return False
        if not is_loopback(connection.address):
            self.counts.remove(network_of(connection.address))
        devices = self.users.get(connection.user)
        if devices is not None:
            devices.pop(connection.id, None)
            if not devices:
                del self.users[connection.user]
        return True

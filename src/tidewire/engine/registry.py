"""Who follows what on this node: channel → representation → subscriptions, user → connections. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tidewire.engine.connection import Connection
from tidewire.engine.subscription import ENDED, Subscription
from tidewire.messages import Position, Publication
from tidewire.options import ChannelOptions
from tidewire.protocols.batch import Representation

__all__ = ("Channel", "Group", "Registry")


class Group:
    """The subscriptions of one channel that share a representation, grouped when they subscribe."""

    __slots__ = ("_snapshot", "subscriptions")

    def __init__(self) -> None:
        self.subscriptions: dict[Subscription, None] = {}
        self._snapshot: tuple[Subscription, ...] | None = None

    def add(self, subscription: Subscription) -> None:
        self.subscriptions[subscription] = None
        self._snapshot = None

    def discard(self, subscription: Subscription) -> None:
        if self.subscriptions.pop(subscription, False) is None:
            self._snapshot = None

    @property
    def snapshot(self) -> tuple[Subscription, ...]:
        """The subscriptions as they are now; later changes make a new tuple."""
        snapshot = self._snapshot
        if snapshot is None:
            snapshot = self._snapshot = tuple(self.subscriptions)
        return snapshot


class Channel:
    """One channel that this node carries.

    `position` is that of the newest publication this node was delivered. `pending` waits for the end of the turn.
    While the channel is `catching_up`, what arrives is `waiting`; `overrun` says that this was more than may wait.
    """

    __slots__ = (
        "buffering",
        "catching_up",
        "groups",
        "is_dirty",
        "last",
        "name",
        "options",
        "overrun",
        "pending",
        "position",
        "tap",
        "waiting",
        "waiting_bytes",
        "work",
    )

    def __init__(self, name: str, options: ChannelOptions, position: Position) -> None:
        self.name = name
        self.options = options
        self.position = position
        self.groups: dict[Representation, Group] = {}
        #: Subscriptions whose reply is under way.
        self.buffering: dict[Subscription, None] = {}
        self.pending: list[Publication] = []
        #: The newest publication that was given to the subscribers, where they may be sent differences to it.
        self.last: Publication | None = None
        self.is_dirty = False
        #: The deliveries of an earlier turn that its time budget cut short (fanout.Work).
        self.work: object | None = None
        self.catching_up = False
        #: Takes the publications instead of subscribers (the nodes' own channel).
        self.tap: Callable[[Publication], None] | None = None
        self.waiting: list[Publication] = []
        self.waiting_bytes = 0
        self.overrun = False

    def __len__(self) -> int:
        return sum(len(group.subscriptions) for group in self.groups.values()) + len(self.buffering)

    @property
    def is_followed(self) -> bool:
        """Somebody follows it."""
        return bool(self.groups or self.buffering)

    def subscriptions(self) -> Iterator[Subscription]:
        """All subscriptions, live ones first."""
        for group in self.groups.values():
            yield from group.snapshot
        yield from tuple(self.buffering)

    def begin(self, subscription: Subscription) -> None:
        """Add a subscription whose reply is under way."""
        self.buffering[subscription] = None
        subscription.began = self.position

    def go_live(self, subscription: Subscription, after: int) -> None:
        """Let a subscription have everything after an offset."""
        self.buffering.pop(subscription, None)
        subscription.buffer = None
        subscription.live_after = after
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
        """Let a subscription that was given its first publications go on in the representation that follows."""
        then = subscription.representation.then
        if then is not None:
            self._ungroup(subscription)
            subscription.representation = then
            self._group(subscription)

    def remove(self, subscription: Subscription) -> None:
        """End a subscription: nothing is pushed to it any more, not even from a batch that has begun."""
        self.buffering.pop(subscription, None)
        subscription.live_after = ENDED
        self._ungroup(subscription)


class Registry:
    """All channels, connections and users of a node."""

    __slots__ = ("addresses", "arriving", "channels", "connections", "users")

    def __init__(self) -> None:
        #: How many were admitted and are not yet added.
        self.arriving = 0
        self.channels: dict[str, Channel] = {}
        self.connections: dict[str, Connection] = {}
        self.users: dict[str, dict[str, Connection]] = {}
        self.addresses: dict[str, int] = {}

    def add(self, connection: Connection) -> None:
        """Add a connection."""
        self.connections[connection.id] = connection
        self._count(connection.address, +1)
        if connection.user:
            self.users.setdefault(connection.user, {})[connection.id] = connection

    def arrive(self, address: str) -> None:
        """Count a newcomer from its admission on, so that many at once do not pass a limit together."""
        self.arriving += 1
        self._count(address, +1)

    def arrived(self, address: str) -> None:
        """Count a newcomer no longer: it was added, or went away."""
        self.arriving -= 1
        self._count(address, -1)

    def _count(self, address: str, change: int) -> None:
        count = self.addresses.get(address, 0) + change
        if count > 0:
            self.addresses[address] = count
        else:
            self.addresses.pop(address, None)

    def identify(self, connection: Connection, user: str) -> None:
        """Give a connection its user."""
        connection.user = user
        self.users.setdefault(user, {})[connection.id] = connection

    def remove(self, connection: Connection) -> bool:
        """Remove a connection; False when it was not there."""
        if self.connections.pop(connection.id, None) is None:
            return False
        self._count(connection.address, -1)
        devices = self.users.get(connection.user)
        if devices is not None:
            devices.pop(connection.id, None)
            if not devices:
                del self.users[connection.user]
        return True

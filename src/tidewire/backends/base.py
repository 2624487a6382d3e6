"""The two contracts of a store: a broker keeps and delivers publications, presence lists the members of channels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from tidewire.messages import (
    Announcement,
    Departure,
    EphemeralPublication,
    HistoryPage,
    HistoryRequest,
    Member,
    Position,
    Publication,
    PublishRequest,
)
from tidewire.retention import Retention
from tidewire.support.counters import count_limit

__all__ = ("Broker", "Deliver", "JoinResult", "Moved", "Presence", "Resumed", "nothing_to_resume")

Deliver = Callable[[Sequence[Publication]], None]
Resumed = Callable[[], None]
#: Takes the offset of the last publication that was moved into each channel, and returns what their rules keep.
Moved = Callable[[Mapping[str, int]], Mapping[str, Retention]]


def nothing_to_resume() -> None:
    """Do nothing at the end of an outage."""


class Broker(ABC):
    """Keeps publications and delivers them to nodes.

    One instance belongs to one node and to one event loop. `start` comes first and `aclose` last; both may be called
    twice. Every other method may run concurrently with itself.

    **Order.** Within a channel and epoch, offsets grow; each publication names the offset before it. `deliver` is
    called on the event loop, never concurrently, with publications of subscribed channels; per channel they come in
    the order of their offsets. A publication may be delivered twice or not at all after an outage: the node
    compares `previous` with its own position and reads `history` to fill a gap.

    **Kept.** A publication stays readable for at least 60 s, even beyond its channel's retention, so that every node
    can fill a gap; `Retention` bounds the publications that *readers* are shown.
    """

    #: Other processes on this store see the publications of this one.
    shared: bool = False
    #: `publish` may wait for the store; where it never does, nothing is gained by several at once.
    waits: bool = True
    #: The moment at which `publish` returns, in words for people ("committed and fsynced").
    kept: str = ""
    #: Publishes inside an application's own transaction, through its connection; None: this store cannot.
    within: Callable[[object, PublishRequest], Awaitable[None]] | None = None

    @abstractmethod
    async def start(self, deliver: Deliver, resumed: Resumed = nothing_to_resume) -> None:
        """Open the store and begin to deliver.

        `resumed` is called on the event loop when delivery is back after an outage. Publications of that time were
        perhaps not delivered, so the node compares its positions with the store's at once.
        Raises ConfigurationError when the store cannot be used as configured, StoreUnavailable when it does not answer.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Finish the publishes that were accepted, then release everything. Nothing is delivered afterwards."""

    @abstractmethod
    async def subscribe(self, channel: str) -> Position:
        """Subscribe this node to a channel, and return its position: everything after it is delivered (at least once).

        A channel that nobody has published to has a position too (offset 0 and an epoch that stays).
        Calling it again is harmless. Raises StoreUnavailable.
        """

    @abstractmethod
    async def unsubscribe(self, channel: str) -> None:
        """End the subscription to a channel; harmless when there is none. Deliveries in flight may still arrive."""

    @abstractmethod
    def publish(self, request: PublishRequest) -> Awaitable[Position]:
        """Keep one publication; await its position.

        It is there when the store keeps the publication, as `kept` describes. A store that `waits` is asked by the call
        itself and answers with a future: two calls of one node for one channel get their offsets in the order of the
        calls. With a `key` that is known within its window, nothing is kept again and the position of the first is
        returned.

        The call or the await raises NotPublished (surely not kept) or PublishUnconfirmed (unknown), nothing else for a
        failing store.
        """

    def relay(self, publications: Sequence[EphemeralPublication]) -> None:
        """Pass publications that nobody keeps on to the other nodes that are subscribed to their channels.

        Neither waits nor raises: one that cannot go now is lost and counted under the limit `relay`. None is stored.
        They are delivered by `deliver`, those of one node in their order; those of channels without a subscription
        may be, too. A store that is not `shared` has no other nodes.
        """
        if self.shared:  # and this store does not pass them on
            count_limit("relay")

    @abstractmethod
    async def read(self, request: HistoryRequest) -> HistoryPage:
        """Read a channel's history in one atomic step; raises StoreUnavailable.

        `complete` in the answer refers to `since` and to the publications that `retention` shows.
        """

    async def history(
        self,
        channel: str,
        *,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
        retention: Retention | None = None,
    ) -> HistoryPage:
        """Read as `read` does, without a request made by the caller."""
        return await self.read(HistoryRequest(channel, retention, since, limit, reverse))

    @abstractmethod
    async def remove_history(self, channel: str) -> None:
        """Remove the publications of a channel; its position stays. Raises StoreUnavailable."""

    @abstractmethod
    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        """Return the top position of each channel, in one bounded read. Raises StoreUnavailable."""

    def watch_moves(self, moved: Moved) -> None:
        """Call a function when this node has moved publications of SQL into channels, with their tops.

        A store that other programs cannot publish in does nothing.
        """
        return

    async def describe(self) -> tuple[str, ...]:
        """Return facts about the store (version, persistence, clock), one sentence each, for `tidewire doctor`.

        Raises StoreUnavailable.
        """
        return ()

    async def advise(self) -> tuple[str, ...]:
        """Return advice on the store's configuration and the reasons, one sentence each. Raises StoreUnavailable."""
        return ()


class JoinResult(msgspec.Struct, frozen=True, gc=False):
    """`first`: no other connection of this user was in the channel. `connections`: how many the user has now."""

    first: bool
    connections: int


class Presence(ABC):
    """The members of channels, on all nodes.

    Members belong to the node that joined them. A node is alive while it touches its lease (and, where the store can
    find that out, while its process lives). The members of a node that is dead for longer than the grace are
    *departed*: they are claimed by a surviving node (`claim`), which publishes their announcements and then forgets
    them (`forget`). Claimed members are no longer listed or counted. A member that joins again before the claim takes
    the place of the dead one, and there is no departure. A claim that is not forgotten within a lease may be claimed
    again, with the same token.

    Time is the store's or is measured by watching it; the clocks of two nodes are never compared.
    Every method raises StoreUnavailable when the store does not answer.
    """

    @abstractmethod
    async def start(self, node: str) -> None:
        """Open the store and take a lease for this node."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release everything. Members that have not left are no longer listed or counted.

        They depart when the lease of this node has ended, as if it had died, unless their users have joined again by
        then. Those are not the first.
        """

    @abstractmethod
    async def join(self, channel: str, member: Member, announcement: Announcement | None = None) -> JoinResult:
        """Add a member of this node, or replace the one with the same connection; its result is of the same moment."""

    @abstractmethod
    async def leave(self, channel: str, connection: str) -> bool:
        """Remove a member; True when it was there and was the user's last connection in the channel."""

    @abstractmethod
    async def set_aside(self, channel: str, connection: str) -> None:
        """List and count a member of this node no longer, as `aclose` does for all; harmless when it is not there.

        It departs when the lease of this node has ended, unless its user has joined again or it leaves before.
        """

    @abstractmethod
    async def touch(self) -> bool:
        """Prolong this node's lease, in one step for all its members; False: it was lost, join the members again."""

    @abstractmethod
    async def members(self, channel: str) -> list[Member]:
        """Return the members of all live nodes, in the order in which they joined."""

    @abstractmethod
    async def count(self, channel: str, user: str | None = None) -> int:
        """Return how many connections are in the channel, or how many of them belong to one user."""

    @abstractmethod
    async def claim(self, limit: int = 256) -> Sequence[Departure]:
        """Claim departed users, at most `limit` of them; the claim is this node's for one lease."""

    @abstractmethod
    async def forget(self, departures: Sequence[Departure]) -> None:
        """Remove claimed departures, after their announcements are kept. Harmless when repeated."""

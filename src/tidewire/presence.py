"""The contract of presence: who is in a channel, on all nodes, by leases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

from tidewire.messages import Departure, Farewell, Member

__all__ = ("JoinResult", "Presence")


class JoinResult(msgspec.Struct, frozen=True, gc=False):
    """`first`: no other connection of this user was in the channel. `connections`: how many the user has now."""

    first: bool
    connections: int


class Presence(ABC):
    """Who is in a channel, on all nodes.

    Members belong to the node that joined them. A node is alive while it touches its lease (and, where the store can
    tell, while its process lives). The members of a node that is dead for longer than the grace are *departed*: they
    are claimed by a surviving node (`claim`), which publishes their farewells and then forgets them (`forget`).
    Claimed members are no longer listed or counted. A member that joins again before the claim takes the place of the
    dead one, and there is no departure. A claim that is not forgotten within a lease may be claimed again, with the
    same token.

    Time is the store's or is measured by watching it; the clocks of two nodes are never compared.
    Every method raises StoreUnavailable when the store does not answer.
    """

    @abstractmethod
    async def start(self, node: str) -> None:
        """Open the store and take a lease for this node."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release everything. Members that have not left stay until their lease ends, as if the node had died."""

    @abstractmethod
    async def join(self, channel: str, member: Member, farewell: Farewell | None = None) -> JoinResult:
        """Add a member of this node, or replace the one with the same connection. Atomic with what it returns."""

    @abstractmethod
    async def leave(self, channel: str, connection: str) -> bool:
        """Remove a member; True when it was there and was the user's last connection in the channel."""

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
        """Remove claimed departures, after their farewells are kept. Harmless when repeated."""

"""The members of all channels, by the presence stream. Pure: every node applies the same messages in one order.

Time is that of the messages: a node is dead when others are heard for a lease and it is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from tidewire.backends.base import JoinResult
from tidewire.messages import Announcement, Departure, Member

__all__ = ("Claim", "Present", "Roster")

K = TypeVar("K")
V = TypeVar("V")


class Present(msgspec.Struct, frozen=True):
    """A member as its node announced it; `order` is its place among the members, 0: that of the message."""

    channel: str
    node: str
    member: Member
    announcement: Announcement | None = None
    order: int = 0
    sequence: int = 0


class Claim(msgspec.Struct, frozen=True):
    """A departure that a node claims: of these members (connection → sequence), whose nodes were heard last at these.

    It is void when the user is there again, or a node was heard again, before the claim was taken.
    """

    departure: Departure
    claimer: str
    members: dict[str, int]
    nodes: dict[str, int]
    sequence: int = 0
    time: float = 0.0
    is_void: bool = False


class _Lease:
    """When a node was heard last."""

    __slots__ = ("sequence", "time")

    def __init__(self) -> None:
        self.sequence = 0
        self.time = 0.0


class Roster:
    """The members of all nodes, their leases, and the claims of those that have departed."""

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._channels: dict[str, dict[str, Present]] = {}
        self._by_node: dict[str, dict[tuple[str, str], None]] = {}
        self._by_user: dict[tuple[str, str], dict[str, None]] = {}
        self._leases: dict[str, _Lease] = {}
        #: Nodes that were closed.
        self._closed: set[str] = set()
        #: (channel, user) → the claim of its departure that is not forgotten.
        self.claims: dict[tuple[str, str], Claim] = {}
        #: The store's time, as far as it was heard of.
        self.now = 0.0

    # Applying.

    def hear(self, time: float) -> None:
        """Take note of the time of a message, before it is applied.

        When nobody was heard for half a lease, the store was away: nobody is dead because of that.
        """
        if self.now and time - self.now > self._lease / 2:
            for lease in self._leases.values():
                lease.time = time
        self.now = max(self.now, time)

    def touch(self, node: str, sequence: int, *, is_closed: bool = False) -> None:
        """A node was heard; one that is closed lists its members no longer."""
        lease = self._leases.setdefault(node, _Lease())
        lease.sequence, lease.time = sequence, self.now
        if is_closed:
            self._closed.add(node)

    def bury(self, node: str) -> None:
        """A node's lease was removed."""
        self._leases.pop(node, None)
        self._closed.discard(node)

    def join(self, present: Present, sequence: int) -> JoinResult:
        """Add a member, or replace the one with the same connection."""
        connection, user = present.member.connection, present.member.user
        replaced = self._remove(present.channel, connection)
        others = list(self._of_user(present.channel, user))
        order = present.order or (replaced.order if replaced is not None else sequence)
        self._channels.setdefault(present.channel, {})[connection] = msgspec.structs.replace(
            present, sequence=sequence, order=order
        )
        self._by_node.setdefault(present.node, {})[present.channel, connection] = None
        self._by_user.setdefault((present.channel, user), {})[connection] = None
        living = sum(not self.is_dead(other.node) for other in self._listed(others))
        return JoinResult(first=not others, connections=living + 1)

    def leave(self, channel: str, connection: str) -> bool:
        """Remove a member; True when it was the last one of its user."""
        present = self._remove(channel, connection)
        return present is not None and not any(self._of_user(channel, present.member.user))

    def claim(self, claim: Claim) -> Claim:
        """Take a claim, unless it has become void; claimed members are no longer listed."""
        departure = claim.departure
        listed = claim.members
        again = any(
            listed.get(present.member.connection) != present.sequence
            for present in self._of_user(departure.channel, departure.user)
        )
        heard = any(
            node in self._leases and self._leases[node].sequence != sequence for node, sequence in claim.nodes.items()
        )
        before = self.claims.get((departure.channel, departure.user))
        if before is not None and before.departure.token == departure.token:  # claimed again, after the first claimer
            again, heard = before.is_void, False
        claim = msgspec.structs.replace(claim, time=self.now, is_void=again or heard)
        if not claim.is_void:
            for connection, sequence in listed.items():
                present = self.find(departure.channel, connection)
                if present is not None and present.sequence == sequence:
                    self._remove(departure.channel, connection)
        self.claims[departure.channel, departure.user] = claim
        return claim

    def forget(self, channel: str, user: str) -> None:
        """A claim was forgotten."""
        self.claims.pop((channel, user), None)

    def _remove(self, channel: str, connection: str) -> Present | None:
        members = self._channels.get(channel)
        present = None if members is None else members.pop(connection, None)
        if members is None or present is None:
            return None
        if not members:
            del self._channels[channel]
        _discard(self._by_node, present.node, (channel, connection))
        _discard(self._by_user, (channel, present.member.user), connection)
        return present

    # Reading.

    def find(self, channel: str, connection: str) -> Present | None:
        """Return a member."""
        return self._channels.get(channel, {}).get(connection)

    def members(self, channel: str) -> list[Member]:
        """Return the members in the order in which they joined."""
        found = self._listed(self._channels.get(channel, {}).values())
        members = sorted(found, key=lambda present: present.order)
        return [present.member for present in members]

    def count(self, channel: str, user: str | None = None) -> int:
        """Count connections."""
        if self._closed:
            found = self._channels.get(channel, {}).values() if user is None else self._of_user(channel, user)
            return sum(1 for _ in self._listed(found))
        return len(self._channels.get(channel, ()) if user is None else self._by_user.get((channel, user), ()))

    def has_lease(self, node: str) -> bool:
        """A node was heard, and is not buried."""
        return node in self._leases

    def of_node(self, node: str) -> int:
        """Return how many members a node has."""
        return len(self._by_node.get(node, ()))

    def is_dead(self, node: str) -> bool:
        """A node was not heard for a lease, while others were."""
        lease = self._leases.get(node)
        return lease is None or self.now - lease.time > self._lease

    def dead_without_members(self) -> list[tuple[str, int]]:
        """Return the dead nodes that can be buried, and when each was heard last."""
        return [
            (node, lease.sequence)
            for node, lease in self._leases.items()
            if node not in self._by_node and self.is_dead(node)
        ]

    def superseded(self) -> list[Present]:
        """Return the members of dead nodes whose users are there on living ones too."""
        return [
            present
            for present in self._of_dead()
            if any(not self.is_dead(other.node) for other in self._of_user(present.channel, present.member.user))
        ]

    def departed(self, claimer: str, limit: int) -> list[Claim]:
        """Return claims of users whose nodes are all dead; their tokens are still to be made."""
        users: dict[tuple[str, str], list[Present]] = {}
        for dead in self._of_dead():
            key = (dead.channel, dead.member.user)
            if key not in users and key not in self.claims and len(users) < limit:
                everybody = list(self._of_user(*key))
                if all(self.is_dead(present.node) for present in everybody):
                    users[key] = everybody
        return [self._claim_of(claimer, *key, everybody) for key, everybody in users.items()]

    def overdue(self) -> list[Claim]:
        """Return the claims that were not forgotten within a lease."""
        return [claim for claim in self.claims.values() if self.now - claim.time > self._lease]

    def _claim_of(self, claimer: str, channel: str, user: str, members: list[Present]) -> Claim:
        newest = sorted(members, key=lambda present: -present.sequence)
        announcement = next((present.announcement for present in newest if present.announcement is not None), None)
        return Claim(
            Departure(channel, user, "", announcement),
            claimer,
            {present.member.connection: present.sequence for present in members},
            {present.node: self._leases[present.node].sequence for present in members if present.node in self._leases},
        )

    def _of_dead(self) -> Iterator[Present]:
        for node, members in self._by_node.items():
            if self.is_dead(node):
                for channel, connection in members:
                    yield self._channels[channel][connection]

    def _listed(self, found: Iterable[Present]) -> Iterable[Present]:
        return (present for present in found if present.node not in self._closed) if self._closed else found

    def _of_user(self, channel: str, user: str) -> Iterator[Present]:
        for connection in self._by_user.get((channel, user), ()):
            yield self._channels[channel][connection]


def _discard(index: dict[K, dict[V, None]], key: K, value: V) -> None:
    values = index[key]
    del values[value]
    if not values:
        del index[key]

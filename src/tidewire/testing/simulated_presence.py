"""The members of the workers of a test, by leases on the test's own time."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import msgspec

from tidewire.backends.base import JoinResult, Presence
from tidewire.errors import StoreUnavailable
from tidewire.messages import Announcement, Departure, Member

__all__ = ("Members", "SimulatedPresence")

#: Seconds for which a silent worker counts as alive.
LEASE_SECONDS = 10.0


class _Entry(msgspec.Struct):
    """A member, the worker's node that it belongs to, and the announcement of its leave."""

    node: str
    member: Member
    announcement: Announcement | None
    is_aside: bool = False


class _Claim(msgspec.Struct, frozen=True):
    """A departure, and the time until which its claim holds."""

    departure: Departure
    until: float


class Members:
    """The members, as all workers know them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.leases: dict[str, float] = {}
        self.rooms: dict[str, dict[str, _Entry]] = {}
        self.claims: dict[str, _Claim] = {}
        #: Nodes that have closed: their members are listed no longer, and depart when the lease has ended.
        self.closed: set[str] = set()

    def touch(self, node: str) -> None:
        """Prolong the lease of a node."""
        self.leases[node] = self._clock() + LEASE_SECONDS

    def is_listed(self, entry: _Entry) -> bool:
        """Return whether a member is shown."""
        return not entry.is_aside and entry.node not in self.closed and not self.is_dead(entry.node)

    def is_dead(self, node: str) -> bool:
        """Return whether a node's lease has ended."""
        return self.leases.get(node, 0.0) < self._clock()

    def entries(self, channel: str) -> list[_Entry]:
        """Return the members of a channel, in the order of their arrival."""
        return list(self.rooms.get(channel, {}).values())

    def forget_all(self) -> None:
        """Lose everything."""
        self.leases.clear()
        self.rooms.clear()
        self.claims.clear()

    def departed(self, limit: int) -> list[Departure]:
        """Claim the users whose connections in a channel all belonged to nodes that are dead."""
        now = self._clock()
        for channel in tuple(self.rooms):
            self._bury(channel)
        found = [token for token, claim in self.claims.items() if claim.until <= now][:limit]
        for token in found:
            self.claims[token] = _Claim(self.claims[token].departure, now + LEASE_SECONDS)
        return [self.claims[token].departure for token in found]

    def _bury(self, channel: str) -> None:
        room = self.rooms[channel]
        alive = {entry.member.user for entry in room.values() if not self.is_dead(entry.node)}
        dead = {key: entry for key, entry in room.items() if self.is_dead(entry.node)}
        for user in dict.fromkeys(entry.member.user for entry in dead.values()):
            if user not in alive:
                announced = [entry.announcement for entry in dead.values() if entry.member.user == user]
                announcement = next((last for last in reversed(announced) if last is not None), None)
                token = secrets.token_hex(8)
                self.claims[token] = _Claim(Departure(channel, user, token, announcement), 0.0)
        for key in dead:
            del room[key]
        if not room:
            del self.rooms[channel]


class SimulatedPresence(Presence):
    """The presence of one worker; `check` raises while the store is away."""

    def __init__(self, members: Members, check: Callable[[], None]) -> None:
        self._members = members
        self._is_away = check
        self._is_closed = False
        self._node = ""

    def _check(self) -> None:
        if self._is_closed:
            raise StoreUnavailable("this worker of the test has ended")
        self._is_away()

    async def start(self, node: str) -> None:
        self._check()
        self._node = node
        self._members.touch(node)

    async def aclose(self) -> None:
        if not self._is_closed:
            self._members.closed.add(self._node)
        self._is_closed = True

    def die(self) -> None:
        """End as a killed process does."""
        self._is_closed = True

    async def join(self, channel: str, member: Member, announcement: Announcement | None = None) -> JoinResult:
        self._check()
        self._members.touch(self._node)
        room = self._members.rooms.setdefault(channel, {})
        room[member.connection] = _Entry(self._node, member, announcement)
        own = [entry for entry in room.values() if entry.member.user == member.user]
        # a user whose leave was not announced does not join again
        return JoinResult(first=len(own) == 1, connections=sum(map(self._members.is_listed, own)))

    async def leave(self, channel: str, connection: str) -> bool:
        self._check()
        room = self._members.rooms.get(channel, {})
        entry = room.pop(connection, None)
        if channel in self._members.rooms and not room:
            del self._members.rooms[channel]
        return entry is not None and all(other.member.user != entry.member.user for other in room.values())

    async def set_aside(self, channel: str, connection: str) -> None:
        self._check()
        entry = self._members.rooms.get(channel, {}).get(connection)
        if entry is not None:
            entry.is_aside = True

    async def touch(self) -> bool:
        self._check()
        was_alive = not self._members.is_dead(self._node)
        self._members.touch(self._node)
        return was_alive

    async def members(self, channel: str) -> list[Member]:
        self._check()
        return [entry.member for entry in self._members.entries(channel) if self._members.is_listed(entry)]

    async def count(self, channel: str, user: str | None = None) -> int:
        return sum(user is None or member.user == user for member in await self.members(channel))

    async def claim(self, limit: int = 256) -> Sequence[Departure]:
        self._check()
        return self._members.departed(limit)

    async def forget(self, departures: Sequence[Departure]) -> None:
        self._check()
        for departure in departures:
            self._members.claims.pop(departure.token, None)

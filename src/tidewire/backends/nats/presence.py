"""Presence on NATS: a stream in the server's memory lists all changes, and each node applies them (replica.py)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence

import msgspec

from tidewire.backends.base import JoinResult, Presence
from tidewire.backends.nats.address import NatsAddress
from tidewire.backends.nats.connection import Connection
from tidewire.backends.nats.replica import CLOSED, Replica
from tidewire.backends.nats.roster import Claim, Present
from tidewire.backends.nats.session import Session
from tidewire.backends.shared.outage import Outage
from tidewire.errors import StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import Announcement, Departure, Member

__all__ = ("NatsPresence",)


class NatsPresence(Presence):
    """The members of channels, on all nodes.

    A node is alive while it is heard at least every `lease` seconds by the server's time. Its members are claimable
    after that; a node touches every 2 s, so that is 6 to 8 s after its death.
    """

    def __init__(self, address: NatsAddress, limits: Limits, lease: float = 8.0, outage: Outage | None = None) -> None:
        self._address = address
        self._outage = outage or Outage(f"NATS at {address.shown}")
        self._seconds = limits.publish_seconds
        self._lease = lease
        self._connection: Connection | None = None
        self._node = ""
        #: The closed node that holds this one's members that were set aside, once there are some.
        self._aside = ""
        self._aside_lock = asyncio.Lock()
        self._is_lost = False
        #: When the stream that this node knows was made.
        self._created = ""

    async def start(self, node: str) -> None:
        if self._connection is not None:
            return
        # a name of its own: a process that starts again under an old name is another node
        self._node = f"{node}-{secrets.token_hex(4)}"
        connection = Connection(
            self._address,
            self._seconds,
            prepare=self._prepare,
            probe=self._probe,
            lost=lambda _: None,
            restored=lambda: None,
            outage=self._outage,
        )
        await connection.start()
        self._connection = connection
        try:
            await self.touch()
        except BaseException:
            await self.aclose()
            raise
        self._is_lost = False

    async def aclose(self) -> None:
        if self._connection is None:
            return
        with contextlib.suppress(StoreUnavailable):
            replica = self._ready()
            await replica.step(replica.lease(self._node), CLOSED)
        connection, self._connection = self._connection, None
        await connection.aclose()

    async def _prepare(self, session: Session) -> None:
        replica = Replica(session, self._address, self._lease, self._seconds)
        await replica.open()
        replica.on_claimed = self._claimed
        is_new = replica.created != self._created
        if is_new or not replica.roster.has_lease(self._node):
            self._is_lost = True
        self._created = replica.created
        self._replica = replica

    async def _probe(self, session: Session) -> None:
        self._replica.check_touch()
        await self._replica.sync()
        await self._replica.tidy()

    def _claimed(self, claim: Claim) -> None:
        if self._node in claim.nodes:
            self._is_lost = True

    def _ready(self) -> Replica:
        if self._connection is None:
            raise StoreUnavailable("presence is not open; use it between its start and its close")
        self._connection.session  # noqa: B018  (raises while there is none)
        return self._replica

    # Members.

    async def join(self, channel: str, member: Member, announcement: Announcement | None = None) -> JoinResult:
        replica = self._ready()
        known = replica.roster.find(channel, member.connection)
        order = 0 if known is None else known.order
        present = Present(channel, self._node, member, announcement, order)
        result = await replica.step(replica.member(channel, member.connection), present)
        assert isinstance(result, JoinResult)
        return result

    async def leave(self, channel: str, connection: str) -> bool:
        replica = self._ready()
        if replica.roster.find(channel, connection) is None:
            await replica.sync()
            if replica.roster.find(channel, connection) is None:
                return False
        return await replica.step(replica.member(channel, connection), None) is True

    async def set_aside(self, channel: str, connection: str) -> None:
        replica = self._ready()
        present = replica.roster.find(channel, connection)
        if present is None:
            return
        await self._touch_aside(replica, first=True)
        aside = msgspec.structs.replace(present, node=self._aside, sequence=0)
        await replica.step(replica.member(channel, connection), aside, present.sequence)

    async def _touch_aside(self, replica: Replica, *, first: bool = False) -> None:
        """Prolong the lease of the closed node, which begins with the first that is set aside.

        One step after another: the stream may drop a lease that a newer one replaces, and nobody would hear of it.
        """
        async with self._aside_lock:
            if bool(self._aside) is not first:
                await replica.step(replica.lease(f"{self._node}-aside"), CLOSED)
                self._aside = f"{self._node}-aside"

    async def touch(self) -> bool:
        replica = self._ready()
        await self._touch_aside(replica)
        is_lost, self._is_lost = self._is_lost, False
        try:
            is_known = await replica.step(replica.lease(self._node), self._node)
        except BaseException:
            self._is_lost = self._is_lost or is_lost
            raise
        return is_known is True and not is_lost

    async def members(self, channel: str) -> list[Member]:
        replica = self._ready()
        await replica.sync()
        return replica.roster.members(channel)

    async def count(self, channel: str, user: str | None = None) -> int:
        replica = self._ready()
        await replica.sync()
        return replica.roster.count(channel, user)

    # Departures.

    async def claim(self, limit: int = 256) -> Sequence[Departure]:
        replica = self._ready()
        roster = replica.roster
        for present in roster.superseded():
            await replica.step(replica.member(present.channel, present.member.connection), None, present.sequence)
        for node, sequence in roster.dead_without_members():
            if node != self._node:
                await replica.step(replica.lease(node), None, sequence)
        overdue = [claim for claim in roster.overdue() if not await self._drop_void(replica, claim)][:limit]
        again = [msgspec.structs.replace(claim, claimer=self._node) for claim in overdue]
        new = roster.departed(self._node, limit - len(again))
        results = await asyncio.gather(*(self._claim(replica, claim) for claim in (*again, *new)))
        return [claim.departure for claim in results if claim is not None]

    async def _drop_void(self, replica: Replica, claim: Claim) -> bool:
        if claim.is_void:
            subject = replica.departure(claim.departure.channel, claim.departure.user)
            await replica.step(subject, None, claim.sequence)
        return claim.is_void

    async def _claim(self, replica: Replica, claim: Claim) -> Claim | None:
        """Claim one departure; None when another node was faster, or the user is there again."""
        departure, expected = claim.departure, claim.sequence
        subject = replica.departure(departure.channel, departure.user)
        if not departure.token:
            newest = await replica.newest(subject)
            if newest is None:
                return None
            expected = newest
            claim = msgspec.structs.replace(
                claim, departure=msgspec.structs.replace(departure, token=secrets.token_hex(8))
            )
        taken = await replica.step(subject, claim, expected)
        if not isinstance(taken, Claim):
            return None
        if await self._drop_void(replica, taken):
            return None
        for connection, sequence in claim.members.items():
            await replica.step(replica.member(departure.channel, connection), None, sequence)
        return taken

    async def forget(self, departures: Sequence[Departure]) -> None:
        replica = self._ready()
        for departure in departures:
            claim = replica.roster.claims.get((departure.channel, departure.user))
            if claim is not None and claim.departure.token == departure.token:
                await replica.step(replica.departure(departure.channel, departure.user), None, claim.sequence)

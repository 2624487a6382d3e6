"""Presence in tables of its own, by leases in the server's time; every step is one statement."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from typing import Any

from tidewire.backends.base import JoinResult, Presence, nothing_to_resume
from tidewire.backends.postgres.address import Server
from tidewire.backends.postgres.connection import Connection
from tidewire.backends.postgres.pool import Pool
from tidewire.backends.postgres.schema import SQL, prepare
from tidewire.backends.postgres.server_errors import FAILURES, opening_error
from tidewire.backends.shared.outage import Outage
from tidewire.errors import StoreUnavailable, TidewireError
from tidewire.messages import Announcement, Departure, Format, Member

__all__ = ("PostgresPresence",)


class PostgresPresence(Presence):
    """The members of channels, on all nodes of a database.

    `lease` is for how many seconds of the server's time a node is alive after it touched its lease; its members can be
    claimed `grace` seconds later.
    """

    def __init__(
        self, url: str, seconds: float = 2.0, *, lease: float = 6.0, grace: float = 2.0, outage: Outage | None = None
    ) -> None:
        self._server = Server(url, seconds)
        self._outage = outage or Outage(self._server.shown)
        self._lease = lease
        self._silence = lease + grace
        self._node = 0
        #: The closed node that holds this one's members that were set aside, once there are some.
        self._aside = 0
        self._name = ""
        self._is_lost = False
        self._is_open = False

    async def start(self, node: str) -> None:
        if self._is_open:
            return
        self._name = node
        self._connection = Connection(
            self._server.shown, self._outage, self._probe, on_lost=self._lost, on_back=nothing_to_resume
        )
        self._pool = Pool(self._server, self._connection, 1, asynchronous=True)
        try:
            await self._probe()
            await self._enroll()
        except (*FAILURES, TidewireError) as error:
            await self._connection.aclose()
            await self._pool.aclose()
            raise opening_error(error, self._server.shown) from error
        self._is_open = True

    async def _probe(self) -> None:
        connection = await self._server.connect(asynchronous=True)
        try:
            async with asyncio.timeout(self._server.opening_seconds):
                await prepare(connection)
        finally:
            connection.terminate()

    def _lost(self) -> None:
        self._pool.drop()

    async def _enroll(self) -> None:
        self._node = secrets.randbits(62)
        await self._pool.fetch(SQL["enroll"], self._node, self._name)

    async def aclose(self) -> None:
        if not self._is_open:
            return
        with contextlib.suppress(*FAILURES, TidewireError):
            await self._pool.fetch(SQL["close"], self._node)
        self._is_open = False
        await self._connection.aclose()
        await self._pool.aclose()

    def _check(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("presence is not open; use it between its start and its close")

    async def join(self, channel: str, member: Member, announcement: Announcement | None = None) -> JoinResult:
        self._check()
        values = (channel, member.connection, member.user, member.info, *_stored(announcement), self._lease)
        row = await self._pool.fetchrow(SQL["join"], self._node, *values)
        if (
            row["others"] is None
        ):  # this node was taken for dead: the next touch returns False, and its members join again
            await self._return()
            row = await self._pool.fetchrow(SQL["join"], self._node, *values)
            if row["others"] is None:
                raise StoreUnavailable("this node was taken for dead at this moment; try again")
        return JoinResult(first=row["others"] == 0, connections=row["connections"])

    async def _return(self) -> None:
        """List this node again, under another id."""
        self._is_lost = True
        await self._enroll()

    async def leave(self, channel: str, connection: str) -> bool:
        self._check()
        return bool((await self._pool.fetchrow(SQL["leave"], channel, connection))[0])

    async def set_aside(self, channel: str, connection: str) -> None:
        self._check()
        self._aside = self._aside or secrets.randbits(62)
        await self._pool.fetch(SQL["set_aside"], self._aside, self._name, channel, connection)

    async def touch(self) -> bool:
        self._check()
        if self._aside:
            await self._pool.fetch(SQL["touch_closed"], self._aside)
        if not (await self._pool.fetchrow(SQL["touch"], self._node, self._lease / 2))[0]:
            await self._return()
        is_lost, self._is_lost = self._is_lost, False
        return not is_lost

    async def members(self, channel: str) -> list[Member]:
        self._check()
        rows = await self._pool.fetch(SQL["members"], channel)
        return [Member(row["connection"], row["user_name"], row["info"]) for row in rows]

    async def count(self, channel: str, user: str | None = None) -> int:
        self._check()
        return int((await self._pool.fetchrow(SQL["count"], channel, user))[0])

    async def claim(self, limit: int = 256) -> Sequence[Departure]:
        self._check()
        rows = await self._pool.fetch(SQL["claim"], self._node, self._lease, self._silence, limit)
        return [_departure(row) for row in rows]

    async def forget(self, departures: Sequence[Departure]) -> None:
        self._check()
        if departures:
            await self._pool.fetch(SQL["forget"], [departure.token for departure in departures])


def _stored(announcement: Announcement | None) -> tuple[bytes | None, int | None]:
    return (None, None) if announcement is None else (announcement.data, announcement.format)


def _departure(row: Any) -> Departure:
    data, format = row["announcement"], row["announcement_format"]
    announcement = None if data is None or format is None else Announcement(data, Format(format))
    return Departure(row["channel"], row["user_name"], row["token"], announcement)

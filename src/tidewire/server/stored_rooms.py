"""The rooms of the chat: their owners, and when they end."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import msgspec

from tidewire.errors import LimitExceeded
from tidewire.limits import Limits
from tidewire.server.accounts_database import Database
from tidewire.support.counters import count_limit

__all__ = ("RoomTable", "UnusedRoom")

#: Seconds for which the use of a room is not written again.
_USED_SECONDS = 60.0


class UnusedRoom(msgspec.Struct, frozen=True):
    """A room that nobody has joined recently: its number in the order of rooms, and the time of its last use."""

    number: int
    name: str
    used: float
    unused_seconds: float


class RoomTable:
    """Rooms by name. A room belongs to the user that joined it first. Methods raise StoreUnavailable."""

    def __init__(self, database: Database, limits: Limits, clock: Callable[[], float]) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock

    async def use(self, name: str, user: str) -> bool:
        """Note that a user joins a room, and return whether it is a new one.

        Raises LimitExceeded when there are too many rooms, or this user has made too many.
        """
        now = self._clock()
        statement = "SELECT used FROM accounts_rooms WHERE name = ?"
        row = await self._database.read(lambda connection: connection.execute(statement, (name,)).fetchone())
        if row is not None and row[0] > now - _USED_SECONDS:
            return False
        limit = await self._database.write(lambda connection: self._note(connection, name, user, now))
        if limit:
            count_limit(limit)
            whose = "you have made" if limit == "rooms_per_user" else "there are"
            raise LimitExceeded(
                f"{whose} {getattr(self._limits, limit)} rooms already (the limit {limit}), "
                f"and room {name!r} would be one more; join another"
            )
        return row is None

    def _note(self, connection: sqlite3.Connection, name: str, user: str, now: float) -> str:
        """Update or insert a room; return the limit that a new one would exceed."""
        if connection.execute("UPDATE accounts_rooms SET used = ? WHERE name = ?", (now, name)).rowcount:
            return ""
        counts = "SELECT count(*), count(CASE WHEN owner = ? AND owner != '' THEN 1 END) FROM accounts_rooms"
        total, own = connection.execute(counts, (user,)).fetchone()
        if own >= self._limits.rooms_per_user:
            return "rooms_per_user"
        if total >= self._limits.rooms:
            return "rooms"
        insert = "INSERT INTO accounts_rooms (name, created, owner, used) VALUES (?, ?, ?, ?)"
        connection.execute(insert, (name, now, user, now))
        return ""

    async def names(self, most: int = -1) -> list[str]:
        """Return the names of rooms, the oldest first."""
        statement = "SELECT name FROM accounts_rooms ORDER BY id LIMIT ?"
        rows = await self._database.read(lambda connection: connection.execute(statement, (most,)).fetchall())
        return [name for (name,) in rows]

    async def unused(self, seconds: float, *, after: int = 0, most: int = -1) -> list[UnusedRoom]:
        """Return rooms after a number that nobody has joined for so many seconds, the oldest first."""
        now = self._clock()
        statement = "SELECT id, name, used FROM accounts_rooms WHERE used <= ? AND id > ? ORDER BY id LIMIT ?"
        values = (now - seconds, after, most)
        rows = await self._database.read(lambda connection: connection.execute(statement, values).fetchall())
        return [UnusedRoom(number, name, used, now - used) for number, name, used in rows]

    async def still_used(self, name: str) -> None:
        """Note that somebody is in a room."""
        statement, values = "UPDATE accounts_rooms SET used = ? WHERE name = ?", (self._clock(), name)
        await self._database.write(lambda connection: connection.execute(statement, values))

    async def end(self, room: UnusedRoom) -> bool:
        """Remove a room, unless somebody has joined it meanwhile."""
        statement, values = "DELETE FROM accounts_rooms WHERE name = ? AND used = ?", (room.name, room.used)
        return bool(await self._database.write(lambda connection: connection.execute(statement, values).rowcount))

"""Counts guesses at passwords and sign-ups, over all workers and restarts."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence

import msgspec

from tidewire.errors import TidewireError
from tidewire.server.accounts_database import Database
from tidewire.support.counters import count_limit

__all__ = ("Attempts", "Bound", "TooManyAttempts")


class TooManyAttempts(TidewireError):
    """Raised when a limit of guesses, sign-ups or waiting logins is reached; `retry_after` is in seconds."""

    def __init__(self, retry_after: float, limit: str) -> None:
        super().__init__(f"too many attempts; wait a little and try again (the limit {limit} was reached)")
        self.retry_after = retry_after
        self.limit = limit


class Bound(msgspec.Struct, frozen=True):
    """At most `most` attempts of one key within `seconds`; `limit` is the name of the setting."""

    key: str
    most: int
    seconds: float
    limit: str


class Attempts:
    """Attempts by key. Each is counted before it is made, so that many at once cannot pass a bound together."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def begin(self, bounds: Sequence[Bound]) -> tuple[int, ...]:
        """Count an attempt under each key; return the argument of `undo`. Raises TooManyAttempts, StoreUnavailable."""
        now = self._clock()
        try:
            return await self._database.write(lambda connection: _begin(connection, bounds, now))
        except TooManyAttempts as error:
            count_limit(error.limit)
            raise

    async def undo(self, attempts: Sequence[int], *, forget: Sequence[Bound] = ()) -> None:
        """Count attempts no longer, nor any other attempt under the keys to forget. Raises StoreUnavailable."""

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM accounts_attempts WHERE id = ?", [(one,) for one in attempts])
            connection.executemany("DELETE FROM accounts_attempts WHERE key = ?", [(bound.key,) for bound in forget])

        await self._database.write(work)


def _begin(connection: sqlite3.Connection, bounds: Sequence[Bound], now: float) -> tuple[int, ...]:
    # A clock that was set back must not keep anybody out for longer than the window.
    connection.execute("DELETE FROM accounts_attempts WHERE forgotten <= ? OR at > ?", (now, now + 1.0))
    for bound in bounds:
        statement = "SELECT at FROM accounts_attempts WHERE key = ? AND at > ? ORDER BY at DESC LIMIT 1 OFFSET ?"
        row = connection.execute(statement, (bound.key, now - bound.seconds, bound.most - 1)).fetchone()
        if row is not None:
            raise TooManyAttempts(max(0.0, row[0] + bound.seconds - now), bound.limit)
    insert = "INSERT INTO accounts_attempts (key, at, forgotten) VALUES (?, ?, ?)"
    rows = [connection.execute(insert, (bound.key, now, now + bound.seconds)).lastrowid for bound in bounds]
    return tuple(row for row in rows if row is not None)

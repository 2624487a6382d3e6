"""Removes what no reader is shown any more, in small steps that the writer takes when it likes.

It goes through the channels that have publications in rounds. Nothing younger than `CARRIAGE` is removed, so that every
node can fill a gap, unless the history was removed on request.
"""

from __future__ import annotations

import sqlite3

import msgspec

from tidewire.backends.sqlite.database import SQL
from tidewire.backends.sqlite.store_clock import StoreClock

__all__ = ("CARRIAGE", "Trimmer")

#: Seconds for which every publication stays.
CARRIAGE = 60.0
#: Seconds between two rounds.
_REST = 5.0


class _Trimmable(msgspec.Struct):
    """A channel whose first stored publication can be removed."""

    channel: int
    first: int
    floor: int
    lowest: int
    keep_age: float


class Trimmer:
    """Where a round of trimming is; `find` reads, `remove` writes inside a transaction."""

    def __init__(self, clock: StoreClock) -> None:
        self._clock = clock
        self._channel = 0
        self._rest_until = 0.0
        self._found: _Trimmable | None = None
        self._has_keys = False

    def restart(self, pause: float = 0.0) -> None:
        """Begin a new round, when room is needed or after a transaction that failed."""
        self._channel, self._rest_until = 0, self._clock.now() + pause
        self._found, self._has_keys = None, False

    @property
    def is_resting(self) -> bool:
        """A round has ended, and the next one is not due."""
        return self._clock.now() < self._rest_until

    def find(self, connection: sqlite3.Connection, channels: int) -> bool:
        """Look at some channels, going on where the last look ended; True when there is something to remove."""
        now = self._clock.now()
        if self._found is not None or self._has_keys:
            return True
        if self.is_resting:
            return False
        for _ in range(channels):
            row = connection.execute(SQL["next_stored"], (self._channel,)).fetchone()
            if row is None:
                self._channel, self._rest_until = 0, now + _REST
                self._has_keys = bool(connection.execute(SQL["has_expired_keys"], (now,)).fetchone()[0])
                return self._has_keys
            self._channel, top, floor, keep_size, keep_age, first = row
            trimmable = _Trimmable(self._channel, first, floor, top - keep_size, keep_age)
            if connection.execute(SQL["is_trimmable"], self._bounds(trimmable, 1)).fetchone()[0]:
                self._found = trimmable
                return True
        return False

    def remove(self, connection: sqlite3.Connection, count: int) -> None:
        """Remove at most `count` of what was found."""
        if self._found is not None:
            removed = connection.execute(SQL["trim"], self._bounds(self._found, count)).rowcount
            self._found.first += count
            if removed < count:
                self._found = None
        elif self._has_keys:
            removed = connection.execute(SQL["trim_keys"], (self._clock.now(), count)).rowcount
            self._has_keys = removed == count

    def _bounds(self, trimmable: _Trimmable, count: int) -> dict[str, float]:
        now = self._clock.now()
        return {
            "channel": trimmable.channel,
            "first": trimmable.first,
            "bound": trimmable.first + count,
            "floor": trimmable.floor,
            "lowest": trimmable.lowest,
            "young": now - CARRIAGE,
            "oldest": now - trimmable.keep_age,
        }

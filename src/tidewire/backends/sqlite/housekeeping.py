"""Removes publications that no reader is shown any more, in small steps of the writer thread.

It goes through the channels that have publications in rounds. Nothing younger than `DELIVERY_SECONDS` is removed, so
that every node can fill a gap, unless the history was removed on request.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tidewire.backends.shared.waiting import Write
from tidewire.backends.sqlite.checkpoint import Checkpointer
from tidewire.backends.sqlite.connection import Connection
from tidewire.backends.sqlite.database import SQL, Database
from tidewire.backends.sqlite.disk_reserve import DiskReserve
from tidewire.backends.sqlite.fair_lock import FairLock
from tidewire.backends.sqlite.file_errors import explain, is_damage, is_full, is_lasting
from tidewire.backends.sqlite.size_limits import SizeLimits
from tidewire.backends.sqlite.store_clock import StoreClock

__all__ = ("DELIVERY_SECONDS", "Housekeeping", "Trimmer")

#: Seconds for which every publication stays.
DELIVERY_SECONDS = 60.0
#: Seconds between two rounds.
_REST = 5.0
#: Channels that one look for something to trim goes through, and rows that an idle step removes.
_CHANNELS, _STEP = 8, 150
#: Rows that a commit removes beside its writes: for each write, and at least.
_SHARE, _LEAST = 2, 50
#: Seconds between two attempts to make room on a full disk, and steps of trimming in each.
_RELIEF, _RELIEF_STEPS = 1.0, 20
#: Bytes that a commit, and a row in it, add to the log beside the data, about.
_COMMIT_COST, _ROW_COST = 20_480, 300


class _Trimmable(msgspec.Struct):
    """A channel whose first stored publication can be removed."""

    channel: int
    first: int
    floor: int
    lowest: int
    keep_age: float


class Trimmer:
    """The place that a round of trimming has reached; `find` reads, `remove` writes inside a transaction."""

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

    def begin_now(self) -> None:
        """End the rest between two rounds: there is more to remove."""
        self._rest_until = min(self._rest_until, self._clock.now())

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
        """Remove at most `count` of the rows that were found."""
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
            "young": now - DELIVERY_SECONDS,
            "oldest": now - trimmable.keep_age,
        }


class Housekeeping:
    """Trims beside commits and in idle moments, moves the log into the database, and makes room on a full disk."""

    def __init__(
        self,
        path: Path,
        folder: Path,
        clock: StoreClock,
        connection: Connection,
        lock: FairLock,
        size_limits: SizeLimits,
    ) -> None:
        self._path = path
        self._connection = connection
        self._lock = lock
        self._trimmer = Trimmer(clock)
        self._size_limits = size_limits
        self._reserve = DiskReserve(folder)
        self._checkpointer = Checkpointer(path, self._reserve.size)
        self._relieved_at = 0.0
        #: There is something to remove now.
        self.is_busy = False

    def start(self) -> None:
        """Reserve room on the disk, and begin to move the log."""
        self._reserve.take()
        self._checkpointer.start()

    def close(self) -> None:
        """Wait for a checkpoint that is under way, and end."""
        self._checkpointer.close()

    def kept(self, writes: Sequence[Write]) -> None:
        """Take note of publications inside a writing transaction."""
        self._size_limits.add(writes)

    def trim_beside(self, database: Database, writes: int) -> None:
        """Remove a little inside a writing transaction, in proportion to its writes."""
        self._bound(database)
        self.is_busy = self._trimmer.find(database.connection, _CHANNELS)
        if self.is_busy:
            self._trimmer.remove(database.connection, max(_LEAST, _SHARE * writes))

    def _bound(self, database: Database) -> None:
        if self._size_limits.apply(database.connection):
            self._trimmer.begin_now()

    def committed(self, database: Database, rows: int, size: int) -> None:
        """Take note of a commit of so many rows and bytes of data; the caller holds the lock."""
        self._checkpointer.committed(database.connection, _COMMIT_COST + rows * _ROW_COST + size)

    def trim(self, database: Database) -> None:
        """Take one step of trimming in an idle moment."""
        try:
            is_found = self._trimmer.find(database.connection, _CHANNELS) or self._size_limits.is_due
        except sqlite3.Error as error:
            self.mend(database, error)
            return
        self.is_busy = is_found or not self._trimmer.is_resting
        if not is_found:
            return
        if not self._lock.try_acquire():
            self._lock.withdraw()
            return
        try:
            if not database.is_in_place:
                return
            database.begin(write=True)
            self._bound(database)
            self._trimmer.remove(database.connection, _STEP)
            database.save_clock()
            database.commit()
            self.committed(database, _STEP, 0)
        except sqlite3.Error as error:
            self.mend(database, error)
        finally:
            self._lock.release()

    def mend(self, database: Database, error: sqlite3.Error) -> None:
        """Undo a transaction that failed; make room on a full disk, and give up a connection that cannot go on."""
        database.rollback()
        self._trimmer.restart(pause=_RELIEF)
        reason = explain(error, self._path)
        self._connection.is_suspect |= is_damage(error)
        if is_lasting(error):
            self._connection.lose(reason)
        else:
            self._connection.failed(reason)
        if is_full(error):
            self._relieve(database)

    def _relieve(self, database: Database) -> None:
        """Make room on a full disk: only publications that nobody is shown any more are removed."""
        if time.monotonic() - self._relieved_at < _RELIEF:
            return
        self._relieved_at = time.monotonic()
        self._reserve.give_up()
        self._trimmer.restart()
        try:
            database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for _ in range(_RELIEF_STEPS):
                if self._trimmer.find(database.connection, _CHANNELS):
                    database.begin(write=True)
                    self._trimmer.remove(database.connection, _STEP)
                    database.commit()
            database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            database.rollback()
            self._trimmer.restart(pause=_RELIEF)
        self._reserve.take()

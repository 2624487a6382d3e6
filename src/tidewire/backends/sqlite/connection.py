"""The writer thread's connection to its database, opened again after a failure or when the file was replaced."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from tidewire.backends.sqlite.database import Database
from tidewire.backends.sqlite.fair_lock import FairLock
from tidewire.backends.sqlite.file_check import FileState, put_away
from tidewire.backends.sqlite.file_errors import explain
from tidewire.backends.sqlite.store_clock import StoreClock
from tidewire.errors import StoreUnavailable, TidewireError
from tidewire.support.sqlite_files import remove_log

__all__ = ("Connection",)

logger = logging.getLogger("tidewire")

#: Seconds in which a start waits for other processes that are starting, and between tries of their lock.
_START, _RETRY = 5.0, 0.005
#: Seconds between tries to open a database that failed.
_REOPEN = 0.5


class Connection:
    """Keeps the database open; `lost` is called when it was closed, `resumed` when it is open again."""

    def __init__(
        self,
        path: Path,
        name: Path,
        clock: StoreClock,
        lock: FairLock,
        resumed: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        self._path = path
        #: A symbolic link to the file, or the file itself.
        self._name = name.absolute()
        self._clock = clock
        self._lock = lock
        self._resumed = resumed
        self._lost = lost
        self._cursor = 0
        self._reopen_at = 0.0
        #: Set by any thread that finds the file damaged; the next turn reads all of it.
        self.is_suspect = False
        #: The stamp of files that were found damaged: all of it is not read again before they change.
        self._damaged: tuple[int, ...] = ()
        #: The open database, None after it was lost.
        self.database: Database | None = None
        #: Why the last transaction failed, "" when it did not.
        self.trouble = ""
        #: The store's seed (database.derived_epoch); "" before the first opening.
        self.seed = ""

    def open(self) -> None:
        """Open the database under the write lock, because the first process makes it; raises its error."""
        limit = time.monotonic() + _START
        while not self._lock.try_acquire():
            if time.monotonic() > limit:
                self._lock.withdraw()
                raise StoreUnavailable(f"another process has held the lock of {self._path} for {_START:g} s; end it")
            time.sleep(_RETRY)
        try:
            self.database = Database(self._path, self._clock)
            self.seed = self.database.seed
        finally:
            self._lock.release()

    def usable(self) -> Database | None:
        """Return the database, opened again if it is due; None while it cannot be used."""
        database = self.database
        if self._name != self._path and os.path.realpath(self._name) != str(self._path):
            self._led_away()
            return None
        if database is not None and database.is_replaced:
            self.trouble = f"{self._path} was removed or replaced while it was open; it is opened anew"
            if not self._lock.try_acquire():
                return None
            try:
                self._give_up(self.trouble)
            finally:
                self._lock.release()
        elif database is not None and (state := self._look(database)) is not FileState.SOUND:
            if not self._put_away(database, state):
                return None
        elif database is not None and database.has_lost_log and not self._save_log(database):
            return None
        return self.database or self._reopen()

    def _look(self, database: Database) -> FileState:
        stamp = self._stamp() if self.trouble else ()
        if stamp and stamp == self._damaged:
            return FileState.DAMAGED
        is_suspect, self.is_suspect = self.is_suspect, False
        state = database.look_at_file(is_suspect=is_suspect)
        if is_suspect and state is not FileState.SOUND:
            self.is_suspect = True
        self._damaged = stamp if state is FileState.DAMAGED else ()
        return state

    def _stamp(self) -> tuple[int, ...]:
        """Return numbers that change with each write to the file or its log."""
        stamp: tuple[int, ...] = ()
        for name in (str(self._path), f"{self._path}-wal"):
            with contextlib.suppress(OSError):
                found = os.stat(name)
                stamp += (found.st_ino, found.st_size, found.st_mtime_ns)
        return stamp

    def _led_away(self) -> None:
        """Close a database to which its link does not lead any more: others open another one by it.

        This process cannot go over: its presence and its wake-ups are beside the file.
        """
        reason = f"{self._name} led to {self._path} and does so no more: restart the server, or put the link back"
        if self.trouble != reason:
            logger.error("%s", reason)
            self.lose(reason)

    def _give_up(self, reason: str) -> None:
        """Close the database whose file is not at its path any more; its log, if it is, belongs to no file."""
        if self.database is not None:
            self.database.save_log()  # a file that was moved keeps what it had
            with contextlib.suppress(OSError):
                remove_log(self._path, self.database.log_identity)
        self.lose(reason)
        self._reopen_at = 0.0

    def _put_away(self, database: Database, state: FileState) -> bool:
        """Make place for a new file once the fate of this one is clear; return whether that is done."""
        if state is FileState.INCOMPLETE:
            self.lose(f"{self._path} has lost tables or rows of tidewire; they are made again")
            self._reopen_at = 0.0
            return True
        if state is FileState.UNCLEAR or (state is FileState.DAMAGED and database.has_others_data):
            self.trouble = (
                f"{self._path} was cut or written over, or cannot be read; restore it from a backup, or move it away"
            )
            return False
        if not self._lock.try_acquire():
            return False
        try:
            if database.is_replaced or database.look_at_file(is_suspect=self.is_suspect) is not state:
                return False  # another process was first, or has just written
            reason = put_away(self._path, state, database.identity)
            logger.error("%s", reason)
            self._give_up(reason)
        except (sqlite3.Error, OSError) as error:
            self.trouble = explain(error, self._path)
            return False
        finally:
            self._lock.release()
        return True

    def _save_log(self, database: Database) -> bool:
        """Save the contents of a log that was removed while it was open; return whether that is done."""
        if not self._lock.try_acquire():
            return False
        try:
            is_saved = database.save_log()
        finally:
            self._lock.release()
        if not is_saved:
            self.trouble = f"the log of {self._path} was removed, and cannot be moved into it yet; free some space"
        else:
            self.lose(f"the log of {self._path} was removed or replaced while it was open; it is opened anew")
            self._reopen_at = 0.0
        return is_saved

    def _reopen(self) -> Database | None:
        if time.monotonic() < self._reopen_at or not self._lock.try_acquire():
            return None
        try:
            database = Database(self._path, self._clock)
            if database.seed == self.seed:
                database.go_on_from(self._cursor)  # the publications since then are still to be read
            self.database, self.seed, self.trouble = database, database.seed, ""
            self._resumed()
        except (sqlite3.Error, OSError) as error:
            self.lose(explain(error, self._path))
        except TidewireError as error:
            self.lose(str(error))
        finally:
            self._lock.release()
        return self.database

    def succeeded(self) -> None:
        """Note that a transaction succeeded."""
        self.trouble = ""

    def failed(self, reason: str) -> None:
        """Note why a transaction failed."""
        self.trouble = reason

    def lose(self, reason: str) -> None:
        """Close the database; a new connection is opened soon."""
        self.trouble = reason
        if self.database is not None:
            self.database.rollback()
            self._cursor = self.database.cursor
            self.database.close()
            self.database = None
            self._lost()
        self._reopen_at = time.monotonic() + _REOPEN

    def close(self) -> None:
        """Close the database for good."""
        self.trouble = f"{self._path} is closed; use the broker between its start and its close"
        if self.database is not None:
            self.database.close()
            self.database = None

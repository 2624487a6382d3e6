"""SQLite files of several processes: opened in WAL mode, also at the same moment, and anew when they were replaced."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ("Identity", "WalFile", "identity", "log_identity", "open_wal", "remove_known", "remove_log")

logger = logging.getLogger("tidewire")

#: Tells a file from another one of the same name; None: there is none.
Identity = tuple[int, int] | None

_AGAIN_SECONDS = 0.02
#: Seconds for which a file is left alone that was emptied: a copy may be on its way into it.
_SETTLE_SECONDS = 1.0
#: The files beside a database with its newest commits, and with an index of these.
_LOG = ("-wal", "-shm")


def identity(path: Path | str) -> Identity:
    """Return a value that tells a file from another one of the same name, None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def log_identity(path: Path) -> tuple[Identity, ...]:
    """Return the `identity` of the file with the newest commits of a database, and of that with its index."""
    name = str(path)  # asked for at each commit, and to make paths of it would cost more than to ask
    return tuple([identity(name + end) for end in _LOG])


def remove_known(path: Path, known: Identity) -> None:
    """Remove a file, unless another process has given its name to another one meanwhile. Raises OSError."""
    if known is None or identity(path) != known:
        return
    away = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(away)
        if identity(away) != known:  # that happened in this very moment
            with contextlib.suppress(FileExistsError):
                os.link(away, path)
        away.unlink()


def remove_log(path: Path, known: tuple[Identity, ...]) -> None:
    """Remove the log of a database that is not at its path any more: SQLite would apply it to the one that is.

    It is to be open still, so that no new file can have its identity. Raises OSError.
    """
    for end, one in zip(_LOG, known, strict=True):
        remove_known(path.with_name(f"{path.name}{end}"), one)


def open_wal(path: Path, prepare: Callable[[sqlite3.Connection], None], *, seconds: float) -> sqlite3.Connection:
    """Open a file in WAL mode, call `prepare` with the connection, and return it; autocommit, usable by any thread.

    A lock of another process is waited for so many seconds. Raises OSError and sqlite3.Error.
    """
    path.touch(0o600)
    deadline = time.monotonic() + seconds
    while True:
        connection = sqlite3.connect(path, timeout=seconds, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            prepare(connection)
            return connection
        except BaseException as error:
            connection.close()
            # Processes that turn a new file into WAL at once do not wait for each other in SQLite.
            is_busy = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
            time.sleep(_AGAIN_SECONDS)


class WalFile:
    """A file in WAL mode with one connection for one thread, opened anew when it was removed, replaced or emptied.

    SQLite goes on with the file that it has, whose content would be lost.
    """

    def __init__(self, path: Path, prepare: Callable[[sqlite3.Connection], None], *, seconds: float) -> None:
        self._path = path
        self._prepare = prepare
        self._seconds = seconds
        self._connection: sqlite3.Connection | None = None
        self._identity: Identity = None
        self._log: tuple[Identity, ...] = ()
        self._emptied_at = 0.0
        #: How often it was opened: once more when another file has taken the place of the one before.
        self.openings = 0

    def open(self) -> None:
        """Open the file, and create it if need be. Raises OSError and sqlite3.Error."""
        while self._connection is None:
            found = self._make()
            connection = open_wal(self._path, self._prepare, seconds=self._seconds)
            if identity(self._path) == found:
                self._connection, self._identity, self._log = connection, found, log_identity(self._path)
            else:
                connection.close()
        self.openings += 1
        self._emptied_at = 0.0

    def _make(self) -> Identity:
        """Make the file where there is none; one that was emptied, and whose log is there still, is made anew."""
        self._path.touch(0o600)
        log = log_identity(self._path)
        if any(log) and not self._path.stat().st_size:
            remove_log(self._path, log)
            remove_known(self._path, identity(self._path))
            self._path.touch(0o600)
        return identity(self._path)

    def connection(self) -> sqlite3.Connection:
        """Return the connection to the file that has the path now. Raises OSError and sqlite3.Error."""
        connection = self._connection
        if connection is None:
            self.open()
        elif self._is_replaced():
            logger.warning(
                "%s was removed, replaced or emptied while it was open; its present content counts", self._path
            )
            with contextlib.suppress(sqlite3.Error):  # a file that was moved keeps what it had
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            remove_log(self._path, self._log)
            self.close()
            self.open()
        elif log_identity(self._path) != self._log:
            self._save_log(connection)
            self.close()
            self.open()
        assert self._connection is not None
        return self._connection

    def _save_log(self, connection: sqlite3.Connection) -> None:
        """Move a log that was removed into the file, before another one is begun."""
        try:
            if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise OSError("its log was removed while it was open, and is still read")
        except sqlite3.Error as error:  # another connection has moved it, unless there is no room for it
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise

    def _is_replaced(self) -> bool:
        """Return whether the file is not at its path any more; an emptied one is removed when nothing comes into it."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return True
        if (found.st_dev, found.st_ino) != self._identity:
            return True
        if found.st_size:
            self._emptied_at = 0.0
            return False
        self._emptied_at = self._emptied_at or time.monotonic()
        if time.monotonic() - self._emptied_at < _SETTLE_SECONDS:
            raise sqlite3.OperationalError("it was emptied; if nothing is copied into it now, it is made anew")
        remove_known(self._path, self._identity)
        return True

    def close(self) -> None:
        """Close the file; harmless when it is not open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

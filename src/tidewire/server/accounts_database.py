"""The SQLite file of users, sessions and rooms, which several processes may share, with each other and a broker."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TypeVar

from tidewire.errors import ConfigurationError, StoreUnavailable
from tidewire.support.sqlite_files import WalFile

__all__ = ("Database",)

logger = logging.getLogger("tidewire")

T = TypeVar("T")

#: Seconds for which another process may hold the write lock of the file.
_BUSY_SECONDS = 5.0
#: Columns that files of earlier versions lack, and the values for their rows.
_ADDED = (
    ("accounts_users", "id", "TEXT NOT NULL DEFAULT ''", "UPDATE accounts_users SET id = name WHERE id = ''"),
    ("accounts_users", "apart", "INTEGER", ""),
    ("accounts_rooms", "owner", "TEXT NOT NULL DEFAULT ''", ""),
    ("accounts_rooms", "used", "REAL NOT NULL DEFAULT 0", "UPDATE accounts_rooms SET used = unixepoch()"),
)


class Database:
    """One SQLite file. All its calls run in one thread of this object, in the order in which they are made.

    It is always the file that has the path: one that was removed, replaced or emptied is left for the one that is there
    now. Methods raise StoreUnavailable when the file cannot be read or written.
    """

    def __init__(self, path: Path, *, apart: bool | None = None) -> None:
        self._path = path
        self._apart = apart
        self._thread = ThreadPoolExecutor(1, "tidewire-accounts")
        self._file: WalFile | None = None

    async def open(self) -> None:
        """Open the file, and create it if need be. Raises ConfigurationError when that cannot work."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connect)

    async def aclose(self) -> None:
        """Close the file; harmless when it is not open."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of a function of the connection, which makes one statement."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of a function of the connection; its statements are one transaction."""

        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
                return result
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

        return await self.read(transaction)

    @property
    def openings(self) -> int:
        """How often the file was opened: once more when another one has taken the place of the one before."""
        return 0 if self._file is None else self._file.openings

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._file is None:
            raise StoreUnavailable("the accounts are not open")
        try:
            return work(self._file.connection())
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"the accounts in {self._path} cannot be used now ({error})") from error

    def _connect(self) -> None:
        file = WalFile(self._path, self._prepare, seconds=_BUSY_SECONDS)
        try:
            file.open()
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(
                f"{self._path} cannot be used for accounts ({error}); "
                "start where you may write, or name another file with --accounts or --broker"
            ) from None
        self._file = file

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(resources.files(__package__).joinpath("accounts.sql").read_text())
        _upgrade(connection)
        if self._apart is not None:
            _set_apart(connection, self._apart, self._path)

    def _disconnect(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _upgrade(connection: sqlite3.Connection) -> None:
    """Add the columns that a file of an earlier version lacks."""
    for table, column, type_, fill in _ADDED:
        if column in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}:
            continue
        connection.execute("BEGIN IMMEDIATE")
        if column not in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {type_}")
            if fill:
                connection.execute(fill)
        connection.execute("COMMIT")


def _set_apart(connection: sqlite3.Connection, apart: bool, path: Path) -> None:
    """Note a server's mode, for new accounts and those that have none yet; one that was ever set apart stays so."""
    needed = (
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM accounts_mode WHERE apart = :apart) "
        "OR EXISTS (SELECT 1 FROM accounts_users WHERE apart IS NULL OR apart < :apart)"
    )
    values = {"apart": apart}
    if connection.execute(needed, values).fetchone() is None:
        return
    connection.execute("BEGIN IMMEDIATE")
    before = connection.execute("SELECT apart FROM accounts_mode").fetchone()
    connection.execute("INSERT OR REPLACE INTO accounts_mode (one, apart) VALUES (1, :apart)", values)
    connection.execute("UPDATE accounts_users SET apart = :apart WHERE apart IS NULL OR apart < :apart", values)
    connection.execute("COMMIT")
    if before is not None and before[0] != apart:
        logger.warning(
            "the server that had the accounts in %s before %s the application's users, and this one %s: new accounts "
            "are as this one says; servers that share the file need the same client.token and the same sign-up",
            path,
            *(("set them apart from", "does not") if before[0] else ("did not set them apart from", "does")),
        )

"""SQLite files of several processes: opened in WAL mode, also by processes that begin at the same moment."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ("open_wal",)

_AGAIN_SECONDS = 0.02


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

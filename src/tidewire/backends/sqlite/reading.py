"""Reads history and positions, in threads and on connections of their own: readers never wait for the writer."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from tidewire.backends.shared.completeness import is_complete
from tidewire.backends.sqlite.database import SQL, connect, derived_epoch
from tidewire.backends.sqlite.file_errors import explain, is_damage
from tidewire.backends.sqlite.store_clock import StoreClock
from tidewire.errors import StoreUnavailable
from tidewire.messages import Format, HistoryPage, HistoryRequest, Position, Publication
from tidewire.retention import Retention
from tidewire.support.sqlite_files import Identity, identity, log_identity

__all__ = ("Readers", "read_history", "read_positions")

T = TypeVar("T")

#: A number that stands for "no limit" in a statement, and above every offset.
_NO_LIMIT = -1
_ABOVE_ALL = 2**62
#: Channels of one positions statement.
_CHUNK = 1_000


class Readers:
    """A few threads, each with a connection that only reads."""

    def __init__(self, path: Path, damaged: Callable[[], None], *, threads: int = 2) -> None:
        self._path = path
        #: Called, from any thread, when a part of the file cannot be read.
        self._damaged = damaged
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tidewire-sqlite-reader")
        self._idle: SimpleQueue[tuple[sqlite3.Connection, tuple[Identity, ...]]] = SimpleQueue()

    async def run(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """Run `read` in one transaction; raises StoreUnavailable."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, read)
        except sqlite3.Error as error:
            raise StoreUnavailable(explain(error, self._path)) from error
        except RuntimeError as error:
            raise StoreUnavailable(f"{self._path} is closed; read between the broker's start and its close") from error

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        connection, opened = self._take()
        try:
            connection.execute("BEGIN")
            answer = read(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            connection.close()
            if is_damage(error):
                self._damaged()
            raise
        self._idle.put((connection, opened))
        return answer

    def _take(self) -> tuple[sqlite3.Connection, tuple[Identity, ...]]:
        """Return a connection to the file that has the path now."""
        found = (identity(self._path), *log_identity(self._path))
        while True:
            try:
                connection, opened = self._idle.get_nowait()
            except Empty:
                break
            if opened == found:
                return connection, opened
            connection.close()
        connection = connect(self._path)
        connection.execute("PRAGMA query_only = 1")
        return connection, found

    def forget(self) -> None:
        """Close the idle connections; callable from any thread."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait()[0].close()

    async def aclose(self) -> None:
        """Finish the reads that were begun, and close the connections."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._pool.shutdown()
        self.forget()


def read_history(connection: sqlite3.Connection, request: HistoryRequest, seed: str, clock: StoreClock) -> HistoryPage:
    """Answer a history request inside a transaction (base.Broker.read)."""
    row = connection.execute(SQL["history_channel"], (request.channel,)).fetchone()
    if row is None:
        row = (0, derived_epoch(seed, request.channel), 0, 0)
    channel_id, epoch, top, floor = row
    position = Position(top, epoch)
    since = request.since
    if since is not None and since.epoch != epoch:
        return HistoryPage((), position, complete=False)
    first = _first_shown(connection, channel_id, top, floor, request.retention, clock.now())
    limit = _NO_LIMIT if request.limit is None else max(0, request.limit)
    if request.reverse:
        before = _ABOVE_ALL if since is None else since.offset
        statement, window = "backward", (first, before)
    else:
        after = 0 if since is None else since.offset
        statement, window = "forward", (max(first, after + 1), _ABOVE_ALL)
    rows = connection.execute(SQL[statement], (channel_id, *window, limit)).fetchall()
    found = [
        Publication(request.channel, offset, offset - 1, epoch, time, data, Format(format), meta)
        for offset, time, format, data, meta in rows
    ]
    return HistoryPage(
        tuple(found), position, is_complete(since, top, first, found, request.limit, reverse=request.reverse)
    )


def _first_shown(
    connection: sqlite3.Connection, channel_id: int, top: int, floor: int, retention: Retention | None, now: float
) -> int:
    """Return the lowest offset that retention shows; the one after the top when it shows none."""
    lowest, oldest = floor, 0.0
    if retention is not None:
        lowest, oldest = max(floor, top - retention.size), now - retention.age
    asked = {"channel": channel_id, "lowest": lowest, "oldest": oldest}
    row = connection.execute(SQL["first_shown"], asked).fetchone()
    return top + 1 if row is None else int(row[0])


def read_positions(connection: sqlite3.Connection, channels: Sequence[str], seed: str) -> dict[str, Position]:
    """Return the top of each channel, inside a transaction."""
    found = {}
    for start in range(0, len(channels), _CHUNK):
        names = json.dumps(channels[start : start + _CHUNK])
        for name, epoch, top in connection.execute(SQL["positions"], (names,)):
            found[name] = Position(top, epoch)
    return {name: found.get(name) or Position(0, derived_epoch(seed, name)) for name in channels}

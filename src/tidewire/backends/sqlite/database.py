"""The database of one writer thread: the publications that it has seen, the channels' tops, and how a batch is kept.

publishing.py, delivery.py and housekeeping.py say when; nothing here waits for anything but the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from time import time_ns
from typing import Any, NoReturn

from tidewire.backends.shared.statements import read, statements
from tidewire.backends.sqlite.file_check import LOG_BYTES, FileCheck, FileState
from tidewire.backends.sqlite.file_errors import is_full
from tidewire.backends.sqlite.folder import make_file
from tidewire.backends.sqlite.layout import drop_changed, make
from tidewire.backends.sqlite.moved_request import keys_of
from tidewire.backends.sqlite.rollback_guard import RollbackGuard
from tidewire.backends.sqlite.store_clock import Reading, StoreClock
from tidewire.errors import ConfigurationError
from tidewire.messages import Format, Position, Publication, PublishRequest
from tidewire.retention import Retention
from tidewire.support.sqlite_files import identity, log_identity

__all__ = ("Database", "connect", "derived_epoch")

logger = logging.getLogger("tidewire")

SQL = statements(__package__, "statements.sql")
_VERSION = 1
#: The values of a row, and how to insert several at once: nearly twice as fast for each as a statement of its own.
_VALUES = 7
_KEEP_ROWS = {rows: f"{SQL['keep']}{', (?, ?, ?, ?, ?, ?, ?)' * (rows - 1)}" for rows in (64, 16, 4, 1)}
#: The tables and indexes of the schema; those that an operator has removed are made again.
_PARTS = frozenset(
    f"tidewire_{name}"
    for name in ("store", "channels", "publications", "publications_by_offset", "keys", "keys_by_expiry")
)
#: The largest id that may be: a larger one is the work of somebody who has changed the sequence, and has no successor.
_LAST_ID = 2**62
#: Publications of other processes that are read in one step.
PAGE = 1_000
#: Channels that are remembered from one transaction to the next.
_REMEMBERED = 100_000
#: Those without which publications are gone.
_KEPT = {"tidewire_channels", "tidewire_publications"}


def connect(path: Path, *, busy_seconds: float = 0.25) -> sqlite3.Connection:
    """Open a connection that begins its transactions explicitly."""
    with contextlib.suppress(OSError):  # SQLite says better why not
        make_file(path, like=path)
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        connection.execute("PRAGMA secure_delete = FAST")  # else trimmed rows are written once more
    except BaseException:
        connection.close()
        raise
    return connection


def derived_epoch(seed: str, channel: str) -> str:
    """Return the epoch that a channel has from its first publication on, and that it shows before."""
    return hashlib.blake2b(channel.encode(), key=bytes.fromhex(seed), digest_size=6).hexdigest()


class _Channel:
    """A channel's row as the writer remembers it, and the retention that this process gave it, if any."""

    __slots__ = ("epoch", "id", "keep_age", "keep_size", "kept_top", "name", "top")

    def __init__(self, row: tuple[int, str, str, int]) -> None:
        self.id, self.name, self.epoch, self.top = row
        #: The top that its row has.
        self.kept_top = self.top
        self.keep_size: int | None = None
        self.keep_age: float | None = None


class Database:
    """One connection that writes. Between `begin` and `commit` or `rollback`, all answers are of one moment."""

    def __init__(self, path: Path, clock: StoreClock) -> None:
        self._clock = clock
        self._path = path
        self.connection = connect(path)
        self._rollback_guard = RollbackGuard(path)
        try:
            self.seed = self._prepare()
            #: The id up to which this process has seen every publication.
            self.cursor: int = self._one("last_id")
            if self._rollback_guard.is_ahead(self.seed, self.cursor):
                self.seed = self._begin_epochs()
            else:
                self._rollback_guard.remember(self.seed, self.cursor)
            self._guarded = -1
            self.connection.execute(SQL["move_log"])  # so that the file alone says which store it is
            self._check = FileCheck(path, self._rollback_guard.knows)
            self._has_others = bool(self._one("has_others"))
            #: The files of the log with which it was opened.
            self.log_identity = log_identity(path)
            #: The file that it opened.
            self.identity = identity(path)
        except BaseException:
            self.close()
            raise
        self._is_writing = False
        self._version = -1
        self._before = (self.cursor, self._version)
        self._by_name: dict[str, _Channel] = {}
        self._by_id: dict[int, _Channel] = {}

    def _prepare(self) -> str:
        execute = self.connection.execute
        execute("PRAGMA journal_mode = WAL")
        there = {name for (name,) in execute("SELECT name FROM sqlite_master WHERE name LIKE 'tidewire%'")}
        was_there = bool(there)
        self._check_version()  # before anything is taken for changed
        there -= drop_changed(self.connection)
        if not there.issuperset(_PARTS):
            there -= make(self.connection)
        if self._one("last_id") > _LAST_ID:
            execute(SQL["reset_last_id"])
        row = execute(SQL["store"]).fetchone() or self._create()
        _, seed, *reading = row
        if self._clock.go_on_from(Reading(*reading)):
            self.save_clock()
        if was_there and (not there.issuperset(_KEPT) or execute(SQL["has_orphans"]).fetchone()[0]):
            self.connection.executescript(read(__package__, "mend.sql"))
            return self._begin_epochs("has lost a part")
        return str(seed)

    def _check_version(self) -> None:
        with contextlib.suppress(sqlite3.OperationalError):  # there is no such table or column
            for (version,) in self.connection.execute(SQL["versions"]):
                if version != _VERSION:
                    text = f"the database has the layout {version}, and this tidewire knows {_VERSION}"
                    raise ConfigurationError(f"{text}; install the newer tidewire")

    def _create(self) -> tuple[Any, ...]:
        now = self._clock.reading()
        row = (_VERSION, secrets.token_hex(16), now.clock, now.monotonic, now.wall, now.boot)
        self.connection.execute(SQL["create_store"], row)
        return row

    def _begin_epochs(self, why: str = "is older than it was") -> str:
        """Begin a new epoch in every channel, and return the seed of those to come."""
        logger.warning("%s %s; all channels begin a new epoch", self._path, why)
        seed, execute = secrets.token_hex(16), self.connection.execute
        self.connection.create_function("derived_epoch", 2, derived_epoch, deterministic=True)
        execute("BEGIN IMMEDIATE")
        try:
            execute(SQL["begin_epochs"], (seed,))
            execute(SQL["change_seed"], (seed,))
            execute(SQL["set_last_id"], (time_ns() // 1_000_000,))  # other processes see that some are missing
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise
        self._rollback_guard.remember(seed, self._one("last_id"))
        return seed

    def go_on_from(self, cursor: int) -> None:
        """Read on from the id that this process had seen of this store; an older copy of it begins a new epoch."""
        if cursor > self.cursor:
            self.seed = self._begin_epochs()
        else:
            self.cursor = cursor

    @property
    def is_replaced(self) -> bool:
        """The file was removed, or another one has its name: everything written here would be lost."""
        return identity(self._path) != self.identity

    @property
    def is_in_place(self) -> bool:
        """The file and its log have their names: what is committed now is found by everybody."""
        return not self.is_replaced and not self.has_lost_log

    @property
    def has_others_data(self) -> bool:
        """The file is not empty, and had tables of others too."""
        return self._has_others and self._path.stat().st_size > 0

    def look_at_file(self, *, is_suspect: bool) -> FileState:
        """Return whether the file is unchanged, before anything is written."""
        return self._check.look(self.cursor, is_suspect=is_suspect)

    @property
    def has_lost_log(self) -> bool:
        """The log was removed, or another one has its name: a crash would lose later writes."""
        return log_identity(self._path) != self.log_identity

    def save_log(self) -> bool:
        """Move the log into the database, under the write lock; return whether nothing is left in it."""
        try:
            return not self._one("save_log")
        except sqlite3.DatabaseError as error:  # another process has moved it
            if is_full(error):
                return False
            logger.info("the log of %s cannot be read any more: %s", self._path, error)
            return True

    def save_clock(self) -> None:
        """Remember this moment, so that the clock can go on from it after a restart of the machine."""
        now = self._clock.reading()
        self.connection.execute(SQL["save_clock"], (now.clock, now.monotonic, now.wall, now.boot))

    def _one(self, name: str) -> int:
        return int(self.connection.execute(SQL[name]).fetchone()[0])

    def begin(self, *, write: bool) -> None:
        """Begin a transaction; for writing, nobody else can write until its end."""
        if len(self._by_id) >= _REMEMBERED:
            self._forget()
        self._before = (self.cursor, self._version)
        self._is_writing = write
        self.connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")

    def commit(self) -> None:
        """Commit; returns when everything is on the disk."""
        self.connection.execute("COMMIT")
        if self._is_writing:
            self._check.committed(self.cursor)
        if self._is_writing and self.cursor != self._guarded:
            self._guarded = self.cursor
            self._rollback_guard.remember(self.seed, self.cursor)

    def rollback(self) -> None:
        """Undo, and forget everything that was read since `begin`. Never raises."""
        with contextlib.suppress(sqlite3.Error):
            self.connection.execute("ROLLBACK")
        self.cursor, self._version = self._before
        self._forget()

    def close(self) -> None:
        """Close the connection. Never raises."""
        self._rollback_guard.close()
        with contextlib.suppress(sqlite3.Error):
            self.connection.close()

    def _forget(self) -> None:
        self._by_name.clear()
        self._by_id.clear()

    def catch_up(self, subscribed: set[str]) -> tuple[list[Publication], bool]:
        """Read the publications of other processes since then, one page at most, inside a transaction.

        Returns those of the subscribed channels in order, and whether this was all.
        """
        version = self._pragma_data_version()
        if version == self._version:
            return [], True
        last = self._one("last_id")
        if last < self.cursor or last > _LAST_ID:
            raise sqlite3.OperationalError("its ids were put back, as by an older copy; it is opened anew")
        rows = self.connection.execute(SQL["newer"], (self.cursor, PAGE)).fetchall()
        found = []
        if rows and rows[-1][0] - self.cursor != len(rows):
            self._forget()  # some were removed before this process saw them: their channels' tops are not known
        for _, channel_id, offset, time, format, data, meta in rows:
            channel = self._channel_by_id(channel_id)
            channel.top = channel.kept_top = max(channel.top, offset)
            if channel.name in subscribed:
                found.append(
                    Publication(channel.name, offset, offset - 1, channel.epoch, time, data, Format(format), meta)
                )
        if rows:
            self.cursor = rows[-1][0]
        if len(rows) == PAGE:
            return found, False
        if last != self.cursor:
            store = self.connection.execute(SQL["store"]).fetchone()
            if store is not None and store[1] != self.seed:
                raise sqlite3.OperationalError("another process has begun new epochs; it is opened anew")
            self.cursor = last
            self._forget()
        self._version = version
        return found, True

    def _pragma_data_version(self) -> int:
        return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

    def position(self, name: str) -> Position:
        """Return a channel's top, not older than the last `catch_up`."""
        channel = self._channel(name)
        if channel is None:
            return Position(0, derived_epoch(self.seed, name))
        return Position(channel.top, channel.epoch)

    def _channel(self, name: str) -> _Channel | None:
        found = self._by_name.get(name)
        if found is None:
            row = self.connection.execute(SQL["channel_by_name"], (name,)).fetchone()
            if row is not None:
                found = self._remember(_Channel(row))
        return found

    def _channel_by_id(self, channel_id: int) -> _Channel:
        found = self._by_id.get(channel_id)
        if found is None:
            found = self._remember(_Channel(self.connection.execute(SQL["channel_by_id"], (channel_id,)).fetchone()))
        return found

    def _remember(self, channel: _Channel) -> _Channel:
        self._by_name[channel.name] = self._by_id[channel.id] = channel
        return channel

    def _channel_to_write(self, request: PublishRequest) -> _Channel:
        name = request.channel
        channel = self._channel(name)
        if channel is None:
            retention, epoch = request.retention or Retention(), derived_epoch(self.seed, name)
            made = self.connection.execute(SQL["create_channel"], (name, epoch, retention.size, retention.age))
            channel = self._remember(_Channel((made.lastrowid or 0, name, epoch, 0)))
        if request.retention is not None:
            channel.keep_size, channel.keep_age = request.retention.size, request.retention.age
        return channel

    def keep(
        self, requests: Sequence[PublishRequest], subscribed: set[str]
    ) -> tuple[list[Position], list[Publication]]:
        """Write a batch, in a transaction that has caught up; return positions, and what is new in some channels."""
        now, wall = self._clock.now(), self._clock.wall()
        positions: list[Position] = []
        new: list[Publication] = []
        values: list[object] = []
        changed: dict[int, _Channel] = {}
        channel: _Channel | None = None
        retention: Retention | None = None
        for request in requests:
            if channel is None or channel.name != request.channel or retention is not request.retention:
                channel, retention = self._channel_to_write(request), request.retention
                name, epoch, is_subscribed = channel.name, channel.epoch, channel.name in subscribed
            if request.key:
                known = self._known(channel, request, now)
                if known is not None:
                    positions.append(Position(known, epoch))
                    continue
                keys = [(channel.id, key, channel.top + 1, now + age) for key, age in keys_of(request).items()]
                self.connection.executemany(SQL["keep_key"], keys)
            previous = channel.top
            channel.top = offset = previous + 1
            changed[channel.id] = channel
            format, data, meta = request.format, request.data, request.meta
            values += (channel.id, offset, wall, now, int(format), data, meta)
            positions.append(Position(offset, epoch))
            if is_subscribed:
                new.append(Publication(name, offset, previous, epoch, wall, data, format, meta))
        if values:
            self._insert(values, changed)
        return positions, new

    def _known(self, channel: _Channel, request: PublishRequest, now: float) -> int | None:
        asked = [(channel.id, key, now) for key in keys_of(request)]
        rows = (self.connection.execute(SQL["find_key"], values).fetchone() for values in asked)
        return next((int(row[0]) for row in rows if row is not None), None)

    def _insert(self, values: list[object], changed: dict[int, _Channel]) -> None:
        start = 0
        tops = [(c.top, c.keep_size, c.keep_age, c.id, c.name, c.epoch, c.kept_top) for c in changed.values()]
        try:
            is_ours = self.connection.executemany(SQL["update_channel"], tops).rowcount == len(tops)
            for rows, statement in _KEEP_ROWS.items():
                size = rows * _VALUES
                while is_ours and len(values) - start >= size:
                    self.connection.execute(statement, values[start : start + size])
                    start += size
        except sqlite3.IntegrityError:  # an offset that there was
            is_ours = False
        if not is_ours:
            self._begin_epochs_after_change()
        for each in changed.values():
            each.kept_top = each.top
        self.cursor = int(self.connection.execute("SELECT last_insert_rowid()").fetchone()[0])

    def _begin_epochs_after_change(self) -> NoReturn:
        """Undo a transaction that found rows of channels changed by somebody else."""
        self.connection.execute("ROLLBACK")
        self._begin_epochs("was changed by somebody else")
        raise sqlite3.OperationalError("its channels were changed by somebody else; it is opened anew")

    def forget_key(self, request: PublishRequest) -> None:
        """Forget a key before its window ends, inside a writing transaction."""
        self.connection.execute(SQL["forget_key"], (request.channel, request.key))

    def remove_history(self, channel: str) -> None:
        """Hide the publications of a channel, inside a writing transaction; trimming removes them."""
        self.connection.execute(SQL["remove_history"], (channel,))

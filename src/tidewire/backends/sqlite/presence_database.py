"""The presence database of one process's thread: every method runs inside a transaction that presence.py begins."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from tidewire.backends.base import JoinResult
from tidewire.backends.shared.statements import read, statements
from tidewire.backends.sqlite.folder import make_file
from tidewire.backends.sqlite.leases import Lock, NodeRow, Watch, is_alive, remove_stale
from tidewire.errors import StoreUnavailable
from tidewire.messages import Announcement, Departure, Format, Member
from tidewire.support.sqlite_files import Identity, identity, remove_known, remove_log

__all__ = ("PresenceDatabase",)

SQL = statements(__package__, "presence_statements.sql")
#: Bytes that are reserved in the file and its log, so that members can still join when the disk is full.
_RESERVE = 96 * 4_096
_CHECKPOINT_PAGES = 64
#: The errors of a file that is no database, is damaged, or has other columns.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def _pinned(path: str, pins: contextlib.ExitStack) -> Identity:
    """Return a file's identity, which is its alone until `pins` end.

    Such a descriptor is no reader, whose end would give up all locks.
    """
    if not hasattr(os, "O_PATH"):
        return identity(path)
    try:
        pin = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    pins.callback(os.close, pin)
    found = os.fstat(pin)
    return found.st_dev, found.st_ino


class PresenceDatabase:
    """One connection to the presence file, and this node's place in it."""

    def __init__(self, like: Path, path: Path, folder: Path, node: str, watch: Watch) -> None:
        #: The broker's database, whose permissions this one gets.
        self._like = like
        self._path = path
        self._folder = folder
        self._node = node
        self._watch = watch
        self._lock: Lock | None = None
        self._id = 0
        #: The node that holds this process's members that were set aside: a closed one, so that they are not listed.
        self._aside = 0
        self._is_lost = False
        self._connection: sqlite3.Connection | None = None

    # Opening: outside of transactions.

    @property
    def is_open(self) -> bool:
        """There is a connection, to the file that has the path now."""
        return self._connection is not None and identity(self._path) == self._opened

    def open(self) -> None:
        """Open the file, anew if it is damaged or of another version; this node enrols if it is not listed."""
        self.disconnect()
        make_file(self._path, like=self._like)
        with contextlib.ExitStack() as pins:
            known, *log = [_pinned(f"{self._path}{end}", pins) for end in ("", "-wal", "-shm")]
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
                    raise
                # several processes find the same damage: the file that another one has made since stays
                remove_known(self._path, known)
                remove_log(self._path, tuple(log))
                self._connect()
        self._opened = identity(self._path)
        self._watch.reset()
        remove_stale(self._folder)

    def _connect(self) -> None:
        make_file(self._path, like=self._like)
        connection = sqlite3.connect(self._path, timeout=0.25, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.executescript(f"BEGIN IMMEDIATE;\n{read(__package__, 'presence_schema.sql')}\nCOMMIT;")
            connection.execute(SQL["check_shape"])
            self._reserve(connection)
            lock = self._lock
            row = connection.execute(SQL["is_enrolled"], (self._id, lock.token if lock else "")).fetchone()
            if not row[0]:
                self._is_lost = lock is not None
                self._enroll(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _reserve(self, connection: sqlite3.Connection) -> None:
        """Make the file and its log large enough for a while; they keep the room of deleted rows."""
        with contextlib.suppress(sqlite3.Error):
            connection.execute("CREATE TABLE IF NOT EXISTS reserve AS SELECT zeroblob(?) AS room", (_RESERVE,))
            connection.execute("DROP TABLE reserve")

    def _enroll(self, connection: sqlite3.Connection) -> None:
        old, self._lock = self._lock, Lock(self._folder)
        if old is not None:
            old.release()
        self._id = connection.execute(SQL["enroll"], (self._node, self._lock.token)).lastrowid or 0

    def disconnect(self) -> None:
        """Close the connection; the node's lock stays. Never raises."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def hide(self) -> None:
        """List the members of this node no longer: it is about to close. In a transaction of its own."""
        if self._lock is not None:
            self._execute("close", self._id, self._lock.token)

    def close(self) -> None:
        """Close the connection and let the lock go: to the others this node is dead."""
        self.disconnect()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # Transactions.

    @property
    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailable(f"{self._path} is not open; try again")
        return self._connection

    def _execute(self, name: str, *values: object) -> sqlite3.Cursor:
        return self._open_connection.execute(SQL[name], values)

    def begin(self, *, write: bool) -> None:
        """Begin a transaction."""
        self._open_connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")

    def commit(self) -> None:
        """End the transaction."""
        self._open_connection.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction; the next touch says that the members should join again. Never raises."""
        self._is_lost = True
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def look(self) -> None:
        """Show the other nodes and the claims to the watch."""
        rows = [NodeRow(id, token, counter, bool(dead & 1)) for id, token, counter, dead in self._execute("nodes")]
        others = [(row, is_alive(self._folder, row.token)) for row in rows if row.id != self._id]
        self._watch.look(time.monotonic(), others, self._execute("claims").fetchall())

    # The verbs of presence (base.Presence).

    def join(self, channel: str, member: Member, announcement: Announcement | None) -> JoinResult:
        """Add a member of this node; it takes the place of one of a dead node."""
        data, format = (None, None) if announcement is None else (announcement.data, int(announcement.format))
        me = (channel, member.user, member.connection)
        others = self._execute("count_others", *me).fetchone()[0]
        self._execute("join", channel, member.connection, member.user, member.info, self._id, data, format)
        replaced = self._execute("replace_closed", *me).rowcount if others else 0
        if others > replaced and self._watch.dead:
            replaced += self._execute("take_place", *me, json.dumps(self._watch.dead)).rowcount
        return JoinResult(first=others == 0, connections=others - replaced + 1)

    def leave(self, channel: str, connection: str) -> bool:
        """Remove a member; True when it was the last one of its user."""
        row = self._execute("user_of", channel, connection).fetchone()
        if row is None:
            return False
        self._execute("leave", channel, connection)
        return bool(self._execute("count_others", channel, row[0], connection).fetchone()[0] == 0)

    def set_aside(self, channel: str, connection: str) -> None:
        """List a member no longer."""
        if self._lock is None:
            return
        if not self._touch_aside():
            self._aside = self._execute("enroll_closed", self._node, self._lock.token).lastrowid or 0
        self._execute("set_aside", self._aside, channel, connection)

    def _touch_aside(self) -> bool:
        lock = self._lock
        return lock is not None and self._execute("touch_closed", self._aside, lock.token).rowcount == 1

    def touch(self) -> bool:
        """Count this node's lease up; enrols again when it was lost."""
        is_lost, self._is_lost = self._is_lost, False
        if self._aside:
            self._touch_aside()
        if self._lock is not None and self._execute("touch", self._id, self._lock.token).rowcount == 1:
            return not is_lost
        self._enroll(self._open_connection)
        return False

    def members(self, channel: str) -> list[Member]:
        """Return the members in the order in which they joined."""
        return [Member(connection, user, info) for connection, user, info in self._execute("members", channel)]

    def count(self, channel: str, user: str | None) -> int:
        """Count connections."""
        found = self._execute("count", channel) if user is None else self._execute("count_user", channel, user)
        return int(found.fetchone()[0])

    def claim(self, limit: int) -> Sequence[Departure]:
        """Claim departures that others left unfinished, then users of dead nodes only."""
        claimed = []
        for token, claims in list(self._watch.overdue.items())[:limit]:
            for channel, user, data, format in self._execute("claim_again", token, claims).fetchall():
                claimed.append(Departure(channel, user, token, _announcement(data, format)))
        departed = [
            node
            for node, counter in self._watch.departed.items()
            if self._execute("declare_dead", node, counter).rowcount
        ]
        if departed and len(claimed) < limit:
            claimed += self._depart(json.dumps(departed), limit - len(claimed))
            if self._execute("remove_empty_nodes").rowcount:
                remove_stale(self._folder)
        return claimed

    def _depart(self, nodes: str, limit: int) -> list[Departure]:
        self._execute("remove_superseded", nodes)
        departures = []
        for channel, user in self._execute("departed", nodes, limit).fetchall():
            data, format = self._execute("announcement", channel, user).fetchone() or (None, None)
            token = secrets.token_hex(8)
            self._execute("depart", token, channel, user, data, format)
            self._execute("remove_user", channel, user)
            departures.append(Departure(channel, user, token, _announcement(data, format)))
        return departures

    def forget(self, departures: Sequence[Departure]) -> None:
        """Remove claimed departures."""
        for departure in departures:
            self._execute("forget", departure.token)


def _announcement(data: bytes | None, format: int | None) -> Announcement | None:
    return None if data is None or format is None else Announcement(data, Format(format))

"""Notices that somebody cut the files of an open database, or wrote over them: they have the same name and inode still.

SQLite goes on with the pages that it remembers and with its log, and a commit succeeds into a database that nobody can
read. The file alone, read without its log, shows it.
"""

from __future__ import annotations

import contextlib
import enum
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tidewire.backends.sqlite.folder import make_file
from tidewire.support.sqlite_files import Identity, identity, remove_known

__all__ = ("LOG_BYTES", "FileCheck", "FileState", "put_away")

#: Bytes to which the log is cut back when it begins anew, after a long reader had let it grow.
LOG_BYTES = 16 * 1_048_576
#: Seconds without a change after which a file is judged, because a copy may still be written.
_SETTLE = 1.0
#: Seconds between two changes while a checkpoint makes the file longer: meanwhile the file is shorter than it says.
_MOVING = 0.02
#: Result codes that say something of the file itself, and not of the disk, the rights or the descriptors: that it is
#: damaged, no database, or one without our tables.
_CONTENT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
#: The descriptors through which files are read. Each stays open, because to close a file ends the locks that SQLite has
#: of it (sqlite.org/howtocorrupt.html): then another program may remove the log, with what is still written to it.
_DESCRIPTORS: dict[Path, tuple[Identity, int]] = {}
#: Bytes of the log's header and of that of each page in it (sqlite.org/fileformat2.html#walformat).
_LOG_HEADER, _FRAME_HEADER = 32, 24
_MARK = """
SELECT seed, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'tidewire_publications'), 0) FROM tidewire_store
"""


class FileState(enum.Enum):
    """The state of a database file."""

    SOUND = enum.auto()
    #: Something is wrong; nothing may be written until the file has not changed for a while.
    UNCLEAR = enum.auto()
    #: A database, but another one than it was, or one whose log is gone.
    REPLACED = enum.auto()
    #: The database that it was, without tables or rows of ours.
    INCOMPLETE = enum.auto()
    #: No database that can be read.
    DAMAGED = enum.auto()


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)


def _read_mark(path: Path) -> tuple[str, int]:
    """Return the seed and the last id that the file has without its log; raises sqlite3.Error."""
    with closing(_open(path)) as connection:
        seed, last_id = connection.execute(_MARK).fetchone() or ("", 0)
        return str(seed), int(last_id)


def _tables(connection: sqlite3.Connection) -> frozenset[str]:
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return frozenset(name for (name,) in found)


def _inode_and_size(path: str) -> tuple[int, int]:
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_ino, found.st_size
    return 0, 0


def _is_of_content(error: sqlite3.Error) -> bool:
    """Return whether an error says something of the file or its log; a log that was cut is too short for its index."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & 0xFF in _CONTENT or code == sqlite3.SQLITE_IOERR_SHORT_READ


def _descriptor(path: Path) -> int:
    """Return a descriptor of the file that has the path now. Raises OSError."""
    known, descriptor = _DESCRIPTORS.get(path, (None, -1))
    if known is None or known != identity(path):
        if descriptor >= 0:
            os.close(descriptor)  # nobody uses that file any more
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(descriptor)
        _DESCRIPTORS[path] = (found.st_dev, found.st_ino), descriptor
    return descriptor


def _is_between(path: Path, log: str) -> bool:
    """Return whether a file has its first page, which says how long it is, from the log, and so perhaps no later one.

    Then a process moves the log into it, or was killed or stopped while it did: only both together are the database.
    """
    with contextlib.suppress(OSError), Path(log).open("rb") as frames:
        header = frames.read(_LOG_HEADER)
        size = int.from_bytes(header[8:12], "big")
        first = os.pread(_descriptor(path), size, 0)
        while len(frame := frames.read(_FRAME_HEADER)) == _FRAME_HEADER and frame[8:16] == header[16:24]:
            if int.from_bytes(frame[:4], "big") != 1:
                frames.seek(size, os.SEEK_CUR)
            elif frames.read(size) == first:
                return True
    return False


class FileCheck:
    """Compares the file with its earlier state; `knows` returns whether a seed is this store's."""

    def __init__(self, path: Path, knows: Callable[[str], bool]) -> None:
        self._path = path
        #: Looked at before and after each commit, for which a path would be dear.
        self._name, self._log = str(path), f"{path}-wal"
        self._knows = knows
        self._stamp = self._read_stamp()
        self._log_stamp = _inode_and_size(self._log)
        #: The seed and the last id of the last look, and the cursor and size of the last turn.
        self._mark = ("", 0)
        self._tables: frozenset[str] = frozenset()
        with contextlib.suppress(sqlite3.Error), closing(_open(path)) as connection:
            self._mark, self._tables = _read_mark(path), _tables(connection)
        self._cursor, self._sound_size = 0, self._stamp[0]
        self._changed = 0.0
        self._suspected = FileState.SOUND

    def _read_stamp(self) -> tuple[int, int]:
        with contextlib.suppress(OSError):
            found = os.stat(self._name)
            return found.st_size, found.st_mtime_ns
        return 0, 0

    def look(self, cursor: int, *, is_suspect: bool = False) -> FileState:
        """Look before a turn, in which everything up to `cursor` is known to be kept.

        `is_suspect`: somebody could not read a part of the file, so that all of it is read.
        """
        if is_suspect and (found := self._prove()) is not FileState.SOUND:
            return found
        stamp, log_stamp, now = self._read_stamp(), _inode_and_size(self._log), time.monotonic()
        is_log_cut = log_stamp[0] == self._log_stamp[0] and log_stamp[1] < min(self._log_stamp[1], LOG_BYTES)
        if stamp != self._stamp or self._suspected is FileState.SOUND:
            self._changed = now
        if stamp != self._stamp or is_log_cut or self._suspected is not FileState.SOUND:
            self._stamp = stamp
            self._suspected = self._judge(self._cursor if is_log_cut else 0)
        is_moving = self._suspected is FileState.UNCLEAR and now - self._changed < _MOVING
        if self._suspected is FileState.SOUND or is_moving:
            self._log_stamp, self._cursor, self._sound_size = log_stamp, cursor, stamp[0]
            return FileState.SOUND
        if now - self._changed < _SETTLE:
            return FileState.UNCLEAR
        return self._prove()

    def _prove(self) -> FileState:
        """Read the whole file with its log, which no crash damages: nothing is given up that can be read together.

        A lack of descriptors, of rights or of a disk that works proves nothing.
        """
        if self._stamp[0]:
            try:
                with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=rw", uri=True)) as connection:
                    found = self._read_whole(connection)
                    if found and connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",):
                        self._suspected = found
                        return found
            except sqlite3.Error as error:
                if not _is_of_content(error):
                    return FileState.UNCLEAR
        elif identity(self._path) is None:
            return FileState.UNCLEAR
        return FileState.REPLACED if self._suspected is FileState.REPLACED else FileState.DAMAGED

    def _read_whole(self, connection: sqlite3.Connection) -> FileState | None:
        """Return whether the file and its log are the database that was opened; raises sqlite3.Error."""
        row = None
        try:
            row = connection.execute(_MARK).fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:  # it says that there is no such table or column
                raise
        if row is None:
            return FileState.INCOMPLETE if self._tables & _tables(connection) else None
        return FileState.SOUND if self._knows(str(row[0])) and int(row[1]) >= self._cursor else None

    def committed(self, cursor: int) -> None:
        """Take note of a commit of this process."""
        self._log_stamp, self._cursor = _inode_and_size(self._log), cursor

    def _judge(self, wanted: int) -> FileState:
        try:
            seed, last_id = _read_mark(self._path)
        except sqlite3.Error as error:
            if not _is_of_content(error):
                self._stamp = (-1, -1)  # so that the next look judges it
                return self._suspected
            if self._stamp[0] >= self._sound_size and error.sqlite_errorcode == sqlite3.SQLITE_CORRUPT:
                return FileState.SOUND if _is_between(self._path, self._log) else FileState.UNCLEAR
            return FileState.DAMAGED
        if not seed and _is_between(self._path, self._log):
            return FileState.SOUND
        if not self._knows(seed) or last_id < max(wanted, self._mark[1]):
            return FileState.REPLACED
        self._mark = (seed, last_id)
        return FileState.SOUND


def put_away(path: Path, state: FileState, known: Identity) -> str:
    """Give the path of a known file to another one, so that no process writes the old log into it; return a report.

    A damaged file keeps its log beside it, and no file that was put away before is written over.
    """
    if state is FileState.REPLACED and _copy(path):
        return f"{path} or its log was cut or written over while it was open; its present content is used"
    if path.stat().st_size == 0:
        remove_known(path, known)
        return f"{path} was emptied while it was open; a new one is made"
    away, count = path.with_name(f"{path.name}-damaged"), 1
    while away.exists():
        count += 1
        away = path.with_name(f"{path.name}-damaged-{count}")
    path.replace(away)
    with contextlib.suppress(FileNotFoundError):
        path.with_name(f"{path.name}-wal").replace(away.with_name(f"{away.name}-wal"))
    return f"{path} was damaged while it was open; it is {away} now, and a new one is made"


def _copy(path: Path) -> bool:
    """Put a copy of a database, as it is without its log, in its place; return whether it is whole."""
    new = path.with_name(f"{path.name}-new")
    new.unlink(missing_ok=True)
    try:
        make_file(new, like=path)
        with closing(_open(path)) as source, closing(sqlite3.connect(new)) as target:
            source.backup(target)
            if target.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return False
        new.replace(path)
    except sqlite3.DatabaseError as error:
        if not _is_of_content(error):  # as on a full disk: it is tried again
            raise
        return False
    finally:
        new.unlink(missing_ok=True)
    return True

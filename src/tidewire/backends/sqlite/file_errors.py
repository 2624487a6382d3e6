"""Explains the errors of a database file, with their reasons and remedies."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from tidewire.errors import ConfigurationError, StoreUnavailable, TidewireError

__all__ = ("explain", "is_certain", "is_damage", "is_full", "is_lasting", "opening_error")

#: Result codes (sqlite.org/rescode.html) of a file that can never be used as it is.
_UNUSABLE = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
#: The remedies for the system's errors about a file that can never be used as it is.
_MENDS = {
    errno.ENOENT: "the folder {folder} must exist",
    errno.ENOTDIR: "{folder} must be a folder",
    errno.EACCES: "make the folder {folder} writable for this user",
    errno.EPERM: "make the folder {folder} writable for this user",
    errno.EROFS: "name a file on a disk that is writable",
    errno.EISDIR: "name a file, this is a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def _code(error: BaseException) -> int:
    """Return the primary result code, 0 when the error is not SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0)
    return int(code) & 0xFF


def is_full(error: BaseException) -> bool:
    """The disk has no room left."""
    return _code(error) == sqlite3.SQLITE_FULL or (isinstance(error, OSError) and error.errno == errno.ENOSPC)


def is_damage(error: BaseException) -> bool:
    """A part of the file is not what SQLite wrote there."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_certain(error: BaseException) -> bool:
    """After this error of a commit nothing was kept, for sure.

    After others (an fsync that failed) a restart may find the commit in the file.
    """
    return _code(error) in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CONSTRAINT,
    )


def is_lasting(error: BaseException) -> bool:
    """The connection that got this error should be opened anew before it is used again."""
    return _code(error) not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)


def explain(error: BaseException, path: Path) -> str:
    """Return one line with the error, its reason and its remedy."""
    if is_full(error):
        return f"the disk that holds {path} is full; free some space: nothing that was acknowledged is lost"
    if isinstance(error, OSError):
        mend = _MENDS.get(error.errno or 0, "see that this user may open, lock and write files in {folder}")
        return f"{path} cannot be used ({error.strerror or error}); {mend.format(folder=path.parent)}"
    match _code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"{path} is locked by another program; let that finish its transaction, or close it"
        case sqlite3.SQLITE_READONLY:
            return f"{path} cannot be written; make the file, its folder and the disk writable for this user"
        case sqlite3.SQLITE_CANTOPEN:
            return f"{path} cannot be opened; the folder {path.parent} must exist and be writable for this user"
        case sqlite3.SQLITE_NOTADB:
            return f"{path} is not an SQLite database; name another file, or move that one away"
        case sqlite3.SQLITE_CORRUPT:
            return f"{path} is damaged ({error}); restore it from a backup, or move it away with its -wal file"
        case sqlite3.SQLITE_IOERR:
            name = getattr(error, "sqlite_errorname", "SQLITE_IOERR")
            return f"the disk that holds {path} failed ({name}); see the system's log for the disk's errors"
    return f"{path} cannot be used: {error}"


def opening_error(error: BaseException, path: Path) -> TidewireError:
    """Return the error that `start` raises when the store cannot be opened."""
    if _code(error) in _UNUSABLE or (isinstance(error, OSError) and error.errno in _MENDS):
        return ConfigurationError(explain(error, path))
    return StoreUnavailable(explain(error, path))

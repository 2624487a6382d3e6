"""Remembers, beside the database, how far it had come, so that an older copy that was put back is noticed.

Such a copy would give offsets again that subscribers have seen with other messages, and recover them wrongly.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tidewire.backends.sqlite.folder import node_folder

__all__ = ("RollbackGuard",)


class RollbackGuard:
    """A small file of a database: its seed, and the highest id of a publication that was ever kept in it.

    It is not fsynced, because it is only of use while it is ahead of the database. Where it cannot be written, an older
    copy is not noticed. Only the process that holds the write lock writes it.
    """

    def __init__(self, path: Path) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open(node_folder(path) / "rollback-guard", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)

    def is_ahead(self, seed: str, last_id: int) -> bool:
        """Return whether the database of this seed had come further than this id."""
        if self._file is None:
            return False
        with contextlib.suppress(OSError, ValueError):
            known, last = os.pread(self._file, 128, 0).decode().split()
            return known == seed and int(last) > last_id
        return False

    def knows(self, seed: str) -> bool:
        """Return whether the database may have this seed."""
        if self._file is None:
            return True
        with contextlib.suppress(OSError):
            known = os.pread(self._file, 128, 0).decode().split()
            return not known or known[0] == seed
        return True

    def remember(self, seed: str, last_id: int) -> None:
        """Remember that the database has come to this id. Never raises."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, f"{seed} {last_id:020}\n".encode(), 0)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

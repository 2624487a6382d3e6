"""Room on the disk that is given up when the disk is full, so that old publications can still be removed.

A removal is first written to the log, and the log can only begin anew after it was moved into the database: both need
room.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ("DiskReserve",)

#: Bytes that are reserved, and the part of a small disk. The log is moved before it is as long
#: (checkpoint.py): with a quarter of this, a busy store asked the disk twice for each commit.
_SIZE = 16 * 1_048_576
_PART = 8


class DiskReserve:
    """An empty file beside the database that takes up room."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "reserve"
        disk = os.statvfs(folder)
        #: Bytes that are reserved when there is room.
        self.size = min(_SIZE, disk.f_blocks * disk.f_frsize // _PART)

    def take(self) -> None:
        """DiskReserve the room if there is enough; without it everything works but the help on a full disk."""
        with contextlib.suppress(OSError):
            disk = os.statvfs(self._path.parent)
            if self.size == self._taken() or disk.f_bavail * disk.f_frsize < self.size:
                return
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
            try:
                os.posix_fallocate(descriptor, 0, self.size)
            finally:
                os.close(descriptor)

    def give_up(self) -> None:
        """Free the room."""
        with contextlib.suppress(OSError):
            os.truncate(self._path, 0)

    def _taken(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self._path.stat().st_size
        return 0

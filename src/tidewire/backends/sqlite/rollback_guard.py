"""Remembers beside the database how far it had come: an older copy that was put back gives itself away.

Else it would hand out offsets again that subscribers have seen with other messages, and recover them wrongly.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tidewire.backends.sqlite.folder import node_folder

__all__ = ("Witness",)


class Witness:
    """A small file of a database: its seed, and the highest id of a publication that was ever kept in it.

    It is not fsynced, as what it says is only of use while it is ahead of the database; where it cannot be written, an
    older copy is not noticed. Who writes to the database holds its lock.
    """

    def __init__(self, path: Path) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open(node_folder(path) / "witness", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)

    def has_seen_more(self, seed: str, last_id: int) -> bool:
        """Say whether the database of this seed had come further than that."""
        if self._file is None:
            return False
        with contextlib.suppress(OSError, ValueError):
            known, last = os.pread(self._file, 128, 0).decode().split()
            return known == seed and int(last) > last_id
        return False

    def keep(self, seed: str, last_id: int) -> None:
        """Remember that the database has come so far. Never raises."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, f"{seed} {last_id:020}\n".encode(), 0)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

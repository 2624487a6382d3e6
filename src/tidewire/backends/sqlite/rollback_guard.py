"""Remembers, beside the database, how far it had come, so that an older copy that was put back is noticed.

Such a copy would give offsets again that subscribers have seen with other messages, and recover them wrongly.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tidewire.backends.sqlite.folder import node_folder

__all__ = ("RollbackGuard",)

#: The seeds that are remembered beside the last one, and the bytes of all of them at most.
_EARLIER, _BYTES = 60, 4_096
#: The bytes of the file in which earlier versions expect one seed and its id.
_FIRST = 128


class RollbackGuard:
    """A small file of a database: its seed, the highest id of a publication that was ever kept in it, and older seeds.

    It is not fsynced, because it is only of use while it is ahead of the database. Where it cannot be written, an older
    copy is not noticed. Only the process that holds the write lock writes it.
    """

    def __init__(self, path: Path) -> None:
        self._file: int | None = None
        #: The seed that this process has remembered last.
        self._seed = ""
        with contextlib.suppress(OSError):
            self._file = os.open(node_folder(path) / "rollback-guard", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)

    def is_ahead(self, seed: str, last_id: int) -> bool:
        """Return whether the database of this seed had come further than this id, or has another seed since then."""
        known, last, earlier = self._read()
        return seed in earlier or (known == seed and last > last_id)

    def knows(self, seed: str) -> bool:
        """Return whether the database may have this seed."""
        known, _, _ = self._read()
        return not known or known == seed

    def remember(self, seed: str, last_id: int) -> None:
        """Remember that the database has come to this id. Never raises."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            if seed != self._seed:
                known, _, earlier = self._read()
                if known != seed:
                    earlier = [known, *earlier][:_EARLIER] if known else earlier
                    os.pwrite(self._file, f"{'':{_FIRST - 1}}\n{' '.join(earlier)}\n".encode(), 0)
                self._seed = seed
            os.pwrite(self._file, f"{seed} {last_id:020}\n".encode(), 0)

    def _read(self) -> tuple[str, int, list[str]]:
        """Return the seed, the id and the seeds before; "" where nothing is known."""
        if self._file is not None:
            with contextlib.suppress(OSError, ValueError):
                seed, last, *earlier = os.pread(self._file, _BYTES, 0).decode().split()
                return seed, int(last), earlier
        return "", 0, []

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

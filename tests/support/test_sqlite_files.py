from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tidewire.support.sqlite_files import open_wal

TOGETHER = 8


def prepare(connection: sqlite3.Connection) -> None:
    connection.executescript("CREATE TABLE IF NOT EXISTS a (b)")


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    """SQLite answers "locked" at once, whatever its timeout, where two turn a new file into WAL."""
    barrier = threading.Barrier(TOGETHER)

    def begin(path: Path) -> None:
        barrier.wait(10)
        open_wal(path, prepare, seconds=30).close()

    with ThreadPoolExecutor(TOGETHER) as pool:
        for number in range(40):
            for done in [pool.submit(begin, tmp_path / f"{number}.db") for _ in range(TOGETHER)]:
                done.result()


def test_another_error_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("this is no database, but a text that is long enough to be read as the head of one " * 8)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        open_wal(path, prepare, seconds=30)

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tidewire.support import sqlite_files
from tidewire.support.sqlite_files import WalFile, identity, open_wal, remove_known

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


def remove(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        path.with_name(f"{path.name}{end}").unlink()


def remove_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def empty(path: Path) -> None:
    os.truncate(path, 0)


def rename_over(path: Path) -> None:
    other = path.with_name("other")
    with closing(open_wal(other, prepare, seconds=5)) as connection:
        connection.execute("INSERT INTO a VALUES ('of the other')")
    other.replace(path)


def test_a_file_that_is_moved_takes_its_log_with_it(tmp_path: Path) -> None:
    path, moved = tmp_path / "file.db", tmp_path / "moved.db"
    with opened(path) as file:
        file.connection().execute("INSERT INTO a VALUES ('kept')")
        path.rename(moved)
        assert not file.connection().execute("SELECT b FROM a").fetchall()
    with closing(sqlite3.connect(moved)) as connection:
        assert connection.execute("SELECT b FROM a").fetchall() == [("kept",)]


@contextmanager
def opened(path: Path) -> Iterator[WalFile]:
    file = WalFile(path, prepare, seconds=5)
    file.open()
    with closing(file):
        yield file


def insert(file: WalFile, value: str) -> None:
    """Keep a value as soon as the file may be used."""
    end = time.monotonic() + 5
    while True:
        try:
            file.connection().execute("INSERT INTO a VALUES (?)", (value,))
            return
        except sqlite3.OperationalError:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("fault", "before"),
    [(remove, []), (remove_all, []), (remove_log, ["first"]), (empty, []), (rename_over, ["of the other"])],
)
def test_what_is_kept_is_in_the_file_that_has_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path], None], before: list[str]
) -> None:
    """SQLite goes on with a file that was removed, and with one that was emptied until its log is used up."""
    monkeypatch.setattr(sqlite_files, "_SETTLE_SECONDS", 0.05)
    path = tmp_path / "a.db"
    with opened(path) as one, opened(path) as other:
        insert(one, "first")
        fault(path)
        insert(one, "second")
        insert(other, "third")
        insert(one, "fourth")
        with closing(sqlite3.connect(path)) as connection:
            found = [value for (value,) in connection.execute("SELECT b FROM a")]
        assert found == [*before, "second", "third", "fourth"]
        assert one.openings == other.openings == 2


def test_who_opens_a_file_that_was_emptied_leaves_it_to_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with opened(path) as file:
        insert(file, "first")
        empty(path)
        with opened(path) as late:
            insert(late, "second")
            insert(file, "third")
            assert late.connection().execute("SELECT b FROM a").fetchall() == [("second",), ("third",)]


def test_a_copy_that_comes_into_an_emptied_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with opened(path) as file:
        empty(path)
        before = identity(path)
        with pytest.raises(sqlite3.OperationalError, match="emptied"):
            file.connection()
        assert identity(path) == before


def test_a_file_of_another_is_not_removed(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    for one in (path, other):
        one.write_text(one.name)
    remove_known(path, identity(other))
    remove_known(path, None)
    assert path.read_text() == "a"
    remove_known(path, identity(path))
    assert [one.name for one in tmp_path.iterdir()] == ["b"]

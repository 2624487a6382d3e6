"""The log is moved into the database now and then, not beside every commit."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tidewire.backends.sqlite import database
from tidewire.backends.sqlite.checkpoint import Checkpointer
from tidewire.backends.sqlite.database import connect

LIMIT = 1_048_576
#: Parts of the limit that one commit adds.
PARTS = 64


def test_the_thread_is_woken_once_for_each_quarter_of_the_limit(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path / "log.db", LIMIT)  # its thread is not begun: how often it is woken counts
    writer = connect(tmp_path / "log.db")
    writer.execute("PRAGMA journal_mode = WAL")
    woken = []
    try:
        checkpointer.committed(writer, 0)  # the first one wakes it
        checkpointer._wanted.clear()
        for commit in range(8 * PARTS):
            checkpointer.committed(writer, LIMIT // PARTS)
            if checkpointer._wanted.is_set():
                checkpointer._wanted.clear()
                woken.append(commit)
    finally:
        writer.close()
    assert 8 <= len(woken) <= 40, woken  # one in a quarter of the limit, and one more in each second of a slow machine


def test_a_long_reader_is_told_and_the_log_is_cut_back_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, log, size = tmp_path / "log.db", tmp_path / "log.db-wal", 5 * LIMIT
    monkeypatch.setattr("tidewire.backends.sqlite.checkpoint._BLOCKED", 0.0)
    monkeypatch.setattr(database, "LOG_BYTES", LIMIT)
    checkpointer = Checkpointer(path, LIMIT)
    with closing(database.connect(path)) as writer, closing(database.connect(path)) as reader:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE kept (data BLOB)")
        for statement in ("BEGIN", "SELECT * FROM kept"):
            reader.execute(statement).fetchall()
        for _ in range(2):  # it is told once
            writer.execute("INSERT INTO kept VALUES (zeroblob(?))", (size,))
            checkpointer.committed(writer, size)
        assert log.stat().st_size > 2 * size
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == [f"{log} has grown by 5 MiB"]
        reader.execute("COMMIT")
        checkpointer.committed(writer, 0)
        writer.execute("INSERT INTO kept VALUES (x'00')")
        assert log.stat().st_size <= LIMIT


def test_a_checkpoint_that_is_under_way_is_no_reader_that_blocks_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    checkpointer = Checkpointer(path, LIMIT)
    with closing(database.connect(path)) as writer, closing(database.connect(path)) as reader:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE kept (data BLOB)")
        for statement in ("BEGIN", "SELECT * FROM kept"):
            reader.execute(statement).fetchall()
        writer.execute("INSERT INTO kept VALUES (zeroblob(?))", (LIMIT,))

        def move() -> None:  # waits for the reader, with the lock of those that move
            with closing(database.connect(path, busy_seconds=60.0)) as other:
                while other.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[1] < 0:
                    time.sleep(0.01)

        moving = threading.Thread(target=move)
        moving.start()
        end = time.monotonic() + 30.0
        while writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1] >= 0:
            assert time.monotonic() < end, "the other checkpoint has begun"
            time.sleep(0.05)
        checkpointer.committed(writer, LIMIT)
        assert not checkpointer._blocked_until
        reader.execute("COMMIT")
        moving.join()
        checkpointer.committed(writer, 1)
        assert not checkpointer._unmoved, "the log has begun anew with the next commit"

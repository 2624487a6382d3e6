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
    monkeypatch.setattr("tidewire.backends.sqlite.checkpoint._PATIENCE", 10)
    monkeypatch.setattr(database, "LOG_BYTES", LIMIT)
    checkpointer = Checkpointer(path, LIMIT)
    with closing(database.connect(path)) as writer, closing(database.connect(path)) as reader:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE kept (data BLOB)")
        for statement in ("BEGIN", "SELECT * FROM kept"):
            reader.execute(statement).fetchall()
        for _ in range(3):  # it is told again when there is twice as much
            writer.execute("INSERT INTO kept VALUES (zeroblob(?))", (size,))
            checkpointer.committed(writer, size)
        assert log.stat().st_size > 3 * size
        told = [record.getMessage().partition(":")[0] for record in caplog.records]
        assert told == [f"{log} has grown by {size} MiB" for size in (5, 10)]
        reader.execute("COMMIT")
        checkpointer.committed(writer, 0)
        writer.execute("INSERT INTO kept VALUES (x'00')")
        assert log.stat().st_size <= LIMIT


def test_readers_that_overlap_do_not_let_the_log_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tidewire.backends.sqlite.checkpoint._BLOCKED", 0.0)
    path, is_over = tmp_path / "log.db", threading.Event()
    checkpointer = Checkpointer(path, LIMIT)

    def read(begins: threading.Event, next_begins: threading.Event) -> None:
        """Read for 60 ms again and again, and end only when the other reader has begun."""
        with closing(database.connect(path)) as reader:
            while begins.wait(10) and not is_over.is_set():
                begins.clear()
                for statement in ("BEGIN", "SELECT * FROM kept LIMIT 1"):
                    reader.execute(statement).fetchall()
                time.sleep(0.04)
                next_begins.set()
                time.sleep(0.02)
                reader.execute("COMMIT")

    with closing(database.connect(path, busy_seconds=0.01)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE kept (data BLOB)")
        turns = threading.Event(), threading.Event()
        readers = [threading.Thread(target=read, args=(turns[one], turns[1 - one])) for one in (0, 1)]
        turns[0].set()
        for reader in readers:
            reader.start()
        largest = 0
        for _ in range(24):
            writer.execute("INSERT INTO kept VALUES (zeroblob(?))", (LIMIT // 2,))
            checkpointer.committed(writer, LIMIT // 2)
            largest = max(largest, checkpointer._unmoved)
        is_over.set()
        for turn in turns:
            turn.set()
        for reader in readers:
            reader.join()
    assert largest <= 5 * LIMIT
    assert not caplog.records


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

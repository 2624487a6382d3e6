"""The log is moved into the database now and then, not beside every commit."""

from __future__ import annotations

from pathlib import Path

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

"""The database of one writer: how it is made."""

from __future__ import annotations

from pathlib import Path

from tidewire.backends.sqlite.clock import StoreClock, SystemClock
from tidewire.backends.sqlite.sql import read
from tidewire.backends.sqlite.store import Store, connect


def test_a_process_that_died_while_it_made_the_store_leaves_one_that_opens(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    half_made = connect(path)
    half_made.executescript(read("schema.sql"))
    half_made.close()
    first, second = (Store(path, StoreClock(SystemClock())) for _ in range(2))
    assert first.seed == second.seed
    first.close()
    second.close()

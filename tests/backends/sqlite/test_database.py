"""The database of one writer: how it is made."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tidewire.backends.shared.statements import read
from tidewire.backends.sqlite import SqliteBroker
from tidewire.backends.sqlite.database import Database, connect
from tidewire.backends.sqlite.store_clock import StoreClock, SystemClock
from tidewire.errors import StoreUnavailable
from tidewire.options import Limits


def test_a_process_that_died_while_it_made_the_store_leaves_one_that_opens(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    half_made = connect(path)
    half_made.executescript(read("tidewire.backends.sqlite", "schema.sql"))
    half_made.close()
    first, second = (Database(path, StoreClock(SystemClock())) for _ in range(2))
    assert first.seed == second.seed
    first.close()
    second.close()


def test_a_store_that_nobody_can_understand_is_refused_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Database(path, StoreClock(SystemClock())).close()
    strange = connect(path)
    strange.execute("UPDATE tidewire_store SET clock = 'noon', monotonic = 'noon', wall = 'noon'")
    strange.close()

    async def main() -> None:
        async with asyncio.timeout(10):
            with pytest.raises(StoreUnavailable, match=r"store\.db cannot be used"):
                await SqliteBroker(path, Limits()).start(lambda publications: None)

    asyncio.run(main())

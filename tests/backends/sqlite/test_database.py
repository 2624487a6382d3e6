"""The database of one writer: how it is made."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from tidewire.backends.shared.statements import read
from tidewire.backends.sqlite import SqliteBroker
from tidewire.backends.sqlite.database import SQL, Database, connect
from tidewire.backends.sqlite.store_clock import StoreClock, SystemClock
from tidewire.errors import StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import PublishRequest


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


def test_a_batch_of_any_length_is_kept_in_its_order_over_channels_and_keys(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.db", StoreClock(SystemClock()))
    tops = {"a": 0, "b": 0}
    for count in (1, 15, 16, 17, 50):
        names = ["a" if number % 5 else "b" for number in range(count)]
        requests = [PublishRequest(name, b"%d" % number, key=str(count)) for number, name in enumerate(names)]
        requests = [msgspec.structs.replace(one, key="") if number < 3 else one for number, one in enumerate(requests)]
        before = database.cursor
        database.begin(write=True)
        positions, new = database.keep(requests, {"a", "b"})
        database.commit()
        kept = [publication.data for publication in new]
        expected = []
        first_of_key: dict[str, int] = {}
        for request, position in zip(requests, positions, strict=True):
            if request.key and request.channel in first_of_key:
                assert position.offset == first_of_key[request.channel]
                continue
            tops[request.channel] += 1
            assert position.offset == tops[request.channel]
            expected.append(request.data)
            if request.key:
                first_of_key[request.channel] = position.offset
        assert kept == expected
        rows = database.connection.execute(SQL["newer"], (before, 100)).fetchall()
        assert [row[5] for row in rows] == expected
        assert database.cursor == rows[-1][0]
    database.close()


def test_a_batch_without_repetitions_fills_whole_statements_and_a_rest(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.db", StoreClock(SystemClock()))
    for count in (15, 16, 17, 64, 100):
        before = database.cursor
        requests = [PublishRequest("ab"[number % 2], b"%d" % number) for number in range(count)]
        database.begin(write=True)
        database.keep(requests, set())
        database.commit()
        rows = database.connection.execute(SQL["newer"], (before, 1_000)).fetchall()
        assert [row[5] for row in rows] == [request.data for request in requests]
        assert database.cursor == rows[-1][0]
    database.close()

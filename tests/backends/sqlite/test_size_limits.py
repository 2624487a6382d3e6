"""A channel is measured after it has grown by a quarter of its limit, and no more is hidden than is beyond."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tidewire.backends.shared.waiting import Write
from tidewire.backends.sqlite.database import Database
from tidewire.backends.sqlite.folder import make_node_folder
from tidewire.backends.sqlite.size_limits import SizeLimits
from tidewire.backends.sqlite.store_clock import StoreClock, SystemClock
from tidewire.messages import PublishRequest
from tidewire.retention import Retention
from tidewire.testing import wait_until

from .helpers import open_node

SIZE = 10
LIMIT = 100 * SIZE


@pytest.fixture
def database(tmp_path: Path) -> Database:
    make_node_folder(tmp_path / "chat.db")
    return Database(tmp_path / "chat.db", StoreClock(SystemClock()))


def test_small_publications_are_measured_by_their_own_bytes(database: Database) -> None:
    looks: list[str] = []
    names: list[str] = []
    limits = SizeLimits(LIMIT, 1 << 30, names.append)
    request = PublishRequest("a", b"x" * SIZE)
    database.connection.set_trace_callback(lambda text: looks.append(text) if "sum(length(data)" in text else None)
    for number in range(1, 151):
        database.begin(write=True)
        database.keep([request], set())
        limits.add([Write(request, 1.0)])
        limits.apply(database.connection)
        database.commit()
        floor = database.connection.execute("SELECT floor FROM tidewire_channels").fetchone()[0]
        assert (number - floor) * SIZE <= LIMIT * 5 // 4 + SIZE
        assert floor == 0 or number - floor >= LIMIT // SIZE  # nothing is hidden that has room
    database.connection.set_trace_callback(None)
    database.close()
    assert set(names) == {"channel_history_bytes"}
    assert 4 <= len(looks) <= 6  # 1,500 bytes came, and a quarter of the limit is 250


def test_many_channels_that_grow_at_once_are_bounded_though_nothing_more_comes(tmp_path: Path) -> None:
    names, kept = [f"room:{number}" for number in range(50)], Retention(1_000, 86_400.0)

    async def scenario() -> None:
        async with open_node(tmp_path / "chat.db", channel_history_bytes=LIMIT) as node:
            requests = [PublishRequest(name, b"x" * SIZE, retention=kept) for _ in range(200) for name in names]
            await asyncio.gather(*(node.broker.publish(request) for request in requests))

            async def are_bounded() -> bool:
                pages = [await node.broker.history(name, retention=kept) for name in names]
                return all(len(page.publications) * SIZE <= LIMIT * 5 // 4 for page in pages)

            await wait_until(are_bounded, 20)

    asyncio.run(scenario())

"""Applications that write rows and messages together until they are killed: `transaction_worker.py FOLDER KILLS`.

Most only write, as a hub does it, which costs little to start; some have a hub, which also moves what was written.
Half of them may be killed before their first row, the others only after two.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from helpers.nursery import raise_and_kill
from tidewire import ChannelOptions, Hub
from tidewire.backends.sqlite.transaction_publishing import publish_within
from tidewire.messages import PublishRequest

LONG = {"orders": ChannelOptions(history_size=1_000_000)}
#: Of so many applications, one has a hub.
OTHERS = 10


async def write(
    folder: Path, rows: int, tell: Callable[[], Any], publish: Callable[[sqlite3.Connection, int], Awaitable[object]]
) -> None:
    database = sqlite3.connect(folder / "app.db", isolation_level=None, timeout=20)
    database.execute("PRAGMA journal_mode = WAL")
    for number in itertools.count():
        if number == rows:
            tell()
        database.execute("BEGIN IMMEDIATE")
        n = database.execute("INSERT INTO orders DEFAULT VALUES").lastrowid
        assert n is not None
        await asyncio.sleep(random.random() * 0.004)  # most are killed between the row and its message
        await publish(database, n)
        database.execute("COMMIT" if number < rows or random.random() >= 0.2 else "ROLLBACK")
        await asyncio.sleep(random.random() * 0.002)


async def with_hub(hub: Hub, folder: Path, rows: int, tell: Callable[[], Any]) -> None:
    async with hub:
        await write(folder, rows, tell, lambda database, n: hub.publish("orders", n, connection=database))


async def alone(folder: Path, rows: int, tell: Callable[[], Any]) -> None:
    async def is_known(file: Path) -> str:
        name, *_ = (folder / "hub.db-outboxes").read_text().splitlines()
        return str(json.loads(name)["store"])

    async def publish(database: sqlite3.Connection, n: int) -> None:
        request = PublishRequest("orders", str(n).encode(), retention=LONG["orders"].retention)
        await publish_within(database, request, is_known)

    await write(folder, rows, tell, publish)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    opened = Hub(f"sqlite:///{place / 'hub.db'}", channels=LONG)  # before the fork: it imports much

    def child(rows: int, tell: Callable[[], Any]) -> None:
        run = partial(with_hub, opened) if random.random() * OTHERS < 1 else alone
        asyncio.run(run(place, rows, tell))

    for least in (0, 2):
        raise_and_kill(partial(child, least), int(sys.argv[2]) // 2, 0.02)

"""Applications that write rows and messages together until they are killed: `transaction_worker.py FOLDER KILLS`.

Half of them may be killed before their first row, the others only after two.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from helpers.nursery import raise_and_kill
from tidewire import ChannelOptions, Hub

LONG = {"orders": ChannelOptions(history_size=1_000_000)}


async def main(hub: Hub, folder: Path, rows: int, tell: Callable[[], Any]) -> None:
    database = sqlite3.connect(folder / "app.db", isolation_level=None, timeout=20)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE IF NOT EXISTS orders (n INTEGER PRIMARY KEY AUTOINCREMENT)")
    async with hub:
        for number in itertools.count():
            if number == rows:
                tell()
            database.execute("BEGIN IMMEDIATE")
            n = database.execute("INSERT INTO orders DEFAULT VALUES").lastrowid
            await hub.publish("orders", n, connection=database)
            database.execute("COMMIT" if number < rows or random.random() >= 0.2 else "ROLLBACK")
            await asyncio.sleep(random.random() * 0.004)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    opened = Hub(f"sqlite:///{place / 'hub.db'}", channels=LONG)  # before the fork: it imports much

    def child(rows: int, tell: Callable[[], Any]) -> None:
        asyncio.run(main(opened, place, rows, tell))

    for least in (0, 2):
        raise_and_kill(partial(child, least), int(sys.argv[2]) // 2, 0.04)

"""Applications that write rows and messages together until they are killed: `transaction_worker.py FOLDER KILLS`."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.nursery import raise_and_kill
from tidewire import ChannelOptions, Hub

LONG = {"orders": ChannelOptions(history_size=1_000_000)}


async def main(hub: Hub, folder: Path, tell: Callable[[], Any]) -> None:
    database = sqlite3.connect(folder / "app.db", isolation_level=None, timeout=20)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE IF NOT EXISTS orders (n INTEGER PRIMARY KEY AUTOINCREMENT)")
    async with hub:
        tell()
        while True:
            database.execute("BEGIN IMMEDIATE")
            n = database.execute("INSERT INTO orders DEFAULT VALUES").lastrowid
            await hub.publish("orders", n, connection=database)
            database.execute("ROLLBACK" if random.random() < 0.2 else "COMMIT")
            await asyncio.sleep(random.random() * 0.004)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    opened = Hub(f"sqlite:///{place / 'hub.db'}", channels=LONG)  # before the fork: it imports much
    raise_and_kill(lambda tell: asyncio.run(main(opened, place, tell)), int(sys.argv[2]), 0.04)

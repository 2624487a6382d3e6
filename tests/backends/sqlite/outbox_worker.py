"""An application that writes rows and messages in one transaction, until it is killed: `outbox_worker.py FOLDER`."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
from pathlib import Path

from tidewire import ChannelOptions, Hub


async def main(folder: Path) -> None:
    database = sqlite3.connect(folder / "app.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE IF NOT EXISTS orders (n INTEGER PRIMARY KEY AUTOINCREMENT)")
    async with Hub(
        f"sqlite:///{folder / 'hub.db'}", channels={"orders": ChannelOptions(history_size=1_000_000)}
    ) as hub:
        print("ready", flush=True)
        while True:
            database.execute("BEGIN IMMEDIATE")
            n = database.execute("INSERT INTO orders DEFAULT VALUES").lastrowid
            await hub.publish("orders", n, connection=database)
            database.execute("ROLLBACK" if random.random() < 0.2 else "COMMIT")
            await asyncio.sleep(random.random() * 0.004)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

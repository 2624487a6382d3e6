"""An application with a table, whose rows a channel shows: a writer changes them as fast as it is told."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from typing import Any

from fastapi import FastAPI

from tidewire import Hub

hub = Hub(os.environ["STORE"])
app = FastAPI(lifespan=hub.lifespan)
database = sqlite3.connect(os.environ["TABLE"], isolation_level=None, timeout=20, check_same_thread=False)
database.execute("PRAGMA journal_mode = WAL")
database.execute("PRAGMA synchronous = OFF")
database.execute("CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, value INTEGER)")
asked = 0
#: More rows than changes are under way: a message that is repeated late is never behind a newer one of its row.
ROWS = 200


@hub.channel("items", history=2_000)
async def items() -> bool:
    return True


@items.state
async def current() -> dict[str, int]:
    global asked
    asked += 1
    await asyncio.sleep(0.02)  # as a database elsewhere
    return {str(id): value for id, value in database.execute("SELECT id, value FROM items")}


async def change(value: int) -> None:
    """Change a row, and then say so."""
    database.execute("INSERT OR REPLACE INTO items VALUES (?, ?)", (value % ROWS, value))
    await hub.publish("items", [value % ROWS, value], key=str(value))


@app.post("/change")
async def post_change(first: int, count: int) -> None:
    """Change some rows; their messages are under way together, in the order of the changes."""
    await asyncio.gather(*map(change, range(first, first + count)))


@app.get("/asked")
async def get_asked() -> dict[str, Any]:
    return {"asked": asked, "pid": os.getpid()}


app.include_router(hub.client_router())

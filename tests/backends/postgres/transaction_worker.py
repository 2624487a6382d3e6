"""Applications that write rows and messages together until they are killed: `transaction_worker.py URL KILLS`.

Most do so by SQL alone, which costs little to start; some have a hub, which also moves what was written.
Half of them may be killed before their first row is committed, the others only after two.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg

from helpers.nursery import raise_and_kill
from tidewire import ChannelOptions, Hub

LONG = {"orders": ChannelOptions(history_size=1_000_000)}
#: Of so many applications, one has a hub.
OTHERS = 20


def insert(database: psycopg.Connection) -> int:
    row = database.execute("INSERT INTO orders DEFAULT VALUES RETURNING n").fetchone()
    assert row is not None
    n: int = row[0]
    return n


def end(database: psycopg.Connection, *, commits: bool) -> None:
    (database.commit if commits or random.random() >= 0.2 else database.rollback)()


async def with_hub(hub: Hub, url: str, rows: int, tell: Callable[[], Any]) -> None:
    async with hub:
        with psycopg.connect(url) as database:
            for number in itertools.count():
                await hub.publish("orders", insert(database), connection=database)
                end(database, commits=number < rows)
                if number == rows:
                    tell()
                await asyncio.sleep(random.random() * 0.004)


def by_sql(url: str, rows: int, tell: Callable[[], Any]) -> None:
    with psycopg.connect(url) as database:
        for number in itertools.count():
            if number == rows:
                tell()
            n = insert(database)
            time.sleep(random.random() * 0.002)
            database.execute("SELECT tidewire_publish('orders', %s)", (str(n),))
            end(database, commits=number < rows)


if __name__ == "__main__":
    address = sys.argv[1]
    opened = Hub(address, channels=LONG)  # before the fork: it imports much

    def child(rows: int, tell: Callable[[], Any]) -> None:
        if random.random() * OTHERS < 1:
            asyncio.run(with_hub(opened, address, rows, tell))
        by_sql(address, rows, tell)

    for least in (0, 2):
        raise_and_kill(partial(child, least), int(sys.argv[2]) // 2, 0.02)

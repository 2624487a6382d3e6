"""A bell on all devices of a user: from a route, a thread and a SQL transaction. `make example NAME=notifications`."""

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection

from tidewire import Hub, Permissions

ORDERS = Path(os.environ.get("ORDERS", "orders.db"))
User = Annotated[str, Field(min_length=1, max_length=32)]

hub = Hub(os.environ.get("BROKER", "sqlite:///notifications.db"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with hub:
        await asyncio.to_thread(publish_orders)  # those that a crash has left behind
        yield


app = FastAPI(title="Notifications", lifespan=lifespan)


class Notification(BaseModel):
    title: Annotated[str, Field(min_length=1, max_length=200)]
    kind: str = "message"
    at: float = Field(default_factory=time.time)


class Seen(BaseModel):
    """How far a user has read, on any device."""

    offset: Annotated[int, Field(ge=0)]


class Order(BaseModel):
    item: Annotated[str, Field(min_length=1, max_length=100)]


async def visitor(connection: HTTPConnection) -> str:
    """Everybody is welcome under the name that they give: your own login goes here."""
    return connection.query_params.get("name", "")[:32]


@hub.channel("bell:{owner}", publishes=Notification, history=200)
async def bell(owner: str, user: str) -> Permissions | bool:
    return Permissions() if owner == user else False  # one's own, to read


@hub.channel("seen:{owner}", publishes=Seen, history=1)
async def seen(owner: str, user: str) -> bool:
    return owner == user


@app.post("/notify/{user}", status_code=202)
async def notify(user: User, notification: Notification) -> None:
    """From a route: every device of the user has it, and one that is away finds it when it comes back."""
    await hub.publish(f"bell:{user}", notification)


@app.post("/export/{user}", status_code=202)
def export(user: User) -> None:
    """From a thread, as a job queue has it."""

    def work() -> None:
        time.sleep(0.5)  # something slow that knows nothing of event loops
        hub.publish_threadsafe(f"bell:{user}", Notification(title="Your export is ready", kind="export")).result()

    threading.Thread(target=work, daemon=True).start()


@contextmanager
def transaction() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(ORDERS)) as database, database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, user TEXT, item TEXT, published INT)"
        )
        yield database


@app.post("/orders/{user}", status_code=201)
def order(user: User, order: Order) -> dict[str, int]:
    """From a transaction: first the commit, then the publication, whose key makes a second try harmless.

    Where the hub's store is PostgreSQL or SQLite, too, it is one step: `hub.publish(…, connection=database)`.
    """
    with transaction() as database:
        row = database.execute("INSERT INTO orders (user, item, published) VALUES (?, ?, 0)", (user, order.item))
        number = row.lastrowid or 0
    publish_orders()
    return {"order": number}


def publish_orders() -> None:
    """Publish the orders that are not published yet."""
    with transaction() as database:
        for number, user, item in database.execute("SELECT id, user, item FROM orders WHERE NOT published").fetchall():
            notification = Notification(title=f"Order {number}: {item}", kind="order")
            hub.from_thread(hub.publish, f"bell:{user}", notification, key=f"order:{number}")
            database.execute("UPDATE orders SET published = 1 WHERE id = ?", (number,))


app.include_router(hub.client_router(user=visitor))
app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))

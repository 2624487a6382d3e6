"""A dashboard: this machine's metrics, and prices from a feed of its own. `make example NAME=dashboard`."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from feed import Reading, readings

from tidewire import Hub, Permissions, PublishError, SlowPolicy

HERE = Path(__file__).parent
BROKER = os.environ.get("BROKER", "sqlite:///dashboard.db")
MINUTES = 10

hub = Hub(BROKER)


class Machine(Reading):
    """The load of this machine, in percent, and in bytes a second."""

    cpu: float
    memory: float
    sent: float


# A viewer that is slow gets the newest, never a queue of old ones; a new one gets the last ten minutes at once.
@hub.channel(
    "{source}", publishes=Machine | Reading, history=60 * MINUTES, history_seconds=60 * MINUTES, slow=SlowPolicy.LATEST
)
async def readable(source: str) -> Permissions:
    return Permissions(subscribe=source in ("machine", "gold", "copper", "cellar"))


async def measure() -> None:
    """Publish what this machine does, once a second; several workers publish a second once, by its key."""
    before, sent = time.time(), psutil.net_io_counters().bytes_sent
    while True:
        await asyncio.sleep(1 - time.time() % 1)
        now, total = time.time(), psutil.net_io_counters().bytes_sent
        reading = Machine(
            at=now,
            cpu=psutil.cpu_percent(),
            memory=psutil.virtual_memory().percent,
            sent=(total - sent) / max(now - before, 0.001),
        )
        before, sent = now, total
        try:
            await hub.publish("machine", reading, key=str(round(now)))
        except PublishError:
            continue  # the store is away: this second is missing, and shows as a gap


@contextmanager
def feeding() -> Iterator[None]:
    """Run the feed: a process of its own, or for memory:// a thread, because no other process can see that."""
    if not BROKER.startswith("memory:"):
        process = subprocess.Popen([sys.executable, HERE / "feed.py", BROKER, str(os.getpid())])
        yield
        process.terminate()
        process.wait()
        return
    ended = threading.Event()

    def run() -> None:
        for name, reading, key in readings():
            if ended.wait(1 - time.time() % 1):
                return
            hub.publish_threadsafe(name, reading, key=key)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    ended.set()
    thread.join()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with hub, asyncio.TaskGroup() as group:
        with feeding():
            task = group.create_task(measure())
            yield
            task.cancel()


app = FastAPI(title="Dashboard", lifespan=lifespan)
app.include_router(hub.client_router())
app.mount("/", StaticFiles(directory=HERE / "page", html=True))

"""A live dashboard: prices that change twenty times a second, of which a slow client gets only the newest.

    tidewire run dashboard:app

Run it with one worker, as every worker would quote prices of its own. A real feed is a process of its own that
publishes with `tidewire.Publisher`, and then there may be any number of workers.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, WebSocket
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from tidewire import ChannelOptions, Hub, SlowPolicy

PAGES = Path(__file__).parent / "pages"
SYMBOLS = {"TIDE": 120.0, "WAVE": 48.5, "REEF": 305.0, "SAND": 7.2, "GULL": 61.0, "KELP": 19.9}

#: Each price is a channel of its own: the newest one is kept, for newcomers and for slow clients.
hub = Hub("memory://", channels={"price:*": ChannelOptions(history_size=1, slow=SlowPolicy.LATEST)})


async def quote(symbol: str, price: float) -> None:
    """Let one price wander, for ever."""
    opened = price
    while True:
        price = max(0.01, price * (1 + random.gauss(0, 0.001)))
        change = 100 * (price / opened - 1)
        await hub.publish(f"price:{symbol}", {"symbol": symbol, "price": round(price, 2), "change": round(change, 2)})
        await asyncio.sleep(0.05)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Quote prices for as long as the application runs."""
    async with hub, asyncio.TaskGroup() as group:
        quotes = [group.create_task(quote(symbol, price)) for symbol, price in SYMBOLS.items()]
        yield
        for task in quotes:
            task.cancel()


app = FastAPI(lifespan=lifespan)


@app.websocket("/ws")
async def prices(websocket: WebSocket, symbols: str = ",".join(SYMBOLS)) -> None:
    """Push the prices of some symbols, the current ones first."""
    async with hub.connect(websocket) as connection:
        for symbol in {symbol for symbol in symbols.split(",") if symbol in SYMBOLS}:
            await connection.subscribe(f"price:{symbol}", history=1)
        await connection.wait_closed()


@app.get("/statistics")
async def statistics() -> dict[str, int]:
    """Say how many prices were pushed, and how many a slow client was spared."""
    figures = hub.statistics()
    return {"connections": figures.connections, "pushed": figures.deliveries, "superseded": figures.superseded}


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Serve the page."""
    return FileResponse(PAGES / "dashboard.html")


app.mount("/pages", StaticFiles(directory=PAGES))

"""An application whose limits its workers share."""

from __future__ import annotations

import asyncio
import os

from fastapi import FastAPI, WebSocket

from tidewire import Hub

hub = Hub(
    os.environ["STORE"], limits={name[4:].lower(): float(os.environ[name]) for name in os.environ if "MAX_" in name}
)
app = FastAPI(lifespan=hub.lifespan)


@app.websocket("/")
async def endpoint(websocket: WebSocket, user: str = "") -> None:
    """Answer each message with the worker that handled it."""
    async with hub.connect(websocket, user=user) as connection:
        await connection.send_text(f"{os.getpid()}")
        async for _ in connection.iter_text():
            await connection.send_text(f"handled by {os.getpid()}")


@app.get("/slow")
async def slow() -> int:
    """Take some time."""
    await asyncio.sleep(1.0)
    return os.getpid()

"""Our application under test: the same room as a served protocol and as a FastAPI endpoint of the library.

`BENCH_URL` names the store. The limits that keep a stranger from publishing thousands of messages a second, and from
holding thousands of connections, are raised; nothing else is changed.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
from fastapi import FastAPI, WebSocket

from tidewire import Hub, Limits

limits = Limits(rate=1e9, burst=1_000_000_000, connections=20_000)
hub = Hub(os.environ.get("BENCH_URL", "memory://"), limits=limits)
app = FastAPI(lifespan=hub.lifespan)
app.router.routes.append(hub.route("/served/{channel}"))


@app.websocket("/endpoint/{room}")
async def endpoint(websocket: WebSocket, room: str) -> None:
    """Follow the room, and publish there what the client sends."""
    async with hub.connect(websocket) as connection:
        await connection.subscribe(room)
        async for text in connection.iter_text():
            await connection.publish(room, text)


@app.get("/stats")
async def stats() -> dict[str, Any]:
    """Return the figures of the node."""
    figures: dict[str, Any] = msgspec.to_builtins(hub.statistics())
    return figures

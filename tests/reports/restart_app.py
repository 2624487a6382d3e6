"""An application that tells who is in its room."""

from __future__ import annotations

import os

from fastapi import FastAPI, WebSocket

from tidewire import Hub

hub = Hub(os.environ["STORE"])
app = FastAPI(lifespan=hub.lifespan)


@app.websocket("/ws/{user}")
async def room(websocket: WebSocket, user: str) -> None:
    """Be in the room."""
    async with hub.connect(websocket, user=user) as connection:
        await connection.subscribe("room", leave=f"{user} left")
        async for text in connection.iter_text():
            await connection.publish("room", text)


@app.get("/members")
async def members() -> list[str]:
    """Return the user of each connection that is in the room."""
    return [member.user for member in await hub.presence("room")]

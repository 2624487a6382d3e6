"""An application that tells what it holds, to find what clients that vanished have left."""

from __future__ import annotations

import asyncio
import os

from fastapi import FastAPI, WebSocket

from tidewire import Hub, Position

hub = Hub(os.environ["STORE"])
app = FastAPI(lifespan=hub.lifespan)


@app.websocket("/ws/{user}")
async def room(websocket: WebSocket, user: str, since: int = -1, epoch: str = "") -> None:
    """Subscribe with all that there is: recovery, history, presence, a join and a leave; then publish what comes."""
    async with hub.connect(websocket, user=user) as connection:
        position = None if since < 0 else Position(since, epoch)
        await connection.subscribe("room", since=position, history=100, join="joined", leave="left")
        async for text in connection.iter_text():
            await connection.publish("room", text)


@app.get("/census")
async def census() -> dict[str, int]:
    """Count everything that a client could leave behind."""
    registry = hub.node.registry
    return {
        "tasks": len(asyncio.all_tasks()),
        "files": len(os.listdir("/proc/self/fd")),
        "connections": len(registry.connections) + registry.arriving,
        "users": len(registry.users),
        "addresses": len(registry.counts.own),
        "channels": len([name for name, channel in registry.channels.items() if len(channel)]),
        "carried": len(registry.channels),
        "members": len(await hub.presence("room")),
    }


@app.get("/position")
async def position() -> dict[str, int | str]:
    """Say where the room is, for clients that recover."""
    found = (await hub.history("room", limit=1)).top
    return {"offset": found.offset, "epoch": found.epoch}

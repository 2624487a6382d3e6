"""An application with channels that keep much, for clients that come late by every door."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI, WebSocket

from tidewire import Hub, Position
from tidewire.protocols.json import JSON

hub = Hub(os.environ["STORE"])
app = FastAPI(lifespan=hub.lifespan)


@hub.channel("long:{name}", history=5_000)
async def long(name: str) -> bool:
    return True


@app.post("/fill")
async def fill(name: str, first: int, count: int, size: int) -> dict[str, Any]:
    for n in range(first, first + count):
        position = await hub.publish(f"long:{name}", {"n": n, "rest": "." * size})
    return {"offset": position.offset, "epoch": position.epoch}


@app.websocket("/endpoint")
async def endpoint(websocket: WebSocket, name: str, since: str) -> None:
    async with hub.connect(websocket, protocol=JSON) as connection:
        subscribed = await connection.subscribe(f"long:{name}", since=Position.parse(since))
        await connection.send_json({"recovered": subscribed.recovered})
        await connection.wait_closed()


app.include_router(hub.client_router())

"""An application whose channel has a state, for clients of every kind."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI

from tidewire import Hub

hub = Hub(os.environ.get("STORE", "memory://"))
app = FastAPI(lifespan=hub.lifespan)
rows: list[int] = []
asked = 0


@hub.channel("orders:{shop}", history=5)
async def orders(shop: int) -> bool:
    return True


@orders.state
async def current(shop: int) -> dict[str, Any]:
    global asked
    asked += 1
    return {"rows": list(rows)}


@app.get("/orders")
async def get_orders() -> dict[str, Any]:
    found = await hub.state("orders:1")
    return {**found.value, "offset": found.position.offset, "epoch": found.position.epoch, "asked": asked}


@app.post("/orders")
async def post_orders(count: int = 1) -> None:
    for _ in range(count):
        rows.append(len(rows))
        await hub.publish("orders:1", rows[-1])


app.include_router(hub.client_router())

"""An application whose channel a plain EventSource may read."""

from __future__ import annotations

import os

from fastapi import FastAPI

from tidewire import Hub

hub = Hub(os.environ["STORE"])
app = FastAPI(lifespan=hub.lifespan)
app.include_router(hub.client_router(user=lambda: "ann"))


@hub.channel("news")
async def news(user: str) -> bool:
    """Let everybody read the news."""
    return True


@app.post("/publish/{text}")
async def publish(text: str) -> None:
    """Publish some news."""
    await hub.publish("news", text)

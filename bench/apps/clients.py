"""Our application for clients of the Centrifuge protocol; `BENCH_URL` names the store, limits are out of the way."""

from __future__ import annotations

import os

from fastapi import FastAPI

from tidewire import Hub, Limits
from tidewire.channel_options import ChannelOptions
from tidewire.rules.base import Identity

limits = Limits(rate=1e9, burst=1_000_000_000, connections=20_000)
hub = Hub(
    os.environ.get("BENCH_URL", "memory://"), limits=limits, default=ChannelOptions(history_size=500, publish=True)
)
app = FastAPI(lifespan=hub.lifespan)


async def anybody() -> Identity:
    """Let everybody connect."""
    return Identity()


app.include_router(hub.client_router(user=anybody))

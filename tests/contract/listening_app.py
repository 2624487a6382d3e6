"""An application whose route streams what is published in a channel."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import FastAPI, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from tidewire import Hub

hub = Hub(os.environ["STORE"])
app = FastAPI(lifespan=hub.lifespan)


@hub.channel("news", history=5_000)
async def news_rule() -> bool:
    return True


@app.get("/news", response_class=EventSourceResponse)
async def news(last_event_id: Annotated[str | None, Header()] = None) -> AsyncIterator[ServerSentEvent]:
    async with hub.listen("news", since=last_event_id, history=100) as publications:
        async for publication in publications:
            yield ServerSentEvent(data=publication.json(), id=str(publication.position))


@app.post("/news")
async def post(n: int) -> str:
    return str(await hub.publish("news", {"n": n}, key=str(n)))


@app.get("/worker")
async def worker() -> dict[str, int]:
    return {"pid": os.getpid(), "readers": len(hub.node.registry.readers)}
